//! Who is no device is not answered: not while the gateway serves, and not while it goes and comes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use adit_lab::wait_until;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{SOON, granted, leases, pcp};
use crate::support::{Capture, INTERNET4, Injector, PUBLIC4, World, udp4};

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 1);
const FORGED: u16 = 40_000;
const BETWEEN: Duration = Duration::from_millis(2);
/// Where answers and announcements come from.
const SERVICES: &str =
    "udp src port 5350 or udp src port 5351 or udp src port 1900 or tcp src port 5351";

/// A mapping that is asked for in somebody's name (RFC 6887 section 11.1).
fn mapping(name: Ipv4Addr) -> Vec<u8> {
    let mut request = vec![2, 1, 0, 0, 0, 0, 14, 16];
    request.extend(name.to_ipv6_mapped().octets());
    request.extend([1; 12]);
    request.extend([6, 0, 0, 0]);
    request.extend(8999_u16.to_be_bytes());
    request.extend(8999_u16.to_be_bytes());
    request.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    request
}

#[test]
fn outsiders_hear_nothing_while_the_gateway_goes_and_comes() -> Result<()> {
    let mut world = World::with_subnet("routed", "e2e-leases-outsiders")?;
    let server = world.join("box", "--kind server")?;
    granted(&server, json!({"internal": 8000}))?;
    let edge = world.host("edge")?;
    let outside = Capture::start_incoming(&edge, "vps", SERVICES)?;
    let inside = Capture::start(&server.host, &server.interface, SERVICES)?;
    let injector = Injector::new(&edge, "vps")?;
    let search =
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
        ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
    let mut requests = Vec::new();
    for source in [INTERNET4, server.ipv4] {
        for gateway in [PUBLIC4, INSIDE] {
            let asked = [
                (5351, mapping(source)),
                (5351, vec![0, 0]),
                (1900, search.to_vec()),
            ];
            let from = SocketAddrV4::new(source, FORGED);
            requests.extend(
                asked.map(|(port, bytes)| udp4(from, SocketAddrV4::new(gateway, port), &bytes)),
            );
        }
    }
    let (is_over, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| -> Result<()> {
        let asking = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                for request in &requests {
                    injector.send(request)?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(BETWEEN);
            }
            Ok(())
        });
        let coming = going_and_coming(&mut world);
        is_over.store(true, Ordering::Relaxed);
        asking.join().ok().context("who asked panicked")??;
        coming
    })?;
    let sent = sent.load(Ordering::Relaxed);
    ensure!(sent > 500, "only {sent} requests were sent");
    wait_until("the device is answered again", SOON, || {
        let told = pcp(&server, json!({"internal": 8001, "timeout": 1}))?;
        Ok(told["result"] == 0)
    })?;
    // What is answered later is captured later.
    inside.wait_for(".5351 > ")?;
    let heard = outside.text()?;
    ensure!(
        heard.is_empty(),
        "of {sent} requests these were answered: {heard}"
    );
    let forged = inside.count(&format!(".{FORGED}: UDP"))?;
    ensure!(
        forged == 0,
        "in the tunnel {forged} of {sent} were answered"
    );
    let held: Vec<_> = leases(&world)?
        .iter()
        .map(|lease| lease["internal"].clone())
        .collect();
    let expected = [8000, 8001].map(|port| json!(format!("{}:{port}", server.ipv4)));
    ensure!(held == expected, "{held:?}");
    println!(
        "figure: {sent} requests of outsiders, none answered, over a crash, a stop and a teardown"
    );
    Ok(())
}

fn going_and_coming(world: &mut World) -> Result<()> {
    world.gateway.kill()?;
    world.gateway.start()?;
    world.gateway.terminate()?;
    world.gateway.start()?;
    world.gateway.terminate()?;
    let torn = world.gateway.teardown()?;
    ensure!(torn.status.success(), "{torn}");
    world.gateway.start()?;
    Ok(())
}
