//! `adit gateway`: the daemon on this host.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use adit_gateway::{Downgraded, Ending, Program, Recovered, Recovery, RunOptions, Starter};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use tokio::runtime::Builder;

use super::setup::{self, SetupArguments};
use crate::journal;
use crate::output::{Failure, Output};

/// What `adit gateway` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Run the gateway in the foreground; when it ends, the tunnel stays up
    Run(RunArguments),
    /// Make a gateway of this host: show what that takes, then do what is not done yet
    Setup(Box<SetupArguments>),
    /// Withdraw everything from this host and restore what was; works with the daemon stopped
    Teardown(Options),
    /// Go on with the best copy of a state that was damaged, whatever it lacks; works with the daemon stopped
    Recover(RecoverArguments),
    /// Lead the state back to an older schema, for an older version of Adit; works with the daemon stopped
    Downgrade(DowngradeArguments),
}

/// Arguments of `adit gateway downgrade`.
#[derive(Debug, Args)]
pub(crate) struct DowngradeArguments {
    #[command(flatten)]
    options: Options,
    /// The newest schema that the older version knows; it says so when it refuses the database
    #[arg(long, value_name = "N")]
    schema: i64,
}

/// Arguments of `adit gateway recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArguments {
    #[command(flatten)]
    options: Options,
    /// Take nothing of it: begin with an empty state, and the same private key
    #[arg(long)]
    empty: bool,
}

/// Options of the daemon; what they leave out comes from the configuration file.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory of state and keys [default: /var/lib/adit]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The configuration [default: /etc/adit/gateway.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The tunnel's interface [default: adit0]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

/// Arguments of `adit gateway run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    options: Options,
    /// Serve the API here too, to those who have a token [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where the kernel has no WireGuard: start one, or adopt the one that a unit of its own starts
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    userspace: Userspace,
}

/// What is done about a userspace WireGuard.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Userspace {
    /// Start it, so that it outlives the gateway
    #[default]
    Start,
    /// Wait for the unit adit-wireguard@INTERFACE
    Adopt,
}

pub(super) fn run(
    command: GatewayCommand,
    output: Output,
    runtime_dir: Option<PathBuf>,
    verbose: u8,
) -> Result<(), Failure> {
    if let GatewayCommand::Setup(arguments) = command {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        return runtime.block_on(setup::run(*arguments, output, runtime_dir));
    }
    let limiter = journal::start(verbose);
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ending: Result<Ending, Failure> = runtime.block_on(async {
        tokio::spawn(journal::tell_suppressed(limiter));
        match command {
            GatewayCommand::Run(arguments) => {
                let starter = match arguments.userspace {
                    Userspace::Start => Starter::Own(dataplane()?),
                    Userspace::Adopt => Starter::Unit,
                };
                let options = RunOptions {
                    listen: arguments.listen,
                    starter,
                    ..run_options(arguments.options, runtime_dir)
                };
                let ending = adit_gateway::run(options).await?;
                Ok(ending)
            }
            // It is no work for a daemon, and was done above.
            GatewayCommand::Setup(_) => Ok(Ending::Stopped),
            GatewayCommand::Teardown(options) => {
                adit_gateway::teardown(run_options(options, runtime_dir)).await?;
                Ok(Ending::Stopped)
            }
            GatewayCommand::Recover(RecoverArguments { options, empty }) => {
                let recovery = if empty {
                    Recovery::Empty
                } else {
                    Recovery::Best
                };
                let recovered = adit_gateway::recover(run_options(options, runtime_dir), recovery)?;
                tell(output, recovered)?;
                Ok(Ending::Stopped)
            }
            GatewayCommand::Downgrade(DowngradeArguments { options, schema }) => {
                let options = run_options(options, runtime_dir);
                let downgraded = adit_gateway::downgrade(options, schema).await?;
                tell_downgraded(output, schema, &downgraded)?;
                Ok(Ending::Stopped)
            }
        }
    });
    match ending? {
        Ending::Stopped => Ok(()),
        Ending::Restart => Err(start_anew().into()),
    }
}

/// This program as it is found now: a package may put another in its place while the gateway runs, which is the right one then.
fn dataplane() -> Result<Program, Failure> {
    let path = std::env::current_exe().context("cannot find this program")?;
    Ok(Program {
        path,
        arguments: vec!["wireguard".to_owned()],
    })
}

/// The same program with the same arguments in the place of this one; returns only what kept it from that.
fn start_anew() -> anyhow::Error {
    let mut arguments = std::env::args_os();
    let own = arguments.next().unwrap_or_else(|| "adit".into());
    let program = std::env::current_exe().unwrap_or_else(|_| own.clone().into());
    let error = Command::new(program).arg0(own).args(arguments).exec();
    anyhow::Error::new(error).context("the gateway cannot begin anew by itself: start it again")
}

fn tell(output: Output, recovered: Option<Recovered>) -> Result<(), Failure> {
    let Some(recovered) = recovered else {
        if output.is_json() {
            output.document(&serde_json::json!({"recovered": false}))?;
        } else {
            output.result("Nothing is wrong with the state; it is as it was.");
        }
        return Ok(());
    };
    let Recovered {
        from,
        revision,
        objects,
        kept,
    } = recovered;
    if output.is_json() {
        output.document(&serde_json::json!({
            "recovered": true,
            "from": from,
            "revision": revision,
            "objects": objects,
            "kept": kept,
        }))?;
    } else {
        let from = from.map_or("nothing".to_owned(), |path| path.display().to_string());
        output.result(&format!(
            "The state is made of {from}, and has revision {revision} and {objects} objects. What was there is kept as {}*.",
            kept.display()
        ));
    }
    Ok(())
}

fn tell_downgraded(output: Output, schema: i64, downgraded: &Downgraded) -> Result<(), Failure> {
    let Downgraded { lost, kept } = downgraded;
    if output.is_json() {
        return output.document(&serde_json::json!({
            "schema": schema,
            "lost": lost,
            "kept": kept,
        }));
    }
    output.result(&format!(
        "The state has schema {schema}, which has no room for {}. The database that was there is kept as {}.",
        lost.join(" and "),
        kept.display()
    ));
    Ok(())
}

pub(super) fn run_options(options: Options, runtime_dir: Option<PathBuf>) -> RunOptions {
    RunOptions {
        state_dir: options.state_dir,
        runtime_dir,
        config: options.config,
        interface: options.interface,
        ..RunOptions::default()
    }
}
