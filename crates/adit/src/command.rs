//! The commands: their arguments, and which module does them.

mod backup;
mod completions;
mod confirmation;
mod declaration;
mod device;
mod doctor;
mod events;
mod forward;
mod front;
mod gateway;
mod import;
mod lab;
mod lease;
mod log;
mod pinhole;
mod settings;
mod setup;
mod status;
mod subnet;
mod token;
mod uplink;
pub(crate) mod wireguard;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_api::client::Client;
use adit_api::text::{Readable, Text};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::Builder;

use crate::output::{Failure, Output};
use crate::remote::Remote;

const RUNTIME_DIR: &str = "/run/adit";

/// Public addresses and reachable ports for machines behind carrier-grade NAT
#[derive(Debug, Parser)]
#[command(name = "adit", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command, before or after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The directory of the gateway's socket [default: /run/adit]
    #[arg(long, global = true, value_name = "DIR", env = "ADIT_RUNTIME_DIR")]
    runtime_dir: Option<PathBuf>,
    /// A gateway elsewhere, https://HOST:PORT
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A file with the token for --url
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificate to trust for --url, or its authority's [default: the authorities of this host]
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Take a change back unless `adit confirm` comes within SECONDS, or `off` [default: 60 for a change that may cut off a
    /// caller who comes through the tunnel]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = confirmation::seconds)]
    confirm: Option<String>,
    /// Write one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Log more: -v for every decision, -vv for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon on this host
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
    /// Show what is up, who is connected, and what is wrong
    Status(status::StatusArguments),
    /// Look for everything that could be wrong, with or without the daemon; each with its fix
    Doctor(doctor::DoctorArguments),
    /// Show what happens, as it happens: changes, traffic, problems; with --json one document a line
    Events,
    /// Show who changed what
    Log(log::LogArguments),
    /// Confirm the last change, which is taken back otherwise
    Confirm,
    /// Write the manual state as a file, without secrets
    Export,
    /// Show what a file of declared state would change, and whose traffic is affected
    Plan(declaration::PlanArguments),
    /// Make the manual state what a file declares; what the file does not name goes
    Apply(declaration::ApplyArguments),
    /// Take another WireGuard server over, so that its devices go on as they are
    Import(import::ImportArguments),
    /// Write everything of the gateway on this host into one file, keys included
    Backup(backup::BackupArguments),
    /// Put a backup in the place of the state of the gateway on this host
    Restore(backup::RestoreArguments),
    /// The interfaces that face the Internet
    #[command(subcommand)]
    Uplink(uplink::UplinkCommand),
    /// The tunnel's networks
    #[command(subcommand)]
    Subnet(subnet::SubnetCommand),
    /// The machines that are connected through the tunnel
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Public ports that lead to devices
    #[command(subcommand)]
    Forward(forward::ForwardCommand),
    /// Ports that are open on devices' own IPv6 addresses
    #[command(subcommand)]
    Pinhole(pinhole::PinholeCommand),
    /// Ports that devices opened by themselves
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Tokens for programs that use the API over TCP
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The settings of the gateway
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Carry the packets of a WireGuard interface where the kernel does not; `wg` configures it
    Wireguard(wireguard::WireguardArguments),
    /// Lead connections to devices by the TLS names that they ask for; the gateway tells it which
    Front(front::FrontArguments),
    /// An Internet in a box, to try things out
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Write completions for a shell
    Completions(completions::CompletionsArguments),
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl From<Switch> for bool {
    fn from(switch: Switch) -> Self {
        match switch {
            Switch::On => true,
            Switch::Off => false,
        }
    }
}

/// What may be enabled or disabled.
#[derive(Debug, Args)]
struct Enabling {
    /// Put it in force
    #[arg(long)]
    enable: bool,
    /// Put it out of force, and keep it
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
}

/// On what condition something is changed or removed.
#[derive(Clone, Copy, Debug, Args)]
struct Condition {
    /// Only if it still has this version, as `--json` shows it
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
}

impl Enabling {
    const fn wish(&self) -> Option<bool> {
        match (self.enable, self.disable) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// What every command that talks to a gateway works with.
struct Session {
    client: Client,
    output: Output,
}

impl Session {
    /// The client for a change on a condition.
    fn client_if(&self, condition: Condition) -> Client {
        self.client.if_version(condition.if_version)
    }
}

/// Does what was asked for; the answer is the status that the program ends with.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let output = Output::new(arguments.global.json);
    match dispatch(arguments, output) {
        Ok(status) => status,
        Err(failure) => output.failure(failure),
    }
}

fn dispatch(arguments: Arguments, output: Output) -> Result<ExitCode, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Gateway(command) => {
            gateway::run(command, output, global.runtime_dir, global.verbose)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Wireguard(arguments) => Ok(wireguard::run(&arguments, global.verbose)?),
        Command::Front(arguments) => Ok(front::run(&arguments, global.verbose)?),
        Command::Lab(command) => Ok(lab::run(command, output.is_json())?),
        Command::Completions(arguments) => {
            completions::run(output, &arguments);
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(arguments) => {
            talk(&global, output, |session| status::run(session, arguments))
        }
        Command::Doctor(arguments) => {
            let runtime_dir = global.runtime_dir.clone();
            let is_here = global.url.is_none();
            talk(&global, output, |session| {
                doctor::run(session, arguments, runtime_dir, is_here)
            })
        }
        Command::Events => talk(&global, output, events::run),
        Command::Log(arguments) => talk(&global, output, |session| log::run(session, arguments)),
        Command::Confirm => talk(&global, output, confirmation::run),
        Command::Export => talk(&global, output, declaration::export),
        Command::Plan(arguments) => talk(&global, output, |session| {
            declaration::plan(session, arguments)
        }),
        Command::Apply(arguments) => talk(&global, output, |session| {
            declaration::apply(session, arguments)
        }),
        Command::Import(arguments) => {
            talk(&global, output, |session| import::run(session, arguments))
        }
        Command::Backup(arguments) => talk(&global, output, |session| {
            backup::back_up(session, arguments, global.runtime_dir.clone())
        }),
        Command::Restore(arguments) => talk(&global, output, |session| {
            backup::restore(session, arguments, global.runtime_dir.clone())
        }),
        Command::Uplink(command) => talk(&global, output, |session| uplink::run(session, command)),
        Command::Subnet(command) => talk(&global, output, |session| subnet::run(session, command)),
        Command::Device(command) => talk(&global, output, |session| device::run(session, command)),
        Command::Forward(command) => {
            talk(&global, output, |session| forward::run(session, command))
        }
        Command::Pinhole(command) => {
            talk(&global, output, |session| pinhole::run(session, command))
        }
        Command::Lease(command) => talk(&global, output, |session| lease::run(session, command)),
        Command::Token(command) => talk(&global, output, |session| token::run(session, command)),
        Command::Settings(command) => {
            talk(&global, output, |session| settings::run(session, command))
        }
    }
}

fn talk<F, W>(global: &Global, output: Output, work: W) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<(), Failure>>,
    W: FnOnce(Session) -> F,
{
    let client = client(global)?.confirming(global.confirm.clone(), confirmation::address());
    let awaiting = client.clone();
    let session = Session { client, output };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(work(session))?;
    confirmation::remind(output, awaiting.awaits());
    Ok(ExitCode::SUCCESS)
}

fn client(global: &Global) -> Result<Client, Failure> {
    let remote = Remote {
        url: global.url.as_deref(),
        token_file: global.token_file.as_deref(),
        ca_file: global.ca_file.as_deref(),
    };
    if let Some(client) = remote.client()? {
        return Ok(client);
    }
    let folder = global.runtime_dir.as_deref();
    let folder = folder.unwrap_or(Path::new(RUNTIME_DIR));
    Ok(Client::unix(&folder.join("adit.sock")))
}

/// Reads the value of an option as the gateway would.
fn read<T: Readable>(option: &str, text: &str) -> Result<Text<T>, Failure> {
    text.parse()
        .map_err(|reason: String| invalid(option, &reason))
}

fn invalid(option: &str, reason: &str) -> Failure {
    Failure::Refused {
        code: "invalid-request",
        message: format!("{option}: {reason}"),
        hint: "add `--help` to see what the command takes".to_owned(),
    }
}

/// `2 forwards`, `1 pinhole`
fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// `80`, `80/tcp`, `5000-5003/udp`
fn ports(
    first: u16,
    last: u16,
    protocols: &std::collections::BTreeSet<adit_model::protocol::Protocol>,
) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    match protocols.first() {
        Some(protocol) if protocols.len() == 1 => format!("{range}/{protocol}"),
        Some(_) | None => range,
    }
}

/// What stands in a table for something that is not in force.
fn state(enabled: bool) -> String {
    if enabled { "on" } else { "off" }.to_owned()
}
