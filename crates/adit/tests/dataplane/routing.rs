//! Which peer a packet goes to, and which one it may come from.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::network::{FAMILIES, Family, Network, inner, only};
use crate::packet::{Injector, udp4, udp6};
use crate::peer::{Link, Peer};
use crate::program::Program;
use crate::traffic::{await_answer, udp};

const LIMIT: Duration = Duration::from_secs(30);

/// Ours in the middle, and two others.
struct Star {
    hub: Peer,
    first: Peer,
    second: Peer,
    _network: Network,
}

impl Star {
    fn new(purpose: &str) -> Result<Self> {
        let network = Network::new(purpose)?;
        let hub = Peer::start(&network, Program::subject(), 1)?;
        let first = Peer::start(&network, Program::WireguardGo, 2)?;
        let second = Peer::start(&network, Program::subject(), 3)?;
        for peer in [&first, &second] {
            hub.add(peer, &Link::default())?;
            let link = Link {
                endpoint: Some(hub.endpoint(Family::V4)),
                allowed_ips: Some("0.0.0.0/0,::/0".into()),
                ..Link::default()
            };
            peer.add(&hub, &link)?;
            await_answer(peer, &hub, Family::V4, LIMIT)?;
        }
        Ok(Self {
            hub,
            first,
            second,
            _network: network,
        })
    }
}

/// A prefix belongs to the one that got it last; from the next packet on the other neither gets nor sends any of it.
#[test]
fn allowed_ips_move_under_traffic() -> Result<()> {
    const ROUNDS: u32 = 20;
    let star = Star::new("dp-move")?;
    for family in FAMILIES {
        let shared = inner(99, family);
        let prefix = only(shared);
        let open = |peer: &Peer| -> Result<UdpSocket> {
            peer.add_address(shared)?;
            udp(&peer.host, SocketAddr::new(shared, 4000))
        };
        let ends = [
            (&star.first, open(&star.first)?),
            (&star.second, open(&star.second)?),
        ];
        let hub = udp(
            &star.hub.host,
            SocketAddr::new(star.hub.inner(family), 4000),
        )?;
        let to_hub = hub.local_addr()?;
        for round in 0..ROUNDS {
            let [(owner, owning), (_, other)] = if round % 2 == 0 {
                [&ends[0], &ends[1]]
            } else {
                [&ends[1], &ends[0]]
            };
            star.hub.set(&[
                "peer",
                &owner.public_key,
                "allowed-ips",
                &format!(
                    "{},{},{prefix}",
                    only(owner.inner(Family::V4)),
                    only(owner.inner(Family::V6))
                ),
            ])?;
            for number in 0..20 {
                let text = format!("round {round}, number {number}");
                hub.send_to(text.as_bytes(), SocketAddr::new(shared, 4000))?;
                expect(owning, &text).with_context(|| format!("to {}", owner.host.name()))?;
                // What the other says comes first, and must not arrive in its place.
                other.send_to(b"from the wrong one", to_hub)?;
                owning.send_to(text.as_bytes(), to_hub)?;
                expect(&hub, &text).with_context(|| format!("from {}", owner.host.name()))?;
            }
            silent(other)?;
        }
        silent(&hub)?;
    }
    Ok(())
}

/// The longest prefix counts, whichever peer has the shorter one.
#[test]
fn the_longest_prefix_wins() -> Result<()> {
    let star = Star::new("dp-prefix")?;
    for (family, wide, narrow) in [
        (Family::V4, "10.77.0.128/25", "10.77.0.192/27"),
        (Family::V6, "fd77::/112", "fd77::c0/123"),
    ] {
        let own = |peer: &Peer| FAMILIES.map(|family| only(peer.inner(family))).join(",");
        for (has_wide, has_narrow) in [(&star.first, &star.second), (&star.second, &star.first)] {
            for (peer, prefix) in [(has_wide, wide), (has_narrow, narrow)] {
                let allowed = format!("{},{prefix}", own(peer));
                star.hub
                    .set(&["peer", &peer.public_key, "allowed-ips", &allowed])?;
            }
            let hub = udp(&star.hub.host, SocketAddr::new(star.hub.inner(family), 0))?;
            for (number, receiver) in [
                (0xbf, has_wide),
                (0xc0, has_narrow),
                (0xdf, has_narrow),
                (0xe0, has_wide),
            ] {
                let address = inner(number, family);
                // It was given to this host or not in the round before.
                let _ = receiver.add_address(address);
                let socket = udp(&receiver.host, SocketAddr::new(address, 4001))?;
                let text = format!("to {address}");
                hub.send_to(text.as_bytes(), socket.local_addr()?)?;
                expect(&socket, &text).with_context(|| format!("at {}", receiver.host.name()))?;
            }
        }
    }
    Ok(())
}

/// A peer that sends with the address of another, of the far end itself, or of a stranger.
#[test]
fn spoofed_sources_are_dropped() -> Result<()> {
    let star = Star::new("dp-spoof")?;
    let injector = Injector::new(&star.first.host, &star.first.interface)?;
    for family in FAMILIES {
        let hub = udp(&star.hub.host, SocketAddr::new(star.hub.inner(family), 0))?;
        let to = hub.local_addr()?;
        let packet = |from: IpAddr, text: &str| match (SocketAddr::new(from, 4000), to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => Ok(udp4(from, to, text.as_bytes())),
            (SocketAddr::V6(from), SocketAddr::V6(to)) => Ok(udp6(from, to, text.as_bytes())),
            mixed => bail!("mixed families: {mixed:?}"),
        };
        let stranger: IpAddr = match family {
            Family::V4 => [192, 0, 2, 1].into(),
            Family::V6 => [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1].into(),
        };
        for spoofed in [star.second.inner(family), star.hub.inner(family), stranger] {
            for _ in 0..20 {
                injector.send(&packet(spoofed, &format!("from {spoofed}"))?)?;
            }
        }
        // The same way with its own address: the first that arrives.
        injector.send(&packet(star.first.inner(family), "an honest one")?)?;
        expect(&hub, "an honest one")?;
        silent(&hub)?;
    }
    Ok(())
}

fn expect(socket: &UdpSocket, text: &str) -> Result<()> {
    let mut buffer = [0; 256];
    let mut length = None;
    adit_lab::wait_until(text, LIMIT, || {
        length = Some(socket.recv(&mut buffer)?);
        Ok(true)
    })?;
    let got = String::from_utf8_lossy(&buffer[..length.unwrap_or_default()]);
    ensure!(got == text, "{got:?} where {text:?} was awaited");
    Ok(())
}

/// What was sent before has had its time.
fn silent(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 256];
    if let Ok(length) = socket.recv(&mut buffer) {
        bail!(
            "{:?} arrived, which must not",
            String::from_utf8_lossy(&buffer[..length])
        );
    }
    Ok(())
}
