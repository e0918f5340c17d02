//! `adit gateway setup`: makes a gateway of this host, and does only what is not done yet.

mod files;
mod look;
mod plan;
mod step;
mod supervisor;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_api::client::{Client, ClientError};
use adit_api::types::device::AddedDevice;
use adit_api::types::status::Status;
use adit_model::configuration::Routing;
use adit_model::survey::{Ipv4Class, Ipv6Class, SurveyedUplink};
use anyhow::Context as _;
use clap::Args;
use clap::builder::FalseyValueParser;
use nix::unistd::geteuid;
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::look::{Carrier, Host};
use self::plan::Plan;
use super::RUNTIME_DIR;
use super::device::{self, KindName};
use crate::output::{Failure, Output};

/// How long the daemon may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Arguments of `adit gateway setup`.
#[derive(Debug, Args)]
pub(crate) struct SetupArguments {
    /// Do not ask
    #[arg(long, env = "ADIT_SETUP_YES", value_parser = FalseyValueParser::new())]
    yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// The tunnel's interface [default: adit0]
    #[arg(long, value_name = "NAME", env = "ADIT_SETUP_INTERFACE")]
    interface: Option<String>,
    /// The IPv4 address that the Internet sees, where the provider translates it to the uplink's private one
    #[arg(long, value_name = "ADDR", env = "ADIT_SETUP_ADVERTISED")]
    advertised: Option<Ipv4Addr>,
    /// The name or address that devices connect to [default: the public IPv4 address]
    #[arg(long, value_name = "HOST", env = "ADIT_SETUP_ENDPOINT")]
    endpoint: Option<String>,
    /// A subnet to make [default: `home`, where a device is wanted and there is none]
    #[arg(long, value_name = "NAME", env = "ADIT_SETUP_SUBNET")]
    subnet: Option<String>,
    /// The IPv4 network of that subnet
    #[arg(
        long,
        value_name = "PREFIX",
        env = "ADIT_SETUP_IPV4",
        default_value = "10.59.0.0/24"
    )]
    ipv4: String,
    /// The IPv6 prefix of that subnet [default: the uplink's own, where this host has chosen its address in it, else private]
    #[arg(long, value_name = "PREFIX|private|none", env = "ADIT_SETUP_IPV6")]
    ipv6: Option<String>,
    /// A first device to make; its configuration is shown, that of a client as a QR code too
    #[arg(long, value_name = "NAME", env = "ADIT_SETUP_DEVICE")]
    device: Option<String>,
    /// What that device may do by itself
    #[arg(long, value_enum, env = "ADIT_SETUP_KIND", default_value = "client")]
    kind: KindName,
}

pub(super) async fn run(
    arguments: SetupArguments,
    output: Output,
    runtime_dir: Option<PathBuf>,
) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Err(Failure::Refused {
            code: "not-root",
            message: "a gateway is set up by root, and this is another user".to_owned(),
            hint: "`sudo adit gateway setup`".to_owned(),
        });
    }
    let folder = runtime_dir.as_deref().unwrap_or(Path::new(RUNTIME_DIR));
    let client = Client::unix(&folder.join("adit.sock"));
    let mut arguments = arguments;
    let host = Host::look(&arguments, &client, runtime_dir.clone()).await?;
    ask_advertised(&mut arguments, &host, output)?;
    let plan = Plan::make(&arguments, &host)?;
    tell(&host, &plan, output);
    if arguments.dry_run {
        return conclude(output, &host, &plan, None, None);
    }
    if !plan.is_done() {
        if !arguments.yes {
            output.consent("Do this?")?;
        }
        plan.prepare(output)?;
    }
    let status = await_answer(&client).await?;
    let added = plan.finish(&client, output).await?;
    let status = if added.is_some() {
        client.status().await?
    } else {
        status
    };
    conclude(output, &host, &plan, added, Some(&status))
}

/// Nobody can see from inside what the Internet sees: a person is asked, without one it is said in the end.
fn ask_advertised(
    arguments: &mut SetupArguments,
    host: &Host,
    output: Output,
) -> Result<(), Failure> {
    let Some((name, local)) = host.unadvertised() else {
        return Ok(());
    };
    if arguments.advertised.is_some() || arguments.dry_run {
        return Ok(());
    }
    if !arguments.yes
        && let Some(text) = output.question(&format!(
            "{name} has the private address {local}. Which public IPv4 address does the provider translate to it (in its console)?"
        ))?
    {
        let address = text.parse().map_err(|_| Failure::Refused {
            code: "invalid-request",
            message: format!("`{text}` is no IPv4 address"),
            hint: "look it up in the provider's console, or add `--advertised ADDR`".to_owned(),
        })?;
        arguments.advertised = Some(address);
        return Ok(());
    }
    if arguments.device.is_some() && arguments.endpoint.is_none() {
        return Err(Failure::Refused {
            code: "advertised-unknown",
            message: format!(
                "uplink {name} has only the private address {local}, so there is nothing that a device could connect to"
            ),
            hint: "look the VPS's public IPv4 address up in the provider's console, and add `--advertised ADDR`".to_owned(),
        });
    }
    Ok(())
}

fn tell(host: &Host, plan: &Plan, output: Output) {
    output.note("This host:");
    for uplink in &host.uplinks {
        output.note(&format!("  {}", describe(uplink)));
    }
    output.note(&format!("  {}", host.carrier.describe()));
    output.note(&format!("  {}\n", host.supervisor.describe()));
    for problem in &plan.problems {
        output.note(&format!(
            "{}: {}\n  fix: {}\n",
            problem.object, problem.message, problem.fix
        ));
    }
    if plan.is_done() {
        output.note("Nothing to do: the gateway is set up.\n");
        return;
    }
    output.note("To do:");
    for (index, step) in plan.steps.iter().enumerate() {
        output.note(&format!("  {}. {step}", index + 1));
    }
    output.note("");
}

fn describe(uplink: &SurveyedUplink) -> String {
    let ipv4 = match uplink.ipv4 {
        Ipv4Class::Public { address } => format!("IPv4 {address}"),
        Ipv4Class::OneToOneNat {
            local,
            advertised: Some(advertised),
        } => format!("IPv4 {local}, which the Internet sees as {advertised} (1:1 NAT)"),
        Ipv4Class::OneToOneNat {
            local,
            advertised: None,
        } => format!("IPv4 {local}, a private address (1:1 NAT; the public one is not known)"),
        Ipv4Class::None => "no IPv4".to_owned(),
    };
    let ipv6 = match uplink.ipv6 {
        Ipv6Class::Prefix { prefix } => format!("IPv6 prefix {prefix} on the link"),
        Ipv6Class::Narrow { prefix } => {
            format!("narrow IPv6 prefix {prefix} on the link, with room for few devices")
        }
        Ipv6Class::Shared { prefix } => format!(
            "an address that it was lent in {prefix}, where others may have theirs, too (if all of it is yours: `--ipv6 {prefix}`)"
        ),
        Ipv6Class::Single { address } => format!(
            "the single IPv6 address {address}, which devices share (if the provider routes a prefix to it: `--ipv6 PREFIX`)"
        ),
        Ipv6Class::None => "no IPv6".to_owned(),
    };
    format!("uplink {}: {ipv4}; {ipv6}", uplink.name)
}

async fn await_answer(client: &Client) -> Result<Status, Failure> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match client.status().await {
            Ok(status) if status.applied || Instant::now() > deadline => return Ok(status),
            Ok(_) => {}
            Err(ClientError::Unreachable { .. }) if Instant::now() > deadline => {
                return Err(Failure::Refused {
                    code: "not-started",
                    message: "the service was started, and the gateway does not answer".to_owned(),
                    hint: "`journalctl -eu adit-gateway`, or the system's log, says why; then run `adit gateway setup` again, which goes on from here".to_owned(),
                });
            }
            Err(ClientError::Unreachable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The configuration is the result; everything else goes to standard error.
fn conclude(
    output: Output,
    host: &Host,
    plan: &Plan,
    added: Option<AddedDevice>,
    status: Option<&Status>,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(&json!({
            "uplinks": host.uplinks,
            "wireguard": host.carrier.name(),
            "supervisor": host.supervisor.name(),
            "steps": plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "changed": status.is_some() && !plan.is_done(),
            "problems": match status {
                Some(status) => serde_json::to_value(&status.problems),
                None => serde_json::to_value(&plan.problems),
            }
            .context("write the problems")?,
            "listen_port": host.listen_port,
            "device": added.as_ref().map(|added| &added.device),
            "config": added.as_ref().and_then(|added| added.config.as_ref()),
        }));
    }
    let Some(status) = status else {
        return Ok(());
    };
    for problem in &status.problems {
        output.note(&format!(
            "{}: {}\n  fix: {}\n",
            problem.object, problem.message, problem.fix
        ));
    }
    if let Some(added) = &added {
        // With routing tables of its own a configuration is a file to copy, and too long for a picture.
        let qr = added.device.routing != Routing::Inbound;
        device::tell(output, added, "Added", qr)?;
    }
    output.note(&format!(
        "\nLet UDP port {} in through the provider's own firewall, too, if it has one (in its web console): nothing on this \
         host can see it, and without it no device connects.",
        host.listen_port
    ));
    if let Some(name) = plan.device_there.as_ref().filter(|_| added.is_none()) {
        output.note(&format!(
            "The device {name} is there already, and its private key was shown once: `adit device rekey {name} --qr` gives it another."
        ));
    } else if added.is_none() {
        output.note(if host.has_devices {
            "`adit status` shows who is connected."
        } else {
            "Next: `adit subnet add NAME --ipv4 10.59.0.0/24` if there is none yet, and `adit device add NAME --qr`."
        });
    }
    if matches!(host.carrier, Carrier::Userspace) {
        output.note(
            "This kernel has no WireGuard, so `adit wireguard` carries the packets, which is slower.",
        );
    }
    Ok(())
}
