//! Sizes, numbers and moments at which a tunnel is easily wrong.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::capture::Capture;
use crate::findings::Findings;
use crate::network::{FAMILIES, Family, Network};
use crate::peer::{Link, Peer, connect};
use crate::program::Program;
use crate::traffic::{await_answer, echo_sizes, flows, ping, transfer};

const LIMIT: Duration = Duration::from_secs(30);

/// Content is padded to 16 bytes, but never beyond the MTU: with the usual 1420 a packet over IPv6 outside has just room.
#[test]
fn sizes_around_every_padding() -> Result<()> {
    let mut findings = Findings::default();
    for mtu in [1280, 1420, 9000] {
        for other in [Program::WireguardGo, Program::subject()] {
            let result = sizes_of(mtu, other);
            findings.check(&format!("{mtu} bytes, with {other:?}"), result);
        }
    }
    findings.conclude()
}

fn sizes_of(mtu: u16, other: Program) -> Result<()> {
    let mtu = usize::from(mtu);
    let outside = u32::try_from(mtu)? + 80;
    let network = Network::with_link_mtu("dp-mtu", outside.max(1500))?;
    let near = Peer::start_with(&network, Program::subject(), 1, u32::try_from(mtu)?, 1)?;
    let far = Peer::start_with(&network, other, 2, u32::try_from(mtu)?, 1)?;
    // Now the tunnel just fits.
    network.lab.set_path_mtu(outside)?;
    connect(&near, &far, Family::V6)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    let router = network.router()?;
    let fragments = Capture::start(&router, "to-a", "ip6 proto 44")?;
    for (inside, headers) in [(Family::V4, 28), (Family::V6, 48)] {
        let last = mtu - headers;
        let sizes = (1..=last).filter(|size| {
            let beyond = (size + headers) % 16;
            last - size < 64 || *size < 64 || beyond <= 1 || beyond == 15
        });
        echo_sizes(&near, &far, inside, sizes).with_context(|| format!("{inside:?}"))?;
        transfer(&near, &far, inside, 1 << 20)?;
    }
    let seen = fragments.text()?;
    ensure!(
        seen.is_empty(),
        "what fits was fragmented all the same: {seen}"
    );
    Ok(())
}

#[test]
fn fifty_flows_at_once() -> Result<()> {
    let network = Network::new("dp-flows")?;
    let near = Peer::start(&network, Program::subject(), 1)?;
    let far = Peer::start(&network, Program::subject(), 2)?;
    connect(&near, &far, Family::V4)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    for inside in FAMILIES {
        flows(&near, &far, inside, 50, 200_000).with_context(|| format!("{inside:?}"))?;
    }
    Ok(())
}

/// The way to the endpoint leads into the tunnel itself: what is sent must not go round and multiply.
#[test]
fn an_endpoint_inside_of_the_tunnel() -> Result<()> {
    let mut findings = Findings::default();
    for outside in FAMILIES {
        findings.check(&format!("{outside:?}"), goes_round(outside));
    }
    findings.conclude()
}

fn goes_round(outside: Family) -> Result<()> {
    let network = Network::new("dp-loop")?;
    let mut near = Peer::start(&network, Program::subject(), 1)?;
    let far = Peer::start(&network, Program::WireguardGo, 2)?;
    far.add(&near, &Link::default())?;
    let link = Link {
        endpoint: Some(far.endpoint(outside)),
        allowed_ips: Some("0.0.0.0/0,::/0".into()),
        ..Link::default()
    };
    near.add(&far, &link)?;
    let target = far.endpoint(outside).ip().to_string();
    let into_itself = ["route", "add", &target, "dev", &near.interface];
    let out_again = ["route", "del", &target, "dev", &near.interface];
    let ip = |words: &[&str]| near.host.exec([&["ip"], words].concat());

    for begun in ["before", "after"] {
        if begun == "after" {
            await_answer(&near, &far, Family::V4, LIMIT)?;
        }
        ip(&into_itself)?;
        for inside in FAMILIES {
            let address = far.inner(inside).to_string();
            near.host
                .try_exec(["ping", "-c3", "-i0.2", "-s1200", "-W1", &address])?;
        }
        let before = near.carried()?;
        thread::sleep(Duration::from_secs(2));
        let carried = near.carried()? - before;
        ensure!(
            carried < 500,
            "{carried} packets went round in two seconds, {begun} the handshake"
        );
        near.seen(&far).context("it still answers")?;
        ip(&out_again)?;
        await_answer(&near, &far, Family::V4, LIMIT)?;
        ping(&near, &far, Family::V6)?;
    }
    near.ensure_running()
}

/// Both know where the other is, and both begin at the same moment.
#[test]
fn both_begin_at_once() -> Result<()> {
    let network = Network::new("dp-both")?;
    let mut findings = Findings::default();
    for other in [Program::WireguardGo, Program::subject()] {
        let near = Peer::start(&network, Program::subject(), 1)?;
        let far = Peer::start(&network, other, 2)?;
        for round in 1..=5 {
            let result = begin_at_once(&near, &far);
            findings.check(&format!("{other:?}, round {round}"), result);
        }
    }
    findings.conclude()
}

fn begin_at_once(near: &Peer, far: &Peer) -> Result<()> {
    let to = |peer: &Peer| Link {
        endpoint: Some(peer.endpoint(Family::V4)),
        ..Link::default()
    };
    near.add(far, &to(far))?;
    far.add(near, &to(near))?;
    thread::scope(|scope| {
        let there = scope.spawn(|| await_answer(near, far, Family::V4, LIMIT));
        let back = scope.spawn(|| await_answer(far, near, Family::V6, LIMIT));
        let (there, back) = (there.join(), back.join());
        there.ok().context("a thread panicked")??;
        back.ok().context("a thread panicked")?
    })?;
    ping(near, far, Family::V4)?;
    ping(far, near, Family::V6)?;
    near.remove(far)?;
    far.remove(near)
}

/// What is sent goes where the mark leads it, and without the mark nowhere.
#[test]
fn packets_bear_the_mark() -> Result<()> {
    let network = Network::new("dp-mark")?;
    let near = Peer::start(&network, Program::subject(), 1)?;
    let far = Peer::start(&network, Program::WireguardGo, 2)?;
    let marked = |mark: &str| near.set(&["fwmark", mark]);
    for (outside, option, gateway) in [
        (Family::V4, "-4", "198.18.1.1"),
        (Family::V6, "-6", "2001:db8:1::1"),
    ] {
        let ip = |words: &[&str]| near.host.exec([&["ip", option], words].concat());
        ip(&["rule", "add", "fwmark", "0x5678", "table", "77"])?;
        ip(&["route", "add", "default", "via", gateway, "table", "77"])?;
        ip(&["route", "del", "default"])?;
        marked("0x5678")?;
        connect(&near, &far, outside)?;
        await_answer(&near, &far, Family::V4, LIMIT).context("with the mark")?;
        ping(&near, &far, Family::V6)?;
        marked("0")?;
        let address = far.inner(Family::V4).to_string();
        let unmarked = near.host.try_exec(["ping", "-c2", "-W1", &address])?;
        ensure!(
            !unmarked.status.success(),
            "{outside:?}: an answer without the mark: {unmarked}"
        );
        marked("0x5678")?;
        ping(&near, &far, Family::V4).context("with the mark again")?;
        near.remove(&far)?;
        far.remove(&near)?;
    }
    Ok(())
}

/// Over IPv4 a packet that is too big for a part of the path is cut there, although nobody says a word.
#[test]
fn a_narrow_path() -> Result<()> {
    let network = Network::new("dp-narrow")?;
    let near = Peer::start(&network, Program::subject(), 1)?;
    let far = Peer::start(&network, Program::subject(), 2)?;
    network.lab.drop_icmp()?;
    network.lab.set_path_mtu(1300)?;
    connect(&near, &far, Family::V4)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    for (inside, headers) in [(Family::V4, 28), (Family::V6, 48)] {
        for (from, to) in [(&near, &far), (&far, &near)] {
            echo_sizes(from, to, inside, 1200..=1420 - headers)?;
            transfer(from, to, inside, 1 << 20)?;
        }
    }
    Ok(())
}

/// Whoever hears something and has nothing to say lets the other know, after ten seconds.
#[test]
fn passive_keepalive() -> Result<()> {
    let mut findings = Findings::default();
    let results = thread::scope(|scope| {
        let pairs = [
            (Program::WireguardGo, Program::subject()),
            (Program::subject(), Program::WireguardGo),
        ];
        let threads = pairs.map(|(speaker, hearer)| scope.spawn(move || hears(speaker, hearer)));
        threads.map(|thread| thread.join())
    });
    for (way, result) in ["ours hears", "theirs hears"].into_iter().zip(results) {
        findings.check(way, result.ok().context("a thread panicked").flatten());
    }
    findings.conclude()
}

fn hears(speaker: Program, hearer: Program) -> Result<()> {
    let network = Network::new("dp-passive")?;
    let speaker = Peer::start(&network, speaker, 1)?;
    let hearer = Peer::start(&network, hearer, 2)?;
    connect(&speaker, &hearer, Family::V4)?;
    await_answer(&speaker, &hearer, Family::V4, LIMIT)?;
    // What is owed for the answers has been said.
    thread::sleep(Duration::from_secs(12));
    let socket = crate::traffic::udp(&hearer.host, (hearer.inner(Family::V4), 0).into())?;
    let sender = crate::traffic::udp(&speaker.host, (speaker.inner(Family::V4), 0).into())?;
    let capture = Capture::start_incoming(&speaker.host, "eth0", "udp[4:2] = 40")?;
    sender.send_to(b"and no answer", socket.local_addr()?)?;
    thread::sleep(Duration::from_secs(8));
    ensure!(
        capture.count("length 32")? == 0,
        "a keepalive too early: {}",
        capture.text()?
    );
    let limit = Duration::from_secs(12);
    adit_lab::wait_until("a keepalive after ten seconds", limit, || {
        Ok(capture.count("length 32")? == 1)
    })
}
