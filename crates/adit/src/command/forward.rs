//! `adit forward`: public ports that lead to devices.

use adit_api::text::Text;
use adit_api::types::forward::{AddForward, Forward, SetForward};
use clap::{Args, Subcommand};

use super::{Condition, Enabling, Session, Switch, ports, state};
use crate::output::{Failure, or_dash};
use crate::target::{DevicePort, PublicPorts};

/// What `adit forward` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    /// Lead a public port to a device
    Add(AddArguments),
    /// List the forwards
    List,
    /// Show one forward
    Show {
        /// Its id
        id: String,
    },
    /// Change a forward
    Set(SetArguments),
    /// Remove a forward
    Remove {
        /// Its id
        id: String,
        #[command(flatten)]
        condition: Condition,
    },
}

/// Arguments of `adit forward add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The public port, such as 443/tcp, 5000-5010/udp, 198.51.100.7:80 or [2001:db8::7]:80
    #[arg(value_name = "[ADDR:]PORT[-PORT][/tcp|/udp]")]
    public: PublicPorts,
    /// The device by name or id, with the port there unless it is the same
    #[arg(value_name = "DEVICE[:PORT]")]
    device: DevicePort,
    /// Only connections that ask for this TLS name, such as blog.example.org or *.example.org; on port 80, requests for it
    #[arg(long, visible_alias = "name", value_name = "TLS-NAME")]
    hostname: Option<String>,
    /// Begin connections to the device with the client's address (PROXY protocol, version 2)
    #[arg(long)]
    proxy_protocol: bool,
    /// A note
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    label: String,
}

/// Arguments of `adit forward set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its id
    id: String,
    #[command(flatten)]
    enabling: Enabling,
    /// A note
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Another device, by name or id
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Another port on the device
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    target_port: Option<u16>,
    /// Whether connections to the device begin with the client's address
    #[arg(long, value_enum)]
    proxy_protocol: Option<Switch>,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(session: Session, command: ForwardCommand) -> Result<(), Failure> {
    let Session { client, output } = &session;
    match command {
        ForwardCommand::Add(arguments) => {
            let PublicPorts { address, ports } = arguments.public;
            let request = AddForward {
                address: address.map(Text),
                port: ports.first,
                port_end: Some(ports.last),
                protocols: ports.protocols,
                device: arguments.device.device,
                target_port: arguments.device.port,
                hostname: arguments.hostname,
                proxy_protocol: arguments.proxy_protocol,
                label: arguments.label,
            };
            show(&session, &client.add_forward(&request).await?)
        }
        ForwardCommand::List => {
            let answer = client.forwards().await?;
            if output.is_json() {
                return output.document(&answer);
            }
            if answer.forwards.is_empty() {
                output.note("There is no forward yet: `adit forward add 443/tcp DEVICE` adds one.");
                return Ok(());
            }
            let header = [
                "ID", "PUBLIC", "PORT", "NAME", "DEVICE", "PORT", "STATE", "LABEL",
            ];
            let rows = answer.forwards.iter().map(|forward| {
                vec![
                    forward.id.to_string(),
                    addresses(forward),
                    ports(forward.port, forward.port_end, &forward.protocols),
                    or_dash(forward.hostname.as_ref()),
                    forward.device.clone(),
                    target(forward),
                    state(forward.enabled),
                    forward.label.clone(),
                ]
            });
            output.table(&header, rows);
            Ok(())
        }
        ForwardCommand::Show { id } => show(&session, &client.forward(&id).await?),
        ForwardCommand::Set(arguments) => {
            let request = SetForward {
                enabled: arguments.enabling.wish(),
                label: arguments.label,
                device: arguments.device,
                target_port: arguments.target_port,
                proxy_protocol: arguments.proxy_protocol.map(Into::into),
            };
            let client = session.client_if(arguments.condition);
            show(
                &session,
                &client.set_forward(&arguments.id, &request).await?,
            )
        }
        ForwardCommand::Remove { id, condition } => {
            let removed = session.client_if(condition).remove_forward(&id).await?;
            if output.is_json() {
                return output.document(&removed);
            }
            output.result(&format!("Removed forward {id}."));
            Ok(())
        }
    }
}

fn show(session: &Session, forward: &Forward) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(forward);
    }
    session.output.fields(&[
        ("id", forward.id.to_string()),
        ("public", addresses(forward)),
        (
            "port",
            ports(forward.port, forward.port_end, &forward.protocols),
        ),
        ("name", or_dash(forward.hostname.as_ref())),
        ("device", forward.device.clone()),
        ("device port", target(forward)),
        (
            "PROXY protocol",
            on_or_off(forward.proxy_protocol).to_owned(),
        ),
        ("state", state(forward.enabled)),
        ("label", forward.label.clone()),
    ]);
    Ok(())
}

const fn on_or_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn addresses(forward: &Forward) -> String {
    if forward.addresses.is_empty() {
        return or_dash(forward.address);
    }
    let texts: Vec<String> = forward.addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn target(forward: &Forward) -> String {
    let length = forward.port_end.saturating_sub(forward.port);
    let none = std::collections::BTreeSet::new();
    ports(
        forward.target_port,
        forward.target_port.saturating_add(length),
        &none,
    )
}
