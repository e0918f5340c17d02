//! `adit status`: what is up, who is connected, what is wrong and how to mend it.

use adit_api::types::status::{Front, Status, StatusProblem};
use adit_api::types::uplink::Uplink;
use adit_model::problem::Severity;
use clap::Args;

use super::device::view::{ago, bytes};
use super::{Session, count};
use crate::output::{Failure, Output, or_dash};

/// Arguments of `adit status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Fail with status 1 unless all is well; for monitoring
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(session: Session, arguments: StatusArguments) -> Result<(), Failure> {
    let Session { client, output } = session;
    let status = client.status().await?;
    if output.is_json() {
        output.document(&status)?;
    } else {
        overview(output, &status);
        connected(output, &status);
        unseen(output, &status);
        problems(output, &status);
    }
    let number = of_severity(&status, Severity::Error).count();
    if arguments.check && !(status.applied && number == 0) {
        return Err(Failure::Refused {
            code: "not-well",
            message: format!(
                "the gateway is not well: {}{}",
                count(number, "problem"),
                if status.applied {
                    ""
                } else {
                    ", and not all that is committed is in force"
                }
            ),
            hint: "`adit status` shows each with its fix".to_owned(),
        });
    }
    Ok(())
}

fn overview(output: Output, status: &Status) {
    let counts = status.counts;
    let mut fields = vec![
        (
            "gateway",
            format!(
                "{}, UDP port {}, version {}",
                status.interface, status.listen_port, status.version
            ),
        ),
        (
            "packets",
            match status.dataplane_reason.as_str() {
                "" => format!("carried by {}", status.dataplane),
                reason => format!("carried by {} ({reason})", status.dataplane),
            },
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
    fields.extend(status.awaiting.iter().map(|awaiting| {
        let text = format!(
            "revision {} is taken back at {}, unless `adit confirm` comes before",
            awaiting.revision, awaiting.deadline
        );
        ("awaiting", text)
    }));
    fields.extend(
        status
            .uplinks
            .iter()
            .map(|uplink| ("uplink", describe(uplink))),
    );
    fields.extend(status.subnets.iter().map(|subnet| {
        let ipv6 = subnet.ipv6.map(|prefix| format!(", {prefix}"));
        let text = format!(
            "{} {}{}; {}",
            subnet.name,
            subnet.ipv4,
            ipv6.unwrap_or_default(),
            count(subnet.devices, "device")
        );
        ("subnet", text)
    }));
    fields.push((
        "mtu",
        format!("{} ({})", status.mtu.value, status.mtu.reason),
    ));
    fields.push((
        "objects",
        format!(
            "{}, {} ({} connected), {}, {}, {}",
            count(counts.subnets, "subnet"),
            count(counts.devices, "device"),
            counts.connected,
            count(counts.forwards, "forward"),
            count(counts.pinholes, "pinhole"),
            count(counts.leases, "lease"),
        ),
    ));
    if let Some(front) = &status.front {
        fields.push(("names", carried(front)));
    }
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

/// What the front carries, and what it did not.
fn carried(front: &Front) -> String {
    let refused = front.refused;
    let mut text = format!(
        "{} open, {} over QUIC, {} waiting",
        front.connections, front.flows, front.waiting
    );
    let reasons = [
        (refused.limited, "by limits"),
        (refused.unknown_name, "for names that nobody has"),
        (refused.too_slow, "too slow"),
        (refused.malformed, "malformed"),
        (refused.unreachable, "for devices that did not answer"),
    ];
    let told: Vec<String> = reasons
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, reason)| format!("{number} {reason}"))
        .collect();
    if !told.is_empty() {
        text = format!("{text}; refused since it began: {}", told.join(", "));
    }
    text
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

fn connected(output: Output, status: &Status) {
    if status.connected.is_empty() {
        return;
    }
    output.result("\n");
    let header = ["CONNECTED", "IPV4", "FROM", "HANDSHAKE", "RECEIVED", "SENT"];
    let rows = status.connected.iter().map(|device| {
        vec![
            device.name.clone(),
            device.ipv4.to_string(),
            or_dash(device.endpoint),
            or_dash(device.last_handshake.map(ago)),
            bytes(device.received_bytes),
            bytes(device.sent_bytes),
        ]
    });
    output.table(&header, rows);
    let more = status.counts.connected - status.connected.len();
    if more > 0 {
        output.result(&format!("and {more} more: `adit device list`"));
    }
}

fn unseen(output: Output, status: &Status) {
    let Some(name) = status.unseen.first() else {
        return;
    };
    let more = status.counts.unseen - status.unseen.len();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let endpoint = status
        .uplinks
        .iter()
        .find(|uplink| uplink.default)
        .and_then(|uplink| uplink.effective_endpoint.as_deref())
        .unwrap_or("this host");
    let port = status.listen_port;
    output.result(&format!(
        "\nNot connected since the tunnel is up: {}{more}\n  \
           - Is the tunnel up on the device (`wg-quick up adit`, or the switch in the app)?\n  \
           - Does the provider's firewall let UDP port {port} in to {endpoint}?\n  \
           - Has the device the right endpoint and keys? `adit device config {name}` shows what it needs.",
        status.unseen.join(", ")
    ));
}

fn problems(output: Output, status: &Status) {
    let errors: Vec<_> = of_severity(status, Severity::Error).collect();
    let notices: Vec<_> = of_severity(status, Severity::Notice).collect();
    if errors.is_empty() {
        output.result("\nNothing is wrong.");
    } else {
        output.result(&format!("\n{}:", count(errors.len(), "problem")));
        list(output, &errors, "fix");
    }
    if !notices.is_empty() {
        output.result(&format!("\n{}:", count(notices.len(), "notice")));
        list(output, &notices, "to change it");
    }
}

fn list(output: Output, problems: &[&StatusProblem], fix: &str) {
    for problem in problems {
        output.result(&format!(
            "  {}: {} ({})\n    {fix}: {}",
            problem.object, problem.message, problem.code, problem.fix
        ));
    }
}

fn of_severity(status: &Status, severity: Severity) -> impl Iterator<Item = &StatusProblem> {
    let problems = status.problems.iter();
    problems.filter(move |problem| problem.severity == severity)
}
