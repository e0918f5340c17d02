//! Looks at this host for `adit doctor`, beside a daemon or without one; changes nothing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::path::Path;

use adit_host::facts::{self, FactsError};
use adit_host::netlink::Netlink;
use adit_host::{address, firewall, link};
use adit_model::diagnosis::{Daemon, Examination, Tunnel};
use anyhow::Context;

use crate::key;
use crate::options::{RunOptions, Settled};
use crate::writer::{restore, seconds_since_1970};

/// The interface that is looked for where the configuration does not say.
const INTERFACE: &str = "adit0";

/// What the daemon starts, with the package that has it.
const PROGRAMS: [(&str, &str); 1] = [("nft", "nftables")];

/// Of a daemon that runs the name of its interface is known already.
///
/// # Errors
///
/// This host cannot be looked at.
pub async fn examine(
    options: RunOptions,
    daemon: Daemon,
    interface: Option<String>,
) -> anyhow::Result<Examination> {
    let mut examination = Examination {
        daemon,
        now: seconds_since_1970(),
        missing_programs: PROGRAMS
            .into_iter()
            .filter(|(program, _)| !is_in_path(program))
            .collect(),
        ..Examination::default()
    };
    let settled = match options.settle() {
        Ok(settled) => Some(settled),
        Err(error) => {
            examination.configuration = Some(format!("{error:#}"));
            None
        }
    };
    examination.interface = interface
        .or_else(|| Some(settled.as_ref()?.interface.clone()))
        .unwrap_or_else(|| INTERFACE.to_owned());
    if let (Some(settled), Daemon::Stopped) = (&settled, daemon) {
        read_state(settled, &mut examination);
    }
    observe(&mut examination)
        .await
        .context("cannot look at this host; run it as root")?;
    Ok(examination)
}

/// IPv6 addresses of this host that it has for a time only.
///
/// # Errors
///
/// This host cannot be looked at.
pub async fn lent_addresses() -> anyhow::Result<BTreeSet<Ipv6Addr>> {
    let netlink = Netlink::open().context("cannot look at this host")?;
    let lent = address::lent(&netlink).await;
    lent.context("cannot look at this host")
}

/// A directory that is not there yet, or has nothing in it, belongs to a gateway that was never started.
fn read_state(settled: &Settled, examination: &mut Examination) {
    let is_untouched = match fs::read_dir(&settled.state_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    if is_untouched {
        return;
    }
    let loaded = match adit_store::read(&settled.state_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            examination.stored = Some((
                error.to_string(),
                "start the daemon, which restores what it can; if it refuses, `adit gateway recover` takes the best copy there is".to_owned(),
            ));
            return;
        }
    };
    if let Err(error) = key::read(&settled.state_dir).map(drop) {
        examination.key = Some(error.to_string());
    }
    match restore(loaded) {
        Ok(state) => examination.state = Some(state),
        Err(error) => {
            examination.stored = Some((
                error.to_string(),
                "it was written by a newer version of Adit: install that one again".to_owned(),
            ));
        }
    }
}

async fn observe(examination: &mut Examination) -> Result<(), FactsError> {
    let netlink = Netlink::open()?;
    examination.facts = facts::observe(&netlink, &examination.interface).await?;
    let tunnel = link::observe(&netlink, &examination.interface).await?;
    examination.tunnel = tunnel.map(|observed| Tunnel {
        up: observed.up,
        mtu: observed.link.mtu,
    });
    examination.has_table = firewall::is_there().ok();
    examination.foreign = firewall::foreign::observe().unwrap_or_default();
    Ok(())
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
