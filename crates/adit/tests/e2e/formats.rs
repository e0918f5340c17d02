//! Configurations in other formats than that of `wg-quick`, read and put to use by the real programs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_lab::{Host, Process, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::forward::to_a_container;
use crate::support::{INTERNET4, INTERNET6, World, at, exchange, udp};

const LIMIT: Duration = Duration::from_secs(60);

/// A device whose tunnel a program brings up from the gateway's text.
struct Managed {
    host: Host,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    folder: PathBuf,
    /// Ends with the test.
    _program: Process,
}

#[test]
fn networkd_answers_through_the_tunnel_what_came_in_through_it() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-networkd")?;
    let server = join(
        &world,
        "box",
        "networkd",
        include_str!("formats/networkd.sh"),
        "--kind server --delegate 2001:db8:100:2::/64 --delegate 192.168.7.0/24",
    )?;
    check_networkd_log(&server.folder)?;
    answers(&world, &server)
}

#[test]
fn networkd_takes_everything_through_the_tunnel() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-networkd-full")?;
    let laptop = join(
        &world,
        "laptop",
        "networkd",
        include_str!("formats/networkd.sh"),
        "",
    )?;
    check_networkd_log(&laptop.folder)?;
    takes_everything(&world, &laptop)
}

#[test]
fn network_manager_answers_through_the_tunnel_what_came_in_through_it() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-nm")?;
    let server = join(
        &world,
        "box",
        "networkmanager",
        include_str!("formats/networkmanager.sh"),
        "--kind server --delegate 2001:db8:100:2::/64 --delegate 192.168.7.0/24",
    )?;
    // What it read is what was meant, down to the last key.
    let text = fs::read_to_string(server.folder.join("read"))?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.map(|line| line[name.len() + 1..].trim().to_owned())
            .with_context(|| format!("no {name} in {text}"))
    };
    ensure!(field("wireguard.peer-routes")? == "no");
    ensure!(field("wireguard.mtu")? == "1420");
    let key = fs::read_to_string(server.folder.join("key"))?;
    ensure!(field("wireguard.private-key")? == key.trim());
    for (family, rules) in [("ipv4", 8), ("ipv6", 6)] {
        let read = field(&format!("{family}.routing-rules"))?;
        ensure!(read.matches("priority").count() == rules, "{read}");
    }
    answers(&world, &server)
}

/// Brings a device up by a program's script, which says when it is.
fn join(world: &World, host: &str, format: &str, script: &str, options: &str) -> Result<Managed> {
    let host = world.host(host)?;
    // Systems with systemd have it loose (its 50-default.conf), and with a tunnel for everything it must be.
    for scope in ["all", "default", "eth0"] {
        let loose = format!("net.ipv4.conf.{scope}.rp_filter=2");
        if options.is_empty() {
            host.exec(["sysctl", "-q", "-w", &loose])?;
        }
    }
    let folder = host.folder()?;
    let key = host.exec(["wg", "genkey"])?.stdout;
    let public = host.exec_with_input(["wg", "pubkey"], &key)?.stdout;
    let key_path = folder.join("key");
    fs::write(&key_path, &key)?;
    // networkd gives its rights up before it reads the file.
    host.exec(["chgrp", "systemd-network", &key_path.to_string_lossy()])?;
    host.exec(["chmod", "640", &key_path.to_string_lossy()])?;
    let answer = world.adit(&format!(
        "device add {} --public-key {} {options}",
        host.name(),
        public.trim()
    ))?;
    let path = key_path.to_string_lossy().into_owned();
    let mut command = vec!["device", "config", host.name(), "--format", format];
    if format == "networkd" {
        command.extend(["--key-file", &path]);
    }
    let mut text = world.gateway.adit(command)?.stdout;
    if format == "networkmanager" {
        // What the text asks the reader to do.
        let (before, after) = text
            .split_once("# private-key=(")
            .context("no place for the private key")?;
        let rest = after.split_once('\n').context("a line")?.1;
        text = format!("{before}private-key={}\n{rest}", key.trim());
    }
    let text_path = folder.join("configuration");
    fs::write(&text_path, text)?;
    let script_path = folder.join("bring-up");
    fs::write(&script_path, script)?;
    let mut program = host.spawn([
        "unshare".as_ref(),
        "--mount".as_ref(),
        "sh".as_ref(),
        script_path.as_os_str(),
        text_path.as_os_str(),
        folder.as_os_str(),
    ])?;
    program
        .wait_for_output("the tunnel is up", LIMIT)
        .with_context(|| logs(&folder))?;
    let managed = Managed {
        ipv4: address(&answer, "ipv4")?,
        ipv6: address(&answer, "ipv6")?,
        host,
        folder,
        _program: program,
    };
    await_tunnel(&managed).with_context(|| logs(&managed.folder))?;
    Ok(managed)
}

fn address<T: std::str::FromStr>(answer: &Value, name: &str) -> Result<T> {
    let text = answer["device"][name].as_str();
    text.and_then(|text| text.parse().ok())
        .with_context(|| format!("device.{name} in {answer}"))
}

fn await_tunnel(device: &Managed) -> Result<()> {
    let source = device.ipv4.to_string();
    let [a, b, c, _] = device.ipv4.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1).to_string();
    wait_until("an answer of the gateway", Duration::from_secs(30), || {
        device
            .host
            .exec(["ping", "-c1", "-W1", "-I", &source, &gateway])?;
        Ok(true)
    })
}

fn logs(folder: &Path) -> String {
    let mut text = String::new();
    for name in ["networkd.log", "NetworkManager.log"] {
        let log = fs::read(folder.join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        text.push_str(&lines[lines.len().saturating_sub(60)..].join("\n"));
    }
    text
}

/// Everything in the files is something that networkd knows.
fn check_networkd_log(folder: &Path) -> Result<()> {
    let log = fs::read_to_string(folder.join("networkd.log"))?;
    ensure!(log.contains("adit: loaded \"wireguard\""), "{log}");
    let complaint = log.lines().find(|line| {
        line.contains("50-adit.")
            && ["ignoring", "Unknown", "Failed", "permissive"]
                .iter()
                .any(|word| line.contains(word))
    });
    ensure!(complaint.is_none(), "networkd says: {complaint:?}");
    Ok(())
}

/// Visitors of a forward and of a pinhole are answered, a delegated prefix is of use, and the host's own way stays.
fn answers(world: &World, server: &Managed) -> Result<()> {
    let internet = world.host("internet")?;
    to_a_container(world, &server.host, "adit", Some(server.ipv6))?;

    // A host behind the server, with an address of the delegated prefix.
    let behind: Ipv6Addr = "2001:db8:100:2::10".parse()?;
    let container = world.host("container")?;
    server.host.exec([
        "ip",
        "address",
        "add",
        "2001:db8:100:2::1/64",
        "dev",
        "br0",
        "nodad",
    ])?;
    server
        .host
        .exec(["sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1"])?;
    container.exec([
        "ip",
        "address",
        "add",
        "2001:db8:100:2::10/64",
        "dev",
        "eth0",
        "nodad",
    ])?;
    container.exec([
        "ip",
        "-6",
        "route",
        "replace",
        "default",
        "via",
        "2001:db8:100:2::1",
    ])?;
    let out = udp(&internet, at(INTERNET6, 7500))?;
    let from = udp(&container, at(behind, 0))?;
    let seen = exchange(
        &from,
        at(INTERNET6, 7500),
        &out,
        "from the delegated prefix",
    )?;
    ensure!(seen.ip() == IpAddr::V6(behind), "{seen}");

    // What nobody has of it ends at the server, and neither loops nor leaks.
    let sink = server
        .host
        .try_exec(["ip", "route", "get", "192.168.7.9"])?;
    ensure!(!sink.status.success(), "{}", sink.stdout);
    Ok(())
}

fn takes_everything(world: &World, device: &Managed) -> Result<()> {
    let internet = world.host("internet")?;
    let far = udp(&internet, at(INTERNET4, 7400))?;
    let near = udp(&device.host, "0.0.0.0:0".parse()?)?;
    let seen = exchange(&near, at(INTERNET4, 7400), &far, "everything")?;
    ensure!(seen.ip().to_string() == "203.0.113.2", "{seen}");
    let far = udp(&internet, at(INTERNET6, 7400))?;
    let near = udp(&device.host, "[::]:0".parse()?)?;
    let seen = exchange(&near, at(INTERNET6, 7400), &far, "everything")?;
    ensure!(seen.ip() == IpAddr::V6(device.ipv6), "{seen}");
    // The home network is still known.
    let route = device.host.exec(["ip", "route", "get", "192.168.1.10"])?;
    ensure!(route.stdout.contains("dev eth0"), "{}", route.stdout);
    Ok(())
}
