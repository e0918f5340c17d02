//! Ends that come from another address than before, and still have their session.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};

use crate::findings::Findings;
use crate::network::{FAMILIES, Family, Network, other_outer, outer};
use crate::peer::{Peer, connect};
use crate::program::Program;
use crate::traffic::{await_answer, ping};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn either_end_changes_its_address() -> Result<()> {
    let mut findings = Findings::default();
    for (first, second) in [
        (Program::subject(), Program::WireguardGo),
        (Program::WireguardGo, Program::subject()),
        (Program::subject(), Program::subject()),
    ] {
        for outside in FAMILIES {
            let name = format!("{first:?} begins, {second:?} answers, {outside:?}");
            findings.check(&name, both_roam(first, second, outside));
        }
    }
    findings.conclude()
}

fn both_roam(first: Program, second: Program, outside: Family) -> Result<()> {
    let network = Network::new("dp-roam")?;
    let near = Peer::start(&network, first, 1)?;
    let far = Peer::start(&network, second, 2)?;
    connect(&near, &far, outside)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    for (mover, other, what) in [(&near, &far, "who began"), (&far, &near, "who answered")] {
        let handshake = other.seen(mover)?.handshake;
        let new = other_outer(mover.number, 77, outside);
        readdress(&mover.host, outer(mover.number, outside), new)?;
        await_answer(mover, other, Family::V6, LIMIT).with_context(|| format!("{what} moved"))?;
        let seen = other.seen(mover)?;
        let from = seen.endpoint.context("an endpoint")?.ip();
        ensure!(from == new, "{what} moved to {new}, and is seen at {from}");
        ping(other, mover, Family::V4).with_context(|| format!("to {what}, who moved"))?;
        // Others need a new session when the address is gone from which they used to send.
        ensure!(
            mover.program != Program::Adit || seen.handshake == handshake,
            "the session did not outlive the move of {what}"
        );
    }
    Ok(())
}

/// Takes the old address away first, as a DHCP client does in another network.
fn readdress(host: &Host, old: IpAddr, new: IpAddr) -> Result<()> {
    let (length, option) = if old.is_ipv4() {
        (24, "-4")
    } else {
        (64, "-6")
    };
    let gateway = host
        .exec(["ip", option, "route", "show", "default"])?
        .stdout;
    let gateway = gateway
        .split_whitespace()
        .nth(2)
        .context("a default route")?;
    let old = format!("{old}/{length}");
    host.exec(["ip", "address", "del", &old, "dev", "eth0"])?;
    let new = format!("{new}/{length}");
    let mut command = vec!["ip", "address", "add", &new, "dev", "eth0"];
    if option == "-6" {
        command.push("nodad");
    }
    host.exec(command)?;
    host.exec(["ip", option, "route", "replace", "default", "via", gateway])?;
    Ok(())
}

/// A NAT in between forgets the port that it had given to the one who began, and gives it another.
#[test]
fn a_nat_gives_another_port() -> Result<()> {
    let mut findings = Findings::default();
    for (first, second) in [
        (Program::subject(), Program::WireguardGo),
        (Program::WireguardGo, Program::subject()),
    ] {
        findings.check(
            &format!("{first:?} is behind the NAT"),
            rebind(first, second),
        );
    }
    findings.conclude()
}

fn rebind(first: Program, second: Program) -> Result<()> {
    let network = Network::new("dp-nat")?;
    let near = Peer::start(&network, first, 1)?;
    let far = Peer::start(&network, second, 2)?;
    translate(&network, 40000)?;
    connect(&near, &far, Family::V4)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    for base in [40000, 41000, 42000] {
        translate(&network, base)?;
        await_answer(&near, &far, Family::V4, LIMIT)?;
        let seen = far.seen(&near)?.endpoint.context("an endpoint")?;
        ensure!(
            (base..base + 100).contains(&seen.port()) && seen.ip() == outer(102, Family::V4),
            "from port {base} and up of the NAT, and seen at {seen}"
        );
        ping(&far, &near, Family::V6)?;
    }
    Ok(())
}

fn translate(network: &Network, base: u16) -> Result<()> {
    let router = network.router()?;
    let ports = format!("{base}-{}", base + 99);
    let rules = format!(
        "table ip nat\ndelete table ip nat\ntable ip nat {{\nchain postrouting {{\ntype nat hook postrouting priority \
         srcnat\noifname \"to-b\" meta l4proto udp masquerade to :{ports}\n}}\n}}\n"
    );
    router.exec_with_input(["nft", "-f", "-"], &rules)?;
    // It fails when there is none.
    router.try_exec(["conntrack", "-D", "-p", "udp"])?;
    Ok(())
}

/// The administrator, not the network, says that the other end is elsewhere: even in the other family.
#[test]
fn another_endpoint_is_set() -> Result<()> {
    let network = Network::new("dp-reset")?;
    let near = Peer::start(&network, Program::subject(), 1)?;
    let far = Peer::start(&network, Program::WireguardGo, 2)?;
    connect(&near, &far, Family::V4)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    for outside in [Family::V6, Family::V4] {
        let endpoint = far.endpoint(outside);
        near.set(&["peer", &far.public_key, "endpoint", &endpoint.to_string()])?;
        ping(&near, &far, Family::V6)?;
        let seen = far.seen(&near)?.endpoint;
        ensure!(
            seen == Some(near.endpoint(outside)) && near.seen(&far)?.endpoint == Some(endpoint),
            "{endpoint} was set, and the far end sees {seen:?}"
        );
    }
    Ok(())
}

/// Answers come from the address that was asked, not from the first one of the interface.
#[test]
fn one_of_two_addresses() -> Result<()> {
    let mut findings = Findings::default();
    for outside in FAMILIES {
        let result = stays_with_its_address(outside);
        findings.check(&format!("{outside:?}"), result);
    }
    findings.conclude()
}

fn stays_with_its_address(outside: Family) -> Result<()> {
    let network = Network::new("dp-sticky")?;
    let near = Peer::start(&network, Program::WireguardGo, 1)?;
    let far = Peer::start(&network, Program::subject(), 2)?;
    connect(&near, &far, outside)?;
    // The first of them by the rules of source address selection, RFC 6724, and by the order of addition.
    let second = other_outer(2, 3, outside);
    let length = if outside == Family::V4 { 24 } else { 64 };
    let prefix = format!("{second}/{length}");
    let mut command = vec!["ip", "address", "add", &prefix, "dev", "eth0"];
    if outside == Family::V6 {
        command.extend(["nodad", "preferred_lft", "0"]);
    }
    far.host.exec(command)?;
    let endpoint = SocketAddr::new(second, far.endpoint(outside).port());
    near.set(&["peer", &far.public_key, "endpoint", &endpoint.to_string()])?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    ping(&near, &far, Family::V6)?;
    ping(&far, &near, Family::V4)?;
    let seen = near.seen(&far)?.endpoint;
    ensure!(
        seen == Some(endpoint),
        "{endpoint} was asked, and {seen:?} answered"
    );
    Ok(())
}
