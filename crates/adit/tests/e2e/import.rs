//! A plain wg-quick server taken over: its devices, which know nothing of it, go on as they are.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use adit_lab::{Host, WgQuick, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{
    Faults, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, World, at, binary, exchange, receive, send, udp,
};

const PORT: u16 = 51825;

/// A device of the old server.
struct Device {
    host: Host,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    _tunnel: WgQuick,
}

/// The old server, and the file that it is made of.
struct Old {
    text: String,
    key: String,
    public: String,
    devices: Vec<(&'static str, &'static str, Ipv6Addr, String)>,
}

fn key(host: &Host, program: &str) -> Result<String> {
    Ok(host.exec(["wg", program])?.stdout.trim().to_owned())
}

fn public(host: &Host, private: &str) -> Result<String> {
    let public = host.exec_with_input(["wg", "pubkey"], private)?;
    Ok(public.stdout.trim().to_owned())
}

/// Addresses that follow from each other in no way: 10.66.66.10 has ::10, which is sixteen.
fn old_server(vps: &Host) -> Result<Old> {
    let server_key = key(vps, "genkey")?;
    let mut text = format!(
        "[Interface]\nAddress = 10.66.66.1/24, fd42:42:42::1/64\nListenPort = {PORT}\nPrivateKey = {server_key}\n\
         PostUp = sysctl -q net.ipv6.conf.eth0.accept_ra=2 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n\
         PostUp = nft add table inet old; nft add chain inet old post '{{ type nat hook postrouting priority srcnat; }}'; nft add rule inet old post oifname eth0 masquerade\n\
         PostDown = nft delete table inet old\n"
    );
    let server = public(vps, &server_key)?;
    let psk = key(vps, "genpsk")?;
    let mut devices = Vec::new();
    for (name, ipv4, ipv6, psk, site) in [
        ("laptop", "10.66.66.2", "fd42:42:42::2", Some(&psk), ""),
        (
            "box",
            "10.66.66.10",
            "fd42:42:42::10",
            None,
            ", 192.168.7.0/24",
        ),
    ] {
        let private = key(vps, "genkey")?;
        let shared = psk
            .map(|psk| format!("PresharedKey = {psk}\n"))
            .unwrap_or_default();
        text.push_str(&format!(
            "\n### Client {name}\n[Peer]\nPublicKey = {}\n{shared}AllowedIPs = {ipv4}/32, {ipv6}/128{site}\n",
            public(vps, &private)?
        ));
        let own = format!(
            "[Interface]\nPrivateKey = {private}\nAddress = {ipv4}/24, {ipv6}/64\n\n[Peer]\nPublicKey = {server}\n{shared}\
             Endpoint = {PUBLIC4}:{PORT}\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 5\n"
        );
        devices.push((name, ipv4, ipv6.parse()?, own));
    }
    Ok(Old {
        text,
        key: server_key,
        public: server,
        devices,
    })
}

fn write(world: &World, name: &str, text: &str) -> Result<PathBuf> {
    let path = world.host("vps")?.folder()?.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// The device's datagram reaches the far end, and the answer comes back.
fn await_passage(device: &Device, far: &Host, from: IpAddr, to: IpAddr) -> Result<IpAddr> {
    let far = udp(far, at(to, 7400))?;
    far.set_read_timeout(Some(Duration::from_millis(700)))?;
    let near = udp(&device.host, at(from, 0))?;
    let mut seen = None;
    let what = format!("{} from {} to {to}", device.host.name(), from);
    // A session that the new server does not know is given up by the device after 15 s.
    wait_until(&what, Duration::from_secs(60), || {
        send(&near, at(to, 7400), "there")?;
        let source = receive(&far, "there")?;
        send(&far, source, "back")?;
        receive(&near, "back")?;
        seen = Some(source.ip());
        Ok(true)
    })?;
    seen.context(what)
}

fn check(world: &World, devices: &[Device]) -> Result<()> {
    let internet = world.host("internet")?;
    for device in devices {
        let seen = await_passage(device, &internet, device.ipv4.into(), INTERNET4.into())?;
        ensure!(seen == IpAddr::V4(PUBLIC4), "the Internet sees {seen}");
        let seen = await_passage(device, &internet, device.ipv6.into(), INTERNET6.into())?;
        ensure!(seen == IpAddr::V6(PUBLIC6), "the Internet sees {seen}");
    }
    let [laptop, server] = devices else {
        anyhow::bail!("two devices")
    };
    // To each other by both addresses, and to the network behind one of them.
    for (from, to) in [
        (IpAddr::V4(laptop.ipv4), IpAddr::V4(server.ipv4)),
        (laptop.ipv6.into(), server.ipv6.into()),
        (laptop.ipv4.into(), Ipv4Addr::new(192, 168, 7, 1).into()),
    ] {
        let near = udp(&laptop.host, at(from, 0))?;
        let far = udp(&server.host, at(to, 7401))?;
        let seen = exchange(&near, at(to, 7401), &far, "inside")
            .with_context(|| format!("from {from} to {to}"))?;
        ensure!(seen.ip() == from, "{seen} instead of {from}");
    }
    // And to the server itself, as to a resolver there.
    let vps = world.host("vps")?;
    let resolver = udp(&vps, "10.66.66.1:5353".parse()?)?;
    let near = udp(&laptop.host, at(laptop.ipv4, 0))?;
    exchange(
        &near,
        "10.66.66.1:5353".parse()?,
        &resolver,
        "to the server",
    )?;
    Ok(())
}

#[test]
fn the_devices_of_a_wg_quick_server_go_on_as_they_are() -> Result<()> {
    let mut world = World::start("routed", "e2e-import")?;
    let vps = world.host("vps")?;
    let old = old_server(&vps)?;
    let file = write(&world, "wg0.conf", &old.text)?;
    let import = format!("import {} --yes", file.display());
    let server = world.lab.wg_quick_up("vps", &old.text)?;
    let mut devices = Vec::new();
    for (name, ipv4, ipv6, text) in &old.devices {
        let tunnel = world.lab.wg_quick_up(name, text)?;
        devices.push(Device {
            host: world.host(name)?,
            ipv4: ipv4.parse()?,
            ipv6: *ipv6,
            _tunnel: tunnel,
        });
    }
    devices[1]
        .host
        .exec(["ip", "address", "add", "192.168.7.1/32", "dev", "lo"])?;
    check(&world, &devices).context("with the old server")?;

    // While the old server is up, its addresses are those of another interface of this host.
    let refused = world.refused(&import)?;
    ensure!(refused.code == "import-refused", "{refused:?}");
    ensure!(refused.message.contains("51825"), "{refused:?}");
    ensure!(refused.hint.contains("wg-quick down"), "{refused:?}");
    server.down()?;

    let mut planned = Value::Null;
    wait_until(
        "the old server's port is free",
        Duration::from_secs(10),
        || {
            planned = world.adit(&format!("{import} --plan"))?;
            Ok(true)
        },
    )?;
    ensure!(planned["applied"] == false, "{planned}");
    ensure!(world.list("device")?.is_empty());
    let before = world.revision()?;
    let imported = world.adit(&import)?;
    ensure!(imported["applied"] == true, "{imported}");
    ensure!(imported["public_key"] == old.public.as_str(), "{imported}");
    ensure!(world.revision()? == before + 1, "more than one revision");
    ensure!(
        !imported.to_string().contains(&old.key),
        "a private key is told"
    );
    let notes = imported["notes"].to_string();
    ensure!(notes.contains("masquerade"), "{notes}");
    check(&world, &devices).context("after the import")?;

    // What was read is what is there, and a restart changes nothing.
    let list = world.list("device")?;
    let told = |name: &str| {
        let device = list.iter().find(|device| device["name"] == name);
        device
            .cloned()
            .with_context(|| format!("{name} in {list:?}"))
    };
    ensure!(told("laptop")?["ipv4"] == "10.66.66.2");
    ensure!(
        told("box")?["delegations"]
            .to_string()
            .contains("192.168.7.0/24")
    );
    let text = world.gateway.adit(["device", "config", "box"])?.stdout;
    ensure!(!text.contains("PresharedKey"), "{text}");
    ensure!(text.contains(&format!(":{PORT}\n")), "{text}");
    world.gateway.terminate()?;
    world.gateway.start()?;
    check(&world, &devices).context("after a restart")?;
    let log = world.gateway.log()?;
    ensure!(!log.contains(&old.key), "a private key is in the log");

    let refused = world.refused(&import)?;
    ensure!(refused.code == "import-refused", "{refused:?}");
    let other = old.text.replace(&old.key, &key(&vps, "genkey")?);
    let other = write(&world, "other.conf", &other)?;
    let refused = world.refused(&format!("import {} --yes", other.display()))?;
    ensure!(refused.code == "import-key-taken", "{refused:?}");
    Ok(())
}

#[test]
fn a_kill_leaves_all_of_an_import_or_nothing() -> Result<()> {
    let mut world = World::start("routed", "e2e-import-kill")?;
    let vps = world.host("vps")?;
    let old = old_server(&vps)?;
    let file = write(&world, "wg0.conf", &old.text)?;
    let import = ["import", &file.display().to_string(), "--yes"];
    world.gateway.terminate()?;
    let faults = Faults::install(&mut world.gateway)?;
    world.gateway.use_binary(binary())?;
    world.gateway.start()?;
    let own = world.adit("status")?["public_key"].clone();
    for (point, taken) in [
        ("writer/staged", false),
        ("store/committed", true),
        ("writer/taken", true),
        ("key/adopt", true),
    ] {
        faults.plan(&format!("kill {point}"))?;
        let output = world.gateway.try_adit(import)?;
        ensure!(!output.status.success(), "{point}: {output}");
        wait_until("the daemon is dead", Duration::from_secs(5), || {
            Ok(!world.gateway.is_running()?)
        })?;
        faults.clear()?;
        world.gateway.start().with_context(|| point.to_owned())?;
        let devices = world.list("device")?.len();
        let key = world.adit("status")?["public_key"].clone();
        if taken {
            ensure!(devices == 2, "{point}: {devices} devices");
            ensure!(key == old.public.as_str(), "{point}: {key}");
            // The same server again, into an empty gateway.
            world
                .gateway
                .adit(["subnet", "remove", "wg0", "--force", "--yes"])?;
        } else {
            ensure!(
                devices == 0 && key == own,
                "{point}: {devices} devices, {key}"
            );
        }
        let staged = world.gateway.state_dir().join("private.key.next");
        ensure!(!staged.exists(), "{point}: {}", staged.display());
    }
    Ok(())
}

/// The database of wg-easy 15, with what its migrations leave in it.
const WG_EASY: &str = r#"
import sqlite3, sys
path, server, peer, psk = sys.argv[1:]
db = sqlite3.connect(path)
db.executescript("""
PRAGMA journal_mode=WAL;
CREATE TABLE interfaces_table (name text PRIMARY KEY NOT NULL, device text NOT NULL, port integer NOT NULL,
  private_key text NOT NULL, public_key text NOT NULL, ipv4_cidr text NOT NULL, ipv6_cidr text NOT NULL, mtu integer NOT NULL,
  enabled integer NOT NULL);
CREATE TABLE user_configs_table (id text PRIMARY KEY NOT NULL, default_dns text NOT NULL, host text NOT NULL, port integer NOT NULL);
CREATE TABLE clients_table (id integer PRIMARY KEY AUTOINCREMENT NOT NULL, name text NOT NULL, ipv4_address text NOT NULL,
  ipv6_address text NOT NULL, public_key text NOT NULL, pre_shared_key text NOT NULL, expires_at text, server_allowed_ips text NOT NULL,
  enabled integer NOT NULL);
INSERT INTO user_configs_table VALUES ('wg0', '["1.1.1.1"]', 'vpn.example.com', 51821);
""")
db.execute("INSERT INTO interfaces_table VALUES ('wg0', 'eth0', 51820, ?, 'x', '10.8.0.0/24', 'fdcc:ad94:bacf:61a4::cafe:0/112', 1420, 1)", (server,))
db.execute("INSERT INTO clients_table VALUES (1, 'Anna''s phone', '10.8.0.2', 'fdcc:ad94:bacf:61a4::cafe:2', ?, ?, NULL, '[]', 1)", (peer, psk))
db.commit()
"#;

#[test]
fn what_wg_easy_keeps_is_taken_over() -> Result<()> {
    let world = World::start("routed", "e2e-import-wg-easy")?;
    let vps = world.host("vps")?;
    let (server, peer, psk) = (
        key(&vps, "genkey")?,
        key(&vps, "genkey")?,
        key(&vps, "genpsk")?,
    );
    let peer = public(&vps, &peer)?;
    let path = vps.folder()?.join("wg-easy.db").display().to_string();
    vps.exec(["python3", "-c", WG_EASY, &path, &server, &peer, &psk])?;
    let imported = world.adit(&format!("import {path} --listen-port 51821 --yes"))?;
    ensure!(
        imported["public_key"] == public(&vps, &server)?.as_str(),
        "{imported}"
    );
    ensure!(imported["listen_port"] == 51821, "{imported}");
    let device = &imported["devices"][0];
    ensure!(
        device["name"] == "Anna-s-phone" && device["subnet"] == "wg-easy",
        "{device}"
    );
    ensure!(device["ipv6"] == "fdcc:ad94:bacf:61a4::cafe:2", "{device}");
    let text = world
        .gateway
        .adit(["device", "config", "Anna-s-phone"])?
        .stdout;
    ensure!(
        text.contains(&psk) && text.contains("vpn.example.com:51821"),
        "{text}"
    );

    // Nothing of a file with an error in it is taken over, and the error says where it is.
    let broken = format!(
        "[Interface]\nPrivateKey = {server}\nAddress = 10.9.0.1/24\n[Peer]\nPublicKey = {peer}\nAllowedIPs = 10.9.0.300/32\n"
    );
    let broken = write(&world, "broken.conf", &broken)?;
    let refused = world.refused(&format!("import {} --yes", broken.display()))?;
    ensure!(refused.code == "import-unreadable", "{refused:?}");
    ensure!(
        refused.message.contains("broken.conf, line 6, AllowedIPs"),
        "{refused:?}"
    );
    Ok(())
}
