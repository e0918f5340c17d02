//! A device floods, scans and sends everything that no program should send: the others do not notice, and neither does the
//! host.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use adit_lab::{Host, Process, wait_until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{
    Account, Capture, Device, Dialogue, Findings, INTERNET4, INTERNET6, Machine, PUBLIC4, PUBLIC6,
    Snapshot, World, at, connect, dataplane, is_soak, listen, probe, udp,
};

const PROGRAM: &str = include_str!("hostile/packets.py");
const PACE: Duration = Duration::from_millis(5);
const STREAM: u16 = 8080;

/// Every kind of packet several times over, and half of what the userspace WireGuard carries on two cores that it shares with both
/// ends of the tunnels.
const STEADY: u32 = 5_000;

/// As many as the sender can.
const LINE_RATE: u32 = 0;

pub(crate) const OWN_CORE: &str = "0";
pub(crate) const HOSTILE_CORE: &str = "1";

#[test]
fn a_hostile_device_troubles_nobody() -> Result<()> {
    let _machine = Machine::alone();
    let mut world = World::with_subnet("routed", "e2e-flood")?;
    let hostile = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    let vps = world.host("vps")?;
    let _services = [
        listen(&vps, "[::]:22".parse()?)?,
        listen(&vps, "[::]:8443".parse()?)?,
    ];
    let _datagrams = udp(&vps, "[::]:53".parse()?)?;
    world.adit(&format!("forward add {STREAM} laptop"))?;
    world.adit(&format!("pinhole add laptop {STREAM}"))?;
    let mut findings = Findings::default();

    let before = Load::of(&mut world)?;
    let kernel = Snapshot::of_all(&vps)?;
    let leaks = Capture::start_incoming(&world.host("edge")?, "vps", LEAKS)?;
    let seconds = if is_soak() { 60 } else { 5 };
    let accounts = flood(&world, &hostile, &laptop, STEADY, seconds)?;
    findings.check("others", few_lost(&accounts));
    findings.check("what leaves by the uplink", no_packets(&leaks));
    findings.check(
        "the host's kernel",
        kernel.ensure_same(&Snapshot::of_all(&vps)?),
    );
    findings.check("services of the host", all_closed(&world, &hostile));

    let overload = flood(&world, &hostile, &laptop, LINE_RATE, seconds)?;
    // A machine that is fast enough carries all of it, and one that is not has a limit by now, which keeps the socket from filling.
    if is_named(&world, "device box").is_err() {
        overwhelm(&world, &hostile, &laptop)?;
    }
    findings.check("who overloads it", is_named(&world, "device box"));
    separate(&mut world, &hostile)?;
    let apart = flood(&world, &hostile, &laptop, LINE_RATE, 3 * seconds)?;
    findings.check("others, at line rate", few_lost(&apart));
    findings.check("memory and logs", before.compare(&Load::of(&mut world)?));
    findings.check("afterwards", afterwards(&world, &laptop));
    world.gateway.kill()?;
    replace_by_plain_rules(&world, &laptop)?;
    let apart_control = flood(&world, &hostile, &laptop, LINE_RATE, seconds)?;
    unite(&world, &hostile)?;
    let control = flood(&world, &hostile, &laptop, LINE_RATE, seconds)?;
    Findings::note(&format!(
        "figure: others lose {:.2} % at {STEADY}/s of hostile packets; {:.2} % at line rate, {:.2} % without Adit; {:.1} % \
         when the sender takes the gateway's processors as well, {:.1} % without Adit",
        lost(&accounts),
        lost(&apart),
        lost(&apart_control),
        lost(&overload),
        lost(&control)
    ));
    findings.conclude()
}

/// What must not leave: to where nothing is routed, or with a source that is not ours.
const LEAKS: &str = "(ip and (dst net 127.0.0.0/8 or dst net 169.254.0.0/16 or dst net 224.0.0.0/4 or dst net 0.0.0.0/8 \
    or not src host 203.0.113.2)) or (ip6 and not src net 2001:db8:100:1::/64 and not src host 2001:db8:1::2 and not src \
    net fe80::/10)";

/// A device is another machine: it does not take the gateway's processor. What it sends is still received on its own.
fn separate(world: &mut World, hostile: &Device) -> Result<()> {
    let daemon = world.gateway.process_id()?.context("the daemon runs")?;
    let interface = world.gateway.interface();
    keep_to(&world.host("vps")?, daemon, OWN_CORE)?;
    keep_to(&world.host("vps")?, dataplane(interface)?, OWN_CORE)?;
    keep_to(&hostile.host, dataplane(&hostile.interface)?, HOSTILE_CORE)
}

fn unite(world: &World, hostile: &Device) -> Result<()> {
    let both = format!("{OWN_CORE},{HOSTILE_CORE}");
    let interface = world.gateway.interface();
    keep_to(&world.host("vps")?, dataplane(interface)?, &both)?;
    keep_to(&hostile.host, dataplane(&hostile.interface)?, &both)
}

pub(crate) fn keep_to(host: &Host, process: i32, cores: &str) -> Result<()> {
    let process = process.to_string();
    host.exec(["taskset", "-a", "-p", "-c", cores, &process])?;
    Ok(())
}

/// Through the tunnel: all kinds of packets.
fn flood(
    world: &World,
    hostile: &Device,
    laptop: &Device,
    rate: u32,
    seconds: u32,
) -> Result<Vec<Account>> {
    let (accounts, sent) = beside_streams(world, laptop, || send(hostile, laptop, rate, seconds))?;
    Findings::note(&format!(
        "{} packets of {} kinds, {} different, in {:.1} s",
        sent["sent"],
        sent["kinds"].as_object().map_or(0, serde_json::Map::len),
        sent["different"],
        sent["seconds"].as_f64().unwrap_or_default()
    ));
    ensure!(
        sent["sent"].as_u64() > sent["different"].as_u64(),
        "some kinds were not sent: {sent}"
    );
    Ok(accounts)
}

/// More arrives than the dataplane carries, on any machine: it stands still until its socket is full.
fn overwhelm(world: &World, hostile: &Device, laptop: &Device) -> Result<()> {
    const SECONDS: u32 = 6;
    let vps = world.host("vps")?;
    let process = Pid::from_raw(dataplane(world.gateway.interface())?);
    let mut sender = start_sending(hostile, laptop, LINE_RATE, SECONDS)?;
    let before = dropped(&vps)?;
    kill(process, Signal::SIGSTOP)?;
    let limit = Duration::from_secs(SECONDS.into());
    let full = wait_until("the socket is full", limit, || {
        Ok(dropped(&vps)? > before + 5_000)
    });
    kill(process, Signal::SIGCONT)?;
    full?;
    finish(&mut sender, SECONDS)?;
    Ok(())
}

/// How many datagrams the tunnel's socket had no room for.
fn dropped(vps: &Host) -> Result<u64> {
    let sockets = vps.exec(["cat", "/proc/net/udp", "/proc/net/udp6"])?;
    let ours = sockets
        .stdout
        .lines()
        .filter(|line| line.contains(":CA6C "));
    ours.map(|line| {
        Ok(line
            .split_whitespace()
            .last()
            .context("drops")?
            .parse::<u64>()?)
    })
    .sum()
}

/// Whoever sent more than the dataplane could carry.
fn is_named(world: &World, device: &str) -> Result<()> {
    let status = world.adit("status")?;
    let problems = status["problems"].as_array();
    let told = problems.into_iter().flatten().any(|problem| {
        problem["code"] == "dataplane-overloaded" && problem["message"].to_string().contains(device)
    });
    ensure!(told, "{status}");
    Ok(())
}

/// Streams of another device run while the hostile one sends; first they run alone.
fn beside_streams(
    world: &World,
    laptop: &Device,
    send: impl FnOnce() -> Result<Value>,
) -> Result<(Vec<Account>, Value)> {
    let internet = world.host("internet")?;
    let dialogues = [
        Dialogue::start(
            "in, IPv4",
            udp(&internet, at(INTERNET4, 0))?,
            at(PUBLIC4, STREAM),
            udp(&laptop.host, at(laptop.ipv4, STREAM))?,
            PACE,
        )?,
        Dialogue::start(
            "out, IPv4",
            udp(&laptop.host, at(laptop.ipv4, 0))?,
            at(INTERNET4, 7002),
            udp(&internet, at(INTERNET4, 7002))?,
            PACE,
        )?,
    ];
    thread::sleep(Duration::from_millis(300));
    let sent = send()?;
    thread::sleep(Duration::from_millis(300));
    dialogues.iter().for_each(Dialogue::end);
    let accounts = dialogues
        .into_iter()
        .map(Dialogue::stop)
        .collect::<Result<Vec<Account>>>()?;
    for account in &accounts {
        Findings::note(&format!(
            "another device, {}: {} sent, {} lost there, {} lost back; the sender was up to {:.0?} late",
            account.name,
            account.sent,
            account.lost_there.len(),
            account.lost_back.len(),
            account.latest
        ));
    }
    Ok((accounts, sent))
}

fn send(hostile: &Device, laptop: &Device, rate: u32, seconds: u32) -> Result<Value> {
    finish(&mut start_sending(hostile, laptop, rate, seconds)?, seconds)
}

fn start_sending(hostile: &Device, laptop: &Device, rate: u32, seconds: u32) -> Result<Process> {
    let targets = [
        "10.59.0.1".to_owned(),
        PUBLIC4.to_string(),
        laptop.ipv4.to_string(),
        INTERNET4.to_string(),
        "10.59.0.77".to_owned(),
        "2001:db8:100:1::a3b:1".to_owned(),
        PUBLIC6.to_string(),
        laptop.ipv6()?.to_string(),
        INTERNET6.to_string(),
        "2001:db8:100:1::77".to_owned(),
    ];
    let mut command = vec![
        "taskset".to_owned(),
        "-c".to_owned(),
        HOSTILE_CORE.to_owned(),
        "python3".to_owned(),
        "-c".to_owned(),
        PROGRAM.to_owned(),
        hostile.interface.clone(),
        seconds.to_string(),
        rate.to_string(),
        hostile.ipv4.to_string(),
        hostile.ipv6()?.to_string(),
    ];
    command.extend(targets);
    hostile.host.spawn(&command)
}

fn finish(sender: &mut Process, seconds: u32) -> Result<Value> {
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let status = sender.wait(limit)?;
    ensure!(status.success(), "{}", sender.stderr()?);
    Ok(serde_json::from_str(&sender.stdout()?)?)
}

/// In percent, of what was sent there and back.
fn lost(accounts: &[Account]) -> f64 {
    let sent: u32 = accounts.iter().map(|account| account.sent).sum();
    let lost: usize = accounts.iter().map(Account::lost).sum();
    100.0 * lost as f64 / f64::from(sent.max(1))
}

fn few_lost(accounts: &[Account]) -> Result<()> {
    for account in accounts {
        ensure!(
            account.sent > 500 && account.lost() * 100 < account.sent as usize,
            "{}: of {} packets {} were lost",
            account.name,
            account.sent,
            account.lost()
        );
    }
    Ok(())
}

fn no_packets(capture: &Capture) -> Result<()> {
    thread::sleep(Duration::from_millis(500));
    let text = capture.text()?;
    let first: Vec<&str> = text.lines().take(20).collect();
    ensure!(first.is_empty(), "the uplink's end sees {first:#?}");
    Ok(())
}

/// All ports, from inside, of all addresses of the gateway.
fn all_closed(world: &World, hostile: &Device) -> Result<()> {
    let ports = if is_soak() { 1..=65535 } else { 1..=9000 };
    let subnet = world.find("subnet", &json!({"name": "lan"}))?;
    let gateway6 = subnet["gateway_ipv6"].as_str().context("gateway_ipv6")?;
    let gateway6: IpAddr = gateway6.parse()?;
    let targets = [
        "10.59.0.1".parse()?,
        IpAddr::V4(PUBLIC4),
        gateway6,
        IpAddr::V6(PUBLIC6),
    ];
    let own = (hostile.ipv4, hostile.ipv6()?);
    for target in targets {
        let answers = probe(&hostile.host, own, &ports, 8_000, &[target])?;
        let entry = &answers[target.to_string()];
        ensure!(
            entry["sent"].as_u64() > Some(u64::from(*ports.end())),
            "the probes were not sent: {entry}"
        );
        // Fragments of the flood whose rest never came time out meanwhile, and whoever sent them is told so.
        let answered = |protocol: &str| {
            let mut kinds = entry[protocol].clone();
            if let Some(kinds) = kinds.as_object_mut() {
                kinds.retain(|kind, _| !["icmp 11/1", "icmpv6 3/1"].contains(&kind.as_str()));
            }
            kinds
        };
        let silent = answered("tcp") == json!({}) && answered("udp") == json!({});
        // Port 8080 of the public address leads to another device, as it does for everybody.
        let is_forward = target == IpAddr::V4(PUBLIC4);
        let refused = json!({"rst": 1});
        // A server asks for ports there.
        let is_asked = target == targets[0] || target == gateway6;
        let asked = entry["open"] == json!({"tcp": [5351], "udp": [5351]})
            && answered("tcp") == json!({"syn-ack": 1})
            && answered("udp") == json!({"datagram": 1});
        ensure!(
            silent && !is_asked
                || is_asked && asked
                || is_forward && answered("tcp") == refused && entry["open"]["tcp"] == json!([]),
            "{target} answers {entry}"
        );
    }
    Ok(())
}

/// What a flood could make grow.
struct Load {
    daemon: u64,
    dataplane: u64,
    log: usize,
    kernel_log: usize,
}

impl Load {
    fn of(world: &mut World) -> Result<Self> {
        let daemon = world.gateway.process_id()?.context("the daemon runs")?;
        let interface = world.gateway.interface();
        Ok(Self {
            daemon: resident(daemon)?,
            dataplane: resident(dataplane(interface)?)?,
            log: world.gateway.log()?.lines().count(),
            kernel_log: kernel_log()?,
        })
    }

    fn compare(&self, after: &Self) -> Result<()> {
        Findings::note(&format!(
            "resident memory before and after: daemon {} and {} KiB, dataplane {} and {} KiB; {} new lines in the log of \
             the daemon, {} in the kernel's",
            self.daemon,
            after.daemon,
            self.dataplane,
            after.dataplane,
            after.log - self.log,
            after.kernel_log.saturating_sub(self.kernel_log)
        ));
        ensure!(
            after.daemon < self.daemon + 16 * 1024,
            "the daemon grew from {} to {} KiB",
            self.daemon,
            after.daemon
        );
        ensure!(
            after.log < self.log + 20,
            "{} lines were logged",
            after.log - self.log
        );
        ensure!(
            after.kernel_log < self.kernel_log + 10,
            "the kernel logged {} lines",
            after.kernel_log - self.kernel_log
        );
        Ok(())
    }
}

fn resident(process: i32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("VmRSS")?.split_whitespace();
    Ok(words.take(1).collect::<String>().parse()?)
}

/// Lines about packets and connections; interfaces come and go beside.
fn kernel_log() -> Result<usize> {
    let output = Command::new("dmesg").output()?;
    ensure!(output.status.success(), "dmesg: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let about = [
        "nf_conntrack",
        "martian",
        "net_ratelimit",
        "ICMP",
        "TCP",
        "IPv4",
        "IPv6",
    ];
    Ok(text
        .lines()
        .filter(|line| about.iter().any(|word| line.contains(word)))
        .count())
}

fn afterwards(world: &World, laptop: &Device) -> Result<()> {
    wait_until("the limit is lifted", Duration::from_secs(30), || {
        Ok(world.adit("status")?["problems"] == json!([]))
    })?;
    let status = world.adit("status")?;
    ensure!(status["applied"] == true, "{status}");
    let internet = world.host("internet")?;
    let far = listen(&internet, at(INTERNET4, 7001))?;
    crate::support::converse(&laptop.host, None, at(INTERNET4, 7001), &far)?;
    let web = listen(&laptop.host, at(laptop.ipv4, STREAM))?;
    crate::support::converse(&internet, None, at(PUBLIC4, STREAM), &web)?;
    let vps = world.host("vps")?;
    connect(&internet, None, at(PUBLIC4, 22), Duration::from_secs(4))
        .with_context(|| format!("SSH on {}", vps.name()))?;
    Ok(())
}

/// The same tunnel with the least that forwards a port, in place of Adit.
fn replace_by_plain_rules(world: &World, laptop: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let rules = format!(
        "delete table inet adit
table inet adit_police {{}}
delete table inet adit_police
table ip plain {{
  chain in {{ type nat hook prerouting priority dstnat; ip daddr {PUBLIC4} udp dport {STREAM} dnat to {}; }}
  chain out {{ type nat hook postrouting priority srcnat; oifname eth0 masquerade; }}
}}
",
        laptop.ipv4
    );
    vps.exec_with_input(["nft", "-f", "-"], &rules)?;
    vps.exec(["conntrack", "-F"])?;
    Ok(())
}
