//! Ports that nobody gets: every one, by every way of asking.

use std::time::Duration;

use adit_lab::{Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{SHORT, SOON, leases};
use crate::support::{Device, PUBLIC4, World, at, binary, connect, converse, listen, udp};

const ASKING: &str = include_str!("asking.py");

const BOTH: &[&str] = &["tcp", "udp"];
const TCP: &[&str] = &["tcp"];
const UDP: &[&str] = &["udp"];

/// How many ports are asked for at once, the reserved one among them.
const SET: u64 = 4;

const API: u16 = 8443;

/// Ports by what they are for, with the protocols that they are reserved for.
const RESERVED: &[(&str, u16, &[&str])] = &[
    ("privileged", 1, BOTH),
    ("privileged", 22, BOTH),
    ("privileged", 80, BOTH),
    ("privileged", 443, BOTH),
    ("privileged", 1023, BOTH),
    ("a service on all addresses", 3333, TCP),
    ("a service on one address", 3334, TCP),
    ("a service on all IPv6 addresses", 3335, TCP),
    ("datagrams on all addresses", 3336, UDP),
    ("datagrams on one address", 3337, UDP),
    ("datagrams on all IPv6 addresses", 3338, UDP),
    ("searches for a gateway", 1900, UDP),
    ("clients of port control", 5350, UDP),
    ("port control", 5351, BOTH),
    ("WireGuard", 51820, UDP),
    ("the API", API, TCP),
    ("the first of outbound connections", 32768, BOTH),
    ("one of outbound connections", 40000, BOTH),
    ("the last of outbound connections", 49151, BOTH),
    ("a manual forward", 8200, BOTH),
    ("a manual forward of one protocol", 8201, TCP),
    ("the end of a manual range", 8219, BOTH),
    ("a lease of another", 8300, BOTH),
    ("a lease of another in one protocol", 8301, UDP),
];

/// Ways of asking, and what is answered where another port is no answer.
const WAYS: [(&str, u64); 6] = [
    ("pcp", 0),
    ("pcp-exact", 11),
    ("pcp-set", 0),
    ("nat-pmp", 0),
    ("upnp-add", 718),
    ("upnp-any", 0),
];

#[derive(Debug, Deserialize)]
struct Outcome {
    result: u64,
    external: u64,
    count: u64,
}

fn ask(device: &Device, wishes: &[Value]) -> Result<Vec<Outcome>> {
    let source = device.ipv4.to_string();
    let answer = device.host.exec_with_input(
        ["python3", "-c", ASKING, &source],
        &serde_json::to_string(wishes)?,
    )?;
    let outcomes: Vec<Outcome> = serde_json::from_str(&answer.stdout)?;
    ensure!(outcomes.len() == wishes.len(), "{answer}");
    Ok(outcomes)
}

#[test]
fn reserved_ports_are_nobodys() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "e2e-leases-reserved")?;
    let mut gateway = lab.gateway(binary())?;
    gateway.run_with(["--listen", &format!("[::]:{API}")]);
    gateway.start()?;
    let world = World::of(gateway, lab);
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "--kind server")?;
    let internet = world.host("internet")?;
    let vps = world.host("vps")?;
    world.adit("device set box --lease-quota 5000 --request-rate 100000")?;
    let services = [
        listen(&vps, "0.0.0.0:3333".parse()?)?,
        listen(&vps, at(PUBLIC4, 3334))?,
        listen(&vps, "[::]:3335".parse()?)?,
    ];
    let _datagrams = [
        udp(&vps, "0.0.0.0:3336".parse()?)?,
        udp(&vps, at(PUBLIC4, 3337))?,
        udp(&vps, "[::]:3338".parse()?)?,
    ];
    world.adit("forward add 8200 laptop")?;
    world.adit("forward add 8201/tcp laptop")?;
    world.adit("forward add 8210-8219 laptop")?;
    let theirs = |port: u16, protocol: &str| json!({"by": "pcp", "protocol": protocol, "internal": port, "external": port, "keep": true});
    let theirs = [
        theirs(8300, "tcp"),
        theirs(8300, "udp"),
        theirs(8301, "udp"),
    ];
    for outcome in ask(&laptop, &theirs)? {
        ensure!(
            outcome.result == 0 && [8300, 8301].contains(&outcome.external),
            "{outcome:?}"
        );
    }
    // A socket sends no event, and what does has the host looked at.
    vps.exec("ip route add 192.0.2.77 dev eth0".split(' '))?;
    let probe = json!({"by": "pcp-exact", "protocol": "udp", "internal": 9, "external": 3338});
    wait_until("a look at the host", SOON, || {
        Ok(ask(&server, std::slice::from_ref(&probe))?[0].result == 11)
    })?;

    let mut asked = Vec::new();
    let mut internal = 10_000_u16;
    for (purpose, port, protocols) in RESERVED {
        for protocol in *protocols {
            for (way, code) in WAYS {
                // The set ends with the port, or begins with it where there is nothing before.
                let is_set = way == "pcp-set" && *port > 4;
                let external = if is_set { port - 3 } else { *port };
                internal += 10;
                let wish = json!({
                    "by": way, "protocol": protocol, "internal": internal, "external": external,
                    "count": SET,
                });
                asked.push((purpose, *port, code, wish));
            }
        }
    }
    let wishes: Vec<Value> = asked.iter().map(|(.., wish)| wish.clone()).collect();
    let outcomes = ask(&server, &wishes)?;
    let mut wrong = Vec::new();
    for ((purpose, port, code, wish), outcome) in asked.iter().zip(&outcomes) {
        let given = outcome.external..outcome.external + outcome.count;
        let taken = given.clone().any(|given| {
            let number = |row: &&(&str, u16, &[&str])| u64::from(row.1) == given;
            let mut rows = RESERVED.iter().filter(number);
            rows.any(|row| row.2.iter().any(|it| wish["protocol"] == *it)) || given < 1024
        });
        let is_right = outcome.result == *code && (*code != 0 || !taken);
        if !is_right {
            wrong.push(format!(
                "{purpose}, {port}: {wish} is answered by {outcome:?}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let fulfilled = outcomes.iter().filter(|it| it.result == 0).count();
    ensure!(
        fulfilled * 6 == outcomes.len() * 4,
        "{fulfilled} of {} were fulfilled",
        outcomes.len()
    );

    // The companion of what others have by one protocol is not for NAT-PMP (RFC 6886 section 3.3), and for PCP it is.
    let companions = [(8201, "udp"), (8301, "tcp")];
    for (port, protocol) in companions {
        let wish =
            |by: &str| json!({"by": by, "protocol": protocol, "internal": 9999, "external": port});
        let outcomes = ask(&server, &[wish("nat-pmp"), wish("pcp-exact")])?;
        ensure!(
            outcomes[0].result == 0
                && outcomes[0].external != port
                && (outcomes[1].result, outcomes[1].external) == (0, port),
            "{port}: {outcomes:?}"
        );
    }
    // Whose the ports are has them.
    for (port, service) in [3333, 3334, 3335].into_iter().zip(&services) {
        converse(&internet, None, at(PUBLIC4, port), service)?;
    }
    let left = leases(&world)?;
    ensure!(
        left.len() == 3 && left.iter().all(|lease| lease["device"] == "laptop"),
        "{left:?}"
    );
    Ok(())
}

/// UPnP has no least time: what is asked for is given, and ends.
#[test]
fn a_short_time_is_kept_by_upnp_and_lengthened_by_pcp() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-leases-short")?;
    let server = world.join("box", "--kind server")?;
    let internet = world.host("internet")?;
    let of = |by: &str, port: u16| json!({"by": by, "protocol": "tcp", "internal": port, "external": port, "lifetime": 4, "keep": true});
    let ways = [
        ("upnp-add", 8401),
        ("upnp-any", 8402),
        ("nat-pmp", 8403),
        ("pcp", 8404),
    ];
    let wishes = ways.map(|(by, port)| of(by, port));
    let outcomes = ask(&server, &wishes)?;
    ensure!(outcomes.iter().all(|it| it.result == 0), "{outcomes:?}");
    let left = leases(&world)?;
    let least_of = |port: u16| -> Result<u64> {
        let internal = json!(format!("{}:{port}", server.ipv4));
        let lease = left.iter().find(|lease| lease["internal"] == internal);
        let lease = lease.with_context(|| format!("{port} in {left:?}"))?;
        lease["expires_in"].as_u64().context("expires_in")
    };
    for port in [8401, 8402, 8403] {
        ensure!(least_of(port)? <= 4, "{port}: {left:?}");
    }
    ensure!(least_of(8404)? > 100, "{left:?}");
    let webs = [8401, 8402].map(|port| listen(&server.host, at(server.ipv4, port)));
    for (port, web) in [8401, 8402].into_iter().zip(webs) {
        converse(&internet, None, at(PUBLIC4, port), &web?)?;
    }
    wait_until("the end of what is short", Duration::from_secs(10), || {
        Ok(leases(&world)?.len() == 1)
    })?;
    for port in [8401, 8402] {
        let late = connect(&internet, None, at(PUBLIC4, port), SHORT);
        ensure!(late.is_err(), "{port} is open after its time");
    }
    Ok(())
}
