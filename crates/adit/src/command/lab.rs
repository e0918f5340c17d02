//! `adit lab`: an Internet in a box, to look around in and to try things out.

mod answer;
mod demo;
mod narrator;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_lab::{Lab, Topology, require_root};
use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::json;

pub(crate) use demo::DemoArguments;

/// What `adit lab` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Build a network of namespaces with a VPS and a home behind carrier-grade NAT, and start the gateway on the VPS
    Up(UpArguments),
    /// Take a lab down, or what is left of it
    Down(DownArguments),
    /// List the labs that are up, and the networks that can be built
    List,
    /// Run a command on a host of a lab, with this terminal; on `vps`, `adit` finds the lab's gateway
    Exec(ExecArguments),
    /// Show in a few seconds how a server behind carrier-grade NAT becomes reachable
    Demo(DemoArguments),
    /// Answer every TCP connection with the address that it comes from
    #[command(hide = true)]
    Answer(answer::AnswerArguments),
}

/// Arguments of `adit lab up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// How the provider delivers IPv6 to the VPS
    #[arg(value_parser = PossibleValuesParser::new(Topology::names()))]
    name: String,
    /// What this lab is called; the network's name unless said
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// Arguments of `adit lab down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// The lab; may be left out while there is one
    instance: Option<String>,
    /// Take down every lab
    #[arg(long, conflicts_with = "instance")]
    all: bool,
}

/// Arguments of `adit lab exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// The host, such as vps, box or internet
    host: String,
    /// The lab; may be left out while there is one
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Does one of them. Blocks.
pub(crate) fn run(command: LabCommand, json: bool) -> Result<ExitCode> {
    match command {
        LabCommand::Up(arguments) => up(&arguments, json),
        LabCommand::Down(arguments) => down(arguments),
        LabCommand::List => list(json),
        LabCommand::Exec(arguments) => exec(&arguments),
        LabCommand::Demo(arguments) => demo::run(&arguments),
        LabCommand::Answer(arguments) => answer::run(&arguments),
    }
}

fn up(arguments: &UpArguments, json: bool) -> Result<ExitCode> {
    require_root()?;
    let topology = Topology::by_name(&arguments.name)?;
    let instance = arguments.instance.as_deref().unwrap_or(&arguments.name);
    let lab = Lab::up(&topology, instance)?;
    let gateway = match lab.start_gateway(&own_binary()?) {
        Ok(gateway) => gateway,
        Err(error) => {
            return Err(match lab.down() {
                Ok(()) => error,
                Err(second) => error.context(format!(
                    "and lab instance {instance} could not be taken down: {second:#}"
                )),
            });
        }
    };
    let mut out = io::stdout().lock();
    if json {
        let hosts: Vec<&str> = topology
            .hosts
            .iter()
            .map(|host| host.name.as_str())
            .collect();
        let document = json!({
            "instance": instance,
            "topology": topology.name,
            "hosts": hosts,
            "interface": gateway.interface(),
            "runtime_dir": gateway.runtime_dir(),
            "log": gateway.log_path(),
        });
        writeln!(out, "{document:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "Lab {instance} is up: {}.\n", topology.summary)?;
    write!(out, "{}", topology.describe())?;
    writeln!(
        out,
        "\nThe gateway runs on vps; its log is {}. Go on with:\n",
        gateway.log_path().display()
    )?;
    for line in [
        exec_line(instance, "vps", "adit status"),
        exec_line(
            instance,
            "vps",
            &format!(
                "adit subnet add home --ipv4 10.59.0.0/24{}",
                match &topology.prefix {
                    Some(prefix) => format!(" --ipv6 {prefix}"),
                    None => String::new(),
                }
            ),
        ),
        exec_line(instance, "box", "ping 198.51.100.10"),
        down_line(instance),
    ] {
        writeln!(out, "  {line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn down(arguments: DownArguments) -> Result<ExitCode> {
    require_root()?;
    let instances = if arguments.all {
        Lab::list()?
            .into_iter()
            .map(|summary| summary.instance)
            .collect()
    } else {
        match arguments.instance {
            Some(instance) => vec![instance],
            None => vec![only_instance("adit lab down NAME")?],
        }
    };
    for instance in instances {
        Lab::take_down(&instance)?;
        writeln!(io::stderr(), "Lab {instance} is down.")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) -> Result<ExitCode> {
    require_root()?;
    let labs = Lab::list()?;
    let mut out = io::stdout().lock();
    if json {
        let labs: Vec<_> = labs
            .iter()
            .map(|lab| json!({"instance": lab.instance, "topology": lab.topology, "complete": lab.complete}))
            .collect();
        writeln!(
            out,
            "{:#}",
            json!({"labs": labs, "topologies": Topology::names()})
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if labs.is_empty() {
        writeln!(
            out,
            "No lab is up. These can be built with `adit lab up NAME`:\n"
        )?;
        for name in Topology::names() {
            writeln!(out, "  {name:<8} {}", Topology::by_name(name)?.summary)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    for lab in labs {
        let state = if lab.complete {
            "up"
        } else {
            "incomplete: take it down"
        };
        let topology = lab.topology.as_deref().unwrap_or("unknown");
        writeln!(out, "{:<20} {topology:<8} {state}", lab.instance)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command, so that terminal, signals and exit status are its own.
fn exec(arguments: &ExecArguments) -> Result<ExitCode> {
    require_root()?;
    let instance = match &arguments.instance {
        Some(instance) => instance.clone(),
        None => only_instance("adit lab exec HOST --instance NAME -- COMMAND")?,
    };
    let lab = Lab::open(&instance)?;
    let host = lab.host(&arguments.host)?;
    let binary = own_binary()?;
    let mut command = host.command(&arguments.command);
    command.env("ADIT_RUNTIME_DIR", lab.gateway(&binary)?.runtime_dir());
    command.env("PATH", path_with(&binary)?);
    let error = command.exec();
    Err(error).with_context(|| format!("run ip netns exec {}", host.namespace()))
}

fn only_instance(usage: &str) -> Result<String> {
    let mut instances: Vec<String> = Lab::list()?
        .into_iter()
        .map(|summary| summary.instance)
        .collect();
    match instances.pop() {
        None => bail!("no lab is up: `adit lab up on-link` builds one"),
        Some(instance) if instances.is_empty() => Ok(instance),
        Some(instance) => {
            instances.push(instance);
            bail!(
                "several labs are up ({}): say which with `{usage}`",
                instances.join(", ")
            )
        }
    }
}

fn own_binary() -> Result<PathBuf> {
    env::current_exe().context("find the adit program that is running")
}

/// PATH with the folder of this program first.
fn path_with(binary: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let folders = binary
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(env::split_paths(&rest));
    env::join_paths(folders).context("put the folder of adit into PATH")
}

/// This program as a person would call it.
fn program() -> String {
    let name = env::args().next().unwrap_or_else(|| "adit".to_owned());
    if env::var_os("SUDO_USER").is_some() {
        format!("sudo {name}")
    } else {
        name
    }
}

fn exec_line(instance: &str, host: &str, command: &str) -> String {
    format!(
        "{} lab exec {host} --instance {instance} -- {command}",
        program()
    )
}

fn down_line(instance: &str) -> String {
    format!("{} lab down {instance}", program())
}
