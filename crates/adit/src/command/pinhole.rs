//! `adit pinhole`: ports that are open on devices' own IPv6 addresses.

use adit_api::types::pinhole::{AddPinhole, Pinhole, SetPinhole};
use clap::{Args, Subcommand};

use super::{Condition, Enabling, Session, ports, state};
use crate::output::{Failure, or_dash};
use crate::target::Ports;

/// What `adit pinhole` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum PinholeCommand {
    /// Open a port on a device's IPv6 address
    Add(AddArguments),
    /// List the pinholes
    List,
    /// Show one pinhole
    Show {
        /// Its id
        id: String,
    },
    /// Change a pinhole
    Set(SetArguments),
    /// Close a pinhole
    Remove {
        /// Its id
        id: String,
        #[command(flatten)]
        condition: Condition,
    },
}

/// Arguments of `adit pinhole add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The device, by name or id
    device: String,
    /// The port, such as 443/tcp or 5000-5010/udp
    #[arg(value_name = "PORT[-PORT][/tcp|/udp]")]
    ports: Ports,
    /// A note
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    label: String,
}

/// Arguments of `adit pinhole set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its id
    id: String,
    #[command(flatten)]
    enabling: Enabling,
    /// A note
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(session: Session, command: PinholeCommand) -> Result<(), Failure> {
    let Session { client, output } = &session;
    match command {
        PinholeCommand::Add(arguments) => {
            let request = AddPinhole {
                device: arguments.device,
                port: arguments.ports.first,
                port_end: Some(arguments.ports.last),
                protocols: arguments.ports.protocols,
                label: arguments.label,
            };
            show(&session, &client.add_pinhole(&request).await?)
        }
        PinholeCommand::List => {
            let answer = client.pinholes().await?;
            if output.is_json() {
                return output.document(&answer);
            }
            if answer.pinholes.is_empty() {
                output.note("There is no pinhole yet: `adit pinhole add DEVICE 443/tcp` adds one.");
                return Ok(());
            }
            let header = ["ID", "DEVICE", "ADDRESS", "PORT", "STATE", "LABEL"];
            let rows = answer.pinholes.iter().map(|pinhole| {
                vec![
                    pinhole.id.to_string(),
                    pinhole.device.clone(),
                    or_dash(pinhole.address),
                    ports(pinhole.port, pinhole.port_end, &pinhole.protocols),
                    state(pinhole.enabled),
                    pinhole.label.clone(),
                ]
            });
            output.table(&header, rows);
            Ok(())
        }
        PinholeCommand::Show { id } => show(&session, &client.pinhole(&id).await?),
        PinholeCommand::Set(arguments) => {
            let request = SetPinhole {
                enabled: arguments.enabling.wish(),
                label: arguments.label,
            };
            let client = session.client_if(arguments.condition);
            show(
                &session,
                &client.set_pinhole(&arguments.id, &request).await?,
            )
        }
        PinholeCommand::Remove { id, condition } => {
            let removed = session.client_if(condition).remove_pinhole(&id).await?;
            if output.is_json() {
                return output.document(&removed);
            }
            output.result(&format!("Removed pinhole {id}."));
            Ok(())
        }
    }
}

fn show(session: &Session, pinhole: &Pinhole) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(pinhole);
    }
    session.output.fields(&[
        ("id", pinhole.id.to_string()),
        ("device", pinhole.device.clone()),
        ("address", or_dash(pinhole.address)),
        (
            "port",
            ports(pinhole.port, pinhole.port_end, &pinhole.protocols),
        ),
        ("state", state(pinhole.enabled)),
        ("label", pinhole.label.clone()),
    ]);
    Ok(())
}
