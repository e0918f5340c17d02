//! What `adit doctor` looks for beyond what the status tells: each check is one function in [`CHECKS`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::desired::derive;
use crate::facts::Facts;
use crate::foreign::Ruleset;
use crate::problem::{self, Problem, problem};
use crate::protocol::Protocol;
use crate::state::State;

/// A gateway's host, as it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// How the daemon does.
    pub daemon: Daemon,
    /// What is committed; none where a daemon has it open, or it could not be read.
    pub state: Option<State>,
    /// What the host is like.
    pub facts: Facts,
    /// What others filter on it.
    pub foreign: Ruleset,
    /// Name of the tunnel interface.
    pub interface: String,
    /// The tunnel interface, if it is there.
    pub tunnel: Option<Tunnel>,
    /// Whether the gateway's own table of rules is there; none where that could not be seen.
    pub has_table: Option<bool>,
    /// Programs that are needed and not there, each with its package.
    pub missing_programs: Vec<(&'static str, &'static str)>,
    /// What is wrong with the configuration file.
    pub configuration: Option<String>,
    /// What is wrong with the stored state, with the way out.
    pub stored: Option<(String, String)>,
    /// What is wrong with the private key.
    pub key: Option<String>,
    /// In seconds since 1970.
    pub now: u64,
}

/// How the daemon does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Daemon {
    /// It answers.
    Running,
    /// It is there and does not answer.
    Silent,
    /// There is none.
    #[default]
    Stopped,
}

/// The tunnel interface as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Whether it is up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
}

/// One check: it adds what it finds.
type Check = fn(&Examination, &mut Vec<Problem>);

/// Every check, in the order in which a person would mend what they find.
const CHECKS: &[Check] = &[
    check_configuration,
    check_programs,
    check_stored,
    check_key,
    check_daemon,
    check_routers,
    check_forwarding,
    check_port,
    check_tunnel,
    check_mtu,
    check_table,
    check_decided,
];

/// All that is wrong.
pub fn diagnose(examination: &Examination) -> Vec<Problem> {
    let mut problems = Vec::new();
    for check in CHECKS {
        check(examination, &mut problems);
    }
    problems
}

/// Which of these is told but once: what the daemon says of a thing counts.
pub fn merge(told: Vec<Problem>, found: Vec<Problem>) -> Vec<Problem> {
    let known: BTreeSet<(String, String)> = told
        .iter()
        .map(|problem| (problem.code.clone(), problem.object.clone()))
        .collect();
    let news = found
        .into_iter()
        .filter(|problem| !known.contains(&(problem.code.clone(), problem.object.clone())));
    told.into_iter().chain(news).collect()
}

impl Examination {
    /// Whether there is anything that the gateway should do.
    fn has_work(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| !state.subnets.is_empty())
    }

    fn setting(&self, path: &str) -> Option<&str> {
        self.facts.sysctls.get(path).map(|value| value.trim())
    }
}

fn check_configuration(examination: &Examination, problems: &mut Vec<Problem>) {
    if let Some(message) = &examination.configuration {
        problems.push(problem(
            "configuration-unreadable",
            "configuration",
            message,
            "mend that line, then start the daemon again; where another file is meant, name it with `--config FILE`",
        ));
    }
}

fn check_programs(examination: &Examination, problems: &mut Vec<Problem>) {
    for (program, package) in &examination.missing_programs {
        problems.push(problem(
            "program-missing",
            format!("program {program}"),
            format!("the gateway needs `{program}`, and it is nowhere in the PATH"),
            format!("`apt install {package}`, or the package of your distribution that has it"),
        ));
    }
}

fn check_stored(examination: &Examination, problems: &mut Vec<Problem>) {
    if let Some((message, fix)) = &examination.stored {
        problems.push(problem("state-unreadable", "state", message, fix));
    }
}

fn check_key(examination: &Examination, problems: &mut Vec<Problem>) {
    if let Some(message) = &examination.key {
        problems.push(problem(
            "key-unusable",
            "private key",
            message,
            "do what it says before the daemon is started again: without its key it does not start",
        ));
    }
}

fn check_daemon(examination: &Examination, problems: &mut Vec<Problem>) {
    match examination.daemon {
        Daemon::Running => {}
        Daemon::Silent => problems.push(problem(
            "daemon-silent",
            "gateway",
            "the daemon runs, and does not answer: what is in the kernel goes on, and nobody puts back what is lost, or takes changes",
            "`systemctl restart adit-gateway`, which interrupts no connection; what kept it is in `journalctl -u adit-gateway`",
        )),
        Daemon::Stopped => problems.push(problem(
            "daemon-stopped",
            "gateway",
            "the daemon does not run: what is in the kernel goes on, and nobody puts back what is lost, or takes changes",
            "`systemctl start adit-gateway`; why it ended is in `journalctl -u adit-gateway`",
        )),
    }
}

/// Several routers that advertise themselves on one link: which one answers is chance.
fn check_routers(examination: &Examination, problems: &mut Vec<Problem>) {
    let facts = &examination.facts;
    let learnt = facts
        .routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0 && route.from_router_advertisement);
    let interfaces: BTreeSet<&str> = learnt.clone().map(|it| it.interface.as_str()).collect();
    for interface in interfaces {
        let routers: BTreeSet<IpAddr> = learnt
            .clone()
            .filter(|route| route.interface == interface)
            .filter_map(|route| route.gateway)
            .collect();
        if routers.len() > 1 {
            let list: Vec<String> = routers.iter().map(IpAddr::to_string).collect();
            problems.push(problem(
                "several-routers",
                format!("uplink {interface}"),
                format!("{} advertise themselves there as IPv6 routers, and packets go to any of them", list.join(" and ")),
                format!("if one is not the provider's, it is somebody's mistake on that link: tell the provider; until then fix the route with `ip -6 route replace default via fe80::… dev {interface} metric 100`"),
            ));
        }
    }
}

fn check_forwarding(examination: &Examination, problems: &mut Vec<Problem>) {
    if !examination.has_work() {
        return;
    }
    let families = [
        ("net/ipv4/conf/all/forwarding", "IPv4", true),
        (
            "net/ipv6/conf/all/forwarding",
            "IPv6",
            crate::uplink::has_ipv6(&examination.facts),
        ),
    ];
    for (path, family, is_wanted) in families {
        if is_wanted && examination.setting(path) == Some("0") {
            problems.push(problem(
                "forwarding-off",
                format!("setting {}", path.replace('/', ".")),
                format!("the kernel forwards no {family} packets, so nothing passes between the tunnel and the Internet"),
                format!("start the daemon, which sets it; if it is set back after that, look for `{}` below /etc/sysctl.d", path.replace('/', ".")),
            ));
        }
    }
}

/// Somebody else's socket keeps the tunnel from coming up.
fn check_port(examination: &Examination, problems: &mut Vec<Problem>) {
    let Some(state) = &examination.state else {
        return;
    };
    let port = state.settings.listen_port;
    let taken = examination.facts.listeners.iter().find(|listener| {
        let process = listener.process.as_deref();
        listener.protocol == Protocol::Udp
            && listener.port == port
            && process.is_some_and(|name| !is_ours(name))
    });
    if let Some(listener) = taken {
        let process = listener.process.as_deref().unwrap_or("another process");
        problems.push(problem(
            "tunnel-port-taken",
            format!("UDP port {port}"),
            format!("{process} listens there, so the tunnel cannot"),
            format!("stop it or give it another port; or give the tunnel another one: `adit settings set listen-port {}`, and every device its new configuration", port.wrapping_add(1)),
        ));
    }
}

/// Whether a process of this name carries the tunnel's packets.
fn is_ours(process: &str) -> bool {
    process.starts_with("wireguard") || ["adit", "adit-wireguard"].contains(&process)
}

fn check_tunnel(examination: &Examination, problems: &mut Vec<Problem>) {
    if !examination.has_work() {
        return;
    }
    let object = format!("interface {}", examination.interface);
    match examination.tunnel {
        None => problems.push(problem(
            "tunnel-missing",
            object,
            "the tunnel's interface is not there, so no device is connected",
            "start the daemon, which makes it: `systemctl start adit-gateway`",
        )),
        Some(tunnel) if !tunnel.up => problems.push(problem(
            "tunnel-down",
            object,
            "the tunnel's interface is down, so no packet passes",
            "start the daemon, which brings it up: `systemctl start adit-gateway`",
        )),
        Some(_) => {}
    }
}

/// A tunnel that was made for another uplink loses what does not fit.
fn check_mtu(examination: &Examination, problems: &mut Vec<Problem>) {
    let (Some(state), Some(tunnel)) = (&examination.state, examination.tunnel) else {
        return;
    };
    let (wanted, reason) = derive::mtu(state, &examination.facts);
    if examination.has_work() && tunnel.mtu > u32::from(wanted) {
        problems.push(problem(
            "mtu-too-large",
            format!("interface {}", examination.interface),
            format!("its MTU is {}, and {wanted} is what passes ({reason}): larger packets are lost on their way", tunnel.mtu),
            format!("start the daemon, which sets it, or `ip link set {} mtu {wanted}`", examination.interface),
        ));
    }
}

fn check_table(examination: &Examination, problems: &mut Vec<Problem>) {
    if examination.has_work() && examination.has_table == Some(false) {
        problems.push(problem(
            "firewall-missing",
            format!("table {}", crate::desired::firewall::TABLE),
            "the gateway's rules are not in the kernel: forwards do not work, addresses are not translated, and what should be closed is not",
            "start the daemon, which loads them: `systemctl start adit-gateway`; then look for what flushes the ruleset (`nft flush ruleset` in /etc/nftables.conf is run by its service alone)",
        ));
    }
}

/// What a daemon would tell in its status.
fn check_decided(examination: &Examination, problems: &mut Vec<Problem>) {
    // One that runs tells of these itself.
    let Some(state) = &examination.state else {
        return;
    };
    let (facts, now) = (&examination.facts, examination.now);
    problems.extend(problem::of_state(state, facts, now));
    problems.extend(problem::of_foreign(
        state,
        facts,
        now,
        &examination.interface,
        &examination.foreign,
    ));
}
