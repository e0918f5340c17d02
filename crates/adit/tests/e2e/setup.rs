//! `adit gateway setup`: every provider is told by its class, and a real systemd runs what was set up, with no more rights
//! than its units give.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use adit_lab::{Host, Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Booted, INTERNET4, INTERNET6, Init, Machine, PUBLIC4, at, binary, converse, listen,
};

const LIMIT: Duration = Duration::from_secs(20);

/// CAP_NET_BIND_SERVICE and CAP_NET_ADMIN, by their numbers in linux/capability.h.
const GATEWAY_CAPABILITIES: u64 = 1 << 10 | 1 << 12;
const DATAPLANE_CAPABILITIES: u64 = 1 << 12;
const FRONT_CAPABILITIES: u64 = 1 << 10 | 1 << 13;

/// What `--dry-run` says of a host on which there is no gateway.
fn survey(host: &Host, options: &[&str]) -> Result<Value> {
    let folder = host.folder()?;
    let command = host
        .command([binary().as_os_str()])
        .args(["gateway", "setup", "--dry-run", "--json", "--runtime-dir"])
        .arg(folder)
        .args(options)
        .env_remove("ADIT_RUNTIME_DIR")
        .output()?;
    ensure!(command.status.success(), "{command:?}");
    Ok(serde_json::from_slice(&command.stdout)?)
}

#[test]
fn every_provider_is_told_by_its_class() -> Result<()> {
    let _machine = Machine::share();
    let public = json!({"class": "public", "address": "203.0.113.2"});
    let prefix = json!({"class": "prefix", "prefix": "2001:db8:1::/64"});
    let translated = json!({"class": "one-to-one-nat", "local": "10.0.0.2", "advertised": null});
    let narrow = json!({"class": "narrow", "prefix": "2001:db8:1::f000/124"});
    let single = json!({"class": "single", "address": "2001:db8:1::2"});
    let none = json!({"class": "none"});
    for (topology, ipv4, ipv6, subnet) in [
        ("routed", &public, &prefix, "and 2001:db8:1::/64"),
        ("on-link", &public, &prefix, "and 2001:db8:1::/64"),
        ("partly-routed", &public, &prefix, "and 2001:db8:1::/64"),
        ("narrow", &public, &narrow, "and 2001:db8:1::f000/124"),
        ("single", &public, &single, "and private IPv6"),
        ("ipv4-only", &public, &none, "and private IPv6"),
        (
            "one-to-one-nat",
            &translated,
            &prefix,
            "and 2001:db8:1::/64",
        ),
        ("two-uplinks", &public, &prefix, "and 2001:db8:1::/64"),
    ] {
        let lab = Lab::temporary(&Topology::by_name(topology)?, "e2e-survey")?;
        let vps = lab.host("vps")?;
        if matches!(ipv6["class"].as_str(), Some("prefix" | "narrow" | "single")) {
            let what = format!("{topology}: the router to advertise itself");
            wait_until(&what, LIMIT, || {
                let routes = vps.exec(["ip", "-6", "route", "show", "default"])?.stdout;
                Ok(routes.contains("eth0"))
            })?;
        }
        let found = survey(&vps, &["--device", "phone", "--endpoint", "gw.example.com"])?;
        let first = &found["uplinks"][0];
        ensure!(
            first["name"] == "eth0" && first["default"] == true,
            "{topology}: {found}"
        );
        ensure!(
            first["ipv4"] == *ipv4 && first["ipv6"] == *ipv6,
            "{topology}: {found}"
        );
        let steps = found["steps"].as_array().context("steps")?;
        ensure!(
            steps.iter().any(|step| step
                .as_str()
                .is_some_and(|step| step.contains("subnet home") && step.contains(subnet))),
            "{topology}: {found}"
        );
        let uplinks = found["uplinks"].as_array().map_or(0, Vec::len);
        ensure!(
            uplinks == if topology == "two-uplinks" { 2 } else { 1 },
            "{topology}: {found}"
        );
        let codes = |found: &Value| -> Vec<String> {
            let problems = found["problems"].as_array().into_iter().flatten();
            let codes = problems.map(|problem| problem["code"].as_str().unwrap_or("?").to_owned());
            codes.collect()
        };
        let expected: &[&str] = match topology {
            "one-to-one-nat" => &["advertised-unknown"],
            "ipv4-only" => &["no-ipv6"],
            _ => &[],
        };
        ensure!(codes(&found) == expected, "{topology}: {found}");
        if topology == "one-to-one-nat" {
            let told = survey(&vps, &["--advertised", &PUBLIC4.to_string()])?;
            ensure!(codes(&told).is_empty(), "{told}");
            // Nothing that a device could connect to: refused before anything is done.
            let ran = vps
                .command([binary().as_os_str()])
                .args(["gateway", "setup", "--yes", "--device", "phone", "--json"])
                .arg("--runtime-dir")
                .arg(vps.folder()?)
                .output()?;
            let told = String::from_utf8_lossy(&ran.stderr);
            ensure!(
                ran.status.code() == Some(1) && told.contains("advertised-unknown"),
                "{ran:?}"
            );
        }
        if topology == "routed" {
            vps.exec(["nft", "add table inet guard; add chain inet guard input { type filter hook input priority 0; policy drop; }"])?;
            let told = survey(&vps, &[])?;
            ensure!(codes(&told) == ["foreign-firewall"], "{told}");
        }
        if topology == "on-link" {
            // An address that a router has lent says nothing about whose the prefix is.
            vps.exec(["ip", "addr", "del", "2001:db8:1::2/64", "dev", "eth0"])?;
            vps.exec([
                "ip",
                "addr",
                "add",
                "2001:db8:1::99/64",
                "dev",
                "eth0",
                "valid_lft",
                "600",
                "preferred_lft",
                "600",
            ])?;
            let told = survey(&vps, &["--subnet", "home"])?;
            let ipv6 = &told["uplinks"][0]["ipv6"];
            ensure!(
                *ipv6 == json!({"class": "shared", "prefix": "2001:db8:1::/64"})
                    && told["steps"].to_string().contains("private IPv6"),
                "{told}"
            );
        }
    }
    Ok(())
}

/// The way to the bytes on the disk and to the kernel is short enough: what can be taken away from the units is.
#[test]
fn units_are_hardly_exposed() -> Result<()> {
    for unit in [
        "adit-gateway.service",
        "adit-wireguard@.service",
        "adit-front.service",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
        let ran = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=25"])
            .arg(path.join(unit))
            .output()?;
        let told = String::from_utf8_lossy(&ran.stdout);
        let overall = told.lines().find(|line| line.contains("Overall exposure"));
        ensure!(ran.status.success(), "{unit}: {overall:?}");
        ensure!(overall.is_some(), "{unit}: {told}");
    }
    Ok(())
}

/// A daemon by what its unit says: process, user, capabilities.
fn check_process(vps: &Booted, unit: &str, capabilities: u64) -> Result<String> {
    let process = vps.run(["systemctl", "show", "--property=MainPID", "--value", unit])?;
    let process = process.trim().to_owned();
    let status = vps.run(["cat", &format!("/proc/{process}/status")])?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value.with_context(|| format!("{unit}: {name} in {status}"))
    };
    ensure!(field("Uid:")? != "0", "{unit}: {status}");
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        let found = u64::from_str_radix(field(set)?, 16)?;
        ensure!(found == capabilities, "{unit}: {set} {found:x}");
    }
    ensure!(field("NoNewPrivs:")? == "1", "{unit}: {status}");
    Ok(process)
}

fn status(vps: &Booted) -> Result<Value> {
    Ok(serde_json::from_str(
        &vps.run(["adit", "status", "--json"])?,
    )?)
}

fn await_well(vps: &Booted) -> Result<()> {
    wait_until("a gateway that is well", LIMIT, || {
        let status = status(vps)?;
        ensure!(
            status["applied"] == true && status["problems"] == json!([]),
            "{status}"
        );
        Ok(true)
    })
}

/// Everything of the state belongs to the user that the daemon runs as, whoever wrote it last.
fn check_owner(vps: &Booted) -> Result<()> {
    let folder = vps.path("/var/lib/adit");
    let owner = fs::metadata(&folder)?.uid();
    ensure!(owner != 0, "the state belongs to root");
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let uid = entry.metadata()?.uid();
        ensure!(uid == owner, "{}: {uid}", entry.path().display());
    }
    Ok(())
}

#[test]
fn a_gateway_is_set_up_for_real() -> Result<()> {
    let _machine = Machine::share();
    let lab = Lab::temporary(&Topology::by_name("on-link")?, "e2e-setup")?;
    let host = lab.host("vps")?;
    let internet = lab.host("internet")?;
    wait_until("the router to advertise itself", LIMIT, || {
        let routes = host.exec(["ip", "-6", "route", "show", "default"])?.stdout;
        Ok(routes.contains("eth0"))
    })?;
    let before = kernel(&host)?;
    let vps = Booted::boot(&host, Init::Systemd)?;
    let program = binary().to_str().context("path of the program")?;

    let refused = vps.try_run([program, "gateway", "setup"])?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("--yes"),
        "{refused:?}"
    );
    ensure!(!vps.path("/etc/adit").exists(), "done without consent");

    let words = [
        "gateway", "setup", "--yes", "--device", "box", "--kind", "server",
    ];
    let first = vps.try_run([program].iter().chain(&words))?;
    ensure!(first.code == Some(0), "{first:?}");
    ensure!(
        first.stderr.contains("UDP port 51820") && first.stderr.contains("provider"),
        "{first:?}"
    );
    let config = &first.stdout;
    ensure!(
        config.contains("PrivateKey") && !first.stderr.contains("error:"),
        "{first:?}"
    );
    // A telephone reads a picture.
    let phone = vps.try_run(["adit", "gateway", "setup", "--yes", "--device", "phone"])?;
    let picture = phone.stdout.split_once("\n\n\u{2588}");
    ensure!(
        phone.code == Some(0)
            && picture.is_some_and(|(config, _)| config.contains("PrivateKey"))
            && !phone.stderr.contains("error:"),
        "{phone:?}"
    );
    await_well(&vps)?;
    let gateway = check_process(&vps, "adit-gateway", GATEWAY_CAPABILITIES)?;
    let dataplane = check_process(&vps, "adit-wireguard@adit0", DATAPLANE_CAPABILITIES)?;
    let front = check_process(&vps, "adit-front", FRONT_CAPABILITIES)?;
    check_owner(&vps)?;

    // The real thing carries packets in both directions, for both families.
    vps.run(["adit", "forward", "add", "8080/tcp", "box"])?;
    vps.run(["adit", "pinhole", "add", "box", "8080/tcp"])?;
    let tunnel = lab.wg_quick_up("box", config)?;
    let server = lab.host("box")?;
    let device: Value =
        serde_json::from_str(&vps.run(["adit", "device", "show", "box", "--json"])?)?;
    let ipv6: Ipv6Addr = device["ipv6"].as_str().context("ipv6")?.parse()?;
    let listener4 = listen(&server, at(Ipv4Addr::UNSPECIFIED, 8080))?;
    let arrive = || -> Result<()> {
        converse(
            &internet,
            Some(at(INTERNET4, 0)),
            at(PUBLIC4, 8080),
            &listener4,
        )?;
        Ok(())
    };
    wait_until("a visitor to reach the box", LIMIT, || {
        arrive().map(|()| true)
    })?;
    let mut visit = converse(
        &internet,
        Some(at(INTERNET4, 0)),
        at(PUBLIC4, 8080),
        &listener4,
    )?;
    let forwards: Value = serde_json::from_str(&vps.run(["adit", "forward", "list", "--json"])?)?;
    let id = forwards["forwards"][0]["id"].to_string();
    vps.run(["adit", "forward", "remove", &id])?;
    ensure!(visit.is_cut()?, "a removed forward's connection goes on");
    vps.run(["adit", "forward", "add", "8080/tcp", "box"])?;
    let listener6 = listen(&server, at(ipv6, 8081))?;
    vps.run(["adit", "pinhole", "add", "box", "8081/tcp"])?;
    converse(
        &internet,
        Some(at(INTERNET6, 0)),
        at(ipv6, 8081),
        &listener6,
    )?;
    let names = vps.run(["ip", "route", "show", "proto", "adit"])?;
    ensure!(names.contains("10.59.0.2"), "{names}");

    // A second time there is nothing to do, and nothing is done.
    let files = installed(&vps)?;
    let second = vps.try_run(["adit"].iter().chain(&words).chain(&["--json"]))?;
    let told: Value =
        serde_json::from_str(&second.stdout).with_context(|| format!("{second:?}"))?;
    ensure!(
        told["changed"] == false && told["steps"] == json!([]) && told["config"].is_null(),
        "{told}"
    );
    ensure!(installed(&vps)? == files, "the second run wrote files");
    let same = check_process(&vps, "adit-gateway", GATEWAY_CAPABILITIES)?;
    ensure!(same == gateway, "the second run restarted the gateway");

    // A new front takes over from the one before, which has nothing left to do.
    vps.run(["systemctl", "reload", "adit-front"])?;
    wait_until("the next front to be the main process", LIMIT, || {
        let next = check_process(&vps, "adit-front", FRONT_CAPABILITIES)?;
        Ok(next != front)
    })?;
    wait_until("the front before to end", LIMIT, || {
        let old = vps.try_run(["cat", &format!("/proc/{front}/status")])?;
        Ok(old.code != Some(0))
    })?;
    vps.run(["systemctl", "is-active", "adit-front"])?;
    let front = check_process(&vps, "adit-front", FRONT_CAPABILITIES)?;

    // A restart leaves the dataplane alone; what is killed comes back, and is taken over.
    vps.run(["systemctl", "restart", "adit-gateway"])?;
    await_well(&vps)?;
    let same = check_process(&vps, "adit-wireguard@adit0", DATAPLANE_CAPABILITIES)?;
    ensure!(same == dataplane, "the restart ended the dataplane");
    let same = check_process(&vps, "adit-front", FRONT_CAPABILITIES)?;
    ensure!(same == front, "the restart ended the front");
    arrive()?;
    vps.run(["systemctl", "kill", "--signal=KILL", "adit-wireguard@adit0"])?;
    // The box learns of it when what it sends stays without an answer for 15 s.
    let limit = Duration::from_secs(60);
    wait_until("packets after the dataplane was killed", limit, || {
        server.try_exec(["ping", "-c1", "-W1", "-I", "10.59.0.2", "10.59.0.1"])?;
        arrive().map(|()| true)
    })?;
    await_well(&vps)?;
    check_process(&vps, "adit-wireguard@adit0", DATAPLANE_CAPABILITIES)?;

    // Withdrawn by root, and started again: the state is the daemon's all the time.
    vps.run(["systemctl", "stop", "adit-gateway"])?;
    vps.run(["adit", "gateway", "teardown"])?;
    // Longer than systemd would wait before it starts the dataplane again.
    sleep(Duration::from_secs(1));
    let after = kernel(&host)?;
    ensure!(after == before, "left behind:\n{after}\nbefore:\n{before}");
    check_owner(&vps)?;
    let restarted = vps.try_run(["adit"].iter().chain(&words))?;
    ensure!(
        restarted.code == Some(0) && restarted.stderr.contains("start adit-gateway"),
        "{restarted:?}"
    );
    await_well(&vps)?;
    drop(tunnel);
    Ok(())
}

#[test]
fn a_gateway_is_set_up_under_openrc() -> Result<()> {
    let _machine = Machine::share();
    let lab = Lab::temporary(&Topology::by_name("single")?, "e2e-openrc")?;
    let host = lab.host("vps")?;
    let internet = lab.host("internet")?;
    let before = kernel(&host)?;
    let vps = Booted::boot(&host, Init::OpenRc)?;
    let program = binary().to_str().context("path of the program")?;
    let environment = [
        "env",
        "ADIT_SETUP_YES=1",
        "ADIT_SETUP_DEVICE=box",
        "ADIT_SETUP_KIND=server",
    ];
    let words = ["gateway", "setup", "--json"];
    let first = vps.try_run(environment.iter().chain(&[program]).chain(&words))?;
    let told: Value = serde_json::from_str(&first.stdout).with_context(|| format!("{first:?}"))?;
    ensure!(
        told["changed"] == true && told["supervisor"] == "openrc",
        "{told}"
    );
    await_well(&vps)?;
    check_owner(&vps)?;
    let process = vps.run(["pgrep", "-x", "adit"])?;
    let status = vps.run(["cat", &format!("/proc/{}/status", process.trim())])?;
    let capabilities = format!("{GATEWAY_CAPABILITIES:016x}");
    for field in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        ensure!(
            status.contains(&format!("{field}:\t{capabilities}")),
            "{field}: {status}"
        );
    }

    vps.run(["adit", "forward", "add", "8080/tcp", "box"])?;
    let config = told["config"].as_str().context("config")?;
    let _tunnel = lab.wg_quick_up("box", config)?;
    let listener = listen(&lab.host("box")?, at(Ipv4Addr::UNSPECIFIED, 8080))?;
    let arrive = || -> Result<()> {
        converse(
            &internet,
            Some(at(INTERNET4, 0)),
            at(PUBLIC4, 8080),
            &listener,
        )?;
        Ok(())
    };
    wait_until("a visitor to reach the box", LIMIT, || {
        arrive().map(|()| true)
    })?;

    let second = vps.try_run(environment.iter().chain(&["adit"]).chain(&words))?;
    let told: Value =
        serde_json::from_str(&second.stdout).with_context(|| format!("{second:?}"))?;
    ensure!(
        told["changed"] == false && told["steps"] == json!([]),
        "{told}"
    );
    let dataplane = vps.run(["pgrep", "-x", "adit-wireguard"])?;
    vps.run(["rc-service", "adit-gateway", "restart"])?;
    await_well(&vps)?;
    ensure!(
        vps.run(["pgrep", "-x", "adit-wireguard"])? == dataplane,
        "the restart ended the dataplane"
    );
    arrive()?;
    vps.run(["rc-service", "adit-gateway", "stop"])?;
    vps.run(["adit", "gateway", "teardown"])?;
    let after = kernel(&host)?;
    ensure!(after == before, "left behind:\n{after}\nbefore:\n{before}");
    check_owner(&vps)
}

/// What there is in the kernel that a gateway makes.
fn kernel(host: &Host) -> Result<String> {
    let mut text = String::new();
    for command in [
        "nft list tables",
        "ip -o link show",
        "ip rule",
        "ip -6 rule",
        "ip route show table all proto 173",
        "ip -6 route show table all proto 173",
        "ip neigh show proxy",
        "sysctl net.ipv4.conf.all.forwarding net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra net.ipv6.conf.eth0.proxy_ndp",
    ] {
        text += &host.exec(command.split(' '))?.stdout;
    }
    Ok(text)
}

/// What setup wrote, with what tells one writing from another.
fn installed(vps: &Booted) -> Result<Vec<(String, u64, i64)>> {
    let mut files = Vec::new();
    for folder in [
        "/etc/adit",
        "/etc/systemd/system",
        "/etc/iproute2/rt_tables.d",
        "/etc/iproute2/rt_protos.d",
        "/usr/local/bin",
    ] {
        for entry in fs::read_dir(vps.path(folder))? {
            let entry = entry?;
            let metadata = fs::symlink_metadata(entry.path())?;
            files.push((
                format!("{folder}/{}", entry.file_name().to_string_lossy()),
                metadata.ino(),
                metadata.mtime_nsec(),
            ));
        }
    }
    files.sort();
    Ok(files)
}
