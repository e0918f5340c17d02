//! `adit status`: what is up, who is connected, what is wrong and how to mend it.

use adit_api::types::device::Device;
use adit_api::types::status::Status;
use adit_api::types::uplink::Uplink;

use super::device::view::{ago, bytes};
use super::{Session, count};
use crate::output::{Failure, Output, or_dash};

/// More would push what is wrong off the screen; `adit device list` has them all.
const SHOWN: usize = 20;

pub(super) async fn run(session: Session) -> Result<(), Failure> {
    let Session { client, output } = session;
    let status = client.status().await?;
    if output.is_json() {
        return output.document(&status);
    }
    let devices = client.devices().await?.devices;
    overview(output, &status);
    connected(output, &devices);
    never_seen(output, &status, &devices);
    problems(output, &status);
    Ok(())
}

fn overview(output: Output, status: &Status) {
    let counts = status.counts;
    let mut fields = vec![
        (
            "gateway",
            format!(
                "{}, UDP port {}, {}, version {}",
                status.interface, status.listen_port, status.dataplane, status.version
            ),
        ),
        (
            "state",
            if status.applied {
                format!("revision {}, all of it in force", status.revision)
            } else {
                format!("revision {}, NOT all of it in force", status.revision)
            },
        ),
    ];
    fields.extend(
        status
            .uplinks
            .iter()
            .map(|uplink| ("uplink", describe(uplink))),
    );
    fields.push((
        "mtu",
        format!("{} ({})", status.mtu.value, status.mtu.reason),
    ));
    fields.push((
        "objects",
        format!(
            "{}, {} ({} connected), {}, {}",
            count(counts.subnets, "subnet"),
            count(counts.devices, "device"),
            counts.connected,
            count(counts.forwards, "forward"),
            count(counts.pinholes, "pinhole"),
        ),
    ));
    if let Some(api) = &status.api {
        let protection = match &api.fingerprint {
            Some(fingerprint) => format!("TLS, certificate SHA-256 {fingerprint}"),
            None => "without TLS".to_owned(),
        };
        fields.push(("api", format!("{}, {protection}", api.address)));
    }
    let healed: Vec<String> = status
        .healed
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(kind, number)| format!("{kind} {number}×"))
        .collect();
    if !healed.is_empty() {
        fields.push(("put back", healed.join(", ")));
    }
    output.fields(&fields);
}

fn describe(uplink: &Uplink) -> String {
    let mut text = uplink.name.clone();
    let addresses: Vec<String> = uplink
        .local
        .map(|address| address.to_string())
        .into_iter()
        .chain(uplink.local_ipv6.map(|address| address.to_string()))
        .collect();
    if !addresses.is_empty() {
        text = format!("{text} {}", addresses.join(", "));
    }
    if let Some(advertised) = uplink.advertised {
        text = format!("{text}, seen as {advertised}");
    }
    format!(
        "{text}; devices connect to {}",
        or_dash(uplink.effective_endpoint.as_ref())
    )
}

fn connected(output: Output, devices: &[Device]) {
    let connected: Vec<&Device> = devices.iter().filter(|device| device.connected).collect();
    if connected.is_empty() {
        return;
    }
    output.result("\n");
    let header = [
        "CONNECTED",
        "IPV4",
        "IPV6",
        "FROM",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
    ];
    let rows = connected.iter().take(SHOWN).map(|device| {
        vec![
            device.name.clone(),
            device.ipv4.to_string(),
            or_dash(device.ipv6),
            or_dash(device.endpoint),
            or_dash(device.last_handshake.map(ago)),
            bytes(device.received_bytes),
            bytes(device.sent_bytes),
        ]
    });
    output.table(&header, rows);
    if connected.len() > SHOWN {
        let more = connected.len() - SHOWN;
        output.result(&format!("and {more} more: `adit device list`"));
    }
}

fn never_seen(output: Output, status: &Status, devices: &[Device]) {
    let never: Vec<&Device> = devices
        .iter()
        .filter(|device| device.enabled && device.last_handshake.is_none())
        .collect();
    let Some(first) = never.first() else {
        return;
    };
    let names: Vec<&str> = never
        .iter()
        .take(SHOWN)
        .map(|device| device.name.as_str())
        .collect();
    let dots = if never.len() > SHOWN { ", …" } else { "" };
    let endpoint = status
        .uplinks
        .iter()
        .find(|uplink| uplink.default)
        .and_then(|uplink| uplink.effective_endpoint.as_deref())
        .unwrap_or("this host");
    let (port, name) = (status.listen_port, &first.name);
    output.result(&format!(
        "\nNot connected since the tunnel is up: {}{dots}\n  \
           - Is the tunnel up on the device (`wg-quick up adit`, or the switch in the app)?\n  \
           - Does the provider's firewall let UDP port {port} in to {endpoint}?\n  \
           - Has the device the right endpoint and keys? `adit device config {name}` shows what it needs.",
        names.join(", ")
    ));
}

fn problems(output: Output, status: &Status) {
    if status.problems.is_empty() {
        output.result("\nNothing is wrong.");
        return;
    }
    output.result(&format!("\n{}:", count(status.problems.len(), "problem")));
    for problem in &status.problems {
        output.result(&format!(
            "  {}: {} ({})\n    fix: {}",
            problem.object, problem.message, problem.code, problem.fix
        ));
    }
}
