//! Narrow paths whose routers say nothing: TCP passes in both directions and both families.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};

use crate::support::{
    Conversation, Device, Findings, INTERNET4, INTERNET6, PUBLIC4, World, accept, at, connect,
    listen,
};

const ROUTER4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1);

const MEGABYTE: usize = 1 << 20;

#[test]
fn narrow_paths_that_say_nothing() -> Result<()> {
    narrow_paths("routed")
}

pub(crate) fn narrow_paths(topology: &str) -> Result<()> {
    let world = World::with_subnet(topology, "e2e-mtu")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "")?;
    world.publish("box", "80/tcp")?;
    let outside6 = world.outside6(&server);
    let internet = world.host("internet")?;
    world.lab.drop_icmp()?;
    let mut findings = Findings::default();
    for mtu in [1500, 1400, 1360, 1340] {
        world.lab.set_path_mtu(mtu)?;
        let mut tell = |way, result| findings.check(&format!("{mtu}, {way}"), result);
        tell(
            "to the Internet, IPv4",
            outwards(&internet, &laptop, at(INTERNET4, 7800)),
        );
        tell(
            "from the Internet, IPv4",
            inwards(&internet, &server, at(PUBLIC4, 80), at(server.ipv4, 80)),
        );
        if let Some(outside6) = outside6 {
            tell(
                "to the Internet, IPv6",
                outwards(&internet, &laptop, at(INTERNET6, 7800)),
            );
            let inside = at(server.ipv6()?, 80);
            tell(
                "from the Internet, IPv6",
                inwards(&internet, &server, at(outside6, 80), inside),
            );
        }
    }
    findings.conclude()
}

/// A device that reaches the gateway by IPv6 needs 20 bytes more outside.
#[test]
fn a_narrow_ipv6_path_that_says_nothing() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-mtu6")?;
    world.adit("uplink set --endpoint 2001:db8:1::2")?;
    let stranger = world.join("stranger", "")?;
    let vps = world.host("vps")?;
    // Other Internet hosts are on the stranger's own link, which it does not leave by the tunnel.
    let router = world.host("router")?;
    let endpoints = vps.exec(["wg", "show", world.gateway.interface(), "endpoints"])?;
    ensure!(
        endpoints.stdout.contains("[2001:db8:ffff::20]:"),
        "the tunnel is not carried by IPv6: {}",
        endpoints.stdout
    );
    world.adit("pinhole add stranger 80/tcp")?;
    world.lab.drop_icmp()?;
    let mut findings = Findings::default();
    for mtu in ["1500", "1360"] {
        for (host, interface) in [(&router, "edge"), (&world.host("edge")?, "wan")] {
            host.exec(["ip", "link", "set", interface, "mtu", mtu])?;
        }
        let inside = at(stranger.ipv6()?, 80);
        for (way, result) in [
            (
                "to the Internet, IPv4",
                outwards(&router, &stranger, at(ROUTER4, 7800)),
            ),
            (
                "to the Internet, IPv6",
                outwards(&router, &stranger, at(ROUTER6, 7800)),
            ),
            (
                "from the Internet, IPv6",
                inwards(&router, &stranger, inside, inside),
            ),
        ] {
            findings.check(&format!("{mtu}, {way}"), result);
        }
    }
    findings.conclude()
}

fn outwards(far: &Host, device: &Device, to: SocketAddr) -> Result<()> {
    let listener = listen(far, to)?;
    let client = connect(&device.host, None, to, Duration::from_secs(4))?;
    let (server, seen) = accept(&listener)?;
    carry(Conversation {
        client,
        server,
        seen,
    })
}

fn inwards(far: &Host, server: &Device, to: SocketAddr, inside: SocketAddr) -> Result<()> {
    let listener = listen(&server.host, inside)?;
    let client = connect(far, None, to, Duration::from_secs(4))?;
    let (server, seen) = accept(&listener)?;
    carry(Conversation {
        client,
        server,
        seen,
    })
}

/// First what a TLS client says first, in one piece that is larger than any packet; then a lot, each way.
fn carry(mut conversation: Conversation) -> Result<()> {
    for stream in [&conversation.client, &conversation.server] {
        stream.set_read_timeout(Some(Duration::from_secs(8)))?;
    }
    let mut first = [7; 1900];
    conversation.client.write_all(&first)?;
    conversation
        .server
        .read_exact(&mut first)
        .context("1900 bytes in the first flight")?;
    let mut answer = [8; 1900];
    conversation.server.write_all(&answer)?;
    conversation
        .client
        .read_exact(&mut answer)
        .context("1900 bytes in the first answer")?;
    pour(&conversation.client, &conversation.server).context("a megabyte to the server")?;
    pour(&conversation.server, &conversation.client).context("a megabyte to the client")
}

fn pour(from: &TcpStream, to: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            let mut from = from;
            from.write_all(&vec![9; MEGABYTE])?;
            from.shutdown(Shutdown::Write)?;
            Ok(())
        });
        let mut to = to;
        let mut got = Vec::new();
        let read = to.read_to_end(&mut got);
        let count = got.len();
        read.with_context(|| format!("{count} bytes had arrived"))?;
        ensure!(count == MEGABYTE, "{count} bytes arrived");
        match writer.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
