//! Beside packet filters of others: what they drop of ours is named with the command that mends it, and theirs works as
//! without us.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::topology::{End, HostKind, HostPlan, Link};
use adit_lab::{Host, Lab, Process, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{
    Device, Findings, INTERNET4, PUBLIC4, STRANGER4, World, at, binary, converse, listen, udp,
};

/// How soon a drop is named.
const LIMIT: Duration = Duration::from_secs(5);

/// What looking takes on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

const DOCKER: &str = include_str!("neighbours/docker.rules");
const DOCKER6: &str = include_str!("neighbours/docker6.rules");
const DOCKER_NFT: &str = include_str!("neighbours/docker.nft");

/// A gateway with a device that has a forward and a pinhole, and one that has neither.
struct Scene {
    world: World,
    vps: Host,
    internet: Host,
    server: Device,
    laptop: Device,
    /// A port that no packet was sent from or to yet.
    fresh: u16,
}

/// How commands of a program run on the VPS: with files of their own in the places of the machine's.
struct Place {
    before: String,
}

impl Scene {
    fn start(purpose: &str) -> Result<Self> {
        let world = World::with_subnet("routed", purpose)?;
        let server = world.join("box", "--kind server")?;
        let laptop = world.join("laptop", "")?;
        world.adit("forward add 8080/udp box")?;
        world.adit("pinhole add box 8090/udp")?;
        let scene = Self {
            vps: world.host("vps")?,
            internet: world.host("internet")?,
            world,
            server,
            laptop,
            fresh: 20_000,
        };
        Ok(scene)
    }

    fn problems(&self) -> Result<Vec<Value>> {
        let status = self.world.adit("status")?;
        let problems = status["problems"].as_array();
        Ok(problems.context("status: problems")?.clone())
    }

    /// Problems of foreign packet filters, once there are some.
    fn await_named(&self) -> Result<Vec<Value>> {
        let began = Instant::now();
        loop {
            let problems = self.problems()?;
            ensure!(
                problems.iter().all(|it| it["code"] == "foreign-firewall"),
                "another problem: {problems:?}"
            );
            if !problems.is_empty() {
                Findings::note(&format!("figure: named after {:?}", began.elapsed()));
                ensure!(
                    began.elapsed() < LIMIT + SLACK,
                    "named after {:?}",
                    began.elapsed()
                );
                return Ok(problems);
            }
            ensure!(began.elapsed() < 4 * LIMIT, "nothing is named");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn await_well(&self) -> Result<()> {
        wait_until("no problem", LIMIT + SLACK, || {
            let problems = self.problems()?;
            ensure!(problems.is_empty(), "{problems:?}");
            Ok(true)
        })
    }

    fn port(&mut self) -> u16 {
        self.fresh += 1;
        self.fresh
    }

    /// Which kinds of packets pass, there and back.
    fn passing(&mut self) -> Result<Vec<&'static str>> {
        let mut passing = Vec::new();
        let port = self.port();
        let far = udp(&self.internet, at(INTERNET4, port))?;
        let near = udp(&self.laptop.host, at(self.laptop.ipv4, port))?;
        if passes(&near, at(INTERNET4, port), &far)? {
            passing.push("departure");
        }
        let inside = udp(&self.server.host, at(self.server.ipv4, 8080))?;
        let port = self.port();
        let outside = udp(&self.internet, at(INTERNET4, port))?;
        if passes(&outside, at(PUBLIC4, 8080), &inside)? {
            passing.push("forward");
        }
        let inside = udp(&self.server.host, at(self.server.ipv6()?, 8090))?;
        let port = self.port();
        let outside = udp(&self.internet, at(crate::support::INTERNET6, port))?;
        if passes(&outside, at(self.server.ipv6()?, 8090), &inside)? {
            passing.push("pinhole");
        }
        Ok(passing)
    }

    /// Runs the very commands of the fixes, one after the other.
    fn mend(&self, problems: &[Value], place: &Place) -> Result<()> {
        let mut done = Vec::new();
        for problem in problems {
            let fix = problem["fix"].as_str().context("fix")?;
            let command = fix.split('`').nth(1).context("no command in the fix")?;
            if !done.contains(&command) {
                Findings::note(command);
                place.run(&self.vps, command)?;
                done.push(command);
            }
        }
        Ok(())
    }
}

const ALL: [&str; 3] = ["departure", "forward", "pinhole"];

fn passes(from: &UdpSocket, to: std::net::SocketAddr, on: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 64];
    from.set_read_timeout(Some(Duration::from_millis(300)))?;
    on.set_read_timeout(Some(Duration::from_millis(300)))?;
    for _ in 0..3 {
        // A refusal by ICMP is an answer too, and not the one that is wanted.
        let _ = from.send_to(b"there", to);
        let Ok((5, source)) = on.recv_from(&mut buffer) else {
            continue;
        };
        let _ = on.send_to(b"back", source);
        if matches!(from.recv_from(&mut buffer), Ok((4, _))) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Place {
    const fn machine() -> Self {
        Self {
            before: String::new(),
        }
    }

    fn ufw(host: &Host) -> Result<Self> {
        Self::with_copies(host, &["/etc/ufw", "/etc/default", "/lib/ufw"])
    }

    /// Copies take the places of the originals for each command, in the mount namespace that it has of its own.
    fn with_copies(host: &Host, folders: &[&str]) -> Result<Self> {
        let copies = host.folder()?;
        let mut before = String::new();
        for folder in folders {
            ensure!(
                Path::new(folder).exists(),
                "{folder} is missing: run scripts/install-packages"
            );
            let copy = format!("{}{folder}", copies.display());
            fs::create_dir_all(&copy)?;
            host.exec(["cp", "-a", &format!("{folder}/."), &copy])?;
            before.push_str(&format!("mount --bind {copy} {folder} && "));
        }
        Ok(Self { before })
    }

    fn run(&self, host: &Host, command: &str) -> Result<String> {
        let script = format!("{}{command}", self.before);
        Ok(host.exec(["sh", "-c", &script])?.stdout)
    }

    fn spawn(&self, host: &Host, command: &str) -> Result<Process> {
        let script = format!("{}exec {command}", self.before);
        host.spawn(["sh", "-c", &script])
    }
}

fn drops_and_is_mended(
    scene: &mut Scene,
    place: &Place,
    dropped: &[&str],
    objects: &[&str],
) -> Result<()> {
    let problems = scene.await_named()?;
    let passing = scene.passing()?;
    ensure!(
        dropped.iter().all(|it| !passing.contains(it)),
        "{passing:?} pass, although {problems:?}"
    );
    let named: Vec<&str> = problems
        .iter()
        .filter_map(|it| it["object"].as_str())
        .collect();
    ensure!(named == objects, "{problems:?}");
    scene.mend(&problems, place)?;
    scene.await_well()?;
    let passing = scene.passing()?;
    ensure!(passing == ALL, "after the fix only {passing:?} pass");
    Ok(())
}

#[test]
fn what_ufw_drops_is_named_and_mended() -> Result<()> {
    let mut scene = Scene::start("e2e-ufw")?;
    let place = Place::ufw(&scene.vps)?;
    scene.await_well()?;
    ensure!(scene.passing()? == ALL);
    place.run(&scene.vps, "ufw --force enable")?;
    drops_and_is_mended(
        &mut scene,
        &place,
        &ALL,
        &[
            "chain FORWARD of table ip filter",
            "chain INPUT of table ip filter",
            "chain FORWARD of table ip6 filter",
        ],
    )?;
    // A rule of the user's own that denies stands before those that were added.
    let interface = scene.world.gateway.interface().to_owned();
    place.run(
        &scene.vps,
        &format!("ufw delete allow 51820/udp && ufw route prepend deny out on {interface} proto udp from any to any"),
    )?;
    wait_until("all are named", LIMIT + SLACK, || {
        Ok(scene.problems()?.len() == 3)
    })?;
    let problems = scene.await_named()?;
    ensure!(
        problems.iter().any(|problem| problem["message"]
            .as_str()
            .is_some_and(|text| text.ends_with("in chain ufw-user-forward"))),
        "{problems:?}"
    );
    // Who joins anew does not get through.
    let stranger = scene.world.adit("device add nas").and_then(|answer| {
        let text = answer["config"].as_str().context("config")?.to_owned();
        scene.world.connect("nas", &text, answer)
    })?;
    thread::sleep(Duration::from_secs(2));
    ensure!(!stranger.has_handshake()?, "ufw let a handshake in");
    scene.mend(&scene.problems()?, &place)?;
    scene.await_well()?;
    stranger.await_handshake()?;
    let passing = scene.passing()?;
    ensure!(passing == ALL, "after the fix only {passing:?} pass");
    Ok(())
}

#[test]
fn what_firewalld_drops_is_named_and_mended() -> Result<()> {
    let mut scene = Scene::start("e2e-firewalld")?;
    let folder = scene.vps.folder()?;
    let bus = folder.join("bus");
    let configuration = folder.join("bus.conf");
    fs::write(
        &configuration,
        format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>"#,
            bus.display()
        ),
    )?;
    let mut place = Place::with_copies(&scene.vps, &["/etc/firewalld"])?;
    place.before.push_str(&format!(
        "export DBUS_SYSTEM_BUS_ADDRESS=unix:path={} && ",
        bus.display()
    ));
    ensure!(scene.passing()? == ALL);
    let mut daemon = place.spawn(
        &scene.vps,
        &format!(
            "dbus-daemon --config-file={} --nofork --nopidfile",
            configuration.display()
        ),
    )?;
    wait_until("the bus", Duration::from_secs(20), || Ok(bus.exists()))?;
    let log = folder.join("firewalld.log");
    let mut firewalld = place.spawn(
        &scene.vps,
        &format!("firewalld --nofork --nopid --log-file={}", log.display()),
    )?;
    wait_until("firewalld", Duration::from_secs(40), || {
        place.run(&scene.vps, "timeout 10 firewall-cmd --state")?;
        Ok(true)
    })?;
    drops_and_is_mended(
        &mut scene,
        &place,
        &["departure", "pinhole"],
        &[
            "chain filter_FORWARD of table inet firewalld",
            "chain filter_INPUT of table inet firewalld",
        ],
    )?;
    firewalld.stop()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn what_docker_drops_is_named_and_mended() -> Result<()> {
    let mut scene = Scene::start("e2e-docker")?;
    ensure!(scene.passing()? == ALL);
    scene
        .vps
        .exec_with_input(["iptables-nft-restore"], DOCKER)?;
    scene
        .vps
        .exec_with_input(["ip6tables-nft-restore"], DOCKER6)?;
    drops_and_is_mended(
        &mut scene,
        &Place::machine(),
        &ALL,
        &[
            "chain FORWARD of table ip filter",
            "chain FORWARD of table ip6 filter",
        ],
    )
}

#[test]
fn plain_rules_are_named_and_mended_and_others_are_no_trouble() -> Result<()> {
    let mut scene = Scene::start("e2e-nft")?;
    let vps = scene.vps.clone();
    let load = |text: &str| vps.exec_with_input(["nft", "-f", "-"], text);
    // What a careful administrator has, and what other programs leave behind: none of it is in the way.
    load(&format!(
        "table inet careful {{
            set banned {{ type ipv4_addr; flags timeout; elements = {{ 192.0.2.66 timeout 1h }} }}
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                ct state invalid drop
                ip saddr @banned drop
                iifname lo accept
                meta l4proto {{ icmp, ipv6-icmp }} accept
                tcp dport {{ 22, 80-90 }} accept
                udp dport {{ 51820 }} limit rate over 5000/second drop
                udp dport {{ 500, 51810-51829 }} accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state vmap {{ established : accept, related : accept, invalid : drop }}
                iifname \"{tunnel}\" goto ours
                oifname \"{tunnel}\" ct status dnat accept
                oifname \"{tunnel}\" meta nfproto ipv6 accept
                reject
            }}
            chain ours {{
                ip saddr 10.59.0.0/16 accept
                ip6 saddr 2001:db8:100::/48 accept
                drop
            }}
            chain spoofed {{
                type filter hook prerouting priority raw; policy accept;
                iifname eth0 ip saddr {{ 10.0.0.0/8, 127.0.0.0/8 }} drop
                fib saddr . iif oif missing drop
            }}
        }}
        {DOCKER_NFT}",
        tunnel = scene.world.gateway.interface()
    ))?;
    thread::sleep(Duration::from_secs(3));
    scene.await_well()?;
    ensure!(scene.passing()? == ALL);
    vps.exec(["nft", "delete", "table", "inet", "careful"])?;

    load(
        "table inet strict {
            chain input { type filter hook input priority filter; policy drop; ct state established accept; tcp dport 22 accept; }
            chain forward { type filter hook forward priority filter; policy drop; ip daddr 172.17.0.0/16 accept; }
            chain output { type filter hook output priority filter; policy drop; ct state new accept; }
        }",
    )?;
    drops_and_is_mended(
        &mut scene,
        &Place::machine(),
        &ALL,
        &[
            "chain forward of table inet strict",
            "chain input of table inet strict",
            "chain output of table inet strict",
        ],
    )?;
    vps.exec(["nft", "delete", "table", "inet", "strict"])?;

    // One port alone: the forward that it bars is named, and not the other.
    scene.world.adit("forward add 8081/udp box")?;
    let barred = scene
        .world
        .id("forward", &serde_json::json!({"port": 8080}))?;
    load(
        "table ip one { chain forward {
            type filter hook forward priority -10; policy accept;
            udp dport 8080 ct state new counter drop
            }
        }",
    )?;
    let problems = scene.await_named()?;
    let message = problems[0]["message"].as_str().unwrap_or_default();
    ensure!(
        problems.len() == 1 && message == format!("it drops what arrives for forward {barred}"),
        "{problems:?}"
    );
    ensure!(scene.passing()? == ["departure", "pinhole"]);
    scene.mend(&problems, &Place::machine())?;
    scene.await_well()?;
    ensure!(scene.passing()? == ALL);
    Ok(())
}

/// A container behind Docker's rules, with a published port and a way out, before and after a gateway is there.
#[test]
fn a_neighbours_own_traffic_is_as_without_us() -> Result<()> {
    let topology = Topology::by_name("routed")?
        .host(
            HostPlan::new("pod", HostKind::Endpoint, "a container on the VPS")
                .route("default", "172.17.0.1"),
        )
        .link(Link::between(
            End::new("vps", "docker0").addresses(&["172.17.0.1/16"]),
            End::new("pod", "eth0").addresses(&["172.17.0.2/16"]),
        ));
    let lab = Lab::temporary(&topology, "e2e-container")?;
    let vps = lab.host("vps")?;
    vps.exec(["sysctl", "-qw", "net.ipv4.conf.all.forwarding=1"])?;
    vps.exec_with_input(["iptables-nft-restore"], DOCKER)?;
    let (pod, internet, stranger) = (
        lab.host("pod")?,
        lab.host("internet")?,
        lab.host("stranger")?,
    );
    let pod_address = Ipv4Addr::new(172, 17, 0, 2);
    let web = listen(&pod, at(pod_address, 80))?;
    let far = listen(&internet, at(INTERNET4, 7700))?;
    let behaves = |when: &str| -> Result<()> {
        let published = converse(&stranger, None, at(PUBLIC4, 8081), &web)
            .with_context(|| format!("{when}: the published port"))?;
        ensure!(published.seen.ip() == IpAddr::V4(STRANGER4));
        let out = converse(&pod, None, at(INTERNET4, 7700), &far)
            .with_context(|| format!("{when}: the container's way out"))?;
        ensure!(out.seen.ip() == IpAddr::V4(PUBLIC4));
        // What Docker closes stays closed.
        let closed = udp(&pod, at(pod_address, 8082))?;
        let from = udp(&stranger, at(STRANGER4, 8082))?;
        ensure!(!passes(&from, at(PUBLIC4, 8082), &closed)?, "{when}");
        Ok(())
    };
    let theirs = || -> Result<String> {
        let listed = vps.exec(["iptables-nft-save"])?.stdout;
        // Without counters and times.
        let lines = listed.lines().filter(|line| line.starts_with('-'));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    behaves("without a gateway")?;
    let before = theirs()?;
    let gateway = lab.start_gateway(binary())?;
    let mut scene = World::of(gateway, lab);
    scene.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 2001:db8:100:1::/64")?;
    let laptop = scene.join("laptop", "")?;
    scene.adit("forward add 8080 laptop")?;
    behaves("beside a gateway")?;
    let web = listen(&laptop.host, at(laptop.ipv4, 8080))?;
    vps.exec([
        "iptables-nft",
        "-I",
        "DOCKER-USER",
        "-o",
        scene.gateway.interface(),
        "-j",
        "ACCEPT",
    ])?;
    vps.exec([
        "iptables-nft",
        "-I",
        "DOCKER-USER",
        "-i",
        scene.gateway.interface(),
        "-j",
        "ACCEPT",
    ])?;
    converse(&stranger, None, at(PUBLIC4, 8080), &web).context("the forward beside Docker")?;
    behaves("beside a gateway with traffic of its own")?;
    for direction in ["-i", "-o"] {
        let interface = scene.gateway.interface().to_owned();
        vps.exec([
            "iptables-nft",
            "-D",
            "DOCKER-USER",
            direction,
            &interface,
            "-j",
            "ACCEPT",
        ])?;
    }
    ensure!(theirs()? == before, "Docker's rules were changed");
    scene.gateway.terminate()?;
    scene.gateway.teardown()?;
    behaves("after the gateway")?;
    ensure!(theirs()? == before, "Docker's rules were changed");
    Ok(())
}
