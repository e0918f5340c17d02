//! A line that loses, doubles and reorders: what comes out is what went in, once, and never again.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::findings::Findings;
use crate::network::{Family, Network};
use crate::numbered::Numbered;
use crate::peer::{Link, Peer};
use crate::program::Program;
use crate::proxy::{Impairment, Proxy};
use crate::traffic::{await_answer, transfer};

const HANDSHAKE: Duration = Duration::from_secs(60);
const BAD: Impairment = Impairment {
    lost: 20,
    doubled: 30,
    late: 50,
    distance: 60,
};

/// Replay windows of others are as small as a thousand.
const WINDOW: u64 = 8192;

#[test]
fn from_wireguard_go() -> Result<()> {
    impaired(Program::WireguardGo, Program::subject())
}

#[test]
fn to_wireguard_go() -> Result<()> {
    impaired(Program::subject(), Program::WireguardGo)
}

#[test]
fn between_two_of_ours() -> Result<()> {
    impaired(Program::subject(), Program::subject())
}

fn impaired(sender: Program, receiver: Program) -> Result<()> {
    let count = if is_soak() { 1_000_000 } else { 50_000 };
    let network = Network::new("dp-loss")?;
    let near = Peer::start(&network, sender, 1)?;
    let far = Peer::start(&network, receiver, 2)?;
    let proxy = Proxy::start(&network, &far, BAD)?;
    connect_through(&near, &far, &proxy)?;

    transfer(&near, &far, Family::V4, 2 << 20).context("TCP over IPv4")?;
    transfer(&far, &near, Family::V6, 2 << 20).context("TCP over IPv6")?;

    let mut stream = Numbered::new(&near, &far, Family::V6)?;
    stream.send(count, 10_000)?;
    let first = stream.settled();
    let fate = format!(
        "{} of {count} datagrams delivered from {sender:?} to {receiver:?}, {} of them twice",
        first.delivered, first.duplicates
    );
    Findings::note(&format!("figure: {fate}"));
    ensure!(first.corrupt.is_none(), "{:?}", first.corrupt);
    ensure!(first.duplicates == 0, "{fate}");
    ensure!(first.delivered > count / 2, "{fate}");

    proxy.stop_recording();
    let replayed = proxy.replay()?;
    let second = stream.settled();
    ensure!(replayed as u64 >= first.delivered, "{replayed} replayed");
    ensure!(
        second.duplicates == 0 && second.corrupt.is_none(),
        "a replay of {replayed} datagrams: {} were delivered again, {:?}",
        second.duplicates,
        second.corrupt
    );
    // What the line let through and the far end missed may have come in its place; beyond the window it may not.
    stream.send(2 * WINDOW, 10_000)?;
    let third = stream.settled();
    proxy.replay()?;
    let fourth = stream.settled();
    ensure!(
        (third.delivered, third.duplicates) == (fourth.delivered, fourth.duplicates),
        "a second replay: {} and {} delivered before, {} and {} after",
        third.delivered,
        third.duplicates,
        fourth.delivered,
        fourth.duplicates
    );
    // Nor did what was replayed confuse the tunnel.
    await_answer(&near, &far, Family::V4, HANDSHAKE)?;
    await_answer(&far, &near, Family::V6, HANDSHAKE)
}

/// Nothing is lost on this line, but some of it is overtaken by thousands of others.
#[test]
fn late_by_thousands() -> Result<()> {
    let count = 40_000;
    let network = Network::alone("dp-late")?;
    let near = Peer::start(&network, Program::WireguardGo, 1)?;
    let far = Peer::start(&network, Program::subject(), 2)?;
    let line = Impairment {
        late: 60,
        distance: 8000,
        ..Impairment::default()
    };
    let proxy = Proxy::start(&network, &far, line)?;
    connect_through(&near, &far, &proxy)?;
    let mut stream = Numbered::new(&near, &far, Family::V4)?;
    stream.send(count, 10_000)?;
    let tally = stream.settled();
    let sent = stream.sent();
    Findings::note(&format!("{} of {sent} delivered", tally.delivered));
    ensure!(
        tally.duplicates == 0 && tally.corrupt.is_none(),
        "{:?}",
        tally.corrupt
    );
    // A window of a thousand would lose more than five in a hundred.
    ensure!(
        100 * tally.delivered >= 98 * sent,
        "{} of {sent} delivered",
        tally.delivered
    );
    Ok(())
}

fn connect_through(near: &Peer, far: &Peer, proxy: &Proxy) -> Result<()> {
    far.add(near, &Link::default())?;
    let link = Link {
        endpoint: Some(proxy.address),
        ..Link::default()
    };
    near.add(far, &link)?;
    await_answer(near, far, Family::V4, HANDSHAKE)
}

fn is_soak() -> bool {
    env::var_os("ADIT_SOAK").is_some_and(|value| value == "1")
}
