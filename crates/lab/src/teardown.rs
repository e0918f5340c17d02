//! Takes an instance down, however much of it there is, from what was recorded and from what the kernel shows.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::process::{self, Identity};
use crate::registry::{self, Registry};
use crate::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);
const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";

pub(crate) fn tear_down(instance: &str, registry: &Registry) -> Result<()> {
    let namespaces = registry.namespaces()?;
    let mut interfaces = registry.interfaces()?;
    for namespace in &namespaces {
        interfaces.extend(tun_interfaces(namespace)?);
    }
    end_processes(instance, registry, &namespaces)?;
    delete_namespaces(&namespaces)?;
    for interface in interfaces {
        remove_file(&Path::new(WIREGUARD_SOCKETS).join(format!("{interface}.sock")))?;
    }
    registry.remove()
}

fn end_processes(instance: &str, registry: &Registry, namespaces: &[String]) -> Result<()> {
    let spared = process::ancestry();
    for (signal, patience) in [(Signal::SIGTERM, 1), (Signal::SIGKILL, 5)] {
        let found = || -> Result<Vec<Identity>> {
            let mut found = residents(namespaces)?;
            found.extend(
                registry
                    .processes()?
                    .into_iter()
                    .map(|record| record.identity),
            );
            found.retain(|identity| identity.is_alive() && !spared.contains(&identity.pid));
            Ok(found.into_iter().collect())
        };
        for identity in found()? {
            identity.signal(signal)?;
        }
        let what = format!("end of the processes of lab instance {instance} after {signal}");
        let ended = wait_until(&what, Duration::from_secs(patience), || {
            Ok(found()?.is_empty())
        });
        if ended.is_ok() {
            return Ok(());
        }
        if signal == Signal::SIGKILL {
            return ended.with_context(|| format!("these do not end: {:?}", found()));
        }
    }
    Ok(())
}

/// Processes whose network namespace is one of these: also those that were never recorded, as what a daemon left.
fn residents(namespaces: &[String]) -> Result<BTreeSet<Identity>> {
    let mut ours = BTreeSet::new();
    for namespace in namespaces {
        // The file of a namespace that vanished in the meantime has no residents.
        if let Ok(metadata) = fs::metadata(registry::namespace_path(namespace)) {
            ours.insert((metadata.dev(), metadata.ino()));
        }
    }
    let mut residents = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if let Ok(metadata) = fs::metadata(format!("/proc/{pid}/ns/net"))
            && ours.contains(&(metadata.dev(), metadata.ino()))
            && let Some(identity) = Identity::of(pid)
        {
            residents.insert(identity);
        }
    }
    Ok(residents)
}

/// A userspace WireGuard that is killed leaves its socket behind; its interface tells the name.
fn tun_interfaces(namespace: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Link {
        // `ip` prints an empty object for a link that does not match.
        ifname: Option<String>,
    }
    let mut ip = Command::new("ip");
    ip.args(["-n", namespace, "-json", "link", "show", "type", "tun"]);
    let output = process::run(
        &mut ip,
        &format!("list TUN interfaces in {namespace}"),
        "",
        LIMIT,
    )?;
    // A half-made namespace, or one from before a restart of the machine, cannot be entered: it has none.
    if !output.status.success() || output.stdout.trim().is_empty() {
        return Ok(Vec::new());
    }
    let links: Vec<Link> = serde_json::from_str(&output.stdout)
        .with_context(|| format!("read the TUN interfaces of {namespace}: {}", output.stdout))?;
    Ok(links.into_iter().filter_map(|link| link.ifname).collect())
}

fn delete_namespaces(namespaces: &[String]) -> Result<()> {
    for namespace in namespaces {
        let mut ip = Command::new("ip");
        ip.args(["netns", "delete", namespace]);
        let output = process::run(&mut ip, &format!("delete namespace {namespace}"), "", LIMIT)?;
        if !output.status.success() {
            remove_file(&registry::namespace_path(namespace))
                .with_context(|| format!("ip netns delete {namespace}: {output}"))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}
