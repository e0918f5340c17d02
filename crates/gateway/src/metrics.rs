//! What is counted and measured, and how it is told to Prometheus.

mod exposition;
mod histogram;
mod process;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_api::types::log::Action;
use adit_model::problem::Severity;

use self::exposition::{Exposition, Kind};
use self::histogram::Histogram;
use crate::control::Snapshot;
use crate::names;

/// What the daemon counts while it runs.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: SystemTime,
    counted: Mutex<Counted>,
}

/// Labels are texts of the program, so there is a bounded number of them.
#[derive(Debug, Default)]
struct Counted {
    commits: Histogram,
    applies: Histogram,
    changes: BTreeMap<(&'static str, &'static str), u64>,
    refusals: BTreeMap<&'static str, u64>,
    ports: BTreeMap<&'static str, u64>,
    requests: BTreeMap<(String, String, u16), u64>,
}

/// What is counted elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present {
    pub(crate) listeners: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            started: SystemTime::now(),
            counted: Mutex::default(),
        }
    }

    /// A commit took so long.
    pub(crate) fn committed(&self, time: Duration) {
        self.lock().commits.observe(time);
    }

    /// Leading the kernel to a state took so long.
    pub(crate) fn applied(&self, time: Duration) {
        self.lock().applies.observe(time);
    }

    /// A change of this kind was made.
    pub(crate) fn changed(&self, action: Action, kind: &'static str) {
        let action = match action {
            Action::Add => "add",
            Action::Set => "set",
            Action::Rekey => "rekey",
            Action::Remove => "remove",
            Action::Apply => "apply",
            Action::Confirm => "confirm",
            Action::TakeBack => "take-back",
            Action::Import => "import",
            Action::ShowConfiguration
            | Action::BackUp
            | Action::RefuseCredentials
            | Action::Start
            | Action::Stop
            | Action::Damaged => return,
        };
        *self.lock().changes.entry((action, kind)).or_default() += 1;
    }

    /// A change was not made, for this reason.
    pub(crate) fn refused(&self, code: &'static str) {
        *self.lock().refusals.entry(code).or_default() += 1;
    }

    /// A device asked for a port, and this came of it.
    pub(crate) fn port_asked(&self, outcome: &'static str) {
        *self.lock().ports.entry(outcome).or_default() += 1;
    }

    /// A request was answered; `route` is the path's pattern.
    pub(crate) fn requested(&self, method: &str, route: &str, status: u16) {
        let key = (method.to_owned(), route.to_owned(), status);
        *self.lock().requests.entry(key).or_default() += 1;
    }

    /// All of it, in Prometheus' text format.
    pub(crate) fn text(&self, snapshot: &Snapshot, present: Present) -> String {
        let mut text = Exposition::default();
        tell_peers(&mut text, snapshot);
        tell_gateway(&mut text, snapshot, present);
        if let Some(counts) = snapshot.holding.counts() {
            tell_front(&mut text, counts);
        }
        self.tell_counted(&mut text);
        self.tell_process(&mut text);
        text.finish()
    }

    fn tell_counted(&self, text: &mut Exposition) {
        let counted = self.lock();
        counted.commits.tell(
            text,
            "adit_commit_duration_seconds",
            "Time that making changes durable took, one observation for each commit.",
        );
        counted.applies.tell(
            text,
            "adit_apply_duration_seconds",
            "Time that leading this host's kernel to a state took.",
        );
        text.family(
            "adit_changes_total",
            Kind::Counter,
            "Changes that were made, by what was done to which kind of object.",
        );
        for ((action, kind), count) in &counted.changes {
            text.sample(&[("action", action), ("kind", kind)], *count);
        }
        text.family(
            "adit_refusals_total",
            Kind::Counter,
            "Changes that were not made, by the code of the refusal.",
        );
        for (code, count) in &counted.refusals {
            text.sample(&[("code", code)], *count);
        }
        text.family(
            "adit_port_requests_total",
            Kind::Counter,
            "Requests of devices for ports, by what came of them.",
        );
        for (outcome, count) in &counted.ports {
            text.sample(&[("outcome", outcome)], *count);
        }
        text.family(
            "adit_http_requests_total",
            Kind::Counter,
            "Requests that were answered, by method, route and status.",
        );
        for ((method, route, status), count) in &counted.requests {
            let status = status.to_string();
            text.sample(
                &[("method", method), ("route", route), ("status", &status)],
                *count,
            );
        }
    }

    fn tell_process(&self, text: &mut Exposition) {
        let started = self.started.duration_since(UNIX_EPOCH);
        text.family(
            "process_start_time_seconds",
            Kind::Gauge,
            "When the daemon was started, in seconds since 1970.",
        );
        text.sample(&[], started.map_or(0, |since| since.as_secs()));
        for (name, kind, help, value) in process::observe() {
            text.family(name, kind, help);
            text.sample(&[], value);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names and labels are those that exporters for WireGuard have made known.
fn tell_peers(text: &mut Exposition, snapshot: &Snapshot) {
    let mut delegations: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for delegation in snapshot.state.delegations.values() {
        let prefixes = delegations.entry(delegation.device).or_default();
        prefixes.push(delegation.prefix.to_string());
    }
    let peers: Vec<_> = snapshot
        .state
        .devices
        .values()
        .filter_map(|device| {
            let peer = snapshot.peers.get(&device.public_key)?;
            let subnet = snapshot.state.subnets.get(&device.subnet);
            let ipv6 = subnet.and_then(|subnet| subnet.ipv6_of(device.ipv4));
            let mut allowed = vec![format!("{}/32", device.ipv4)];
            allowed.extend(ipv6.map(|address| format!("{address}/128")));
            allowed.extend(delegations.remove(&device.id).unwrap_or_default());
            Some((
                device,
                peer,
                device.public_key.to_base64(),
                allowed.join(","),
            ))
        })
        .collect();
    for (name, kind, help) in [
        (
            "wireguard_peer_received_bytes_total",
            Kind::Counter,
            "Bytes from the peer since the tunnel is up.",
        ),
        (
            "wireguard_peer_sent_bytes_total",
            Kind::Counter,
            "Bytes to the peer since the tunnel is up.",
        ),
        (
            "wireguard_peer_last_handshake_seconds",
            Kind::Gauge,
            "When the peer last shook hands, in seconds since 1970; 0 for never.",
        ),
    ] {
        text.family(name, kind, help);
        for (device, peer, key, allowed) in &peers {
            let labels = [
                ("interface", snapshot.interface.as_str()),
                ("public_key", key),
                ("allowed_ips", allowed),
                ("friendly_name", &device.name),
            ];
            let value = match name {
                "wireguard_peer_received_bytes_total" => peer.received,
                "wireguard_peer_sent_bytes_total" => peer.sent,
                _ => peer.last_handshake.map_or(0, |time| {
                    time.duration_since(UNIX_EPOCH)
                        .map_or(0, |since| since.as_secs())
                }),
            };
            text.sample(&labels, value);
        }
    }
}

fn tell_gateway(text: &mut Exposition, snapshot: &Snapshot, present: Present) {
    let state = &snapshot.state;
    text.family(
        "adit_build_info",
        Kind::Gauge,
        "Always 1; the version of the daemon, and what carries the packets.",
    );
    text.sample(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("dataplane", snapshot.dataplane),
            ("interface", &snapshot.interface),
        ],
        1,
    );
    text.family(
        "adit_revision",
        Kind::Gauge,
        "Number of the last committed change.",
    );
    text.sample(&[], state.revision);
    text.family(
        "adit_applied",
        Kind::Gauge,
        "1 when this host's kernel has all that is committed, else 0.",
    );
    text.sample(&[], u64::from(snapshot.applied));
    text.family(
        "adit_objects",
        Kind::Gauge,
        "How many objects there are, by kind.",
    );
    for (kind, count) in [
        ("device", state.devices.len()),
        ("subnet", state.subnets.len()),
        ("delegation", state.delegations.len()),
        ("forward", state.forwards.len()),
        ("pinhole", state.pinholes.len()),
        (
            "lease",
            (state.leases.values())
                .filter(|lease| lease.is_open())
                .count(),
        ),
        ("token", state.tokens.len()),
    ] {
        text.sample(&[("kind", kind)], count as u64);
    }
    text.family(
        "adit_devices_connected",
        Kind::Gauge,
        "Devices that shook hands within the last three minutes.",
    );
    text.sample(&[], snapshot.connected().count() as u64);
    text.family(
        "adit_problems",
        Kind::Gauge,
        "What is wrong now, by the code that `adit status` shows.",
    );
    let mut problems: BTreeMap<&str, u64> = BTreeMap::new();
    let present_problems = snapshot.all_problems();
    let errors = present_problems
        .iter()
        .filter(|problem| problem.severity() == Severity::Error);
    for problem in errors {
        *problems.entry(&problem.code).or_default() += 1;
    }
    for (code, count) in problems {
        text.sample(&[("code", code)], count);
    }
    text.family(
        "adit_healed_total",
        Kind::Counter,
        "Objects that were put back after others had changed them, by kind.",
    );
    for (kind, count) in &snapshot.healed {
        text.sample(&[("kind", kind)], *count);
    }
    text.family(
        "adit_event_listeners",
        Kind::Gauge,
        "How many listen to the events.",
    );
    text.sample(&[], present.listeners as u64);
}

fn tell_front(text: &mut Exposition, counts: names::Counts) {
    text.family(
        "adit_front_connections",
        Kind::Gauge,
        "Connections at the front: that lead to devices, QUIC flows, and those that have not said where they want to.",
    );
    for (kind, count) in [
        ("open", counts.connections),
        ("flow", counts.flows),
        ("waiting", counts.waiting),
    ] {
        text.sample(&[("kind", kind)], count);
    }
    text.family(
        "adit_front_refused_total",
        Kind::Counter,
        "Connections that led nowhere since the front began, by reason.",
    );
    let failures = counts.failures;
    for (reason, count) in [
        ("limited", failures.limited),
        ("unknown-name", failures.unknown_name),
        ("too-slow", failures.too_slow),
        ("malformed", failures.malformed),
        ("unreachable", failures.unreachable),
    ] {
        text.sample(&[("reason", reason)], count);
    }
}
