//! `adit doctor`: what was broken is named, and nothing else; a gateway that is well has nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use adit_lab::{Host, Topology};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Findings, World, at, binary, dataplane, listen};

/// How long a breakage may take to show: facts are looked at anew after events, and at the latest every 30 s.
const LIMIT: Duration = Duration::from_secs(40);

/// One breakage of a gateway that runs.
struct Breakage {
    name: &'static str,
    /// Run by a shell on the VPS; `TUNNEL` is the tunnel's interface.
    broken_by: &'static str,
    /// Undoes it.
    mended_by: &'static str,
    /// What must be named.
    codes: &'static [&'static str],
    /// What may follow from it.
    besides: &'static [&'static str],
}

const RUNNING: [Breakage; 10] = [
    Breakage {
        name: "the IPv4 default route is gone",
        broken_by: "ip route del default",
        mended_by: "ip route add default via 203.0.113.1",
        codes: &["no-ipv4-default-route"],
        besides: &["forward-address-gone"],
    },
    Breakage {
        name: "the IPv6 router is not heard",
        broken_by: "nft 'add table ip6 deaf; add chain ip6 deaf input { type filter hook input priority 0; }; add rule ip6 deaf input icmpv6 type nd-router-advert drop' && ip -6 route del default",
        mended_by: "nft delete table ip6 deaf",
        codes: &["no-ipv6-default-route"],
        besides: &[],
    },
    Breakage {
        name: "no way out at all",
        broken_by: "ip route del default; nft 'add table ip6 deaf; add chain ip6 deaf input { type filter hook input priority 0; }; add rule ip6 deaf input icmpv6 type nd-router-advert drop' && ip -6 route del default",
        mended_by: "ip route add default via 203.0.113.1; nft delete table ip6 deaf",
        codes: &["no-uplink"],
        besides: &["no-ipv6-default-route", "forward-address-gone"],
    },
    Breakage {
        name: "a default route through an address that is ours",
        broken_by: "ip -6 route add default via 2001:db8:1:: dev eth0 metric 2000",
        mended_by: "ip -6 route del default via 2001:db8:1:: dev eth0 metric 2000",
        codes: &["default-route-inside-prefix"],
        besides: &[],
    },
    Breakage {
        name: "the host has a device's address",
        broken_by: "ip address add 10.59.0.2/32 dev lo",
        mended_by: "ip address del 10.59.0.2/32 dev lo",
        codes: &["address-collision"],
        besides: &[],
    },
    Breakage {
        name: "the address of a forward is gone",
        broken_by: "ip address del 203.0.113.9/32 dev eth0",
        mended_by: "ip address add 203.0.113.9/32 dev eth0",
        codes: &["forward-address-gone"],
        besides: &[],
    },
    Breakage {
        name: "a foreign chain drops what is forwarded",
        broken_by: "nft 'add table inet strict; add chain inet strict forward { type filter hook forward priority 0; policy drop; }'",
        mended_by: "nft delete table inet strict",
        codes: &["foreign-firewall"],
        besides: &[],
    },
    Breakage {
        name: "a foreign chain drops what comes for the tunnel",
        broken_by: "nft 'add table inet strict; add chain inet strict input { type filter hook input priority 0; }; add rule inet strict input udp dport 51820 drop'",
        mended_by: "nft delete table inet strict",
        codes: &["foreign-firewall"],
        besides: &[],
    },
    Breakage {
        name: "another router advertises itself",
        broken_by: "ip -6 route add default via fe80::bad dev eth0 proto ra metric 2048",
        mended_by: "ip -6 route del default via fe80::bad dev eth0 proto ra metric 2048",
        codes: &["several-routers"],
        besides: &[],
    },
    Breakage {
        name: "IPv6 is switched off",
        broken_by: "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
        mended_by: "sysctl -qw net.ipv6.conf.all.disable_ipv6=0",
        codes: &["ipv6-disabled"],
        besides: &[],
    },
];

/// The same of a gateway whose daemon has ended; that is named each time.
const STOPPED: [Breakage; 7] = [
    Breakage {
        name: "the daemon alone",
        broken_by: "true",
        mended_by: "true",
        codes: &[],
        besides: &[],
    },
    Breakage {
        name: "the table was flushed",
        broken_by: "nft delete table inet adit",
        mended_by: "true",
        codes: &["firewall-missing"],
        besides: &[],
    },
    Breakage {
        name: "forwarding was switched off",
        broken_by: "sysctl -qw net.ipv4.conf.all.forwarding=0",
        mended_by: "sysctl -qw net.ipv4.conf.all.forwarding=1",
        codes: &["forwarding-off"],
        besides: &[],
    },
    Breakage {
        name: "advertisements are not taken any more",
        broken_by: "sysctl -qw net.ipv6.conf.eth0.accept_ra=1",
        mended_by: "sysctl -qw net.ipv6.conf.eth0.accept_ra=2",
        codes: &["accept-ra"],
        besides: &[],
    },
    Breakage {
        name: "the tunnel is down",
        broken_by: "ip link set TUNNEL down",
        mended_by: "ip link set TUNNEL up",
        codes: &["tunnel-down"],
        besides: &["firewall-missing"],
    },
    Breakage {
        name: "the tunnel is too wide",
        broken_by: "ip link set TUNNEL mtu 1500",
        mended_by: "ip link set TUNNEL mtu 1420",
        codes: &["mtu-too-large"],
        besides: &["firewall-missing"],
    },
    Breakage {
        name: "the tunnel is gone",
        broken_by: "ip link del TUNNEL",
        mended_by: "true",
        codes: &["tunnel-missing"],
        besides: &["firewall-missing"],
    },
];

/// With the options that name the daemon's own folder.
fn doctor(world: &World, before: &[&str], after: &[&str]) -> Result<(Vec<Value>, bool)> {
    let mut command: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
    command.push(binary().display().to_string());
    command.extend(["doctor", "--json", "--runtime-dir"].map(str::to_owned));
    command.push(world.gateway.runtime_dir().display().to_string());
    command.push("--state-dir".to_owned());
    command.push(world.gateway.state_dir().display().to_string());
    command.extend([
        "--interface".to_owned(),
        world.gateway.interface().to_owned(),
    ]);
    command.extend(after.iter().map(|word| (*word).to_owned()));
    let output = world.host("vps")?.try_exec(&command)?;
    let document: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("adit doctor --json: {output}"))?;
    let problems = document["problems"].as_array().context("problems")?;
    for problem in problems {
        for field in ["code", "object", "message", "fix"] {
            let text = problem[field].as_str().unwrap_or_default();
            ensure!(!text.is_empty(), "no {field} in {problem}");
        }
    }
    Ok((problems.clone(), output.status.success()))
}

fn codes(problems: &[Value]) -> BTreeSet<String> {
    let codes = problems.iter().filter_map(|it| it["code"].as_str());
    codes.map(str::to_owned).collect()
}

/// Waits until these are named, with nothing but them and what may follow from them.
fn await_codes(world: &World, before: &[&str], wanted: &[&str], besides: &[&str]) -> Result<()> {
    let began = Instant::now();
    loop {
        let (problems, is_well) = doctor(world, before, &[])?;
        let found = codes(&problems);
        ensure!(
            is_well == found.is_empty(),
            "the exit status beside {found:?}"
        );
        let is_named = wanted.iter().all(|code| found.contains(*code));
        let is_all = found
            .iter()
            .all(|code| [wanted, besides].concat().contains(&code.as_str()));
        if is_named && is_all {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "{wanted:?} was to be named, and it is {problems:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn shell(world: &World, vps: &Host, script: &str) -> Result<()> {
    let script = script.replace("TUNNEL", world.gateway.interface());
    vps.exec(["sh", "-c", &script])?;
    Ok(())
}

fn gateway(topology: &str, purpose: &str) -> Result<World> {
    let world = World::start(topology, purpose)?;
    let vps = world.host("vps")?;
    vps.exec(["ip", "address", "add", "203.0.113.9/32", "dev", "eth0"])?;
    let prefix = world.prefix()?;
    world.adit(&format!(
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix}"
    ))?;
    world.join("box", "--kind server")?;
    world.adit("device add laptop")?;
    let added = Instant::now();
    while world.adit("forward add 203.0.113.9:8080 box").is_err() {
        ensure!(added.elapsed() < LIMIT, "the address is not seen");
        std::thread::sleep(Duration::from_millis(200));
    }
    world.adit("forward add 8081/tcp box")?;
    world.adit("pinhole add box 80")?;
    Ok(world)
}

#[test]
fn a_gateway_that_is_well_has_nothing_in_each_topology() -> Result<()> {
    let mut findings = Findings::default();
    for topology in Topology::names() {
        let healthy = || -> Result<()> {
            let world = World::with_subnet(topology, "e2e-healthy")?;
            world.join("box", "--kind server")?;
            world.publish("box", "80")?;
            await_codes(&world, &[], &[], &[])
        };
        findings.check(topology, healthy());
    }
    findings.conclude()
}

#[test]
fn breakages_are_named_while_the_daemon_runs() -> Result<()> {
    let mut world = gateway("routed", "e2e-doctor")?;
    let vps = world.host("vps")?;
    let mut findings = Findings::default();
    for breakage in RUNNING {
        let named = || -> Result<()> {
            shell(&world, &vps, breakage.broken_by)?;
            let named = await_codes(&world, &[], breakage.codes, breakage.besides);
            shell(&world, &vps, breakage.mended_by)?;
            named?;
            await_codes(&world, &[], &[], &[]).context("when it is mended")
        };
        findings.check(breakage.name, named());
    }
    let hides = || -> Result<()> {
        let service = listen(&vps, at(Ipv4Addr::UNSPECIFIED, 8081))?;
        await_codes(&world, &[], &["forward-hides-service"], &[])?;
        drop(service);
        await_codes(&world, &[], &[], &[])
    };
    findings.check("a service behind a forward", hides());
    let without_nft = || -> Result<()> {
        let path = ["env", "PATH=/nowhere"];
        await_codes(&world, &path, &["program-missing"], &[])
    };
    findings.check("a program is missing", without_nft());
    let stuck = || -> Result<()> {
        let process = Pid::from_raw(dataplane(world.gateway.interface())?);
        kill(process, Signal::SIGSTOP)?;
        let named = await_codes(&world, &[], &["wireguard-failed"], &[]);
        kill(process, Signal::SIGCONT)?;
        named?;
        await_codes(&world, &[], &[], &[])
    };
    findings.check("the dataplane hangs", stuck());
    let process = Pid::from_raw(world.gateway.process_id()?.context("a daemon")?);
    let silent = || -> Result<()> {
        kill(process, Signal::SIGSTOP)?;
        let named = await_codes(&world, &[], &["daemon-silent"], &[]);
        kill(process, Signal::SIGCONT)?;
        named?;
        await_codes(&world, &[], &[], &[])
    };
    findings.check("the daemon hangs", silent());
    findings.conclude()
}

#[test]
fn breakages_are_named_while_the_daemon_is_stopped() -> Result<()> {
    let mut world = gateway("routed", "e2e-stopped")?;
    let vps = world.host("vps")?;
    let mut findings = Findings::default();
    world.gateway.kill()?;
    // Restored by the next start, and not by what mends a single one.
    let mut besides: Vec<&str> = Vec::new();
    for breakage in STOPPED {
        let wanted = [&["daemon-stopped"], breakage.codes].concat();
        besides.extend(breakage.besides);
        let named = || -> Result<()> {
            shell(&world, &vps, breakage.broken_by)?;
            let named = await_codes(&world, &[], &wanted, &besides);
            shell(&world, &vps, breakage.mended_by)?;
            named
        };
        findings.check(breakage.name, named());
        if breakage.mended_by == "true" {
            besides.extend(breakage.codes);
        }
    }
    let taken = || -> Result<()> {
        let mut other = vps.spawn(["socat", "-u", "UDP4-RECV:51820", "STDOUT"])?;
        let wanted = ["daemon-stopped", "tunnel-port-taken"];
        let named = await_codes(&world, &[], &wanted, &besides);
        other.stop()?;
        named
    };
    findings.check("the port is taken", taken());
    let key = world.gateway.state_dir().join("private.key");
    let exposed = || -> Result<()> {
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
        let named = await_codes(&world, &[], &["daemon-stopped", "key-unusable"], &besides);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        named
    };
    findings.check("the key can be read by others", exposed());
    let database = world.gateway.state_dir().join("adit.db");
    let damaged = || -> Result<()> {
        let content = fs::read(&database)?;
        let damaged = [&[0; 512], &content[512..]].concat();
        fs::write(&database, &damaged)?;
        let named = await_codes(
            &world,
            &[],
            &["daemon-stopped", "state-unreadable"],
            &besides,
        );
        let left = fs::read(&database)? == damaged;
        fs::write(&database, content)?;
        named?;
        ensure!(left, "doctor changed the damaged file");
        Ok(())
    };
    findings.check("a damaged database is looked at and left", damaged());
    let mistaken = || -> Result<()> {
        let file = vps.folder()?.join("gateway.toml");
        fs::write(&file, "interfaec = \"adit0\"\n")?;
        let file = file.display().to_string();
        let named = codes(&doctor(&world, &[], &["--config", &file])?.0);
        ensure!(named.contains("configuration-unreadable"), "{named:?}");
        Ok(())
    };
    findings.check("a mistake in the configuration", mistaken());
    world.gateway.start()?;
    findings.check("after a start", await_codes(&world, &[], &[], &[]));
    findings.conclude()
}
