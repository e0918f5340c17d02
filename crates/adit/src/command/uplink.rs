//! `adit uplink`: the interfaces that face the Internet.

use adit_api::types::uplink::{SetUplink, Uplink};
use adit_model::change::Patch;
use clap::{Args, Subcommand};

use super::{Condition, Session, read};
use crate::output::{Failure, or_dash};

/// What `adit uplink` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum UplinkCommand {
    /// List the uplinks
    List,
    /// Show one uplink
    Show {
        /// Its interface
        name: String,
    },
    /// Say what the Internet sees of an uplink
    Set(SetArguments),
}

/// Arguments of `adit uplink set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its interface; may be left out while there is one
    name: Option<String>,
    /// The IPv4 address that the Internet sees where the provider translates it, or `none`
    #[arg(long, value_name = "ADDR")]
    advertised: Option<String>,
    /// What devices connect to, if not that address, or `none`
    #[arg(long, value_name = "ADDR|NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(session: Session, command: UplinkCommand) -> Result<(), Failure> {
    let Session { client, output } = &session;
    match command {
        UplinkCommand::List => {
            let answer = client.uplinks().await?;
            if output.is_json() {
                return output.document(&answer);
            }
            if answer.uplinks.is_empty() {
                output.note("There is no uplink: this host has no default route.");
                return Ok(());
            }
            let header = [
                "NAME",
                "LOCAL",
                "ADVERTISED",
                "IPV6",
                "ENDPOINT",
                "MTU",
                "DEFAULT",
            ];
            let rows = answer.uplinks.into_iter().map(|uplink| {
                vec![
                    uplink.name,
                    or_dash(uplink.local),
                    or_dash(uplink.advertised),
                    or_dash(uplink.local_ipv6),
                    or_dash(uplink.effective_endpoint),
                    uplink.mtu.to_string(),
                    if uplink.default { "yes" } else { "" }.to_owned(),
                ]
            });
            output.table(&header, rows);
            Ok(())
        }
        UplinkCommand::Show { name } => {
            let uplink = client.uplink(&name).await?;
            show(&session, &uplink)
        }
        UplinkCommand::Set(arguments) => {
            let request = SetUplink {
                advertised: match arguments.advertised.as_deref() {
                    None => Patch::Keep,
                    Some("none") => Patch::Clear,
                    Some(text) => Patch::Set(read("--advertised", text)?),
                },
                endpoint: match arguments.endpoint {
                    None => Patch::Keep,
                    Some(text) if text == "none" => Patch::Clear,
                    Some(text) => Patch::Set(text),
                },
            };
            let name = match arguments.name {
                Some(name) => name,
                None => only(&session).await?,
            };
            let client = session.client_if(arguments.condition);
            let uplink = client.set_uplink(&name, &request).await?;
            show(&session, &uplink)?;
            output.note(
                "Devices learn a new endpoint from their configuration: `adit device config NAME`.",
            );
            Ok(())
        }
    }
}

async fn only(session: &Session) -> Result<String, Failure> {
    let mut uplinks = session.client.uplinks().await?.uplinks;
    match (uplinks.pop(), uplinks.is_empty()) {
        (Some(uplink), true) => Ok(uplink.name),
        (last, _) => {
            uplinks.extend(last);
            let names: Vec<String> = uplinks.into_iter().map(|uplink| uplink.name).collect();
            Err(Failure::Refused {
                code: "uplink-unclear",
                message: format!("there are {} uplinks: {}", names.len(), names.join(", ")),
                hint: "name one: `adit uplink set NAME …`".to_owned(),
            })
        }
    }
}

fn show(session: &Session, uplink: &Uplink) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(uplink);
    }
    session.output.fields(&[
        ("name", uplink.name.clone()),
        ("local", or_dash(uplink.local)),
        ("advertised", or_dash(uplink.advertised)),
        ("ipv6", or_dash(uplink.local_ipv6)),
        ("endpoint", or_dash(uplink.effective_endpoint.as_ref())),
        ("mtu", uplink.mtu.to_string()),
    ]);
    Ok(())
}
