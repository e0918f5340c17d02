//! Downloads over names outlive what others do to the rules: the visitor says nothing more, and the device alone speaks.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};

use super::LIMIT;
use crate::support::{
    Device, Findings, PUBLIC4, PUBLIC6, World, accept, at, connect, listen, receive, udp,
};

const PACE: Duration = Duration::from_millis(10);
/// So many after what was on its way.
const MORE: u64 = 100;

/// Something that a device sends to a visitor in small pieces.
struct Download {
    name: String,
    is_tcp: bool,
    arrived: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Download {
    fn over_http(world: &World, device: &Device, to: IpAddr, name: &str) -> Result<Self> {
        let own: IpAddr = match to {
            IpAddr::V4(_) => device.ipv4.into(),
            IpAddr::V6(_) => device.ipv6()?.into(),
        };
        let listener = listen(&device.host, at(own, 8080))?;
        let mut client = connect(&world.host("internet")?, None, at(to, 80), LIMIT)?;
        client.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes())?;
        let (mut server, _) = accept(&listener)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            server.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let download = Self::new(format!("{name} at {to}"), true);
        download.send(move || server.write_all(&[7; 500]).is_ok());
        download.count(move |buffer| read(&mut client, buffer));
        Ok(download)
    }

    /// Datagrams of a flow that began before the gateway: they lead to the fallback.
    fn over_quic(internet: &Host, device: &Device) -> Result<Self> {
        let server = udp(&device.host, at(device.ipv4, 443))?;
        let client = udp(internet, SocketAddr::from(([0; 4], 0)))?;
        client.send_to(b"\x40 more", at(PUBLIC4, 443))?;
        let visitor = receive(&server, "\x40 more")?;
        let download = Self::new("over QUIC".to_owned(), false);
        download.send(move || {
            let _ = server.send_to(&[7; 500], visitor);
            true
        });
        download.count(move |buffer| hear(&client, buffer));
        Ok(download)
    }

    fn new(name: String, is_tcp: bool) -> Self {
        Self {
            name,
            is_tcp,
            arrived: Arc::default(),
            ends: Arc::default(),
        }
    }

    fn send(&self, mut send: impl FnMut() -> bool + Send + 'static) {
        let ends = Arc::clone(&self.ends);
        thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) && send() {
                thread::sleep(PACE);
            }
        });
    }

    /// In pieces of the size that is sent.
    fn count(&self, mut receive: impl FnMut(&mut [u8]) -> Option<usize> + Send + 'static) {
        let (ends, arrived) = (Arc::clone(&self.ends), Arc::clone(&self.arrived));
        thread::spawn(move || {
            let mut buffer = [0; 500];
            while let Some(length) = receive(&mut buffer)
                && !ends.load(Ordering::Relaxed)
            {
                arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }

    fn ensure_alive(&self) -> Result<()> {
        let arrived = || self.arrived.load(Ordering::Relaxed);
        let before = arrived();
        wait_until("more of it", LIMIT, || Ok(arrived() > before + MORE * 500))
            .with_context(|| format!("{}: {} bytes, and no more", self.name, arrived() - before))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    stream.set_read_timeout(Some(6 * LIMIT)).ok()?;
    stream.read(buffer).ok().filter(|length| *length > 0)
}

fn hear(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    socket.set_read_timeout(Some(6 * LIMIT)).ok()?;
    socket.recv(buffer).ok()
}

/// What the front's connections are known by, taken away: as if they had begun under the rules of an earlier version.
const FORGETFUL: &str = "table inet forgetful {
  chain prerouting { type filter hook prerouting priority 0; ct mark set 0; }
}
";

#[test]
fn downloads_over_names_outlive_the_rules() -> Result<()> {
    let mut world = World::start("routed", "e2e-names-downloads")?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24")?;
    let server = world.join("box", "--kind server")?;
    // It sees the gateway's address.
    let laptop = world.join("laptop", "--routing split")?;
    world.adit("forward add 80/tcp box:8080 --name box.test")?;
    world.adit("forward add 80/tcp laptop:8080 --name laptop.test")?;
    world.adit("forward add 443/udp box --name quic.test")?;
    world.adit("forward add 443/udp box")?;
    let internet = world.host("internet")?;
    let vps = world.host("vps")?;
    let downloads = [
        Download::over_http(&world, &server, PUBLIC4.into(), "box.test")?,
        Download::over_http(&world, &server, PUBLIC6.into(), "box.test")?,
        Download::over_http(&world, &laptop, PUBLIC4.into(), "laptop.test")?,
        Download::over_quic(&internet, &server)?,
    ];
    let mut findings = Findings::default();
    let mut all_go_on = |when: &str, with_datagrams: bool| {
        let concerned = downloads.iter().filter(|it| it.is_tcp || with_datagrams);
        for download in concerned {
            let name = format!("{}, {when}", download.name);
            findings.check(&name, download.ensure_alive());
        }
    };
    let is_back = || {
        wait_until("the table is back", LIMIT, || {
            let table = vps.try_exec(["nft", "list", "chain", "inet", "adit", "back_to_front"])?;
            Ok(table.status.success())
        })
    };
    all_go_on("at first", true);
    vps.exec(["nft", "flush", "ruleset"])?;
    is_back()?;
    all_go_on("after a flush", true);

    world.gateway.terminate()?;
    let service = ["add", "element", "inet", "adit", "services", "{ tcp . 99 }"];
    vps.exec([&["nft"][..], &service].concat())?;
    world.gateway.start()?;
    let services = vps.exec(["nft", "list", "set", "inet", "adit", "services"])?;
    ensure!(!services.stdout.contains("99"), "{}", services.stdout);
    all_go_on("with a daemon that found another table", true);

    world.adit("subnet set lan --peers off")?;
    all_go_on("after a subnet was closed", true);

    vps.exec_with_input(["nft", "-f", "-"], FORGETFUL)?;
    thread::sleep(10 * PACE);
    vps.exec(["nft", "flush", "ruleset"])?;
    is_back()?;
    all_go_on("of an earlier version, after a flush", false);
    findings.conclude()
}
