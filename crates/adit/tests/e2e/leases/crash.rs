//! Leases over the death of the daemon: what was answered is there.

use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{SOON, granted, leases, pcp};
use crate::support::{Findings, PUBLIC4, World, at, converse, listen};

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

/// Whatever was answered is there after a crash, and what was not asked is not.
#[test]
fn a_crash_loses_no_lease_that_was_answered() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-crash")?;
    let server = world.join("box", "--kind server")?;
    world.adit("device set box --lease-quota 2000 --request-rate 100000")?;
    let source = server.ipv4.to_string();
    let mut answered = 0;
    for (first, pause) in [(2000, 500), (2400, 800), (2800, 1200)] {
        let (start, end) = (first.to_string(), (first + 400).to_string());
        let asking = std::thread::spawn({
            let (host, source) = (server.host.clone(), source.clone());
            move || host.exec(["python3", "-c", FLOOD, &source, &start, &end, "32"])
        });
        std::thread::sleep(Duration::from_millis(pause));
        world.gateway.kill()?;
        let told = asking.join().map_err(|_| anyhow::anyhow!("the client"))??;
        world.gateway.start()?;
        let leases = leases(&world)?;
        let there: std::collections::BTreeSet<(u64, u64)> = leases
            .iter()
            .filter_map(|lease| {
                let port = |name: &str| lease[name].as_str()?.rsplit(':').next()?.parse().ok();
                Some((port("internal")?, port("external")?))
            })
            .collect();
        for line in told.stdout.lines() {
            let (internal, external) = line.split_once(' ').context("a line")?;
            let pair = (internal.parse()?, external.parse()?);
            ensure!(
                there.contains(&pair),
                "{line} was answered and is not there"
            );
            answered += 1;
        }
        for (internal, _) in &there {
            ensure!(
                (2000..first + 400).contains(internal),
                "nobody asked for {internal}"
            );
        }
        world.gateway.adit_json(["plan"])?;
    }
    ensure!(
        answered > 50,
        "only {answered} were answered before the crashes"
    );
    Findings::note(&format!(
        "{answered} leases were answered before three crashes"
    ));
    Ok(())
}
