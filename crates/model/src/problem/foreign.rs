//! Packet filters of others that drop what is ours, each with the command that mends it.
//!
//! Only what is dropped for certain is told: what a rule does that is not understood may as well let it pass.

mod flow;
mod remedy;

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, View, problem};
use crate::facts::Facts;
use crate::foreign::{Base, Hook, Name, Ruleset};
use crate::state::State;

use flow::{Flow, Purpose};

/// Which chains of others drop packets of ours; `interface` is the tunnel.
pub fn of_foreign(
    state: &State,
    facts: &Facts,
    now: u64,
    interface: &str,
    ruleset: &Ruleset,
) -> Vec<Problem> {
    if ruleset.chains.is_empty() || state.subnets.is_empty() {
        return Vec::new();
    }
    let uplinks = crate::uplink::list(state, facts);
    let view = View {
        state,
        facts,
        uplinks: &uplinks,
        now,
    };
    let mut findings: BTreeMap<Name, Finding> = BTreeMap::new();
    let mut note = |flow: &Flow| {
        for (base, dropped_in) in drops(ruleset, flow) {
            let finding = findings.entry(base).or_default();
            finding.purposes.insert(flow.purpose.clone());
            finding.dropped_in.insert(dropped_in);
        }
    };
    for flow in flow::general(&view, interface) {
        note(&flow);
    }
    for arrivals in flow::arrivals(&view, interface) {
        if drops(ruleset, &arrivals.any).next().is_some() {
            note(&arrivals.any);
        } else if may_drop(ruleset, &arrivals.any) {
            arrivals.each.iter().for_each(&mut note);
        }
    }
    findings
        .iter()
        .filter_map(|(name, finding)| {
            let base = ruleset.chains.get(name)?.base?;
            Some(tell(ruleset, name, base, finding, interface, &view))
        })
        .collect()
}

/// What a base chain drops.
#[derive(Debug, Default)]
struct Finding {
    purposes: BTreeSet<Purpose>,
    dropped_in: BTreeSet<String>,
}

/// The base chains that drop a flow for certain, each with the chain where that happens.
fn drops<'a>(ruleset: &'a Ruleset, flow: &'a Flow) -> impl Iterator<Item = (Name, String)> + 'a {
    outcomes(ruleset, flow).filter_map(|(name, outcome)| {
        let place = outcome.certain_drop()?.to_owned();
        Some((name.clone(), place))
    })
}

fn may_drop(ruleset: &Ruleset, flow: &Flow) -> bool {
    outcomes(ruleset, flow).any(|(_, outcome)| outcome.dropped_in.is_some())
}

fn outcomes<'a>(
    ruleset: &'a Ruleset,
    flow: &'a Flow,
) -> impl Iterator<Item = (&'a Name, crate::foreign::Outcome)> + 'a {
    flow.hooks.iter().flat_map(move |hook| {
        ruleset
            .at(*hook, flow.packet.is_ipv6)
            .map(move |(name, base)| {
                let packet = flow.packet_at(*hook, base.priority);
                (name, ruleset.evaluate(name, &packet))
            })
    })
}

fn tell(
    ruleset: &Ruleset,
    name: &Name,
    base: Base,
    finding: &Finding,
    interface: &str,
    view: &View<'_>,
) -> Problem {
    let what: Vec<String> = finding.purposes.iter().map(Purpose::to_string).collect();
    let inner: Vec<&str> = finding
        .dropped_in
        .iter()
        .filter(|chain| **chain != name.name)
        .map(String::as_str)
        .collect();
    let place = if !inner.is_empty() {
        format!(", in chain {}", inner.join(" and "))
    } else if base.drops {
        ", as its policy is drop".to_owned()
    } else {
        String::new()
    };
    problem(
        "foreign-firewall",
        format!("chain {} of table {}", name.name, name.table),
        format!("it drops {}{place}", enumerate(&what)),
        remedy::of(&remedy::Case {
            ruleset,
            name,
            hook: base.hook,
            purposes: &finding.purposes,
            dropped_in: &finding.dropped_in,
            interface,
            port: view.state.settings.listen_port,
        }),
    )
}

fn enumerate(parts: &[String]) -> String {
    match parts {
        [first @ .., last] if !first.is_empty() => {
            format!("{} and {last}", first.join(", "))
        }
        _ => parts.concat(),
    }
}

impl Hook {
    /// Which hooks forwarded packets pass.
    const FORWARDED: [Self; 3] = [Self::Prerouting, Self::Forward, Self::Postrouting];
    /// Which hooks packets for this host pass.
    const RECEIVED: [Self; 2] = [Self::Prerouting, Self::Input];
    /// Which hooks packets of this host pass.
    const SENT: [Self; 2] = [Self::Output, Self::Postrouting];
}
