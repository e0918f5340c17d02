//! TLS names that this host asks for with its port.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Home;
use super::own::Asker;
use crate::names::{Identity, ask, expect};
use crate::support::{INTERNET4, PUBLIC4, World};

#[test]
fn name_leads_to_the_device_that_asks_for_it() -> Result<()> {
    let world = World::with_subnet("routed", "portmap-names")?;
    let server = world.join("box", "--kind server")?;
    let laptop = world.join("laptop", "--kind server")?;
    let internet = world.host("internet")?;
    let identity = Identity::make(&world)?;
    let _servers = [
        identity.serve(&server.host, "box", 8443, "tls")?,
        identity.serve(&laptop.host, "laptop", 8443, "tls")?,
    ];
    let (public, seen) = (IpAddr::V4(PUBLIC4), IpAddr::V4(INTERNET4));
    let (asker, other) = (Asker::new(&world, &server)?, Asker::new(&world, &laptop)?);
    let wish = "add 8443/tcp --external 443 --ipv4 --hostname";
    let added = asker.portmap(&format!("{wish} blog.example.org --hostname *.box.test"))?;
    ensure!(added.len() == 1, "{added:?}");
    ensure!(added[0]["external"] == "203.0.113.2:443", "{added:?}");
    let names = json!(["blog.example.org", "*.box.test"]);
    ensure!(added[0]["hostnames"] == names, "{added:?}");
    let listed = asker.portmap("list")?;
    ensure!(listed[0]["hostnames"] == names, "{listed:?}");

    let added = other.portmap(&format!("{wish} wiki.example.org"))?;
    ensure!(added[0]["external"] == "203.0.113.2:443", "{added:?}");
    for (name, device) in [
        ("blog.example.org", "box"),
        ("start.box.test", "box"),
        ("wiki.example.org", "laptop"),
    ] {
        expect(&internet, &format!("https://{name}/"), public, device, seen)?;
    }

    // A name that another device has; the ports stay as they are.
    let error = other.refused(&format!("{wish} blog.example.org"))?;
    ensure!(error["code"] == "not-mapped", "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains("hostname taken"), "{error}");
    // What has a public address of its own shares no port by names.
    let error = other.refused("add 9443/tcp --ipv6 --hostname own.example.org")?;
    ensure!(error["code"] == "no-names", "{error}");
    let refused = asker.ends("add 8443/tcp --hostname no_name", 2)?;
    ensure!(refused["code"] == "invalid-request", "{refused}");

    asker.portmap("remove 8443/tcp")?;
    let late = ask(&internet, "https://blog.example.org/", public);
    ensure!(late.is_err(), "a name that was given back: {late:?}");
    let url = "https://wiki.example.org/";
    expect(&internet, url, public, "laptop", seen)?;
    other.portmap("remove --all")?;
    ensure!(world.list("lease")?.is_empty());
    Ok(())
}

#[test]
fn router_that_leads_no_names_is_not_asked_for_the_port() -> Result<()> {
    let mut home = Home::new("portmap-no-names")?;
    home.router.start()?;
    let wish = "add 8080/tcp --external 18080 --hostname blog.example.org";
    for deafness in ["", "@th,64,8 2", "@th,64,8 { 0, 2 }"] {
        if !deafness.is_empty() {
            home.router.deafen(deafness)?;
        }
        let code = home.refused(wish)?;
        ensure!(code == "no-names", "{deafness}: {code}");
        ensure!(!home.is_open(18080)?, "{deafness}");
        ensure!(home.portmap("list")?.is_empty(), "{deafness}");
    }
    Ok(())
}
