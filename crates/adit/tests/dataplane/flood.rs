//! Strangers who send what they like to the port: forged handshakes by the thousand, garbage, and packets of others, changed.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use blake2::digest::Mac;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};

use crate::capture::Capture;
use crate::findings::Findings;
use crate::network::{Family, Network, outer};
use crate::numbered::Numbered;
use crate::peer::{Link, Peer, connect};
use crate::program::Program;
use crate::proxy::{Impairment, Proxy};
use crate::random::Random;
use crate::traffic::{await_answer, ping, sleep_until};

const LIMIT: Duration = Duration::from_secs(30);
const PER_SECOND: u64 = 20_000;
const INITIATION: usize = 148;
const MAC1_AT: usize = 116;

/// Whoever knows the public key can make the first authenticator of a handshake, and has the far end do mathematics.
#[test]
fn forged_handshakes() -> Result<()> {
    let mut findings = Findings::default();
    for newcomer in [Program::WireguardGo, Program::subject()] {
        let result = flooded(newcomer, &mut findings);
        findings.check(&format!("{newcomer:?} is new"), result);
    }
    findings.conclude()
}

fn flooded(newcomer: Program, findings: &mut Findings) -> Result<()> {
    let network = Network::alone("dp-flood")?;
    let mut victim = Peer::start(&network, Program::subject(), 2)?;
    let established = Peer::start(&network, Program::WireguardGo, 1)?;
    let newcomer = Peer::start(&network, newcomer, 3)?;
    connect(&established, &victim, Family::V4)?;
    await_answer(&established, &victim, Family::V4, LIMIT)?;

    let flood = Flood::start(&network, &victim)?;
    thread::sleep(Duration::from_secs(1));
    let streams = [(&established, &victim), (&victim, &established)].map(|(from, to)| {
        let mut stream = Numbered::new(from, to, Family::V6)?;
        Ok(thread::spawn(move || -> Result<_> {
            stream.send(4000, 500)?;
            Ok((stream.settled().delivered, stream.sent()))
        }))
    });
    thread::sleep(Duration::from_millis(500));
    let handshake = Capture::start(&newcomer.host, "eth0", "udp")?;
    let start = Instant::now();
    connect(&newcomer, &victim, Family::V4)?;
    let joined = await_answer(&newcomer, &victim, Family::V4, LIMIT);
    let waited = start.elapsed();
    for (way, stream) in ["to the one that is flooded", "from it"]
        .into_iter()
        .zip(streams)
    {
        let stream: Result<JoinHandle<Result<(u64, u64)>>> = stream;
        let outcome = stream?.join().ok().context("a thread panicked")?;
        let (delivered, sent) = outcome?;
        Findings::note(&format!("figure: {delivered} of {sent} {way}"));
        let enough = 100 * delivered > 99 * sent;
        findings.check(
            way,
            enough
                .then_some(())
                .context(format!("{delivered} of {sent}")),
        );
    }
    let rate = flood.stop();
    Findings::note(&format!(
        "figure: {rate} forged handshakes a second, a new peer connected in {waited:.1?}"
    ));
    ensure!(rate > PER_SECOND / 2, "only {rate} a second were sent");
    // Initiations have 148 bytes, cookies 64, responses 92.
    let exchanged = handshake.text()?;
    joined.with_context(|| exchanged.clone())?;
    ensure!(
        waited < JOINS_WITHIN,
        "the new one waited {waited:.1?}: {exchanged}"
    );
    victim.ensure_running()
}

/// One attempt that is answered with a cookie, and the next, which comes after five seconds and a third.
const JOINS_WITHIN: Duration = Duration::from_secs(8);

/// Handshakes that look right until the first decryption, from many ports of one host.
struct Flood {
    ends: Arc<AtomicBool>,
    sender: JoinHandle<(u64, Duration)>,
}

impl Flood {
    fn start(network: &Network, victim: &Peer) -> Result<Self> {
        const SOCKETS: usize = 250;
        let host = network.host("d")?;
        let target = victim.endpoint(Family::V4);
        let authenticator = Authenticator::of(victim)?;
        let mut random = Random(7);
        let forged: Vec<_> = (0..10_000)
            .map(|_| authenticator.forge(&mut random))
            .collect();
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            let any = SocketAddr::new(outer(4, Family::V4), 0);
            let socket = host.enter(|| UdpSocket::bind(any))??;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
        let ends = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let ends = ends.clone();
            move || {
                let start = Instant::now();
                let mut sent = 0;
                while !ends.load(Ordering::Relaxed) {
                    let due = start.elapsed().as_micros() as u64 * PER_SECOND / 1_000_000;
                    // After a pause by a busy machine it does not make up for more than a tenth of a second.
                    for number in sent.max(due.saturating_sub(PER_SECOND / 10))..due {
                        let place = number as usize;
                        let socket = &sockets[place % sockets.len()];
                        // The answers are not read, and some sockets will say so.
                        if socket.send(&forged[place % forged.len()]).is_ok() {
                            sent += 1;
                        }
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                (sent, start.elapsed())
            }
        });
        Ok(Self { ends, sender })
    }

    /// How many there were in a second.
    fn stop(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        let Ok((sent, time)) = self.sender.join() else {
            return 0;
        };
        sent * 1000 / (time.as_millis().max(1) as u64)
    }
}

/// Every type and length, from none to more than any message has; some with a valid first authenticator.
#[test]
fn garbage() -> Result<()> {
    let network = Network::new("dp-garbage")?;
    let mut victim = Peer::start(&network, Program::subject(), 2)?;
    let established = Peer::start(&network, Program::WireguardGo, 1)?;
    connect(&established, &victim, Family::V4)?;
    await_answer(&established, &victim, Family::V4, LIMIT)?;
    let before = (victim.seen(&established)?, memory(&victim)?);

    let host = network.host("d")?;
    let socket = host.enter(|| UdpSocket::bind((outer(4, Family::V4), 0)))??;
    let mut random = Random(11);
    let authenticator = Authenticator::of(&victim)?;
    let lengths = (0..=260).chain([1280, 1452, 1472, 9000, 65_507]);
    let mut sent = 0_u32;
    let start = Instant::now();
    for length in lengths {
        for kind in [0, 1, 2, 3, 4, 5, 127, 255] {
            for reserved in [0, 1] {
                let mut bytes = vec![0; length];
                random.fill(&mut bytes);
                for (place, value) in [kind, reserved, 0, 0].into_iter().enumerate() {
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = value;
                    }
                }
                // A response has its authenticators at the end, too.
                if kind <= 2 && length > 32 {
                    authenticator.put(&mut bytes, length - 32);
                }
                sleep_until(start + Duration::from_micros(200) * sent);
                socket.send_to(&bytes, victim.endpoint(Family::V4))?;
                sent += 1;
            }
        }
    }
    // Points of low order, with which a key exchange gives zero whatever the other's key is.
    for point in [
        [0; 32],
        {
            let mut one = [0; 32];
            one[0] = 1;
            one
        },
        [0xff; 32],
    ] {
        let mut bytes = authenticator.forge(&mut random);
        bytes[8..40].copy_from_slice(&point);
        authenticator.put(&mut bytes, MAC1_AT);
        socket.send_to(&bytes, victim.endpoint(Family::V4))?;
    }
    ping(&established, &victim, Family::V6)?;
    victim.ensure_running()?;
    let after = (victim.seen(&established)?, memory(&victim)?);
    ensure!(
        after.0.endpoint == before.0.endpoint && after.0.handshake == before.0.handshake,
        "{before:?}, and {after:?} after {sent} datagrams"
    );
    ensure!(
        after.1 < before.1 + (32 << 10),
        "{} KiB of memory before, {} after",
        before.1,
        after.1
    );
    Ok(())
}

/// Packets of a session that never arrived, so that each is still good: changed in any place or length, none is.
#[test]
fn changed_packets() -> Result<()> {
    let network = Network::new("dp-changed")?;
    let near = Peer::start(&network, Program::WireguardGo, 1)?;
    let mut far = Peer::start(&network, Program::subject(), 2)?;
    let proxy = Proxy::start(&network, &far, Impairment::default())?;
    far.add(&near, &Link::default())?;
    let link = Link {
        endpoint: Some(proxy.address),
        ..Link::default()
    };
    near.add(&far, &link)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    let handshake = proxy.take_recorded();
    let mut stream = Numbered::new(&near, &far, Family::V4)?;
    stream.send(1, 1000)?;
    ensure!(stream.settled().delivered == 1, "nothing gets through");

    proxy.withhold(true);
    proxy.take_recorded();
    stream.send(5, 1000)?;
    thread::sleep(Duration::from_millis(500));
    let withheld = proxy.take_recorded();
    proxy.withhold(false);
    let endpoint = far.seen(&near)?.endpoint;
    let router = network.router()?;
    let stranger = router.enter(|| UdpSocket::bind((outer(102, Family::V4), 0)))??;
    let mut sent = 0_u32;
    let start = Instant::now();
    let initiations = handshake
        .iter()
        .filter(|message| message.len() == INITIATION);
    for message in withheld.iter().chain(initiations.take(1)) {
        let flipped = (0..message.len()).map(|place| {
            let mut changed = message.clone();
            changed[place] ^= 1 << (place % 8);
            changed
        });
        let cut = (0..message.len()).map(|length| message[..length].to_vec());
        let grown = [1, 15, 16, 1000].map(|more| [&message[..], &vec![0; more]].concat());
        for changed in flipped.chain(cut).chain(grown) {
            sleep_until(start + Duration::from_micros(200) * sent);
            stranger.send_to(&changed, far.endpoint(Family::V4))?;
            sent += 1;
        }
    }
    let tally = stream.settled();
    ensure!(
        (tally.delivered, tally.duplicates, &tally.corrupt) == (1, 0, &None),
        "of {sent} changed packets some came through: {tally:?}"
    );
    ensure!(
        far.seen(&near)?.endpoint == endpoint,
        "a changed packet moved the endpoint"
    );
    // As they were they are good, once.
    for _ in 0..2 {
        for message in &withheld {
            stranger.send_to(message, far.endpoint(Family::V4))?;
        }
    }
    let tally = stream.settled();
    ensure!(
        (tally.delivered, tally.duplicates) == (6, 0),
        "what was held back did not come through once: {tally:?}"
    );
    far.ensure_running()
}

/// The first authenticator, which asks for no more than the public key: section 5.4.4 of the WireGuard paper.
struct Authenticator {
    mac: Blake2sMac<U16>,
}

impl Authenticator {
    fn of(peer: &Peer) -> Result<Self> {
        let public_key = BASE64_STANDARD.decode(&peer.public_key)?;
        let mut hash = Blake2s256::new();
        hash.update(b"mac1----");
        hash.update(public_key);
        let mac = <Blake2sMac<U16> as Mac>::new_from_slice(&hash.finalize())?;
        Ok(Self { mac })
    }

    fn put(&self, bytes: &mut [u8], at: usize) {
        let mut mac = self.mac.clone();
        mac.update(&bytes[..at]);
        bytes[at..at + 16].copy_from_slice(&mac.finalize().into_bytes());
    }

    fn forge(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = vec![0; INITIATION];
        random.fill(&mut bytes[4..MAC1_AT]);
        bytes[0] = 1;
        self.put(&mut bytes, MAC1_AT);
        bytes
    }
}

/// Resident memory in KiB.
fn memory(peer: &Peer) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .with_context(|| format!("memory of {}", peer.pid()))?
        .parse()
        .context("a number")
}
