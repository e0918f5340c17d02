//! The address that the Internet has for this host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Router;
use super::own::Asker;
use crate::support::{Device, PUBLIC4, World};

fn told(asker: &Asker<'_>, options: &str) -> Result<Value> {
    let command = format!("address {options}");
    let output = asker.device().host.exec(asker.words(&command)?)?;
    Ok(serde_json::from_str(&output.stdout)?)
}

/// The address, from where it is reached and how it became known, of each family.
fn best(asker: &Asker<'_>, options: &str) -> Result<Vec<(String, String, String)>> {
    let told = told(asker, options)?;
    let all = told["addresses"].as_array().context("addresses")?;
    let field = |it: &Value, name: &str| it[name].as_str().unwrap_or_default().to_owned();
    let all = all
        .iter()
        .map(|it| (field(it, "address"), field(it, "reach"), field(it, "by")));
    Ok(all.collect())
}

fn public(address: impl Into<IpAddr>, by: &str) -> (String, String, String) {
    let address: IpAddr = address.into();
    (address.to_string(), "public".to_owned(), by.to_owned())
}

/// Closes a UDP port of the gateway to its devices.
fn close(world: &World, port: u16) -> Result<()> {
    let rules = format!(
        "table inet closed {{
           chain prerouting {{
             type filter hook prerouting priority raw;
             iifname \"{}\" udp dport {port} reject;
           }}
         }}",
        world.gateway.interface()
    );
    world
        .host("vps")?
        .exec_with_input(["nft", "-f", "-"], &rules)?;
    Ok(())
}

fn get(device: &Device, url: &str) -> Result<String> {
    let words = ["curl", "--silent", "--max-time", "2", url];
    Ok(device.host.try_exec(words)?.stdout)
}

#[test]
fn own_gateway_tells_it_by_whatever_is_left() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-address")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    let own6 = server.ipv6()?;
    let all = best(&asker, "")?;
    let expected = [public(PUBLIC4, "pcp"), public(own6, "pcp")];
    ensure!(all == expected, "{all:?}");
    ensure!(world.list("lease")?.is_empty(), "a port is left open");

    close(&world, 5351)?;
    let all = best(&asker, "--ipv4")?;
    ensure!(all == [public(PUBLIC4, "upnp")], "{all:?}");
    close(&world, 1900)?;
    let all = best(&asker, "")?;
    let expected = [public(PUBLIC4, "address"), public(own6, "address")];
    ensure!(all == expected, "{all:?}");
    let all = best(&asker, "--gateway 10.59.0.1")?;
    ensure!(all == expected[..1], "{all:?}");

    // Who may not ask for ports is told nothing, and nobody outside.
    let url = "http://10.59.0.1:5351/address";
    ensure!(get(&server, url)? == "203.0.113.2\n");
    let endpoint = get(&server, "http://10.59.0.1:5351/endpoint")?;
    ensure!(
        endpoint.trim_end() == outside(&world, &server)?.to_string(),
        "{endpoint}"
    );
    let client = world.join("laptop", "")?;
    ensure!(get(&client, url)?.is_empty());
    let outside = world.host("internet")?.try_exec([
        "curl",
        "--silent",
        "--max-time",
        "2",
        "http://203.0.113.2:5351/address",
    ])?;
    ensure!(
        !outside.status.success() && outside.stdout.is_empty(),
        "{outside}"
    );
    let error = Asker::new(&world, &client)?.refused("address --ipv4")?;
    ensure!(error["code"] == "no-address", "{error}");
    Ok(())
}

/// Where the gateway sees the packets of a device come from.
fn outside(world: &World, device: &Device) -> Result<IpAddr> {
    let shown = world
        .host("vps")?
        .exec(["wg", "show", world.gateway.interface(), "endpoints"])?
        .stdout;
    let key = device.answer["device"]["public_key"]
        .as_str()
        .context("a key")?;
    let line = shown.lines().find(|line| line.starts_with(key));
    let endpoint = line.and_then(|line| line.split_whitespace().nth(1));
    let endpoint: SocketAddr = endpoint.context("an endpoint")?.parse()?;
    Ok(endpoint.ip())
}

#[test]
fn router_behind_a_shared_address_is_seen_through() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-address-cgnat")?;
    let mut router = Router::prepare(&world.lab)?;
    router.outside = None;
    router.start()?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    // miniupnpd says nothing of an address that it knows not to be reached.
    let told = told(&asker, "--gateway 192.168.1.1")?;
    let seen = outside(&world, &server)?;
    ensure!(
        told["addresses"]
            == json!([{"address": seen, "reach": "public", "gateway": "10.59.0.1", "by": "endpoint"}]),
        "{told}"
    );
    // The tunnel leads around all of that.
    let all = best(&asker, "--ipv4")?;
    ensure!(all == [public(PUBLIC4, "pcp")], "{all:?}");
    Ok(())
}

#[test]
fn gateway_with_a_private_address_does_not_claim_more() -> Result<()> {
    let world = World::start("one-to-one-nat", "portmap-address-private")?;
    world.adit(&format!("uplink set --endpoint {PUBLIC4}"))?;
    world.adit("subnet add lan --ipv4 10.59.0.0/24 --ipv6 none")?;
    let server = world.join("box", "--kind server")?;
    let asker = Asker::new(&world, &server)?;
    for (address, reach) in [
        (world.local4()?, "private"),
        (Ipv4Addr::new(100, 64, 7, 7), "shared"),
    ] {
        if reach == "shared" {
            world.adit(&format!("uplink set --advertised {address}"))?;
        }
        let told = told(&asker, "")?;
        let said = |by: &str| json!({"address": address, "reach": reach, "gateway": "10.59.0.1", "by": by});
        let all = ["pcp", "upnp", "address"].map(said);
        ensure!(told["told"] == json!(all), "{told}");
        ensure!(told["addresses"] == json!([all[2]]), "{told}");
        let added = asker.portmap("add 8080/tcp --ipv4")?;
        ensure!(added[0]["reach"] == reach, "{added:?}");
        let words = asker.words("add 8080/tcp --ipv4")?;
        let plain = words.into_iter().filter(|word| word != "--json");
        let output = server.host.exec(plain)?;
        ensure!(
            output.stderr.contains("the Internet does not reach"),
            "{output}"
        );
    }
    world.adit(&format!("uplink set --advertised {PUBLIC4}"))?;
    let all = best(&asker, "")?;
    ensure!(all == [public(PUBLIC4, "pcp")], "{all:?}");
    Ok(())
}
