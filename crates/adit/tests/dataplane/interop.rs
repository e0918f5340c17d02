//! Ours with each of the others, and with itself: who begins, both families inside, both families outside.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::capture::Capture;
use crate::findings::Findings;
use crate::network::{FAMILIES, Family, Network};
use crate::peer::{Link, Peer};
use crate::program::Program;
use crate::traffic::{await_answer, echo_sizes, ping, transfer};

const HANDSHAKE: Duration = Duration::from_secs(30);
const MEGABYTE: u64 = 1 << 20;

#[test]
fn with_itself() -> Result<()> {
    gets_on_with(Program::subject())
}

#[test]
fn with_wireguard_go() -> Result<()> {
    gets_on_with(Program::WireguardGo)
}

#[test]
fn with_boringtun() -> Result<()> {
    gets_on_with(Program::Boringtun)
}

#[test]
fn with_gotatun() -> Result<()> {
    gets_on_with(Program::Gotatun)
}

fn gets_on_with(other: Program) -> Result<()> {
    let network = Network::new("dp-interop")?;
    let ours = Peer::start(&network, Program::subject(), 1)?;
    let theirs = Peer::start(&network, other, 2)?;
    let key = ours.host.exec(["wg", "genpsk"])?.stdout;
    let mut findings = Findings::default();
    for outside in FAMILIES {
        for (way, initiator, responder) in [
            ("ours begins", &ours, &theirs),
            ("theirs begins", &theirs, &ours),
        ] {
            let result = talk(initiator, responder, outside, &key);
            findings.check(&format!("{other:?}, {outside:?} outside, {way}"), result);
            initiator.remove(responder)?;
            responder.remove(initiator)?;
        }
    }
    findings.conclude()
}

fn talk(initiator: &Peer, responder: &Peer, outside: Family, key: &str) -> Result<()> {
    let link = Link {
        preshared_key: Some(key.to_owned()),
        ..Link::default()
    };
    responder.add(initiator, &link)?;
    initiator.add(
        responder,
        &Link {
            endpoint: Some(responder.endpoint(outside)),
            ..link
        },
    )?;
    await_answer(initiator, responder, Family::V4, HANDSHAKE)?;
    for (here, there) in [(initiator, responder), (responder, initiator)] {
        here.await_handshake(there, HANDSHAKE)?;
        let seen = here.seen(there)?;
        ensure!(
            seen.endpoint == Some(there.endpoint(outside)),
            "{seen:?}: another endpoint than {}",
            there.endpoint(outside)
        );
        ensure!(
            seen.sent > 0 && seen.received > 0,
            "nothing is counted: {seen:?}"
        );
    }
    for inside in FAMILIES {
        let with = |result: Result<()>, what| result.with_context(|| format!("{inside:?}: {what}"));
        with(ping(initiator, responder, inside), "ping there")?;
        with(ping(responder, initiator, inside), "ping back")?;
        with(
            transfer(initiator, responder, inside, MEGABYTE),
            "TCP there",
        )?;
        with(transfer(responder, initiator, inside, MEGABYTE), "TCP back")?;
        let headers = if inside == Family::V4 { 28 } else { 48 };
        let sizes = 1..=1420 - headers;
        with(echo_sizes(initiator, responder, inside, sizes), "UDP")?;
    }
    Ok(())
}

/// Whoever knows the public keys but not the preshared one gets no session.
#[test]
fn another_preshared_key_is_refused() -> Result<()> {
    let network = Network::new("dp-psk")?;
    let ours = Peer::start(&network, Program::subject(), 1)?;
    let theirs = Peer::start(&network, Program::WireguardGo, 2)?;
    let keys = [0, 1].map(|_| ours.host.exec(["wg", "genpsk"]).map(|output| output.stdout));
    let [first, second] = keys;
    let (first, second) = (first?, second?);
    let link = |key: &str, to: &Peer| Link {
        preshared_key: Some(key.to_owned()),
        endpoint: Some(to.endpoint(Family::V4)),
        ..Link::default()
    };
    ours.add(&theirs, &link(&first, &theirs))?;
    theirs.add(&ours, &link(&second, &ours))?;
    for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
        let address = to.inner(Family::V4).to_string();
        let output = from.host.try_exec(["ping", "-c2", "-W2", &address])?;
        ensure!(
            !output.status.success(),
            "an answer with another key: {output}"
        );
        ensure!(
            from.seen(to)?.handshake == 0,
            "a handshake with another key"
        );
    }
    // And the same key makes it work, without a restart.
    theirs.add(&ours, &link(&first, &ours))?;
    await_answer(&ours, &theirs, Family::V4, HANDSHAKE)
}

/// Nobody sends anything, and yet both ends hear from each other, at the pace that was asked for.
#[test]
fn persistent_keepalive() -> Result<()> {
    let network = Network::new("dp-keepalive")?;
    let mut findings = Findings::default();
    for (mine, other) in [
        (Program::subject(), Program::WireguardGo),
        (Program::WireguardGo, Program::subject()),
    ] {
        let sender = Peer::start(&network, mine, 1)?;
        let hearer = Peer::start(&network, other, 2)?;
        findings.check(&format!("{mine:?} sends"), keeps_alive(&sender, &hearer));
    }
    findings.conclude()
}

fn keeps_alive(sender: &Peer, hearer: &Peer) -> Result<()> {
    // A data message without content: 32 bytes after the header of 8.
    let capture = Capture::start_incoming(&hearer.host, "eth0", "udp[4:2] = 40")?;
    hearer.add(sender, &Link::default())?;
    let link = Link {
        endpoint: Some(hearer.endpoint(Family::V4)),
        keepalive: Some(1),
        ..Link::default()
    };
    sender.add(hearer, &link)?;
    hearer.await_handshake(sender, HANDSHAKE)?;
    let before = capture.count("UDP, length 32")?;
    std::thread::sleep(Duration::from_secs(6));
    let seen = sender.seen(hearer)?;
    ensure!(seen.keepalive == Some(1), "{seen:?}");
    let heard = capture.count("UDP, length 32")? - before;
    ensure!(
        (3..=8).contains(&heard),
        "{heard} keepalives in six seconds, at one each second: {}",
        capture.text()?
    );
    Ok(())
}
