//! Routers, and our gateway, that can be asked by UPnP alone.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use adit_lab::Host;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::own::Asker;
use super::{Home, SOON};
use crate::support::{INTERNET4, INTERNET6, PUBLIC4, World, at, connect, converse, listen};

fn externals(mappings: &[Value]) -> Vec<String> {
    let external = mappings.iter().filter_map(|it| it["external"].as_str());
    let mut external: Vec<_> = external.map(str::to_owned).collect();
    external.sort();
    external
}

#[test]
fn own_gateway_maps_ports_and_opens_pinholes() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-upnp-own")?;
    let internet = world.host("internet")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    let (own, own6) = (server.ipv4, server.ipv6()?);
    server.host.exec_with_input(
        ["nft", "-f", "-"],
        "table inet filter {
           chain output { type filter hook output priority 0; udp dport 5351 reject; }
         }",
    )?;
    let late = connect(&internet, None, at(own6, 8080), SOON / 10);
    ensure!(late.is_err(), "open before it was asked for");
    let added = asker.portmap("add 8080/tcp")?;
    let expected = [at(PUBLIC4, 8080).to_string(), at(own6, 8080).to_string()];
    ensure!(externals(&added) == expected, "{added:?}");
    ensure!(
        added.iter().all(|it| it["mechanism"] == "upnp"),
        "{added:?}"
    );
    let reached = |address: IpAddr, inside: IpAddr, source: IpAddr| -> Result<()> {
        let listener = listen(&server.host, at(inside, 8080))?;
        let mut conversation = converse(&internet, None, at(address, 8080), &listener)?;
        conversation.talk()?;
        ensure!(conversation.seen.ip() == source, "{}", conversation.seen);
        Ok(())
    };
    reached(PUBLIC4.into(), own.into(), INTERNET4.into())?;
    reached(own6.into(), own6.into(), INTERNET6.into())?;

    // A later command renews the same, and has it for longer.
    let renewed = asker.portmap("add 8080/tcp --lifetime 7200")?;
    ensure!(externals(&renewed) == expected, "{renewed:?}");
    for lease in world.list("lease")? {
        ensure!(lease["expires_in"].as_u64() > Some(7000), "{lease}");
    }
    let listed = asker.portmap("list")?;
    ensure!(externals(&listed) == expected, "{listed:?}");
    ensure!(world.list("lease")?.len() == 2);

    asker.portmap("remove 8080/tcp")?;
    ensure!(world.list("lease")?.is_empty());
    let late = connect(&internet, None, at(own6, 8080), SOON / 10);
    ensure!(late.is_err(), "a pinhole that was given back is open");

    let range = asker.portmap("add 5000-5002/udp")?;
    let ports = |address: IpAddr| (5000..5003).map(move |port| at(address, port).to_string());
    let expected: Vec<_> = ports(PUBLIC4.into()).chain(ports(own6.into())).collect();
    ensure!(externals(&range) == expected, "{range:?}");
    ensure!(world.list("lease")?.len() == 6);
    asker.portmap("remove 5000-5002")?;
    ensure!(world.list("lease")?.is_empty());
    Ok(())
}

#[test]
fn watched_pinhole_is_renewed_and_ends_with_the_command() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-upnp-watch")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    world.adit("settings set lease-minimum 1")?;
    server.host.exec_with_input(
        ["nft", "-f", "-"],
        "table inet filter {
           chain output { type filter hook output priority 0; udp dport 5351 reject; }
         }",
    )?;
    let mut watch = server
        .host
        .spawn(asker.words("watch 8080/tcp --ipv6 --lifetime 4")?)?;
    watch.wait_for_output(&at(server.ipv6()?, 8080).to_string(), SOON)?;
    let first = world.list("lease")?;
    let first = first.first().context("a lease")?;
    ensure!(first["expires_in"].as_u64() <= Some(4), "{first}");
    let id = first["id"].clone();
    // Longer than it would be there.
    std::thread::sleep(Duration::from_secs(6));
    let later = world.list("lease")?;
    ensure!(later.len() == 1 && later[0]["id"] == id, "{later:?}");
    watch.stop()?;
    ensure!(world.list("lease")?.is_empty());
    Ok(())
}

#[test]
fn range_is_asked_port_by_port() -> Result<()> {
    let mut home = Home::new("portmap-upnp-range")?;
    home.router.start()?;
    home.router.deafen("")?;
    let added = home.portmap("add 8080-8082/tcp --external 18080 --ipv4")?;
    let expected = ["11.0.0.2:18080", "11.0.0.2:18081", "11.0.0.2:18082"];
    ensure!(externals(&added) == expected, "{added:?}");
    ensure!(
        added.iter().all(|it| it["mechanism"] == "upnp"),
        "{added:?}"
    );
    ensure!(home.is_open(18080)?);
    home.portmap("remove 8080-8082")?;
    ensure!(!home.is_open(18080)?);
    Ok(())
}

const LAPTOP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x11);

/// Gives the home IPv6, and its router a firewall that lets nobody in; the laptop's default route leads to the router's address.
fn provide_ipv6(home: &Home, router: &str) -> Result<()> {
    let run = |host: &Host, commands: &[&str]| -> Result<()> {
        for command in commands {
            host.exec(command.split(' '))?;
        }
        Ok(())
    };
    run(
        &home.provider,
        &[
            "ip address add 2001:db8:78::1/64 dev lan nodad",
            "ip route add 2001:db8:77::/64 via 2001:db8:78::2",
        ],
    )?;
    run(
        &home.router.host,
        &[
            "sysctl -q net.ipv6.conf.all.forwarding=1",
            "ip address add 2001:db8:78::2/64 dev wan nodad",
            "ip address add 2001:db8:77::1/64 dev lan nodad",
            "ip address add fe80::77/64 dev lan nodad",
            "nft add rule inet filter forward iifname wan meta nfproto ipv6 ct state new drop",
        ],
    )?;
    run(
        &home.laptop,
        &[
            &format!("ip address add {LAPTOP6}/64 dev eth0 nodad"),
            &format!("ip route add default via {router} dev eth0"),
        ],
    )
}

#[test]
fn router_opens_pinholes_for_ipv6() -> Result<()> {
    for router in ["2001:db8:77::1", "fe80::77"] {
        let mut home = Home::new("portmap-upnp-ipv6")?;
        provide_ipv6(&home, router)?;
        home.router.start()?;
        home.router.deafen("")?;
        let open = || -> Result<bool> {
            let listener = listen(&home.laptop, at(LAPTOP6, 8080))?;
            let far = at(LAPTOP6, 8080);
            if connect(&home.provider, None, far, Duration::from_secs(1)).is_err() {
                return Ok(false);
            }
            drop(listener);
            let listener = listen(&home.laptop, at(LAPTOP6, 8080))?;
            converse(&home.provider, None, far, &listener)?.talk()?;
            Ok(true)
        };
        ensure!(!open()?, "{router}: open before it was asked for");
        let added = home.portmap("add 8080/tcp --ipv6")?;
        let expected = [at(LAPTOP6, 8080).to_string()];
        ensure!(externals(&added) == expected, "{router}: {added:?}");
        ensure!(added[0]["mechanism"] == "upnp", "{router}: {added:?}");
        ensure!(open()?, "{router}: what was promised is not true");
        // It is the same pinhole, of which nothing is left open after.
        let renewed = home.portmap("add 8080/tcp --ipv6 --lifetime 7200")?;
        ensure!(
            renewed[0]["expires_in"].as_u64() > Some(7000),
            "{renewed:?}"
        );
        home.portmap("remove 8080/tcp")?;
        ensure!(!open()?, "{router}: what was given back is still open");
    }
    Ok(())
}
