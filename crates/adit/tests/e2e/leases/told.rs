//! What devices are told of their ports without having asked.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use adit_lab::{Process, wait_until};
use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{GATEWAY4, granted, leases, refused};
use crate::support::{Device, Findings, PUBLIC4, World, at, converse, listen};

/// Tells the datagrams that come to the port of clients, each with its source, as JSON.
const HEAR: &str = r"
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 5350))
end = time.time() + 20
heard = []
while time.time() < end and len({line[1][:4] for line in heard}) < 2:
    sock.settimeout(max(0.1, end - time.time()))
    try:
        datagram, source = sock.recvfrom(2000)
    except OSError:
        break
    heard.append([source[0], datagram.hex()])
print(json.dumps(heard))
";

/// What a device hears at the port of clients: who said it, and what.
type Heard = Vec<(String, String)>;

/// Listens until an announcement of each protocol came.
fn hear(server: &Device) -> Result<JoinHandle<Result<Heard>>> {
    let (host, source) = (server.host.clone(), server.ipv4.to_string());
    let hearing = thread::spawn(move || {
        let told = host.exec(["python3", "-c", HEAR, &source])?;
        Ok(serde_json::from_str(&told.stdout)?)
    });
    thread::sleep(Duration::from_secs(1));
    Ok(hearing)
}

/// The epoch and the address that were announced.
fn announced(hearing: JoinHandle<Result<Heard>>) -> Result<(u64, Ipv4Addr)> {
    let heard = hearing.join().map_err(|_| anyhow!("the listener"))??;
    ensure!(
        heard.iter().all(|(source, _)| source == GATEWAY4),
        "told by others: {heard:?}"
    );
    // RFC 6887 section 14.1: version 2, ANNOUNCE with the response bit, result 0. RFC 6886 section 3.2.1: version 0, opcode 128,
    // result 0, the epoch, the address.
    let find = |prefix: &str, place: Range<usize>| -> Result<u32> {
        let announced = heard.iter().find(|(_, text)| text.starts_with(prefix));
        let field = announced.and_then(|(_, text)| text.get(place));
        let field = field.with_context(|| format!("no {prefix} in {heard:?}"))?;
        Ok(u32::from_str_radix(field, 16)?)
    };
    let epoch = find("02800000", 16..24)?;
    Ok((epoch.into(), find("00800000", 16..24)?.into()))
}

/// Another public address: devices with ports are told, in both protocols, and the epoch begins anew.
#[test]
fn devices_are_told_of_another_address() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-address")?;
    let server = world.join("box", "--kind server")?;
    thread::sleep(Duration::from_secs(3));
    let before = granted(&server, json!({"internal": 7300, "external": 7300}))?;
    let hearing = hear(&server)?;
    world.adit("uplink set eth0 --advertised 198.18.99.99")?;
    let (epoch, address) = announced(hearing)?;
    ensure!(
        address == Ipv4Addr::new(198, 18, 99, 99),
        "{address} is told"
    );
    let after = granted(&server, json!({"internal": 7300}))?;
    ensure!(
        after["address"] == "198.18.99.99" && after["external"] == 7300,
        "{after}"
    );
    begins_anew(&before, epoch, &after)
}

fn begins_anew(before: &Value, told: u64, after: &Value) -> Result<()> {
    let counted = |answer: &Value| answer["epoch"].as_u64().context("an epoch");
    ensure!(
        told < counted(before)? && told <= counted(after)? && counted(after)? < told + 30,
        "the epoch went from {before} by {told} to {after}"
    );
    Ok(())
}

/// A backup takes the place of the state. The port that came after it is gone, and who had it is told, although nothing that is
/// there says that it ever had one.
#[test]
fn devices_are_told_that_leases_are_lost() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-restored")?;
    let server = world.join("box", "--kind server")?;
    let file = world.lab.folder().join("before.adit");
    world.adit(&format!("backup {}", file.display()))?;
    thread::sleep(Duration::from_secs(8));
    let before = granted(&server, json!({"internal": 7310, "external": 7310}))?;
    let hearing = hear(&server)?;
    world.adit(&format!("restore --yes {}", file.display()))?;
    ensure!(leases(&world)?.is_empty(), "{:?}", leases(&world)?);
    let (epoch, address) = announced(hearing)?;
    ensure!(address == PUBLIC4, "{address} is told");
    let after = granted(&server, json!({"internal": 7310}))?;
    begins_anew(&before, epoch, &after)
}

const HEARING: &str = include_str!("hearing.py");
const NONCE: &str = "0a0b0c0d0e0f101112131415";

/// A program that asked for a port, and hears what comes.
struct Hearing {
    process: Process,
    wish: Value,
}

impl Hearing {
    fn start(device: &Device, mechanism: &str, internal: u16, exact: bool) -> Result<Self> {
        let wish = json!({
            "server": GATEWAY4, "source": device.ipv4, "mechanism": mechanism, "protocol": 6,
            "internal": internal, "nonce": NONCE, "exact": exact,
        });
        Self::of(device, wish)
    }

    fn of(device: &Device, wish: Value) -> Result<Self> {
        let process = device
            .host
            .spawn(["python3", "-c", HEARING, &wish.to_string()])?;
        let hearing = Self { process, wish };
        hearing.wait_for(1)?;
        Ok(hearing)
    }

    /// All that came, the answer first.
    fn told(&self) -> Result<Vec<Value>> {
        let text = self.process.stdout()?;
        let whole = text.lines().filter(|line| line.ends_with('}'));
        Ok(whole.map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// So many, at least.
    fn wait_for(&self, count: usize) -> Result<Vec<Value>> {
        let waited = wait_until("something that is told", Duration::from_secs(30), || {
            Ok(self.told()?.len() >= count)
        });
        waited.with_context(|| format!("told: {:?}, {:?}", self.told(), self.process.stderr()))?;
        self.told()
    }

    /// The update as it came to the socket that asked, three times (RFC 6887 section 14.2).
    fn update(&self) -> Result<Value> {
        let told = self.wait_for(4)?;
        thread::sleep(Duration::from_millis(1200));
        ensure!(self.told()?.len() == 4, "told: {:?}", self.told());
        let times: Vec<f64> = told.iter().filter_map(|it| it["at"].as_f64()).collect();
        // A quarter and a half of a second, as far as the clock of who hears them can tell.
        for (index, least) in [(1, 0.1), (2, 0.25)] {
            let gap = times[index + 1] - times[index];
            ensure!(gap >= least, "a gap of {gap} s");
        }
        for update in &told[1..] {
            ensure!(
                update["by"] == self.wish["server"]
                    && update["to"] == "asking"
                    && update["opcode"] == 0x81
                    && update["nonce"] == NONCE
                    && update["internal"] == self.wish["internal"]
                    && update["protocol"] == self.wish["protocol"]
                    && update["result"] == told[1]["result"]
                    && update["external"] == told[1]["external"],
                "{update} after {}",
                told[0]
            );
        }
        Ok(told[1].clone())
    }
}

/// The best default route is by another uplink, and all uplinks are as they were: ports have the other address then, of which
/// clients of both protocols are told.
#[test]
fn devices_are_told_of_another_uplink() -> Result<()> {
    let world = World::with_subnet("two-uplinks", "e2e-leases-uplink")?;
    let server = world.join("box", "--kind server")?;
    let vps = world.host("vps")?;
    let second = Ipv4Addr::new(198, 18, 2, 2);
    thread::sleep(Duration::from_secs(5));
    let hearing = Hearing::start(&server, "pcp", 7320, false)?;
    let before = hearing.told()?[0].clone();
    ensure!(before["address"] == PUBLIC4.to_string(), "{before}");
    let routes = "route add default via 203.0.113.1 dev eth0 metric 300\n\
                  route del default via 203.0.113.1 dev eth0 metric 0\n";
    vps.exec_with_input(["ip", "-batch", "-"], routes)?;
    let mut told = Vec::new();
    let is_told = |told: &[Value]| {
        let is_new = |it: &&Value| it["address"] == second.to_string();
        let mut clients = told.iter().filter(|it| it["to"] == "clients");
        let update = told.iter().find(|it| it["to"] == "asking" && is_new(it));
        let announcement = clients.clone().find(|it| it["opcode"] == 0x80);
        update.is_some_and(|it| it["result"] == 0 && it["external"] == 7320)
            && announcement.is_some_and(|it| it["epoch"].as_u64() < before["epoch"].as_u64())
            && clients.any(|it| is_new(&it))
    };
    let waited = wait_until("all that is told", Duration::from_secs(20), || {
        told = hearing.told()?;
        Ok(is_told(&told))
    });
    waited.with_context(|| format!("{told:?}"))?;
    let web = listen(&server.host, at(server.ipv4, 7320))?;
    converse(&world.host("internet")?, None, at(second, 7320), &web)?;
    Ok(())
}

/// What the gateway changes of a lease is told to who asked for it, as an answer to the request would be.
#[test]
fn devices_are_told_what_became_of_their_mappings() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-update")?;
    let server = world.join("box", "--kind server")?;
    let mut findings = Findings::default();
    findings.check("removed", removed(&world, &server));
    findings.check("not theirs to have", out_of_policy(&world, &server));
    findings.check("a lower quota", over_the_quota(&world, &server));
    findings.check("another address", at_another_address(&world, &server));
    findings.check("a service of the host", taken_by_a_service(&world, &server));
    findings.check("all protocols", whole_address(&world, &server));
    findings.check("NAT-PMP", not_by_nat_pmp(&world, &server));
    findings.conclude()
}

fn remove(world: &World, internal: &str) -> Result<()> {
    let id = world.id("lease", &json!({"internal": internal}))?;
    world.adit(&format!("lease remove {id}"))?;
    Ok(())
}

fn removed(world: &World, server: &Device) -> Result<()> {
    let hearing = Hearing::start(server, "pcp", 8700, false)?;
    remove(world, &format!("{}:8700", server.ipv4))?;
    let update = hearing.update()?;
    // NOT_AUTHORIZED, for as long as such an error holds.
    ensure!(
        update["result"] == 2 && update["lifetime"] == 1800 && update["external"] == 0,
        "{update}"
    );
    let hearing = Hearing::start(server, "pcp", 8701, false)?;
    granted(
        server,
        json!({"internal": 8701, "nonce": NONCE, "lifetime": 0}),
    )?;
    thread::sleep(Duration::from_secs(1));
    ensure!(
        hearing.told()?.len() == 1,
        "what a device ended itself is told: {:?}",
        hearing.told()
    );
    Ok(())
}

fn out_of_policy(world: &World, server: &Device) -> Result<()> {
    let hearing = Hearing::start(server, "pcp", 8702, false)?;
    world.adit("device set box --auto-port-range 20000-20100")?;
    let update = hearing.update()?;
    // It is gone, and another can be had.
    ensure!(
        update["result"] == 0 && update["lifetime"] == 0 && update["external"] == 8702,
        "{update}"
    );
    world.adit("device set box --kind client")?;
    world.adit("device set box --kind server")?;
    let hearing = Hearing::start(server, "pcp", 8703, false)?;
    world.adit("device set box --kind client")?;
    let update = hearing.update()?;
    ensure!(
        update["result"] == 2 && update["lifetime"] == 1800,
        "{update}"
    );
    world.adit("device set box --kind server")?;
    Ok(())
}

fn over_the_quota(world: &World, server: &Device) -> Result<()> {
    granted(server, json!({"internal": 8709}))?;
    let hearing = Hearing::start(server, "pcp", 8710, false)?;
    world.adit("device set box --lease-quota 1")?;
    let update = hearing.update()?;
    // USER_EX_QUOTA, short as such an error is, for what came last.
    ensure!(
        update["result"] == 10 && update["lifetime"] == 30 && update["external"] == 0,
        "{update}"
    );
    let left = leases(world)?;
    ensure!(left.len() == 1, "{left:?}");
    remove(world, &format!("{}:8709", server.ipv4))?;
    world.adit("device set box --lease-quota 256")?;
    Ok(())
}

fn at_another_address(world: &World, server: &Device) -> Result<()> {
    let hearing = Hearing::start(server, "pcp", 8704, false)?;
    let before = hearing.told()?[0]["epoch"].as_u64();
    let exact = json!({"internal": 8705, "external": 8705, "options": [[2, ""]]});
    granted(server, exact)?;
    world.adit("uplink set eth0 --advertised 198.18.99.99")?;
    // The announcements go to the port of clients, and the updates to who asked.
    let mut updates = Vec::new();
    wait_until("the updates", Duration::from_secs(30), || {
        let told = hearing.told()?;
        let asked = told.into_iter().skip(1).filter(|it| it["to"] == "asking");
        updates = asked.collect();
        Ok(updates.len() == 3)
    })?;
    for update in &updates {
        let lifetime = update["lifetime"].as_u64().context("a lifetime")?;
        ensure!(
            update["result"] == 0
                && update["address"] == "198.18.99.99"
                && update["external"] == 8704
                && update["nonce"] == NONCE
                && (3500..=3600).contains(&lifetime)
                && update["epoch"].as_u64() < before,
            "{update} after the epoch {before:?}"
        );
    }
    world.adit(&format!("uplink set eth0 --advertised {PUBLIC4}"))?;
    for port in [8704, 8705] {
        remove(world, &format!("{}:{port}", server.ipv4))?;
    }
    Ok(())
}

fn taken_by_a_service(world: &World, server: &Device) -> Result<()> {
    let vps = world.host("vps")?;
    let exact = Hearing::start(server, "pcp", 8707, true)?;
    let update_of = |hearing: &Hearing, before: usize| -> Result<Value> {
        let mut found = Value::Null;
        wait_until("an update", Duration::from_secs(90), || {
            let told = hearing.told()?;
            let mut asked = told.into_iter().filter(|it| it["to"] == "asking");
            found = asked.nth(before).unwrap_or(Value::Null);
            Ok(found.is_object())
        })?;
        Ok(found)
    };
    // A socket sends no event, and what does has the host looked at.
    let look = || -> Result<()> {
        vps.exec("ip route add 192.0.2.77 dev eth0".split(' '))?;
        vps.exec("ip route delete 192.0.2.77 dev eth0".split(' '))?;
        Ok(())
    };
    let service = listen(&vps, at(PUBLIC4, 8707))?;
    look()?;
    // CANNOT_PROVIDE_EXTERNAL, since nothing else would do.
    let update = update_of(&exact, 1)?;
    ensure!(update["result"] == 11, "{update}");
    drop(service);
    look()?;
    let update = update_of(&exact, 4)?;
    let lifetime = update["lifetime"].as_u64().context("a lifetime")?;
    ensure!(
        update["result"] == 0 && update["external"] == 8707 && (3400..=3600).contains(&lifetime),
        "{update}"
    );
    drop(exact);
    let hearing = Hearing::start(server, "pcp", 8706, false)?;
    let _service = listen(&vps, at(PUBLIC4, 8706))?;
    look()?;
    let update = update_of(&hearing, 1)?;
    // NETWORK_FAILURE is short: who asks again gets another port.
    ensure!(
        update["result"] == 7 && update["lifetime"] == 30,
        "{update}"
    );
    let moved = granted(server, json!({"internal": 8706, "nonce": NONCE}))?;
    ensure!(
        moved["external"] != 8706 && moved["lifetime"] == 3600,
        "{moved}"
    );
    let external = moved["external"].as_u64().context("a port")?;
    let web = listen(&server.host, at(server.ipv4, 8706))?;
    let internet = world.host("internet")?;
    converse(&internet, None, at(PUBLIC4, u16::try_from(external)?), &web)?;
    let exact = json!({"internal": 8706, "external": 8706, "nonce": NONCE, "options": [[2, ""]]});
    refused(server, exact, 11)?;
    remove(world, &format!("{}:8706", server.ipv4))?;
    remove(world, &format!("{}:8707", server.ipv4))?;
    Ok(())
}

fn whole_address(world: &World, server: &Device) -> Result<()> {
    world.adit("device set box --all-ports on")?;
    let wish = json!({
        "server": world.list("subnet")?[0]["gateway_ipv6"], "source": server.ipv6()?, "mechanism": "pcp",
        "protocol": 0, "internal": 0, "nonce": NONCE,
    });
    let hearing = Hearing::of(server, wish)?;
    let answer = &hearing.told()?[0];
    ensure!(answer["result"] == 0 && answer["protocol"] == 0, "{answer}");
    let lease = world.find("lease", &json!({"protocol": "all"}))?;
    world.adit(&format!("lease remove {}", lease["id"]))?;
    let update = hearing.update()?;
    ensure!(
        update["result"] == 2 && update["lifetime"] == 1800 && update["external"] == 0,
        "{update}"
    );
    world.adit("device set box --all-ports off")?;
    Ok(())
}

fn not_by_nat_pmp(world: &World, server: &Device) -> Result<()> {
    let hearing = Hearing::start(server, "nat-pmp", 8708, false)?;
    remove(world, &format!("{}:8708", server.ipv4))?;
    thread::sleep(Duration::from_secs(2));
    ensure!(
        hearing.told()?.len() == 1,
        "told of a lease of NAT-PMP: {:?}",
        hearing.told()
    );
    Ok(())
}
