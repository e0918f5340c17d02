//! `adit portmap` with the router of a home, which is miniupnpd, and with our gateway: what it answers is true, as packets from
//! outside show.

mod address;
mod moved;
mod names;
mod own;
mod upnp;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use adit_lab::{Host, Lab, Process, TemporaryLab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{Machine, at, binary, connect, converse, listen};

/// The router's address outside. miniupnpd maps nothing to one that it knows to be private, or for documents.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 2);
const LAPTOP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);

/// Where it is a matter of packets within one machine.
const SOON: Duration = Duration::from_secs(10);

struct Home {
    laptop: Host,
    router: Router,
    /// The neighbour outside.
    provider: Host,
    lab: TemporaryLab,
    _machine: Machine,
}

/// The router of a home, with miniupnpd on it or without.
struct Router {
    host: Host,
    /// What it is told that it has outside; else it has what its interface has, an address of a CGNAT.
    outside: Option<Ipv4Addr>,
    daemon: Option<Process>,
}

impl Router {
    /// Gives it the chains that miniupnpd fills, and an address outside.
    fn prepare(lab: &Lab) -> Result<Self> {
        let host = lab.host("home")?;
        let outside = format!("{OUTSIDE}/32");
        host.exec(["ip", "address", "add", &outside, "dev", "wan"])?;
        lab.host("cgnat")?
            .exec(["ip", "route", "add", &outside, "via", "100.64.0.2"])?;
        host.exec_with_input(
            ["nft", "-f", "-"],
            "table inet filter {
               chain miniupnpd { }
               chain prerouting_miniupnpd { }
               chain postrouting_miniupnpd { }
               chain forward { type filter hook forward priority 0; jump miniupnpd; }
               chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
               chain postrouting { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
             }",
        )?;
        Ok(Self {
            host,
            outside: Some(OUTSIDE),
            daemon: None,
        })
    }

    fn start(&mut self) -> Result<()> {
        let folder = self.host.folder()?;
        let configuration = folder.join("miniupnpd.conf");
        let outside = self.outside.map(|address| format!("ext_ip={address}\n"));
        let outside = outside.unwrap_or_default();
        fs::write(
            &configuration,
            format!(
                "ext_ifname=wan\n{outside}listening_ip=lan\nenable_natpmp=yes\n\
             enable_upnp=yes\nsecure_mode=yes\nsystem_uptime=no\nmin_lifetime=120\nmax_lifetime=86400\n\
             uuid=b7d2d7d4-0a54-4c80-a6f7-6a9d6a5a1f00\nallow 1024-65535 192.168.1.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n"
            ),
        )?;
        let process = folder.join("miniupnpd.pid");
        // What an earlier one left behind would keep this one from starting.
        if process.exists() {
            fs::remove_file(&process)?;
        }
        let (configuration, process) = (path(&configuration)?, path(&process)?);
        let mut daemon = self.host.spawn([
            "miniupnpd",
            "-d",
            "-f",
            configuration.as_str(),
            "-P",
            process.as_str(),
        ])?;
        wait_until("the sockets of miniupnpd", SOON, || {
            ensure!(daemon.is_running()?, "miniupnpd: {}", daemon.stderr()?);
            let sockets = self.host.exec(["ss", "-lun"])?.stdout;
            Ok(sockets.contains(":5351"))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Lets it hear nothing any more on UDP port 5351 that matches; the first octet of a datagram is the version.
    fn deafen(&self, to: &str) -> Result<()> {
        let rules = format!(
            "table inet deaf {{
               chain input {{
                 type filter hook input priority 0;
                 udp dport 5351 {to} drop;
               }}
             }}"
        );
        self.host.exec_with_input(["nft", "-f", "-"], &rules)?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("a router that runs")?;
        daemon.stop()?;
        Ok(())
    }
}

impl Home {
    fn new(purpose: &str) -> Result<Self> {
        let machine = Machine::share();
        let lab = Lab::temporary(&Topology::by_name("routed")?, purpose)?;
        Ok(Self {
            laptop: lab.host("laptop")?,
            router: Router::prepare(&lab)?,
            provider: lab.host("cgnat")?,
            lab,
            _machine: machine,
        })
    }

    fn words(&self, command: &str) -> Result<Vec<String>> {
        let folder = path(&self.lab.folder().join("portmap"))?;
        let mut words = vec![path(binary())?, "portmap".to_owned()];
        words.extend(command.split_whitespace().map(str::to_owned));
        words.extend(["--json".to_owned(), "--runtime-dir".to_owned(), folder]);
        Ok(words)
    }

    fn portmap(&self, command: &str) -> Result<Vec<Value>> {
        let output = self.laptop.exec(self.words(command)?)?;
        let document: Value = serde_json::from_str(&output.stdout)?;
        let mappings = document["mappings"].as_array();
        Ok(mappings.context("mappings")?.clone())
    }

    /// The code of a refusal.
    fn refused(&self, command: &str) -> Result<String> {
        let output = self.laptop.try_exec(self.words(command)?)?;
        ensure!(output.status.code() == Some(1), "{command}: {output}");
        let document: Value = serde_json::from_str(&output.stderr)?;
        let code = document["error"]["code"].as_str();
        Ok(code.context("a code")?.to_owned())
    }

    /// Whether a connection from outside to a port of the router comes to the laptop's port 8080, with its true source.
    fn is_open(&self, port: u16) -> Result<bool> {
        let listener = listen(&self.laptop, at(LAPTOP, 8080))?;
        let limit = Duration::from_secs(2);
        if connect(&self.provider, None, at(OUTSIDE, port), limit).is_err() {
            return Ok(false);
        }
        // The one that was tried.
        drop(listener);
        let listener = listen(&self.laptop, at(LAPTOP, 8080))?;
        let mut conversation = converse(&self.provider, None, at(OUTSIDE, port), &listener)?;
        conversation.talk()?;
        ensure!(
            conversation.seen.ip() == IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1)),
            "the laptop sees {}",
            conversation.seen
        );
        Ok(true)
    }
}

fn path(path: &std::path::Path) -> Result<String> {
    Ok(path.to_str().context("a path")?.to_owned())
}

#[test]
fn port_is_opened_listed_renewed_and_given_back() -> Result<()> {
    let mut home = Home::new("portmap-add")?;
    ensure!(home.refused("add 8080/tcp --ipv4")? == "no-gateway");
    home.router.start()?;
    ensure!(!home.is_open(18080)?, "nothing is open yet");

    let added = home.portmap("add 8080/tcp --external 18080")?;
    ensure!(added.len() == 1, "{added:?}");
    let mapping = &added[0];
    ensure!(mapping["mechanism"] == "pcp", "{mapping}");
    ensure!(mapping["gateway"] == "192.168.1.1", "{mapping}");
    ensure!(mapping["internal"] == "192.168.1.11:8080", "{mapping}");
    ensure!(mapping["external"] == "11.0.0.2:18080", "{mapping}");
    ensure!(mapping["reach"] == "public", "{mapping}");
    ensure!(home.is_open(18080)?, "what was promised is not true");

    // The same nonce: miniupnpd would refuse another.
    let renewed = home.portmap("add 8080/tcp --external 18080 --lifetime 7200")?;
    ensure!(renewed[0]["external"] == "11.0.0.2:18080", "{renewed:?}");
    ensure!(
        renewed[0]["expires_in"].as_u64() > Some(3600),
        "{renewed:?}"
    );
    let listed = home.portmap("list")?;
    ensure!(listed.len() == 1, "{listed:?}");

    ensure!(home.refused("remove 9090/tcp")? == "not-held");
    home.portmap("remove 8080/tcp")?;
    ensure!(!home.is_open(18080)?, "what was given back is still open");
    ensure!(home.portmap("list")?.is_empty());
    Ok(())
}

#[test]
fn router_that_is_silent_in_pcp_is_asked_in_nat_pmp() -> Result<()> {
    let mut home = Home::new("portmap-natpmp")?;
    home.router.start()?;
    home.router.deafen("@th,64,8 2")?;
    let added = home.portmap("add 8080/tcp --external 18081")?;
    ensure!(added[0]["mechanism"] == "nat-pmp", "{added:?}");
    ensure!(added[0]["external"] == "11.0.0.2:18081", "{added:?}");
    ensure!(home.is_open(18081)?);
    home.portmap("remove --all")?;
    ensure!(!home.is_open(18081)?);
    Ok(())
}

#[test]
fn router_that_speaks_upnp_alone_is_asked_in_upnp() -> Result<()> {
    let mut home = Home::new("portmap-upnp")?;
    home.router.start()?;
    home.router.deafen("")?;
    let added = home.portmap("add 8080/tcp --external 18082")?;
    ensure!(added[0]["mechanism"] == "upnp", "{added:?}");
    ensure!(added[0]["external"] == "11.0.0.2:18082", "{added:?}");
    ensure!(home.is_open(18082)?);
    home.portmap("remove 8080/tcp")?;
    ensure!(!home.is_open(18082)?);
    Ok(())
}

#[test]
fn watch_ends_where_nothing_of_it_can_be_asked_for() -> Result<()> {
    let mut home = Home::new("portmap-hopeless")?;
    home.router.start()?;
    for (deaf, refusal) in [("@th,64,8 2", "NAT-PMP only"), ("", "UPnP only")] {
        home.router.deafen(deaf)?;
        let words = home.words("watch 8080/tcp --ipv4 --external 18080 --exact")?;
        let output = home.laptop.try_exec(words)?;
        ensure!(output.status.code() == Some(1), "{output}");
        ensure!(output.stdout.contains(refusal), "{output}");
        let document: Value = serde_json::from_str(&output.stderr)?;
        ensure!(document["error"]["code"] == "not-mapped", "{output}");
        ensure!(!output.stderr.contains("asked again"), "{output}");
        ensure!(!home.is_open(18080)?, "{refusal}");
    }
    Ok(())
}

#[test]
fn range_is_asked_port_by_port_where_the_router_has_no_sets() -> Result<()> {
    let mut home = Home::new("portmap-range")?;
    home.router.start()?;
    let added = home.portmap("add 8080-8082/tcp --external 18080")?;
    let mut external: Vec<_> = added.iter().map(|it| it["external"].clone()).collect();
    external.sort_by_key(Value::to_string);
    let expected = ["11.0.0.2:18080", "11.0.0.2:18081", "11.0.0.2:18082"];
    ensure!(external == expected, "{added:?}");
    ensure!(home.is_open(18080)?);
    home.portmap("remove 8080-8082")?;
    ensure!(!home.is_open(18080)?);
    Ok(())
}

#[test]
fn watched_port_outlives_the_router_and_ends_with_the_command() -> Result<()> {
    let mut home = Home::new("portmap-watch")?;
    home.router.start()?;
    let mut watch = home
        .laptop
        .spawn(home.words("watch 8080/tcp --external 18080")?)?;
    watch.wait_for_output("11.0.0.2:18080", SOON)?;
    ensure!(home.is_open(18080)?);
    ensure!(home.refused("remove 8080/tcp")? == "held-by-process");

    // The clock of a router that ran for a moment does not tell whether it is the same one.
    std::thread::sleep(Duration::from_secs(5));
    home.router.stop()?;
    home.router
        .host
        .exec(["nft", "flush chain inet filter prerouting_miniupnpd"])?;
    home.router
        .host
        .exec(["nft", "flush chain inet filter miniupnpd"])?;
    ensure!(!home.is_open(18080)?, "the router lost its state");
    // It comes back with nothing and tells everybody; no renewal is due before half an hour.
    home.router.start()?;
    wait_until("the port is open again", Duration::from_secs(30), || {
        home.is_open(18080)
    })
    .with_context(|| format!("the command said {:?}", watch.stdout()))?;

    watch.stop()?;
    ensure!(
        !home.is_open(18080)?,
        "the end of the command gives the port back"
    );
    ensure!(home.portmap("list")?.is_empty());
    Ok(())
}
