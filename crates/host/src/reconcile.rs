//! Makes this host hold what is desired, and keeps it so.
//!
//! One pass observes, plans and performs the steps; a step that fails is told, tried again by a later pass, and stops no
//! other. There is no undo log: what a crash left behind is observed like everything else of ours.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use adit_model::desired::Desired;
use adit_model::desired::route::{Route, RouteTarget};
use adit_model::plan::{ActualFirewall, Step, plan, plan_change};
use adit_model::problem::Problem;

use crate::firewall::Table;
use crate::neighbor;
use crate::netlink::{Netlink, NetlinkError};
use crate::route::Seen;
use crate::sysctl::{Kept, Recorder, SysctlError};
use crate::wireguard::{Dataplane, Heard, Starter, WireGuardError};

mod execution;
mod observation;
mod sweeps;
mod task;

use sweeps::Sweeps;
pub use task::{Handle, Openings, Status, start};

/// Reconciling could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// No route netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The record of changed settings cannot be read.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The firewall cannot be watched.
    #[error(transparent)]
    Firewall(#[from] crate::firewall::FirewallError),
    /// The host cannot be observed.
    #[error(transparent)]
    Facts(#[from] crate::facts::FactsError),
}

/// The code of the problem that the firewall could not be loaded.
const FIREWALL_FAILED: &str = "firewall-failed";

/// Beside the record of settings: the tracked connections that have yet to end.
const SWEEPS: &str = "sweeps";

/// The code of the problem that something could not be looked at.
const OBSERVE_FAILED: &str = "observe-failed";

/// A kind of kernel object that is observed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The tunnel interface.
    Link,
    /// Its key, port and peers.
    WireGuard,
    /// Its addresses.
    Addresses,
    /// Routes.
    Routes,
    /// Rules.
    Rules,
    /// Proxy neighbours.
    Neighbors,
    /// Settings.
    Sysctls,
    /// The nftables table.
    Firewall,
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many objects were changed, by kind.
    pub changed: BTreeMap<&'static str, u64>,
    /// What did not succeed.
    pub problems: Vec<Problem>,
    /// Settings that others have come to depend on.
    pub kept: Vec<Kept>,
    /// Something could not be looked at, so nothing was planned for it.
    pub is_blind: bool,
}

/// What a look at everything would lead to.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// What would be done.
    pub steps: Vec<Step>,
    /// What cannot be looked at, for which nothing is planned.
    pub problems: Vec<Problem>,
}

/// Everything that is needed to change this host.
#[derive(Debug)]
pub struct Reconciler {
    interface: String,
    netlink: Netlink,
    dataplane: Option<Arc<Dataplane>>,
    starter: Starter,
    heard: Arc<Heard>,
    /// Index of the interface that `dataplane` carries; another one means that somebody made it anew.
    index: Option<u32>,
    recorder: Recorder,
    table: Table,
    sweeps: Sweeps,
    /// What the last pass led to, but for its problems.
    known: Option<Arc<Desired>>,
    /// What was asked for last.
    latest: Option<Arc<Desired>>,
    problems: BTreeSet<Problem>,
    /// What was to be removed was not there: others changed it, and nobody said so.
    is_surprised: bool,
    healed: BTreeMap<&'static str, u64>,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Link,
        Self::WireGuard,
        Self::Addresses,
        Self::Routes,
        Self::Rules,
        Self::Neighbors,
        Self::Sysctls,
        Self::Firewall,
    ];
}

impl Reconciler {
    /// Gets ready for the tunnel interface `interface` in the network namespace of this thread. The prior values of
    /// settings are kept in the file `record`. Nothing is changed yet.
    pub fn open(interface: &str, record: &Path) -> Result<Self, ReconcileError> {
        Ok(Self {
            interface: interface.to_owned(),
            netlink: Netlink::open()?,
            dataplane: None,
            starter: Starter::default(),
            heard: Arc::default(),
            index: None,
            recorder: Recorder::open(record)?,
            table: Table::default(),
            sweeps: Sweeps::open(record.with_file_name(SWEEPS)),
            known: None,
            latest: None,
            problems: BTreeSet::new(),
            is_surprised: false,
            healed: BTreeMap::new(),
        })
    }

    /// Keeps the prior values of settings in the file `spare` while their own cannot be written.
    pub fn with_spare_record(self, spare: &Path) -> Result<Self, ReconcileError> {
        let recorder = self.recorder.with_spare(spare)?;
        Ok(Self { recorder, ..self })
    }

    /// Leaves it to others to start a userspace WireGuard, or not.
    pub fn with_starter(self, starter: Starter) -> Self {
        Self { starter, ..self }
    }

    /// Observes everything and leads it to what is desired.
    pub async fn reconcile(&mut self, desired: &Arc<Desired>) -> Report {
        self.latest = Some(Arc::clone(desired));
        let is_healing =
            self.problems.is_empty() && self.known.as_deref() == Some(desired.as_ref());
        let report = self.pass(desired, &Part::ALL.into()).await;
        self.is_surprised = false;
        if !report.is_blind {
            self.problems.clear();
        }
        // Steps that failed before are not planned where nothing can be seen: they were not seen to succeed, either.
        self.problems.retain(|it| it.code != OBSERVE_FAILED);
        self.problems.extend(report.problems.iter().cloned());
        if is_healing {
            self.count_healed(&report);
        }
        report
    }

    /// Leads from what the last pass led to, without looking: it costs in proportion to what changes.
    pub async fn change(&mut self, desired: &Arc<Desired>) -> Report {
        // Without the default deny nothing may come in, whatever else a change is about: look at all of it again.
        let is_guarded = !self.problems.iter().any(|it| it.code == FIREWALL_FAILED);
        let Some(known) = self.known.clone().filter(|_| is_guarded) else {
            return self.reconcile(desired).await;
        };
        let mut report = Report::default();
        let steps = plan_change(&known, desired);
        let surprises = self.netlink.surprises();
        self.perform(desired, known.firewall.as_ref(), steps, &mut report)
            .await;
        self.is_surprised |= self.netlink.surprises() != surprises;
        self.known = Some(Arc::clone(desired));
        self.latest = self.known.clone();
        self.problems.extend(report.problems.iter().cloned());
        report
    }

    /// Observes some parts and puts right what others changed in them.
    pub async fn heal(&mut self, parts: &BTreeSet<Part>) -> Report {
        let Some(known) = self.known.clone() else {
            return Report::default();
        };
        let report = self.pass(&known, parts).await;
        self.problems.extend(report.problems.iter().cloned());
        self.count_healed(&report);
        report
    }

    /// Observes everything, and tells what [`Self::reconcile`] would do. Nothing is changed.
    pub async fn outlook(&mut self) -> Outlook {
        let Some(desired) = self.latest.clone() else {
            return Outlook::default();
        };
        let mut report = Report::default();
        let observation = self.observe(&desired, &Part::ALL.into(), &mut report).await;
        let steps = if observation.is_blocked {
            plan(&without_tunnel(&desired), &observation.actual)
        } else {
            plan(&desired, &observation.actual)
        };
        Outlook {
            steps: self.with_sweep(steps),
            problems: report.problems,
        }
    }

    /// Withdraws everything of ours from this host, and restores what was: what a crashed daemon left, too. The second
    /// time it finds nothing to do.
    pub async fn teardown(&mut self) -> Report {
        self.reconcile(&Arc::new(Desired::default())).await
    }

    /// What carries the tunnel: `kernel`, or the name of a program; none before there is an interface.
    pub fn dataplane(&self) -> Option<&'static str> {
        self.dataplane.as_ref().map(|dataplane| dataplane.name())
    }

    /// What did not succeed, and was not seen to succeed since.
    pub fn problems(&self) -> &BTreeSet<Problem> {
        &self.problems
    }

    /// How many objects were put right because others had changed them, by kind.
    pub fn healed(&self) -> &BTreeMap<&'static str, u64> {
        &self.healed
    }

    /// Whether a proxy neighbour is missing or left over; cheap enough for asking twice a second.
    async fn has_neighbor_drift(&self) -> bool {
        let Some(known) = &self.known else {
            return false;
        };
        neighbor::observe(&self.netlink)
            .await
            .is_ok_and(|neighbors| !neighbors.iter().eq(known.neighbors.iter()))
    }

    /// Whether a route of ours is as it was left: then the event tells of what we did ourselves.
    fn expects(&self, seen: &Seen) -> bool {
        let Some(known) = &self.known else {
            return false;
        };
        let first = Route {
            table: seen.table,
            destination: seen.destination,
            metric: seen.metric,
            target: RouteTarget::Interface {
                interface: String::new(),
                gateway: None,
            },
        };
        let wanted = known.routes.range(first..).next().filter(|route| {
            (route.table, route.destination, route.metric)
                == (seen.table, seen.destination, seen.metric)
        });
        let Some(wanted) = wanted else {
            return !seen.is_there;
        };
        let is_same = match &wanted.target {
            RouteTarget::Unreachable => seen.is_unreachable,
            // It is looked at when something changes there.
            RouteTarget::Local { .. } => false,
            // Of other interfaces the index is not known here.
            RouteTarget::Interface { interface, gateway } => {
                *interface == self.interface
                    && self.index.is_some()
                    && seen.interface == self.index
                    && seen.gateway == *gateway
            }
        };
        seen.is_there && is_same
    }

    async fn pass(&mut self, desired: &Arc<Desired>, parts: &BTreeSet<Part>) -> Report {
        let mut report = Report::default();
        let observation = self.observe(desired, parts, &mut report).await;
        let firewall = match &observation.actual.firewall {
            ActualFirewall::Holds(firewall) => Some(firewall.as_ref()),
            ActualFirewall::Absent | ActualFirewall::Unknown | ActualFirewall::Unsure => None,
        };
        if observation.is_blocked {
            let rest = without_tunnel(desired);
            let steps = self.with_sweep(plan(&rest, &observation.actual));
            self.perform(&rest, firewall, steps, &mut report).await;
            self.known = None;
        } else {
            let steps = self.with_sweep(plan(desired, &observation.actual));
            self.perform(desired, firewall, steps, &mut report).await;
            self.known = Some(Arc::clone(desired));
        }
        report
    }

    /// What a predecessor or an earlier pass left to be swept is due whatever else is.
    fn with_sweep(&self, mut steps: Vec<Step>) -> Vec<Step> {
        let pending = self.sweeps.pending();
        if !pending.is_empty() {
            steps.push(Step::SweepConntrack(pending.clone()));
        }
        steps
    }

    /// What carries the tunnel does not answer.
    fn note_silence(&mut self) {
        let error = WireGuardError::Timeout {
            operation: "reach",
            interface: self.interface.clone(),
        };
        self.problems
            .insert(observation::problem_of(&self.interface, &error));
    }

    fn count_healed(&mut self, report: &Report) {
        for (kind, count) in &report.changed {
            tracing::warn!(kind, count, "healed what others had changed");
            *self.healed.entry(kind).or_default() += count;
        }
    }
}

/// What is left where the interface belongs to others: nothing of ours may lead there.
fn without_tunnel(desired: &Desired) -> Desired {
    Desired {
        sysctls: desired.sysctls.clone(),
        ..Desired::default()
    }
}

impl Report {
    /// Whether all is as desired.
    pub fn is_reached(&self) -> bool {
        self.problems.is_empty()
    }

    fn count(&mut self, step: &Step) {
        // Sweeping follows from other steps, and changes no object of ours.
        let is_sweep = matches!(step, Step::SweepConntrack(_));
        let is_kept = matches!(step, Step::RestoreSysctl(path) if self.kept.iter().any(|kept| kept.path == *path));
        if !is_sweep && !is_kept {
            *self.changed.entry(step.kind()).or_default() += 1;
        }
    }
}
