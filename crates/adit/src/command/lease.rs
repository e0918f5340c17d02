//! `adit lease`: the ports that devices opened by themselves.

use adit_api::types::lease::Lease;
use adit_model::protocol::or_all;
use adit_model::state::Opening;
use clap::Subcommand;

use super::{Condition, Session};
use crate::output::{Failure, or_dash};

/// What `adit lease` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List the leases
    List,
    /// Show one lease
    Show {
        /// Its id
        id: String,
    },
    /// Close a port that a device opened; the device may ask again
    Remove {
        /// Its id
        id: String,
        #[command(flatten)]
        condition: Condition,
    },
}

pub(super) async fn run(session: Session, command: LeaseCommand) -> Result<(), Failure> {
    let Session { client, output } = &session;
    match command {
        LeaseCommand::List => {
            let answer = client.leases().await?;
            if output.is_json() {
                return output.document(&answer);
            }
            if answer.leases.is_empty() {
                output.note("No device has opened a port by itself.");
                return Ok(());
            }
            let header = [
                "ID",
                "DEVICE",
                "MECHANISM",
                "EXTERNAL",
                "INTERNAL",
                "STATE",
                "EXPIRES IN",
            ];
            let rows = answer.leases.iter().map(|lease| {
                vec![
                    lease.id.to_string(),
                    lease.device.clone(),
                    lease.mechanism.to_string(),
                    external(lease),
                    or_dash(lease.internal),
                    state(lease),
                    format!("{} s", lease.expires_in),
                ]
            });
            output.table(&header, rows);
            Ok(())
        }
        LeaseCommand::Show { id } => show(&session, &client.lease(&id).await?),
        LeaseCommand::Remove { id, condition } => {
            let removed = session.client_if(condition).remove_lease(&id).await?;
            if output.is_json() {
                return output.document(&removed);
            }
            output.result(&format!("Removed lease {id}."));
            Ok(())
        }
    }
}

/// `203.0.113.10:51413/udp`, and how many more
fn external(lease: &Lease) -> String {
    let more = match lease.count {
        1 => String::new(),
        count => format!(" (+{})", count - 1),
    };
    let protocol = or_all::name(lease.protocol);
    format!("{}/{protocol}{more}", or_dash(lease.external))
}

fn state(lease: &Lease) -> String {
    match (&lease.suspended_by, lease.opening) {
        (Some(service), _) => format!("suspended: {service} listens there"),
        (None, Opening::Forward) => "forward".to_owned(),
        (None, Opening::Pinhole) => "pinhole".to_owned(),
        (None, Opening::Outbound) => "outbound".to_owned(),
    }
}

fn show(session: &Session, lease: &Lease) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(lease);
    }
    let names = Vec::from_iter(lease.hostnames.iter().map(String::as_str)).join(", ");
    session.output.fields(&[
        ("id", lease.id.to_string()),
        ("device", lease.device.clone()),
        (
            "asked by",
            lease.asked_by.as_ref().unwrap_or(&lease.device).clone(),
        ),
        ("mechanism", lease.mechanism.to_string()),
        ("external", external(lease)),
        ("internal", or_dash(lease.internal)),
        ("remote", or_dash(lease.remote)),
        (
            "filters",
            or_dash((!lease.filters.is_empty()).then(|| lease.filters.join(", "))),
        ),
        ("names", or_dash((!names.is_empty()).then_some(names))),
        ("state", state(lease)),
        ("description", lease.description.clone()),
        ("expires", lease.expires.to_string()),
        ("expires in", format!("{} s", lease.expires_in)),
    ]);
    Ok(())
}
