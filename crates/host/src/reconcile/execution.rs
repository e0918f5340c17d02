//! Performs the steps of a plan, many of one kind at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use adit_model::desired::Desired;
use adit_model::desired::firewall::Firewall;
use adit_model::desired::link::Link;
use adit_model::desired::neighbor::ProxyNeighbor;
use adit_model::desired::route::Route;
use adit_model::plan::Step;
use adit_model::problem::Problem;
use nix::errno::Errno;

use super::observation::problem_of;
use super::{Reconciler, Report};
use crate::conntrack::{self, Changed};
use crate::netlink::NetlinkError;
use crate::sysctl::SysctlError;
use crate::wireguard::{Dataplane, PeerChange, WireGuardError};
use crate::{address, link, neighbor, route, rule};

/// Problems of one code that are told one by one; ten thousand routes may fail for one reason.
const TOLD_ONE_BY_ONE: usize = 10;

/// What has failed, so that what builds on it is left for the next pass.
#[derive(Clone, Copy, Debug, Default)]
struct Missing {
    tunnel: bool,
    firewall: bool,
}

impl Reconciler {
    /// Performs every step that it can. `firewall` is the table that is there, where it is known.
    pub(super) async fn perform(
        &mut self,
        desired: &Desired,
        firewall: Option<&Firewall>,
        steps: Vec<Step>,
        report: &mut Report,
    ) {
        let mut missing = Missing::default();
        let mut problems = Vec::new();
        let mut others = Vec::with_capacity(steps.len());
        let mut is_to_sweep = false;
        for step in steps {
            if let Step::SweepConntrack(sweep) = step {
                self.sweeps.add(sweep);
                is_to_sweep = true;
            } else {
                others.push(step);
            }
        }
        let mut steps = others.into_iter().peekable();
        while let Some(first) = steps.next() {
            let mut batch = vec![first];
            while let Some(next) =
                steps.next_if(|next| batch.last().is_some_and(|it| are_alike(it, next)))
            {
                batch.push(next);
            }
            batch.retain(|step| !missing.prevents(step));
            for (step, outcome) in self.perform_alike(desired, firewall, batch, report).await {
                match outcome {
                    Ok(()) => report.count(&step),
                    Err(problem) => {
                        missing.note(&step);
                        tracing::warn!(%step, problem = problem.message, "step failed");
                        problems.push(problem);
                    }
                }
            }
        }
        if is_to_sweep
            && !missing.firewall
            && !self.sweeps.postpone()
            && let Err(problem) = self.sweep().await
        {
            problems.push(problem);
        }
        report.problems.extend(shortened(problems));
    }

    /// Ends what has to end. While the old rules are live it would only begin again: it waits for the new ones.
    pub(super) async fn sweep(&mut self) -> Result<(), Problem> {
        let sweep = self.sweeps.pending().clone();
        if sweep.is_empty() {
            return Ok(());
        }
        adit_fault::passing("step/end-conntrack");
        let changed = Changed {
            endpoints: sweep.endpoints.union(&sweep.opened).copied().collect(),
            networks: sweep.prefixes.clone(),
            unguarded: sweep.unguarded.clone(),
        };
        let began = Instant::now();
        let swept = conntrack::sweep(changed).await;
        self.sweeps.note(began);
        match swept {
            Ok(_) => {
                self.sweeps.clear();
                adit_fault::passing("step/end-conntrack/done");
                Ok(())
            }
            Err(error) => {
                let step = Step::SweepConntrack(sweep);
                Err(problem(&step, error.to_string(), CONNTRACK_FIX))
            }
        }
    }

    async fn perform_alike(
        &mut self,
        desired: &Desired,
        firewall: Option<&Firewall>,
        steps: Vec<Step>,
        report: &mut Report,
    ) -> Vec<(Step, Result<(), Problem>)> {
        if let Some(first) = steps.first() {
            adit_fault::passing(format_args!("step/{}-{}", first.verb(), first.kind()));
        }
        match steps.first() {
            Some(Step::AddRoute(_)) => {
                let failures = route::add_many(&self.netlink, &objects(&steps, route_of)).await;
                outcomes(steps, failures, route_of)
            }
            Some(Step::RemoveRoute(_)) => {
                let failures = route::remove_many(&self.netlink, &objects(&steps, route_of)).await;
                outcomes(steps, failures, route_of)
            }
            Some(Step::AddNeighbor(_)) => {
                let failures =
                    neighbor::add_many(&self.netlink, &objects(&steps, neighbor_of)).await;
                outcomes(steps, failures, neighbor_of)
            }
            Some(Step::RemoveNeighbor(_)) => {
                let failures =
                    neighbor::remove_many(&self.netlink, &objects(&steps, neighbor_of)).await;
                outcomes(steps, failures, neighbor_of)
            }
            Some(Step::RemovePeer(_) | Step::ShrinkPeer(..) | Step::SetPeer(..)) => {
                self.change_peers(steps).await
            }
            Some(_) | None => {
                let mut outcomes = Vec::new();
                for step in steps {
                    let outcome = self.perform_one(desired, firewall, &step, report).await;
                    adit_fault::passing(format_args!("step/{}-{}/done", step.verb(), step.kind()));
                    outcomes.push((step, outcome));
                }
                outcomes
            }
        }
    }

    async fn perform_one(
        &mut self,
        desired: &Desired,
        firewall: Option<&Firewall>,
        step: &Step,
        report: &mut Report,
    ) -> Result<(), Problem> {
        let netlink = self.netlink.clone();
        let by_netlink = |result: Result<(), NetlinkError>| {
            result.map_err(|error| netlink_problem(step, &error))
        };
        match step {
            Step::RemoveNeighbor(object) => by_netlink(neighbor::remove(&netlink, object).await),
            Step::AddNeighbor(object) => by_netlink(neighbor::add(&netlink, object).await),
            Step::RemoveRule(object) => by_netlink(rule::remove(&netlink, object).await),
            Step::AddRule(object) => by_netlink(rule::add(&netlink, object).await),
            Step::RemoveAddress(object) => by_netlink(address::remove(&netlink, object).await),
            Step::AddAddress(object) => by_netlink(address::add(&netlink, object).await),
            Step::RemoveRoute(object) => by_netlink(route::remove(&netlink, object).await),
            Step::AddRoute(object) => by_netlink(route::add(&netlink, object).await),
            Step::SetLink(object) => by_netlink(link::set_mtu_up(&netlink, object).await),
            Step::CreateLink(object) => self
                .create_link(object)
                .await
                .map_err(|error| problem_of(&object.name, &error)),
            Step::RemoveLink(name) => self
                .remove_link()
                .await
                .map_err(|error| problem_of(name, &error)),
            Step::SetInterface {
                private_key,
                listen_port,
            } => {
                let outcome = match &self.dataplane {
                    Some(dataplane) => {
                        dataplane
                            .set_interface(private_key.as_ref(), *listen_port)
                            .await
                    }
                    None => Err(self.no_dataplane()),
                };
                outcome.map_err(|error| problem_of(&self.interface, &error))
            }
            Step::RemovePeer(_) | Step::ShrinkPeer(..) | Step::SetPeer(..) => {
                let mut outcomes = self.change_peers(vec![step.clone()]).await;
                outcomes.pop().map_or(Ok(()), |(_, outcome)| outcome)
            }
            Step::SetSysctl(path, value) => match self.recorder.set(path, value) {
                Ok(_) => Ok(()),
                Err(error) => Err(sysctl_problem(step, &error)),
            },
            Step::RestoreSysctl(path) => match self.recorder.restore(path) {
                Ok(kept) => {
                    report.kept.extend(kept);
                    Ok(())
                }
                Err(error) => Err(sysctl_problem(step, &error)),
            },
            Step::ReplaceFirewall | Step::UpdateFirewall => {
                let Some(wanted) = &desired.firewall else {
                    return Ok(());
                };
                let known = firewall.filter(|_| *step == Step::UpdateFirewall);
                let outcome = match known {
                    Some(known) => self.table.update(known, wanted).await,
                    None => self.table.replace(wanted).await,
                };
                outcome.map_err(|error| problem(step, error.to_string(), FIREWALL_FIX))
            }
            Step::RemoveFirewall => self
                .table
                .remove()
                .await
                .map_err(|error| problem(step, error.to_string(), FIREWALL_FIX)),
            Step::SweepConntrack(sweep) => {
                self.sweeps.add(sweep.clone());
                self.sweep().await
            }
        }
    }

    async fn create_link(&mut self, wanted: &Link) -> Result<(), WireGuardError> {
        let dataplane = Dataplane::ensure(&self.netlink, wanted, &self.starter).await?;
        self.heard.lose();
        link::set_mtu_up(&self.netlink, wanted).await?;
        self.index = self.netlink.interface_index(&wanted.name).await?;
        self.dataplane = Some(Arc::new(dataplane));
        Ok(())
    }

    async fn remove_link(&mut self) -> Result<(), WireGuardError> {
        self.index = None;
        match self.dataplane.take() {
            Some(dataplane) => dataplane.remove(&self.netlink).await,
            None => Ok(()),
        }
    }

    /// All at once; one by one if that fails, to find out which it is and to change the others.
    async fn change_peers(&self, steps: Vec<Step>) -> Vec<(Step, Result<(), Problem>)> {
        let changes: Vec<PeerChange> = steps.iter().filter_map(peer_change).collect();
        for change in &changes {
            if let PeerChange::Remove(key) = change {
                self.heard.forget(key);
            }
        }
        let first = match &self.dataplane {
            Some(dataplane) => dataplane.apply(&changes).await,
            None => Err(self.no_dataplane()),
        };
        let Err(error) = first else {
            self.greet(&changes).await;
            return steps.into_iter().map(|step| (step, Ok(()))).collect();
        };
        let mut outcomes = Vec::with_capacity(steps.len());
        for (step, change) in steps.into_iter().zip(changes) {
            let outcome = match &self.dataplane {
                Some(dataplane) if is_about_one(&error) => {
                    let outcome = dataplane.apply(std::slice::from_ref(&change)).await;
                    outcome.map_err(|error| problem(&step, error.to_string(), error.fix()))
                }
                Some(_) | None => Err(problem(&step, error.to_string(), error.fix())),
            };
            outcomes.push((step, outcome));
        }
        outcomes
    }

    /// Whoever was lost along with a dataplane is found again. It is no more than a courtesy.
    async fn greet(&self, changes: &[PeerChange]) {
        let restored = changes.iter().filter_map(|change| match change {
            PeerChange::Extend(key, _) | PeerChange::Set(key, _) => Some(key),
            PeerChange::Remove(_) => None,
        });
        let greetings = self.heard.greetings(restored, SystemTime::now());
        if greetings.is_empty() {
            return;
        }
        let Some(dataplane) = &self.dataplane else {
            return;
        };
        match dataplane.greet(&greetings).await {
            Ok(()) => tracing::info!(peers = greetings.len(), "greeted those that were lost"),
            Err(error) => tracing::warn!(%error, "cannot greet those that were lost"),
        }
    }

    fn no_dataplane(&self) -> WireGuardError {
        WireGuardError::Refused {
            operation: "change",
            interface: self.interface.clone(),
            errno: Errno::ENODEV,
        }
    }
}

const RECORD_FIX: &str = "make room on the disk, or the file writable: what a setting was is stored before it is changed";
const SYSCTL_FIX: &str =
    "the daemon must be able to write /proc/sys (ProtectKernelTunables=no, or root in a container)";
const FIREWALL_FIX: &str = "install nftables; `nft list table inet adit` shows what is there";
const CONNTRACK_FIX: &str = "old connections end by themselves later; `conntrack -F` ends them now";

impl Missing {
    fn note(&mut self, step: &Step) {
        self.tunnel |= matches!(step, Step::CreateLink(_));
        self.firewall |= matches!(step, Step::ReplaceFirewall | Step::UpdateFirewall);
    }

    /// Without an interface nothing can lead to it; without the default deny of the firewall nothing may.
    fn prevents(self, step: &Step) -> bool {
        match step {
            Step::SetPeer(..) | Step::AddRoute(_) | Step::AddNeighbor(_) => {
                self.tunnel || self.firewall
            }
            Step::SetInterface { .. } | Step::AddAddress(_) => self.tunnel,
            Step::RemoveNeighbor(_)
            | Step::RemoveRule(_)
            | Step::RemoveRoute(_)
            | Step::RemoveAddress(_)
            | Step::RemovePeer(_)
            | Step::ShrinkPeer(..)
            | Step::SetSysctl(..)
            | Step::CreateLink(_)
            | Step::SetLink(_)
            | Step::ReplaceFirewall
            | Step::UpdateFirewall
            | Step::AddRule(_)
            | Step::RemoveLink(_)
            | Step::RemoveFirewall
            | Step::RestoreSysctl(_)
            | Step::SweepConntrack(_) => false,
        }
    }
}

/// Whether two steps can go into one request.
fn are_alike(first: &Step, second: &Step) -> bool {
    let is_peer = |step: &Step| {
        matches!(
            step,
            Step::RemovePeer(_) | Step::ShrinkPeer(..) | Step::SetPeer(..)
        )
    };
    matches!(
        (first, second),
        (Step::AddRoute(_), Step::AddRoute(_))
            | (Step::RemoveRoute(_), Step::RemoveRoute(_))
            | (Step::AddNeighbor(_), Step::AddNeighbor(_))
            | (Step::RemoveNeighbor(_), Step::RemoveNeighbor(_))
    ) || is_peer(first) && is_peer(second)
}

fn route_of(step: &Step) -> Option<&Route> {
    if let Step::AddRoute(route) | Step::RemoveRoute(route) = step {
        Some(route)
    } else {
        None
    }
}

fn neighbor_of(step: &Step) -> Option<&ProxyNeighbor> {
    if let Step::AddNeighbor(neighbor) | Step::RemoveNeighbor(neighbor) = step {
        Some(neighbor)
    } else {
        None
    }
}

fn objects<T: Clone>(steps: &[Step], object_of: fn(&Step) -> Option<&T>) -> Vec<T> {
    steps.iter().filter_map(object_of).cloned().collect()
}

fn outcomes<T: Ord>(
    steps: Vec<Step>,
    failures: Vec<(T, NetlinkError)>,
    object_of: fn(&Step) -> Option<&T>,
) -> Vec<(Step, Result<(), Problem>)> {
    let failures: BTreeMap<T, NetlinkError> = failures.into_iter().collect();
    steps
        .into_iter()
        .map(|step| {
            let error = object_of(&step).and_then(|object| failures.get(object));
            let outcome = error.map_or(Ok(()), |error| Err(netlink_problem(&step, error)));
            (step, outcome)
        })
        .collect()
}

fn peer_change(step: &Step) -> Option<PeerChange> {
    if let Step::RemovePeer(key) = step {
        Some(PeerChange::Remove(*key))
    } else if let Step::ShrinkPeer(key, peer) = step {
        Some(PeerChange::Set(*key, peer.clone()))
    } else if let Step::SetPeer(key, peer) = step {
        // What it has beyond this has been taken away by a step before.
        Some(PeerChange::Extend(*key, peer.clone()))
    } else {
        None
    }
}

/// Whether trying the others by themselves makes sense: the dataplane is there and did not like something.
fn is_about_one(error: &WireGuardError) -> bool {
    matches!(error, WireGuardError::Refused { .. }) && !error.is_gone()
}

fn netlink_problem(step: &Step, error: &NetlinkError) -> Problem {
    let fix = match error.errno() {
        Some(Errno::EPERM) => "the daemon needs CAP_NET_ADMIN",
        Some(Errno::EACCES) => {
            "IPv6 is off on that interface: see `sysctl -a --pattern disable_ipv6`, and what sets it below /etc/sysctl.d"
        }
        _ => "it is tried again by itself",
    };
    problem(step, error.to_string(), fix)
}

fn sysctl_problem(step: &Step, error: &SysctlError) -> Problem {
    let fix = match error.operation {
        "write" => RECORD_FIX,
        _ => SYSCTL_FIX,
    };
    problem(step, error.to_string(), fix)
}

fn problem(step: &Step, message: String, fix: &str) -> Problem {
    Problem {
        code: format!("{}-failed", step.kind()),
        object: step.object(),
        message,
        fix: fix.to_owned(),
    }
}

fn shortened(problems: Vec<Problem>) -> Vec<Problem> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut told = Vec::new();
    for problem in problems {
        let count = counts.entry(problem.code.clone()).or_default();
        *count += 1;
        if *count <= TOLD_ONE_BY_ONE {
            told.push(problem);
        }
    }
    for (code, count) in counts {
        if count > TOLD_ONE_BY_ONE {
            told.push(Problem {
                object: format!("{} more", count - TOLD_ONE_BY_ONE),
                message: "failed likewise; with `-v` the log names all of them".to_owned(),
                fix: "see the others of this code".to_owned(),
                code,
            });
        }
    }
    told
}
