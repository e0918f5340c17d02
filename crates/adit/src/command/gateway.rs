//! `adit gateway`: the daemon on this host.

use std::net::SocketAddr;
use std::path::PathBuf;

use adit_gateway::{Recovered, Recovery, RunOptions};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use crate::journal;
use crate::output::{Failure, Output};

/// What `adit gateway` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Run the gateway in the foreground; when it ends, the tunnel stays up
    Run(RunArguments),
    /// Withdraw everything from this host and restore what was; works with the daemon stopped
    Teardown(Options),
    /// Go on with the best copy of a state that was damaged, whatever it lacks; works with the daemon stopped
    Recover(RecoverArguments),
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
}

pub(super) fn run(
    command: GatewayCommand,
    output: Output,
    runtime_dir: Option<PathBuf>,
    verbose: u8,
) -> Result<(), Failure> {
    let limiter = journal::start(verbose);
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        tokio::spawn(journal::tell_suppressed(limiter));
        match command {
            GatewayCommand::Run(RunArguments { options, listen }) => {
                let options = run_options(options, runtime_dir);
                adit_gateway::run(RunOptions { listen, ..options }).await?;
                Ok(())
            }
            GatewayCommand::Teardown(options) => {
                adit_gateway::teardown(run_options(options, runtime_dir)).await?;
                Ok(())
            }
            GatewayCommand::Recover(RecoverArguments { options, empty }) => {
                let recovery = if empty {
                    Recovery::Empty
                } else {
                    Recovery::Best
                };
                let recovered = adit_gateway::recover(run_options(options, runtime_dir), recovery)?;
                tell(output, recovered)
            }
        }
    })
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

fn run_options(options: Options, runtime_dir: Option<PathBuf>) -> RunOptions {
    RunOptions {
        state_dir: options.state_dir,
        runtime_dir,
        config: options.config,
        interface: options.interface,
        listen: None,
    }
}
