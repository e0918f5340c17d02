//! Beside other programs that manage the host's network: each leaves the other's alone, or has it back at once.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::{Host, Process, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::healing::healed;
use crate::support::{
    Findings, INTERNET4, INTERNET6, PUBLIC4, Snapshot, World, at, converse, exchange, listen, udp,
};

/// What the gateway has back within a second, on a machine that does other things too.
const BACK: Duration = Duration::from_secs(2);

/// In a mount namespace of its own. Without udev, links are ready when they appear: these programs know that by a file
/// system that is read-only.
const NETWORKD: &str = "
mount --make-rprivate /
for path in /etc/systemd/network /run/systemd /run/dbus; do mkdir --parents $path; mount -t tmpfs tmpfs $path; done
mount -o remount,bind,ro /sys
cp $1/eth0.network /etc/systemd/network/
chmod 644 /etc/systemd/network/*
export SYSTEMD_LOG_TARGET=console
dbus-daemon --system --nofork --nopidfile >/dev/null 2>&1 &
/lib/systemd/systemd-networkd &
manager=$!
trap \"kill $manager\" TERM
# What it finds at its start it leaves; this is how it comes to remove what others have made.
until networkctl reconfigure eth0 2>/dev/null; do sleep 0.1; done
echo reconfigured
wait $manager
";

const NETWORK_MANAGER: &str = "
mount --make-rprivate /
connections=/etc/NetworkManager/system-connections
for path in $connections /run/dbus /run/NetworkManager /var/lib/NetworkManager; do mkdir --parents $path; mount -t tmpfs tmpfs $path; done
mount -o remount,bind,ro /sys
install --mode 600 $1/eth0.nmconnection $connections/
dbus-daemon --system --nofork --nopidfile >/dev/null 2>&1 &
NetworkManager --debug --config $1/NetworkManager.conf --log-level=INFO &
manager=$!
trap \"kill $manager\" TERM
# What it finds at its start it takes for what somebody else has done.
until nmcli --terse general status >/dev/null 2>&1; do sleep 0.05; done
nmcli connection up eth0
wait $manager
";

/// As a provider's image has it, with the router advertisements in the program's hands.
const ETH0_NETWORK: &str = "[Match]
Name=eth0

[Network]
Address=203.0.113.2/24
Gateway=203.0.113.1
Address=2001:db8:1::2/64
IPv6AcceptRA=yes

[IPv6AcceptRA]
UseAutonomousPrefix=no
";

const ETH0_CONNECTION: &str = "[connection]
id=eth0
type=ethernet
interface-name=eth0
autoconnect=true

[ipv4]
method=manual
address1=203.0.113.2/24,203.0.113.1

[ipv6]
method=auto
address1=2001:db8:1::2/64
addr-gen-mode=eui64
";

const MANAGER: &str = "[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
no-auto-default=*
[keyfile]
unmanaged-devices=except:interface-name:eth0
";

#[test]
fn what_networkd_removes_is_back_within_a_second() -> Result<()> {
    beside(
        "e2e-beside-networkd",
        "eth0.network",
        ETH0_NETWORK,
        NETWORKD,
    )
}

#[test]
fn what_network_manager_removes_is_back_within_a_second() -> Result<()> {
    beside(
        "e2e-beside-nm",
        "eth0.nmconnection",
        ETH0_CONNECTION,
        NETWORK_MANAGER,
    )
}

fn beside(purpose: &str, file: &str, content: &str, script: &str) -> Result<()> {
    let world = World::with_subnet("two-uplinks", purpose)?;
    let vps = world.host("vps")?;
    let server = world.join("box", "--kind server")?;
    world.adit("forward add 80 box")?;
    world.adit("pinhole add box 80")?;
    let folder = vps.folder()?;
    fs::write(folder.join(file), content)?;
    fs::write(folder.join("NetworkManager.conf"), MANAGER)?;
    // With its broadcast address, as these programs would have added it.
    let ours = objects(&vps)?;
    for command in [
        "ip address delete 203.0.113.2/24 dev eth0",
        "ip address add 203.0.113.2/24 brd + dev eth0",
        "ip route add default via 203.0.113.1",
    ] {
        vps.exec(command.split_whitespace())?;
    }
    watch(&vps, &ours, Duration::from_secs(1))?;
    ensure!(
        ours.iter().any(|line| line.starts_with("4200:")) && ours.len() > 8,
        "with two uplinks there are rules and routes: {ours:?}"
    );

    let at_first = healed(&world)?;
    for round in 1..=2 {
        let before = healed(&world)?;
        let mut program = start(&vps, script)?;
        let longest = watch(&vps, &ours, Duration::from_secs(6))
            .with_context(|| format!("round {round}: {}", tell(&program)))?;
        let healed = healed(&world)? - before;
        Findings::note(&format!(
            "figure: {purpose}: {healed} healed; something of ours was away for at most {longest:?}"
        ));
        ensure!(longest < BACK, "something was away for {longest:?}");
        ensure!(program.is_running()?, "{}", tell(&program));
        if round == 1 {
            // It has the uplink, and with it the advertisements.
            let accept = || -> Result<String> {
                let key = "net.ipv6.conf.eth0.accept_ra";
                Ok(vps.exec(["sysctl", "-n", key])?.stdout.trim().to_owned())
            };
            wait_until(
                "accept_ra is the program's",
                Duration::from_secs(10),
                || Ok(accept()? == "0"),
            )
            .with_context(|| tell(&program))?;
            // Three lifetimes of the route would end it if nobody listened.
            let end = Instant::now() + Duration::from_secs(15);
            while Instant::now() < end {
                ensure!(accept()? == "0", "accept_ra was set to {}", accept()?);
                thread::sleep(Duration::from_millis(250));
            }
            let routes = vps.exec(["ip", "-6", "route", "show", "default", "dev", "eth0"])?;
            ensure!(
                !routes.stdout.is_empty(),
                "no default route: {}",
                tell(&program)
            );
        }
        program.stop()?;
    }

    ensure!(
        healed(&world)? > at_first,
        "nothing of ours was removed, so nothing is shown"
    );

    let internet = world.host("internet")?;
    let web = listen(&server.host, at(server.ipv4, 80))?;
    converse(&internet, None, at(PUBLIC4, 80), &web)?;
    let web = listen(&server.host, at(server.ipv6()?, 80))?;
    converse(&internet, None, at(server.ipv6()?, 80), &web)?;
    let far = udp(&internet, at(INTERNET6, 7000))?;
    let near = udp(&server.host, at(server.ipv6()?, 6000))?;
    exchange(&near, at(INTERNET6, 7000), &far, "out")?;
    Ok(())
}

fn start(host: &Host, script: &str) -> Result<Process> {
    let folder = host.folder()?.display().to_string();
    host.spawn(["unshare", "--mount", "sh", "-euc", script, "sh", &folder])
}

fn tell(program: &Process) -> String {
    let log = program.stdout().unwrap_or_default() + &program.stderr().unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Routes and rules that bear our mark.
fn objects(host: &Host) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for family in ["-4", "-6"] {
        for command in [
            &["rule", "show"][..],
            &["route", "show", "table", "all", "proto", "173"],
        ] {
            let words = [&["ip", family][..], command].concat();
            let shown = host.exec(words)?.stdout;
            let is_rule = command[0] == "rule";
            found.extend(
                shown
                    .lines()
                    .filter(|line| !is_rule || line.contains("proto 173"))
                    .map(|line| format!("{} {family}", line.trim_end())),
            );
        }
    }
    Ok(found)
}

/// Whether the uplink has its way out in both families: without, there is nothing for ours to lead to.
fn is_whole(host: &Host) -> Result<bool> {
    let default = |family| -> Result<bool> {
        let shown = host.exec(["ip", family, "route", "show", "default", "dev", "eth0"])?;
        Ok(!shown.stdout.is_empty())
    };
    Ok(default("-4")? && default("-6")?)
}

/// Looks all the time; the longest that something was not there, while the uplink was whole.
fn watch(host: &Host, ours: &BTreeSet<String>, time: Duration) -> Result<Duration> {
    let end = Instant::now() + time;
    let mut since: Option<Instant> = None;
    let mut longest = Duration::ZERO;
    loop {
        let now = objects(host)?;
        if ours.is_subset(&now) {
            if let Some(since) = since.take() {
                longest = longest.max(since.elapsed());
            }
            if Instant::now() > end {
                return Ok(longest);
            }
        } else if !is_whole(host)? {
            since = None;
            ensure!(
                Instant::now() < end + BACK * 5,
                "the uplink does not come back"
            );
        } else {
            let since = *since.get_or_insert_with(Instant::now);
            let missing: Vec<_> = ours.difference(&now).collect();
            ensure!(
                since.elapsed() < BACK * 5,
                "these do not come back: {missing:?}"
            );
        }
    }
}

/// What Tailscale has on a host: rules, a table, and marks of its own on packets.
const TAILSCALE: [&str; 7] = [
    "ip rule add priority 5210 fwmark 0x80000/0xff0000 table main",
    "ip rule add priority 5230 fwmark 0x80000/0xff0000 table default",
    "ip rule add priority 5250 fwmark 0x80000/0xff0000 unreachable",
    "ip rule add priority 5270 table 52",
    "ip -6 rule add priority 5270 table 52",
    "ip route add 100.100.100.100/32 dev lo table 52",
    "ip -6 route add fd7a:115c:a1e0::/48 dev lo table 52",
];

/// Every packet bears a mark of Tailscale's when it arrives; when it leaves, it has to bear it still. (What the kernel itself
/// says to multicast groups never arrived.)
const MARKS: &str = "table inet marks {
  chain arrive { type filter hook prerouting priority -300; meta mark set meta mark or 0x40000; }
  chain leave { type filter hook postrouting priority 300;
    ip6 daddr ff00::/8 accept
    iifname \"eth0\" meta mark & 0xff0000 == 0x40000 counter name kept
    iifname \"eth0\" meta mark & 0xff0000 != 0x40000 counter name lost
  }
  counter kept { }
  counter lost { }
}
";

#[test]
fn tables_priorities_and_marks_of_other_tunnels_are_left_alone() -> Result<()> {
    let mut world = World::start("two-uplinks", "e2e-beside-tunnels")?;
    let vps = world.host("vps")?;
    world.gateway.terminate()?;
    world.gateway.teardown()?;
    for command in TAILSCALE {
        vps.exec(command.split_whitespace())?;
    }
    vps.exec_with_input(["nft", "-f", "-"], MARKS)?;
    // A tunnel of wg-quick, with a table and a mark of its own as for a default route.
    let key = vps.exec(["wg", "genkey"])?.stdout;
    let peer = vps.exec(["wg", "genkey"])?.stdout;
    let peer = vps.exec_with_input(["wg", "pubkey"], &peer)?.stdout;
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.99.0.2/32\nTable = 51820\nFwMark = 51820\n\
         PostUp = ip rule add from 10.99.0.2 table 51820 priority 32700\nPreDown = ip rule del priority 32700\n\
         [Peer]\nPublicKey = {}\nEndpoint = {INTERNET4}:51999\nAllowedIPs = 0.0.0.0/0\n",
        key.trim(),
        peer.trim()
    );
    let _tunnel = world.lab.wg_quick_up("vps", &text)?;
    let others = |world: &World| -> Result<Snapshot> {
        Ok(Snapshot::of_others(&vps, world.gateway.interface())?.without_sysctls())
    };
    let before = others(&world)?;

    world.gateway.start()?;
    let prefix = world.prefix()?;
    world.adit(&format!(
        "subnet add lan --ipv4 10.59.0.0/24 --ipv6 {prefix}"
    ))?;
    let server = world.join("box", "--kind server")?;
    world.adit("forward add 80 box")?;
    let web = listen(&server.host, at(server.ipv4, 80))?;
    converse(&world.host("internet")?, None, at(PUBLIC4, 80), &web)?;
    let counters = vps.exec(["nft", "list", "counters", "table", "inet", "marks"])?;
    let count = |name: &str| -> Result<u64> {
        let rest = counters.stdout.split(&format!("counter {name} {{")).nth(1);
        let number = rest.and_then(|rest| rest.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("counter {name} in {}", counters.stdout))
    };
    ensure!(
        count("kept")? > 0 && count("lost")? == 0,
        "{}",
        counters.stdout
    );

    world.gateway.terminate()?;
    world.gateway.start()?;
    world.adit("subnet remove lan --force")?;
    world.gateway.terminate()?;
    world.gateway.teardown()?;
    vps.exec(["nft", "reset", "counters"])?;
    before.ensure_same(&others(&world)?)
}
