//! How devices are shown.

use std::time::SystemTime;

use adit_api::timestamp::Timestamp;
use adit_api::types::device::{Device, DeviceDetail, Devices};
use adit_model::configuration::Routing;
use adit_model::state::DeviceKind;
use serde::Serialize;

use crate::output::{Failure, Output, or_dash};

pub(super) fn list(output: Output, answer: &Devices) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(answer);
    }
    if answer.devices.is_empty() {
        output.note("There is no device yet: `adit device add NAME` adds one.");
        return Ok(());
    }
    let header = [
        "ID",
        "NAME",
        "SUBNET",
        "KIND",
        "ROUTING",
        "IPV4",
        "IPV6",
        "DELEGATIONS",
        "STATE",
        "HANDSHAKE",
    ];
    let rows = answer.devices.iter().map(|device| {
        vec![
            device.id.to_string(),
            device.name.clone(),
            device.subnet.clone(),
            kind(device.kind).to_owned(),
            routing(device.routing).to_owned(),
            device.ipv4.to_string(),
            or_dash(device.ipv6),
            delegations(device),
            state(device).to_owned(),
            or_dash(device.last_handshake.map(ago)),
        ]
    });
    output.table(&header, rows);
    Ok(())
}

pub(super) fn one(output: Output, device: &Device) -> Result<(), Failure> {
    show(output, device, device, &[])
}

pub(super) fn detail(output: Output, detail: &DeviceDetail) -> Result<(), Failure> {
    let more = [
        ("forwards", ids(&detail.forwards)),
        ("pinholes", ids(&detail.pinholes)),
        ("leases", ids(&detail.leases)),
    ];
    show(output, detail, &detail.device, &more)
}

fn show(
    output: Output,
    document: &impl Serialize,
    device: &Device,
    more: &[(&'static str, String)],
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(document);
    }
    let mut fields = vec![
        ("name", device.name.clone()),
        ("subnet", device.subnet.clone()),
        ("kind", kind(device.kind).to_owned()),
        ("routing", routing(device.routing).to_owned()),
        ("ipv4", device.ipv4.to_string()),
        ("ipv6", or_dash(device.ipv6)),
        ("delegations", delegations(device)),
        ("egress", or_dash(device.egress.as_ref())),
        ("auto ports", auto_ports(device)),
        ("public key", device.public_key.to_string()),
        ("state", state(device).to_owned()),
        ("expires", or_dash(device.expires)),
        ("handshake", or_dash(device.last_handshake.map(ago))),
        ("endpoint", or_dash(device.endpoint)),
        ("received", bytes(device.received_bytes)),
        ("sent", bytes(device.sent_bytes)),
    ];
    fields.extend(more.iter().cloned());
    output.fields(&fields);
    Ok(())
}

/// `3 min ago`
pub(crate) fn ago(time: Timestamp) -> String {
    let seconds = Timestamp::from(SystemTime::now()).0.saturating_sub(time.0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// `1.4 MiB`
pub(crate) fn bytes(number: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| number >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", number / size, number % size * 10 / size),
        None => format!("{number} B"),
    }
}

fn state(device: &Device) -> &'static str {
    let now = Timestamp::from(SystemTime::now());
    if !device.enabled {
        "disabled"
    } else if device.expires.is_some_and(|expires| expires <= now) {
        "expired"
    } else if device.connected {
        "connected"
    } else if device.last_handshake.is_some() {
        "away"
    } else {
        "never seen"
    }
}

fn delegations(device: &Device) -> String {
    if device.delegations.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = device.delegations.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn ids(ids: &[u64]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

const fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Server => "server",
        DeviceKind::Client => "client",
    }
}

const fn routing(routing: Routing) -> &'static str {
    match routing {
        Routing::Full => "full",
        Routing::Split => "split",
        Routing::Inbound => "inbound",
    }
}

/// What it may open by itself.
fn auto_ports(device: &Device) -> String {
    if !device.auto_ports {
        return "off".to_owned();
    }
    let others = if device.third_party {
        ", also for others"
    } else {
        ""
    };
    let all = if device.all_ports {
        ", also all at once"
    } else {
        ""
    };
    format!(
        "on: {} of {}, {} requests a second{others}{all}",
        device.lease_quota,
        device.auto_port_ranges.join(", "),
        device.request_rate
    )
}
