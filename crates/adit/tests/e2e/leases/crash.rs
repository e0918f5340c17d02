//! Leases over the death of the daemon, and while the kernel takes nothing: what was answered is there.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use adit_lab::{Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{SHORT, SOON, granted, leases, pcp, refused};
use crate::support::{
    Faults, Findings, PUBLIC4, World, at, binary, connect, converse, dataplane, listen, oracle,
};

#[test]
fn leases_outlive_the_daemon() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-kill")?;
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    let mut told = Vec::new();
    for port in 7000..7020 {
        told.push(granted(
            &server,
            json!({"internal": port, "external": port}),
        )?);
    }
    let web = listen(&server.host, at(server.ipv4, 7019))?;
    let before = leases(&world)?;
    world.gateway.kill()?;
    converse(&internet, None, at(PUBLIC4, 7019), &web)?;
    world.gateway.start()?;
    let after = leases(&world)?;
    ensure!(before.len() == 20 && after.len() == 20, "{after:?}");
    for (old, new) in before.iter().zip(&after) {
        let left = |lease: &Value| lease["expires_in"].as_u64().unwrap_or_default();
        ensure!(
            old["id"] == new["id"] && old["external"] == new["external"],
            "{old} became {new}"
        );
        ensure!(
            left(new) + 60 >= left(old) && left(new) <= 3600 + 900,
            "{old} became {new}"
        );
    }
    converse(&internet, None, at(PUBLIC4, 7019), &web)?;
    let mut again = Value::Null;
    wait_until("an answer after the restart", SOON, || {
        again = pcp(&server, json!({"internal": 7005, "timeout": 1}))?;
        Ok(again["result"] == 0)
    })?;
    ensure!(again["external"] == 7005, "{again}");
    let (first, last) = (told[0]["epoch"].as_u64(), again["epoch"].as_u64());
    ensure!(
        first.is_some() && last >= first,
        "the epoch went from {first:?} to {last:?}"
    );
    Ok(())
}

/// The interface comes back with the dataplane, and is another one of the same name.
#[test]
fn devices_are_heard_on_a_new_interface() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-interface")?;
    let server = world.join("box", "--kind server")?;
    let ipv6 = json!({
        "server": world.list("subnet")?[0]["gateway_ipv6"], "source": server.ipv6()?, "internal": 7001,
        "timeout": 1,
    });
    let wishes = [json!({"internal": 7000, "timeout": 1}), ipv6];
    for wish in &wishes {
        granted(&server, wish.clone())?;
    }
    let process = dataplane(world.gateway.interface())?;
    kill(Pid::from_raw(process), Signal::SIGKILL)?;
    for wish in &wishes {
        wait_until("an answer on the new interface", SOON, || {
            let answer = pcp(&server, wish.clone())?;
            Ok(answer["result"] == 0)
        })?;
    }
    let daemon = world.gateway.process_id()?.context("the daemon runs")?;
    let mut readers = 0;
    for thread in fs::read_dir(format!("/proc/{daemon}/task"))? {
        let name = fs::read_to_string(thread?.path().join("comm"))?;
        readers += u32::from(name.trim() == "ports");
    }
    ensure!(readers == 2, "{readers} threads read");
    Ok(())
}

/// Asks for one port after the other, and says which were granted: an answer is there only if its line is whole.
const FLOOD: &str = r"
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 0))
sock.settimeout(0.5)
own = b'\0' * 10 + b'\xff\xff' + socket.inet_aton(sys.argv[1])
none = b'\0' * 10 + b'\xff\xff' + bytes(4)
first, last, window = map(int, sys.argv[2:5])
asked = first
def ask(port):
    sock.sendto(struct.pack('!BBHI', 2, 1, 0, 3600) + own + b'\1' * 12
                + struct.pack('!B3xHH', 6, port, port) + none, ('10.59.0.1', 5351))
while asked < min(first + window, last):
    ask(asked)
    asked += 1
got = 0
while got < last - first:
    try:
        answer = sock.recv(2000)
    except OSError:
        break
    got += 1
    if answer[3] == 0:
        print(*struct.unpack('!HH', answer[40:44]), flush=True)
    if asked < last:
        ask(asked)
        asked += 1
";

/// How many questions are on the way at a time.
const WINDOW: usize = 32;

/// How many answers are waited for before each kill.
const ANSWERS: [usize; 5] = [150, 260, 190, 240, 220];

/// How many ports are asked for between two kills: more than are answered before.
const ASKED: u16 = 400;

/// What was answered is there after each kill. What was not asked is not: besides what was answered there is at the most what was
/// on the way when the daemon died, since a lease may be on the disk and its answer not yet on the line.
#[test]
fn a_crash_loses_no_lease_that_was_answered() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-crash")?;
    let server = world.join("box", "--kind server")?;
    world.adit("device set box --lease-quota 4000 --request-rate 100000")?;
    let source = server.ipv4.to_string();
    let mut answered = BTreeSet::new();
    let mut unanswered = 0;
    let mut first = 2000;
    for (kill, least) in (1..).zip(ANSWERS) {
        let last = first + ASKED;
        let (start, end, window) = (first.to_string(), last.to_string(), WINDOW.to_string());
        let words = ["python3", "-c", FLOOD, &source, &start, &end, &window];
        let mut asking = server.host.spawn(words)?;
        let what = format!("{least} answers before kill {kill}");
        wait_until(&what, Duration::from_secs(60), || {
            Ok(asking.stdout()?.lines().count() >= least)
        })?;
        world.gateway.kill()?;
        asking.wait(SOON)?;
        let told = asking.stdout()?;
        ensure!(
            told.lines().count() < usize::from(ASKED),
            "all was answered before the kill"
        );
        for line in told.lines() {
            let (internal, external) = line.split_once(' ').context("a line")?;
            answered.insert((internal.parse::<u16>()?, external.parse::<u16>()?));
        }
        world.gateway.start()?;
        let there: BTreeSet<(u16, u16)> = leases(&world)?
            .iter()
            .map(|lease| {
                let port = |name: &str| lease[name].as_str()?.rsplit(':').next()?.parse().ok();
                let pair = port("internal").zip(port("external"));
                pair.with_context(|| format!("the ports of {lease}"))
            })
            .collect::<Result<_>>()?;
        let lost: Vec<_> = answered.difference(&there).collect();
        ensure!(
            lost.is_empty(),
            "kill {kill}: {lost:?} were answered and are not there"
        );
        let more: Vec<_> = there.difference(&answered).copied().collect();
        ensure!(
            more.len() <= unanswered + WINDOW
                && more
                    .iter()
                    .all(|(internal, _)| (2000..last).contains(internal)),
            "kill {kill}: {more:?} are there, and {unanswered} were before"
        );
        unanswered = more.len();
        oracle::check(&world)?;
        first = last;
    }
    ensure!(
        answered.len() >= 1000,
        "only {} were answered before the kills",
        answered.len()
    );
    Findings::note(&format!(
        "figure: {} leases were answered before {} kills, all of them are there, and {unanswered} that were on the way",
        answered.len(),
        ANSWERS.len()
    ));
    Ok(())
}

/// While the kernel takes no rules nobody is told that a port is open or closed that is not, however often they ask; and who had
/// one renews it.
#[test]
fn what_the_kernel_does_not_take_is_not_granted() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-leases-untaken")?;
    let mut gateway = lab.gateway(binary())?;
    let faults = Faults::install(&mut gateway)?;
    gateway.start()?;
    let world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    let wish = |port: u16| json!({"internal": port, "external": port, "timeout": 5});
    for port in [7100, 7101] {
        granted(&server, wish(port))?;
    }
    faults.plan("EBUSY nft/load\nEBUSY nft/update")?;
    let mut end = wish(7101);
    end["lifetime"] = json!(0);
    let mut findings = Findings::default();
    for time in ["first", "second", "third"] {
        // NETWORK_FAILURE.
        let told = refused(&server, wish(7102), 7);
        findings.check(&format!("a port asked for the {time} time"), told.map(drop));
        let told = refused(&server, end.clone(), 7);
        findings.check(&format!("the end of one the {time} time"), told.map(drop));
        let told = granted(&server, wish(7100));
        findings.check(&format!("what is there, the {time} time"), told.map(drop));
    }
    let web = listen(&server.host, at(server.ipv4, 7102))?;
    let early = connect(&internet, None, at(PUBLIC4, 7102), SHORT);
    ensure!(early.is_err(), "the kernel has the port");
    faults.clear()?;
    wait_until("the port is granted", SOON, || {
        granted(&server, wish(7102))?;
        Ok(true)
    })?;
    converse(&internet, None, at(PUBLIC4, 7102), &web)?;
    granted(&server, end)?;
    ensure!(leases(&world)?.len() == 2, "{:?}", leases(&world)?);
    findings.conclude()
}
