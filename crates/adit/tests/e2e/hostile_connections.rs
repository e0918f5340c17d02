//! One device, or strangers through its forward, begin connections without end: everybody else still connects.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_api::client::Client;
use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::support::{
    Device, Findings, INTERNET4, INTERNET6, Injector, PUBLIC4, STRANGER4, STRANGER6, World, at,
    converse, is_soak, listen, syn4, udp4, udp6,
};

/// As many as the userspace WireGuard carries beside others: what it does above that is another question.
const PACE: Duration = Duration::from_micros(120);

/// The default of `connection-limit`.
const LIMIT: u64 = 4096;
const SILENT: &str = "table inet silent {
  chain input { type filter hook input priority filter; tcp dport 20000-20100 drop; }
}
";
const SSH: u16 = 22;
const FLOODED: u16 = 9000;
const OTHERS: u16 = 8080;

#[test]
fn one_device_does_not_fill_the_table_of_connections() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-table")?;
    let server = world.join("box", "--kind server --delegate 80")?;
    let laptop = world.join("laptop", "")?;
    let vps = world.host("vps")?;
    let ssh = listen(&vps, at(PUBLIC4, SSH))?;
    world.adit(&format!("forward add {FLOODED} box"))?;
    world.adit(&format!("pinhole add box {FLOODED}"))?;
    world.adit(&format!("forward add {OTHERS} laptop"))?;
    let behind = delegated(&server)?;
    let others = Others {
        world: &world,
        laptop: &laptop,
        ssh,
        web: listen(&laptop.host, at(laptop.ipv4, OTHERS))?,
        far: listen(&world.host("internet")?, at(INTERNET4, 7000))?,
    };
    others.all_connect(10).context("before")?;
    // A refused connection would be forgotten at once.
    world
        .host("internet")?
        .exec_with_input(["nft", "-f", "-"], SILENT)?;
    let mut findings = Findings::default();

    let inside = Injector::new(&server.host, &server.interface)?;
    let own4 = server.ipv4;
    let own6 = server.ipv6()?;
    let outside = Injector::new(&world.host("stranger")?, "eth0")?;
    let floods: [(&str, Flood<'_>); 6] = [
        (
            "UDP out, IPv4",
            Box::new(|number| inside.send(&udp4(from4(own4, number), to4(number), b"flood"))),
        ),
        (
            "SYN out, IPv4",
            Box::new(|number| inside.send(&syn4(from4(own4, number), to4(number)))),
        ),
        (
            "UDP out, IPv6",
            Box::new(|number| inside.send(&udp6(from6(own6, number), to6(number), b"flood"))),
        ),
        (
            "UDP out, a delegated prefix",
            Box::new(|number| {
                let source = Ipv6Addr::from(u128::from(behind) + u128::from(number % 40_000));
                inside.send(&udp6(from6(source, number), to6(number), b"flood"))
            }),
        ),
        (
            "UDP in, through a forward",
            Box::new(|number| {
                let to = SocketAddrV4::new(PUBLIC4, FLOODED);
                outside.send(&udp4(from4(STRANGER4, number), to, b"flood"))
            }),
        ),
        (
            "UDP in, through a pinhole",
            Box::new(|number| {
                let to = SocketAddrV6::new(own6, FLOODED, 0, 0);
                outside.send(&udp6(from6(STRANGER6, number), to, b"flood"))
            }),
        ),
    ];
    for (name, flood) in &floods {
        forget(&vps)?;
        findings.check(name, flooded(name, &vps, flood, &others));
    }
    findings.conclude()
}

type Flood<'a> = Box<dyn Fn(u64) -> Result<()> + Sync + 'a>;

/// Floods for a time during which the others connect, a hundred times each.
fn flooded(name: &str, vps: &Host, flood: &Flood<'_>, others: &Others<'_>) -> Result<()> {
    let before = tracked(vps)?;
    let ends = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let began = Instant::now();
    let least = Duration::from_secs(if is_soak() { 20 } else { 3 });
    let outcome = thread::scope(|scope| {
        let flooder = scope.spawn(|| -> Result<()> {
            while !ends.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                flood(number)?;
                let due = began + PACE * u32::try_from(number)?;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(())
        });
        let outcome = (|| {
            let worst = others.all_connect(100)?;
            thread::sleep(least.saturating_sub(began.elapsed()));
            anyhow::Ok((worst, tracked(vps)?))
        })();
        ends.store(true, Ordering::Relaxed);
        flooder.join().ok().context("the flooder panicked")??;
        outcome
    });
    let (worst, now) = outcome?;
    let sent = sent.into_inner();
    Findings::note(&format!(
        "{name}: {sent} new connections in {:.0?}: {before} tracked before, {now} after; of SSH, the API, another \
         device out and in 100 of 100 connected, the slowest in {worst:.0?}",
        began.elapsed()
    ));
    ensure!(
        sent > 4 * LIMIT,
        "only {sent} were sent: too few to tell anything"
    );
    ensure!(
        now > LIMIT / 2,
        "only {now} are tracked: the flood did not arrive"
    );
    // The others made 300 and a few.
    ensure!(now < before + LIMIT + 1000, "{now} are tracked");
    Ok(())
}

/// Forgets all connections, until no more packets of the flood before come out of the queues on the way.
fn forget(vps: &Host) -> Result<()> {
    wait_until("the end of a flood", Duration::from_secs(30), || {
        vps.exec(["conntrack", "-F"])?;
        thread::sleep(Duration::from_millis(500));
        Ok(tracked(vps)? < 100)
    })
}

fn tracked(vps: &Host) -> Result<u64> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    let count = vps.enter(|| fs::read_to_string(path))?;
    Ok(count.context(path)?.trim().parse()?)
}

/// Whom the flood must not concern.
struct Others<'a> {
    world: &'a World,
    laptop: &'a Device,
    ssh: TcpListener,
    web: TcpListener,
    far: TcpListener,
}

impl Others<'_> {
    /// All connect so many times, or it is an error; returns the longest time that one took.
    fn all_connect(&self, times: usize) -> Result<Duration> {
        let internet = self.world.host("internet")?;
        let client = Client::unix(&self.world.gateway.runtime_dir().join("adit.sock"));
        let runtime = Runtime::new()?;
        let mut worst = Duration::ZERO;
        let mut timed = |name: &str, number: usize, attempt: &dyn Fn() -> Result<()>| {
            let began = Instant::now();
            let outcome = attempt().with_context(|| format!("{name}, {number} of {times}"));
            worst = worst.max(began.elapsed());
            outcome
        };
        for number in 1..=times {
            timed("SSH", number, &|| {
                converse(&internet, None, at(PUBLIC4, SSH), &self.ssh)?;
                Ok(())
            })?;
            timed("another device, out", number, &|| {
                converse(&self.laptop.host, None, at(INTERNET4, 7000), &self.far)?;
                Ok(())
            })?;
            timed("another device, in", number, &|| {
                converse(&internet, None, at(PUBLIC4, OTHERS), &self.web)?;
                Ok(())
            })?;
            timed("the API", number, &|| {
                runtime.block_on(client.status())?;
                Ok(())
            })?;
        }
        Ok(worst)
    }
}

/// Every port as source, again and again, each time towards another port.
fn from4(address: Ipv4Addr, number: u64) -> SocketAddrV4 {
    SocketAddrV4::new(address, port(number))
}

fn to4(number: u64) -> SocketAddrV4 {
    SocketAddrV4::new(INTERNET4, far_port(number))
}

fn from6(address: Ipv6Addr, number: u64) -> SocketAddrV6 {
    SocketAddrV6::new(address, port(number), 0, 0)
}

fn to6(number: u64) -> SocketAddrV6 {
    SocketAddrV6::new(INTERNET6, far_port(number), 0, 0)
}

fn port(number: u64) -> u16 {
    u16::try_from(1024 + number % 60_000).unwrap_or(u16::MAX)
}

fn far_port(number: u64) -> u16 {
    u16::try_from(20_000 + number / 60_000).unwrap_or(u16::MAX)
}

fn delegated(device: &Device) -> Result<Ipv6Addr> {
    let list = device.answer["device"]["delegations"].as_array();
    let prefix = list
        .and_then(|list| list.first())
        .and_then(serde_json::Value::as_str)
        .context("delegations")?;
    let (address, _) = prefix.split_once('/').context("a prefix")?;
    Ok(address.parse()?)
}
