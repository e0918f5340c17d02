//! The named topologies, built for real: what gets through, what the far end sees, and that nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use adit_lab::topology::{End, HostKind, HostPlan, Link};
use adit_lab::{Host, Lab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};

#[test]
fn both_worlds_work_side_by_side() -> Result<()> {
    let routed = Lab::temporary(&Topology::by_name("routed")?, "lab-both")?;
    let on_link = Lab::temporary(&Topology::by_name("on-link")?, "lab-both")?;
    for lab in [&routed, &on_link] {
        let internet = lab.host("internet")?;
        let home = lab.host("box")?;
        for address in [
            "203.0.113.2",
            "2001:db8:1::2",
            "198.51.100.20",
            "2001:db8:ffff::20",
        ] {
            internet.exec(["ping", "-c1", "-W2", address])?;
        }
        lab.host("container")?
            .exec(["ping", "-c1", "-W2", "fd00:18::1"])?;

        let far = internet.enter(|| UdpSocket::bind("198.51.100.10:7000"))??;
        far.set_read_timeout(Some(Duration::from_secs(2)))?;
        let near = home.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        near.set_read_timeout(Some(Duration::from_millis(500)))?;
        near.send_to(b"out", "198.51.100.10:7000")?;
        let mut buffer = [0; 16];
        let (length, source) = far
            .recv_from(&mut buffer)
            .context("from the box, on the Internet")?;
        ensure!(&buffer[..length] == b"out");
        ensure!(
            source.ip().to_string() == "192.0.2.2",
            "the box is seen as {source}"
        );
        far.send_to(b"back", source)?;
        let (length, _) = near
            .recv_from(&mut buffer)
            .context("the answer, on the box")?;
        ensure!(&buffer[..length] == b"back");

        let unasked = UdpSocket::bind("198.51.100.20:7000");
        ensure!(
            unasked.is_err(),
            "an address of the lab is one of this machine"
        );
        let stranger = lab
            .host("stranger")?
            .enter(|| UdpSocket::bind("198.51.100.20:7000"))??;
        stranger.send_to(b"in", source)?;
        ensure!(
            near.recv_from(&mut buffer).is_err(),
            "a stranger got through the carrier-grade NAT"
        );
    }
    ensure!(
        asks_for(&on_link, "2001:db8:1::abcd")?,
        "on-link: the edge asks for an address of the link"
    );
    ensure!(
        !asks_for(&routed, "2001:db8:100::abcd")?,
        "routed: the edge asks for a routed address"
    );
    ensure!(
        !asks_for(&routed, "2001:db8:200::abcd")?,
        "routed: the VPS gets what is not routed to it"
    );
    Ok(())
}

/// Whether a packet from the Internet to this address makes the edge send a Neighbor Solicitation for it, and, when
/// it does not, whether that is because the packet itself arrives.
fn asks_for(lab: &Lab, address: &str) -> Result<bool> {
    let mut watch = lab
        .host("vps")?
        .spawn(["tcpdump", "-lnpi", "eth0", "icmp6 or udp port 9"])?;
    watch.wait_for_output("listening on", Duration::from_secs(5))?;
    lab.host("internet")?.enter(|| -> Result<()> {
        UdpSocket::bind("[2001:db8:ffff::10]:0")?.send_to(b"x", (address, 9))?;
        Ok(())
    })??;
    let routed_here = lab.topology().name == "routed" && address.starts_with("2001:db8:100:");
    let solicitation = format!("who has {address}");
    let arrival = format!("> {address}.9: UDP");
    if routed_here {
        watch.wait_for_output(&arrival, Duration::from_secs(3))?;
    } else {
        thread::sleep(Duration::from_millis(500));
    }
    let seen = watch.stop()?.stdout;
    ensure!(
        routed_here || !seen.contains(&arrival),
        "{address} arrived on the VPS: {seen}"
    );
    Ok(seen.contains(&solicitation))
}

#[test]
fn the_default_route_of_the_vps_lives_by_router_advertisements() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "lab-ra")?;
    let vps = lab.host("vps")?;
    let first = remaining_lifetime(&vps)?;
    ensure!(first <= 12, "the default route would stay for {first} s");
    thread::sleep(Duration::from_secs(2));
    let aged = remaining_lifetime(&vps)?;
    wait_until("a refreshed default route", Duration::from_secs(5), || {
        Ok(remaining_lifetime(&vps)? > aged)
    })
}

fn remaining_lifetime(vps: &Host) -> Result<u64> {
    let routes = vps
        .exec(["ip", "-6", "-json", "route", "show", "default"])?
        .stdout;
    let routes: serde_json::Value = serde_json::from_str(&routes)?;
    let routes = routes.as_array().context("a list of routes")?;
    ensure!(routes.len() == 1, "default routes: {routes:?}");
    ensure!(
        routes[0]["protocol"] == "ra",
        "the default route is {}",
        routes[0]
    );
    routes[0]["expires"]
        .as_u64()
        .context("a route that expires")
}

#[test]
fn the_middle_of_the_path_can_be_narrowed_with_and_without_a_word() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "lab-mtu")?;
    let home = lab.host("box")?;
    let full = ["ping", "-c1", "-W1", "-Mdo", "-s1472", "198.51.100.10"];
    let smaller = ["ping", "-c1", "-W1", "-Mdo", "-s1372", "198.51.100.10"];
    home.exec(full)?;
    lab.set_path_mtu(1400)?;
    lab.drop_icmp()?;
    let silent = home.try_exec(full)?;
    ensure!(
        !silent.status.success() && !silent.stdout.contains("mtu"),
        "dropped silently: {silent}"
    );
    home.exec(smaller)?;
    lab.pass_icmp()?;
    let told = home.try_exec(full)?;
    let text = told.stdout.clone() + &told.stderr;
    ensure!(
        !told.status.success() && text.contains("mtu = 1400"),
        "refused with a word: {told}"
    );
    Ok(())
}

#[test]
fn tcp_crosses_the_home_network_and_containers_are_behind_the_box() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("on-link")?, "lab-tcp")?;
    let listener = lab
        .host("container")?
        .enter(|| TcpListener::bind("0.0.0.0:80"))??;
    lab.host("box")?
        .enter(|| TcpStream::connect("172.18.0.2:80"))??;
    let (_, from) = listener.accept()?;
    ensure!(
        from.ip().to_string() == "172.18.0.1",
        "the box is seen as {from}"
    );
    let listener = lab
        .host("nas")?
        .enter(|| TcpListener::bind("0.0.0.0:80"))??;
    lab.host("laptop")?
        .enter(|| TcpStream::connect("192.168.1.12:80"))??;
    let (_, from) = listener.accept()?;
    ensure!(
        from.ip().to_string() == "192.168.1.11",
        "the laptop is seen as {from}"
    );
    Ok(())
}

#[test]
fn a_failed_build_leaves_nothing() -> Result<()> {
    let instance = format!("lab-failed-{}", std::process::id());
    let topology = Topology::new("broken", "its second host has no such address")
        .host(HostPlan::new("one", HostKind::Router, ""))
        .host(HostPlan::new("two", HostKind::Endpoint, ""))
        .link(Link::between(
            End::new("one", "eth0").addresses(&["192.0.2.1/24"]),
            End::new("two", "eth0").addresses(&["192.0.2.999/24"]),
        ));
    let error = Lab::up(&topology, &instance)
        .map(|lab| lab.down())
        .expect_err("an address with 999 in it");
    let text = format!("{error:#}");
    ensure!(
        text.contains("two") && text.contains("192.0.2.999"),
        "the error names host and command: {text}"
    );
    ensure_nothing_left(&instance, &BTreeSet::new())
}

#[test]
fn down_removes_what_a_crash_left_and_what_nobody_recorded() -> Result<()> {
    let instance = format!("lab-crash-{}", std::process::id());
    let topology = Topology::new("pair", "two hosts")
        .host(HostPlan::new("one", HostKind::Endpoint, ""))
        .host(HostPlan::new("two", HostKind::Endpoint, ""))
        .link(Link::between(
            End::new("one", "eth0"),
            End::new("two", "eth0"),
        ));
    let lab = Lab::up(&topology, &instance)?;
    let mut pids = BTreeSet::new();
    let one = lab.host("one")?;
    // One that ignores SIGTERM, one that the lab knows nothing of, and a WireGuard that is killed and leaves its socket.
    let stubborn = one.spawn([
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    ])?;
    pids.insert(stubborn.id());
    let stranger = one.exec([
        "sh",
        "-c",
        "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!",
    ])?;
    pids.insert(stranger.stdout.trim().parse()?);
    let interface = format!("lt{}", std::process::id());
    one.exec(["wireguard-go", &interface])?;
    let socket = format!("/var/run/wireguard/{interface}.sock");
    ensure!(Path::new(&socket).exists(), "wireguard-go made no {socket}");
    let other = Lab::temporary(&topology, "lab-crash")?;

    fs::remove_dir_all(lab.folder())?;
    ensure!(
        Lab::list()?
            .iter()
            .any(|summary| summary.instance == instance && summary.topology.is_none())
    );
    Lab::take_down(&instance)?;
    ensure_nothing_left(&instance, &pids)?;
    ensure!(!Path::new(&socket).exists(), "{socket} is left");
    other
        .host("one")?
        .exec(["true"])
        .context("another instance was taken down too")?;
    Lab::take_down(&instance)
}

#[test]
fn a_name_is_taken_once() -> Result<()> {
    let topology =
        Topology::new("single", "one host").host(HostPlan::new("one", HostKind::Endpoint, ""));
    let lab = Lab::temporary(&topology, "lab-once")?;
    let error = Lab::up(&topology, lab.instance())
        .map(|_| ())
        .expect_err("it is up already");
    ensure!(
        format!("{error:#}").contains("is there already"),
        "{error:#}"
    );
    lab.host("one")?
        .exec(["true"])
        .context("the refusal took the first one down")?;
    let next = Lab::up_numbered(&topology, lab.instance())?;
    let name = next.instance().to_owned();
    next.down()?;
    ensure!(name == format!("{}-2", lab.instance()), "{name}");
    let again = Lab::open(lab.instance())?;
    ensure!(again.topology() == &topology);
    let error = again
        .host("one")?
        .exec(["sh", "-c", "echo why >&2; exit 7"])
        .expect_err("it fails");
    let text = format!("{error:#}");
    ensure!(
        text.contains("one: sh -c") && text.contains('7') && text.contains("why"),
        "{text}"
    );
    Ok(())
}

#[test]
fn wg_quick_connects_two_devices_and_touches_no_resolver() -> Result<()> {
    let lab = Lab::temporary(&Topology::by_name("routed")?, "lab-wg")?;
    let (server_private, server_public) = key_pair(&lab.host("nas")?)?;
    let (client_private, client_public) = key_pair(&lab.host("laptop")?)?;
    let resolver = fs::read("/etc/resolv.conf").ok();
    let server = lab.wg_quick_up(
        "nas",
        &format!(
            "[Interface]\nPrivateKey = {server_private}\nAddress = 10.9.0.1/24\nListenPort = 51820\n\
             [Peer]\nPublicKey = {client_public}\nAllowedIPs = 10.9.0.2/32\n"
        ),
    )?;
    let client = lab.wg_quick_up(
        "laptop",
        &format!(
            "[Interface]\nPrivateKey = {client_private}\nAddress = 10.9.0.2/24\nDNS = 10.9.0.1\n\
             [Peer]\nPublicKey = {server_public}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.168.1.12:51820\n"
        ),
    )?;
    lab.host("laptop")?
        .exec(["ping", "-c1", "-W2", "10.9.0.1"])?;
    ensure!(
        client.resolvconf()?.contains("nameserver 10.9.0.1"),
        "{:?}",
        client.resolvconf()?
    );
    ensure!(
        fs::read("/etc/resolv.conf").ok() == resolver,
        "the resolver of this machine was changed"
    );
    let (interface, host) = (client.interface().to_owned(), lab.host("laptop")?);
    client.down()?;
    ensure!(
        !host
            .try_exec(["ip", "link", "show", &interface])?
            .status
            .success(),
        "{interface} is still there"
    );
    let socket = format!("/var/run/wireguard/{}.sock", server.interface());
    ensure!(Path::new(&socket).exists(), "wg-quick made no {socket}");
    lab.down()?;
    ensure!(!Path::new(&socket).exists(), "{socket} is left");
    ensure_nothing_left(lab.instance(), &BTreeSet::new())
}

fn key_pair(host: &Host) -> Result<(String, String)> {
    let private = host.exec(["wg", "genkey"])?.stdout;
    let public = host.exec_with_input(["wg", "pubkey"], &private)?.stdout;
    Ok((private.trim().to_owned(), public.trim().to_owned()))
}

fn ensure_nothing_left(instance: &str, pids: &BTreeSet<u32>) -> Result<()> {
    let namespaces = Command::new("ip").args(["netns", "list"]).output()?;
    let namespaces = String::from_utf8(namespaces.stdout)?;
    let ours = |host: &str| {
        namespaces
            .lines()
            .any(|line| line.split(' ').next() == Some(&format!("adit-{instance}-{host}")))
    };
    let left: Vec<&str> = ["one", "two", "vps", "edge", "nas"]
        .into_iter()
        .filter(|host| ours(host))
        .collect();
    ensure!(
        left.is_empty(),
        "namespaces of {instance} are left: {left:?}"
    );
    ensure!(
        !Path::new("/run/adit-lab").join(instance).exists(),
        "the folder of {instance} is left"
    );
    ensure!(
        Lab::list()?
            .iter()
            .all(|summary| summary.instance != instance),
        "{instance} is still listed"
    );
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure!(
            stat.is_empty() || stat.contains(") Z "),
            "process {pid} is left: {stat}"
        );
    }
    Ok(())
}

#[test]
fn each_provider_gives_what_it_says() -> Result<()> {
    let reaches = |lab: &Lab, host: &str, address: &str| -> Result<bool> {
        let ping = ["ping", "-c1", "-W1", address];
        Ok(lab.host(host)?.try_exec(ping)?.status.success())
    };
    let up = |name: &str| Lab::temporary(&Topology::by_name(name)?, "lab-provider");
    let (near, far) = ("203.0.113.2", "2001:db8:ffff::10");

    let lab = up("one-to-one-nat")?;
    let shown = lab.host("vps")?.exec(["ip", "-4", "address"])?.stdout;
    ensure!(
        shown.contains("10.0.0.2/24") && !shown.contains(near),
        "{shown}"
    );
    ensure!(reaches(&lab, "internet", near)? && reaches(&lab, "vps", "198.51.100.10")?);
    ensure!(
        !reaches(&lab, "internet", "10.0.0.2")?,
        "the private address is on the Internet"
    );

    let lab = up("single")?;
    ensure!(reaches(&lab, "internet", "2001:db8:1::2")? && reaches(&lab, "vps", far)?);
    lab.host("vps")?.exec([
        "ip",
        "address",
        "add",
        "2001:db8:1::3/128",
        "dev",
        "eth0",
        "nodad",
    ])?;
    ensure!(
        !reaches(&lab, "internet", "2001:db8:1::3")?,
        "a second address arrives"
    );

    let lab = up("narrow")?;
    for (address, arrives) in [("2001:db8:1::f00e", true), ("2001:db8:1::f010", false)] {
        let prefix = format!("{address}/128");
        lab.host("vps")?
            .exec(["ip", "address", "add", &prefix, "dev", "eth0", "nodad"])?;
        ensure!(reaches(&lab, "internet", address)? == arrives, "{address}");
    }

    let lab = up("ipv4-only")?;
    ensure!(reaches(&lab, "internet", near)? && !reaches(&lab, "vps", far)?);

    let lab = up("two-uplinks")?;
    for (source, through) in [("203.0.113.2", "eth0"), ("198.18.2.2", "eth1")] {
        let vps = lab.host("vps")?;
        for device in ["eth0", "eth1"] {
            vps.exec([
                "ip",
                "route",
                "replace",
                "198.51.100.10",
                "via",
                if device == "eth0" {
                    "203.0.113.1"
                } else {
                    "198.18.2.1"
                },
            ])?;
            let ping = vps.try_exec(["ping", "-c1", "-W1", "-I", source, "198.51.100.10"])?;
            ensure!(
                ping.status.success() == (device == through),
                "{source} by {device}: {ping}"
            );
        }
    }

    let lab = up("partly-routed")?;
    ensure!(
        asks_for(&lab, "2001:db8:100:1::abcd")?,
        "it asks for what it calls routed"
    );
    Ok(())
}
