//! `adit lab demo`: how a server behind carrier-grade NAT becomes reachable, on a machine without any of that.

mod story;

use std::env;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use adit_lab::{Lab, Topology, require_root};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use tokio::signal::unix::{SignalKind, signal};

use super::narrator::Narrator;
use super::{down_line, own_binary, program};

/// Programs that the story and the lab run, with the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nc", "netcat-openbsd"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("radvd", "radvd"),
    ("setsid", "util-linux"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
    ("wg", "wireguard-tools"),
    ("wg-quick", "wireguard-tools"),
];

/// The topologies in which the story holds.
const TOLD: [&str; 2] = ["on-link", "routed"];

/// Arguments of `adit lab demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// How the provider delivers IPv6 to the VPS
    #[arg(default_value = "on-link", value_parser = PossibleValuesParser::new(TOLD))]
    topology: String,
    /// Leave everything running, to look around in it
    #[arg(long)]
    keep: bool,
    /// What the lab is called; `demo`, or `demo-2` and so on, unless said
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

pub(super) fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    let root = require_root();
    if let Err(error) = root {
        bail!("{error}, for example `sudo {} lab demo`", program());
    }
    check_programs()?;
    let interrupted = watch_signals()?;
    let started = Instant::now();
    let mut narrator = Narrator::new();
    story::introduce(&mut narrator)?;
    let topology = Topology::by_name(&arguments.topology)?;
    let lab = match &arguments.instance {
        Some(instance) => Lab::up(&topology, instance)?,
        None => Lab::up_numbered(&topology, "demo")?,
    };
    let told =
        own_binary().and_then(|binary| story::tell(&mut narrator, &lab, &binary, &interrupted));
    match told {
        Ok(places) => {
            let summary = format!(
                "\nAll {} expectations were met, in {:.1} s.",
                narrator.facts(),
                started.elapsed().as_secs_f64()
            );
            if arguments.keep {
                narrator.write(&summary)?;
                story::show_around(&mut narrator, &lab, &places)?;
            } else {
                lab.down()?;
                narrator.write(&summary)?;
                narrator.write(&format!(
                    "All of it has been removed. To look around in it: {} lab demo --keep",
                    program()
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let what = if interrupted.load(Ordering::Relaxed) {
                format!("interrupted at {}", narrator.current())
            } else {
                format!("{} did not go as expected: {error:#}", narrator.current())
            };
            let mut err = io::stderr();
            // What cannot be written must not keep the lab from being taken down.
            let _ = writeln!(err, "\ndemo: {what}");
            if arguments.keep {
                let _ = writeln!(
                    err,
                    "demo: the lab is left as it is; remove it with: {}",
                    down_line(lab.instance())
                );
            } else {
                lab.down()?;
                let _ = writeln!(
                    err,
                    "demo: the lab has been removed; --keep leaves it for a look"
                );
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

fn check_programs() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| {
        env::split_paths(&path).any(|folder| {
            folder.join(program).metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
    };
    let missing: Vec<(&str, &str)> = PROGRAMS
        .iter()
        .copied()
        .filter(|(program, _)| !is_there(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, mut packages): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
    packages.dedup();
    bail!(
        "these programs are missing: {}; on Debian they come with: apt-get install --no-install-recommends {}",
        programs.join(", "),
        packages.join(" ")
    )
}

/// Set by the first SIGINT or SIGTERM, so that the story ends at its next step and the lab is taken down.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start watching for signals")?;
    thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        });
    });
    Ok(interrupted)
}
