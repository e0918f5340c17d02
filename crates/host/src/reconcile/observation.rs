//! What this host holds of ours, part by part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_model::desired::Desired;
use adit_model::desired::firewall::Elements;
use adit_model::plan::{Actual, ActualFirewall, ActualLink, ActualWireGuard, Sweep};
use adit_model::problem::Problem;
use ipnet::IpNet;
use nix::errno::Errno;

use super::sweeps::endpoints_in;
use super::{OBSERVE_FAILED, Part, Reconciler, Report};
use crate::netlink::NetlinkError;
use crate::wireguard::{Dataplane, WireGuardError};
use crate::{address, link, neighbor, route, rule, sysctl};

const SETTINGS_FIX: &str = "it is tried again; the daemon must be able to read /proc/sys/net";

pub(super) struct Observation {
    pub(super) actual: Actual,
    /// Our interface name is in use by others.
    pub(super) is_blocked: bool,
}

impl Reconciler {
    /// Parts that are not asked for, or cannot be read, count as they are desired: nothing is planned for them.
    pub(super) async fn observe(
        &mut self,
        desired: &Desired,
        parts: &BTreeSet<Part>,
        report: &mut Report,
    ) -> Observation {
        let mut actual = Actual::of(desired);
        let mut parts = parts.clone();
        let mut is_blocked = false;
        if parts.contains(&Part::Link) {
            match self.observe_link(&mut parts).await {
                Ok(link) => actual.link = link,
                Err(error) => {
                    is_blocked = matches!(
                        error,
                        WireGuardError::Taken { .. } | WireGuardError::Foreign { .. }
                    );
                    if desired.link.is_some() || !is_blocked {
                        report.problems.push(problem_of(&self.interface, &error));
                    }
                }
            }
        }
        if is_blocked {
            parts = Part::ALL.into();
            actual.link = None;
        }
        if actual.link.is_none() {
            parts.remove(&Part::WireGuard);
            parts.remove(&Part::Addresses);
            actual.wireguard = None;
            actual.addresses.clear();
        }
        for part in parts {
            if let Err(problem) = self.observe_part(part, desired, &mut actual).await {
                report.problems.push(problem);
                report.is_blind = true;
            }
        }
        Observation { actual, is_blocked }
    }

    /// The tunnel interface. One that was made anew by others holds nothing of what the old one held.
    async fn observe_link(
        &mut self,
        parts: &mut BTreeSet<Part>,
    ) -> Result<Option<ActualLink>, WireGuardError> {
        let Some(observed) = link::observe(&self.netlink, &self.interface).await? else {
            self.dataplane = None;
            self.index = None;
            return Ok(None);
        };
        if self.dataplane.is_none() || self.index != Some(observed.index) {
            let dataplane = Dataplane::open(&self.netlink, &self.interface).await?;
            self.dataplane = dataplane.map(Arc::new);
            self.index = Some(observed.index);
            parts.extend([Part::WireGuard, Part::Addresses, Part::Routes]);
        }
        let present = self.dataplane.is_some();
        Ok(present.then_some(ActualLink {
            link: observed.link,
            up: observed.up,
        }))
    }

    async fn observe_part(
        &mut self,
        part: Part,
        desired: &Desired,
        actual: &mut Actual,
    ) -> Result<(), Problem> {
        let netlink = &self.netlink;
        match part {
            Part::Link => {}
            Part::WireGuard => {
                let Some(dataplane) = &self.dataplane else {
                    return Ok(());
                };
                let observed = dataplane.observe().await;
                let observed = observed.map_err(|error| problem_of(&self.interface, &error))?;
                self.heard.note(&observed);
                let peers = observed.peers.into_iter();
                let peers = peers.map(|(key, observed)| (key, observed.peer)).collect();
                actual.wireguard = Some(ActualWireGuard {
                    public_key: observed.public_key,
                    listen_port: observed.listen_port,
                    peers,
                });
            }
            Part::Addresses => {
                let observed = address::observe(netlink, &self.interface).await;
                actual.addresses = observed.map_err(|error| by_netlink("addresses", &error))?;
            }
            Part::Routes => {
                let observed = route::observe(netlink).await;
                actual.routes = observed
                    .map_err(|error| by_netlink("routes", &error))?
                    .into();
            }
            Part::Rules => {
                let observed = rule::observe(netlink).await;
                actual.rules = observed
                    .map_err(|error| by_netlink("rules", &error))?
                    .into();
            }
            Part::Neighbors => {
                let observed = neighbor::observe(netlink).await;
                actual.neighbors = observed
                    .map_err(|error| by_netlink("proxy neighbours", &error))?
                    .into();
            }
            Part::Sysctls => {
                let changed: BTreeSet<String> =
                    self.recorder.changed().map(str::to_owned).collect();
                let mut values = BTreeMap::new();
                for path in desired.sysctls.keys().chain(&changed) {
                    let value = sysctl::read(path)
                        .map_err(|error| unseen("settings", error.to_string(), SETTINGS_FIX))?;
                    values.extend(value.map(|value| (path.clone(), value)));
                }
                actual.sysctls = values;
                actual.changed_sysctls = changed;
            }
            Part::Firewall => actual.firewall = self.observe_firewall(desired).await,
        }
        Ok(())
    }

    /// A table that cannot be read is not what we made, or nft is missing: replacing it heals it, or tells why not.
    async fn observe_firewall(&mut self, desired: &Desired) -> ActualFirewall {
        let observed = match self.table.observe().await {
            Ok(Some(observed)) => observed,
            Ok(None) => return ActualFirewall::Absent,
            Err(error) => {
                tracing::warn!(%error, "cannot read the firewall");
                return ActualFirewall::Unknown;
            }
        };
        let known = self
            .known
            .as_ref()
            .and_then(|known| known.firewall.as_ref());
        let candidates = desired.firewall.iter().chain(known);
        for candidate in candidates {
            if observed.matches(candidate) {
                return ActualFirewall::Holds(Box::new(candidate.clone()));
            }
        }
        match &desired.firewall {
            Some(firewall) if observed.elements == firewall.elements() => ActualFirewall::Unsure,
            Some(firewall) => {
                self.note_strays(&observed.elements, &firewall.elements());
                ActualFirewall::Unknown
            }
            None => {
                self.note_strays(&observed.elements, &Elements::default());
                ActualFirewall::Unknown
            }
        }
    }

    /// What the table lets in and shall not let in: after a crash nobody knows any more that it was removed.
    fn note_strays(&mut self, present: &Elements, wanted: &Elements) {
        let strays = present.difference(wanted);
        let keys = strays
            .sets()
            .filter(|(set, _)| WAYS_IN.contains(set))
            .flat_map(|(_, elements)| elements.keys().map(String::as_str));
        let addresses = (strays.sets())
            .filter(|(set, _)| *set == OPEN_ADDRESSES)
            .flat_map(|(_, elements)| elements.keys())
            .filter_map(|address| address.parse::<IpAddr>().ok());
        self.sweeps.add(Sweep {
            endpoints: endpoints_in(keys),
            prefixes: addresses.map(IpNet::from).collect(),
            ..Sweep::default()
        });
    }
}

/// The sets and maps whose keys are where connections are sent to.
const WAYS_IN: [&str; 6] = [
    "forwards4",
    "forwards6",
    "forward_ranges4",
    "forward_ranges6",
    "pinholes",
    "pinhole_ranges",
];

/// The set of addresses of which everything is let in.
const OPEN_ADDRESSES: &str = "open_addresses";

fn by_netlink(object: &str, error: &NetlinkError) -> Problem {
    let fix = if error.errno() == Some(Errno::EPERM) {
        "the daemon needs CAP_NET_ADMIN"
    } else {
        "it is tried again; if it stays, see `dmesg` for trouble of the kernel"
    };
    unseen(object, error.to_string(), fix)
}

fn unseen(object: &str, message: String, fix: &str) -> Problem {
    Problem {
        code: OBSERVE_FAILED.to_owned(),
        object: object.to_owned(),
        message,
        fix: fix.to_owned(),
    }
}

pub(super) fn problem_of(interface: &str, error: &WireGuardError) -> Problem {
    let code = match error {
        WireGuardError::Taken { .. } | WireGuardError::Foreign { .. } => "interface-taken",
        WireGuardError::Missing { .. } | WireGuardError::Awaited { .. } => "wireguard-missing",
        WireGuardError::Io { .. }
        | WireGuardError::Refused { .. }
        | WireGuardError::Malformed { .. }
        | WireGuardError::Timeout { .. }
        | WireGuardError::Start { .. }
        | WireGuardError::Netlink(_) => "wireguard-failed",
    };
    Problem {
        code: code.to_owned(),
        object: format!("interface {interface}"),
        message: error.to_string(),
        fix: error.fix().to_owned(),
    }
}
