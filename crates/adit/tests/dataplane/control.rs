//! What `wg` and `wg-quick` ask for, and what they are told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::findings::Findings;
use crate::network::{Family, Network, inner};
use crate::peer::{Link, Peer, connect};
use crate::program::Program;
use crate::traffic::{await_answer, ping};

const LIMIT: Duration = Duration::from_secs(30);

/// What is written comes back, and what is read is what can be written.
#[test]
fn a_configuration_comes_back() -> Result<()> {
    let network = Network::new("dp-wg")?;
    let peer = Peer::start(&network, Program::subject(), 1)?;
    let interface = peer.interface.as_str();
    let key = |word: &str| -> Result<String> {
        Ok(peer.host.exec(["wg", word])?.stdout.trim().to_owned())
    };
    let mut text = format!(
        "[Interface]\nListenPort = 40404\nFwMark = 0x4d2\nPrivateKey = {}\n",
        key("genkey")?
    );
    let mut public_keys = Vec::new();
    for number in 1..=200 {
        let private_key = key("genkey")?;
        let public_key = peer.host.exec_with_input(["wg", "pubkey"], &private_key)?;
        let public_key = public_key.stdout.trim().to_owned();
        text += &format!(
            "\n[Peer]\nPublicKey = {public_key}\nAllowedIPs = 10.9.{number}.0/24, fd09:{number:x}::/32\n"
        );
        match number % 3 {
            1 => {
                text += &format!(
                    "Endpoint = 192.0.2.{number}:51820\nPresharedKey = {}\n",
                    key("genpsk")?
                )
            }
            2 => {
                text +=
                    &format!("Endpoint = [2001:db8::{number:x}]:1\nPersistentKeepalive = 65535\n")
            }
            _ => {}
        }
        public_keys.push(public_key);
    }
    let path = write(&peer.host, "whole.conf", &text)?;
    peer.host.exec(["wg", "setconf", interface, &path])?;
    let shown = peer.host.exec(["wg", "showconf", interface])?.stdout;
    same(&text, &shown)?;
    let again = write(&peer.host, "again.conf", &shown)?;
    peer.host.exec(["wg", "setconf", interface, &again])?;
    let second = peer.host.exec(["wg", "showconf", interface])?.stdout;
    same(&shown, &second)?;

    // Removing, and what is left of others' addresses.
    let (gone, kept) = (&public_keys[0], &public_keys[1]);
    peer.set(&[
        "peer",
        gone,
        "remove",
        "peer",
        kept,
        "allowed-ips",
        "10.9.1.0/24",
        "persistent-keepalive",
        "off",
    ])?;
    let dump = peer.host.exec(["wg", "show", interface, "dump"])?.stdout;
    ensure!(!dump.contains(gone.as_str()), "it is still there: {dump}");
    let line = dump.lines().find(|line| line.starts_with(kept.as_str()));
    let line = line.context("the other peer")?;
    ensure!(
        line.contains("\t10.9.1.0/24\t") && line.ends_with("\toff"),
        "{line}"
    );
    // A key of zeros means that there is none.
    peer.set(&["peer", &public_keys[3], "preshared-key", "/dev/null"])?;
    let shown = peer
        .host
        .exec(["wg", "show", interface, "preshared-keys"])?
        .stdout;
    ensure!(
        shown.contains(&format!("{}\t(none)", public_keys[3])),
        "{shown}"
    );
    peer.set(&["private-key", "/dev/null"])?;
    let shown = peer
        .host
        .exec(["wg", "show", interface, "private-key"])?
        .stdout;
    ensure!(shown.trim() == "(none)", "{shown}");
    Ok(())
}

fn same(written: &str, read: &str) -> Result<()> {
    let (written, read) = (settings(written), settings(read));
    let differ = |these: &[String], those: &[String]| {
        let these = these.iter().filter(|section| !those.contains(section));
        these.cloned().collect::<Vec<_>>()
    };
    let (missing, added) = (differ(&written, &read), differ(&read, &written));
    ensure!(
        missing.is_empty() && added.is_empty(),
        "written: {missing:?}, and read: {added:?}"
    );
    Ok(())
}

/// A configuration without its order, and without how a number is written.
fn settings(text: &str) -> Vec<String> {
    let mut sections: Vec<Vec<String>> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('[') {
            sections.push(Vec::new());
        }
        let mut words: Vec<&str> = line
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        words[1..].sort_unstable();
        if let Some(section) = sections.last_mut() {
            section.push(words.join(" "));
        }
    }
    let mut sections: Vec<String> = sections
        .into_iter()
        .map(|mut section| {
            section.sort();
            section.join("\n")
        })
        .collect();
    sections.sort();
    sections
}

/// What stays the same keeps its session, and nothing is lost meanwhile; what is gone or comes does so at once.
#[test]
fn synchronizing_keeps_sessions() -> Result<()> {
    let network = Network::new("dp-sync")?;
    let hub = Peer::start(&network, Program::subject(), 1)?;
    let kept = Peer::start(&network, Program::WireguardGo, 2)?;
    let other = Peer::start(&network, Program::WireguardGo, 3)?;
    connect(&kept, &hub, Family::V4)?;
    connect(&other, &hub, Family::V6)?;
    await_answer(&kept, &hub, Family::V4, LIMIT)?;
    await_answer(&other, &hub, Family::V4, LIMIT)?;
    let handshake = hub.seen(&kept)?.handshake;
    let without = hub.host.exec(["wg", "showconf", &hub.interface])?.stdout;
    let sections: Vec<&str> = without
        .split("\n\n")
        .filter(|section| !section.contains(&other.public_key))
        .collect();
    let path = write(&hub.host, "without.conf", &sections.join("\n\n"))?;
    for round in 0..3 {
        hub.host.exec(["wg", "syncconf", &hub.interface, &path])?;
        ping(&kept, &hub, Family::V6)
            .with_context(|| format!("round {round}, without the other"))?;
        ensure!(hub.seen(&other).is_err(), "the other is still there");
        hub.add(&other, &Link::default())?;
        ping(&kept, &hub, Family::V4)?;
    }
    ensure!(
        hub.seen(&kept)?.handshake == handshake,
        "it needed a new handshake"
    );
    // The other's session is of a peer that was removed: it finds out by itself, within the time of a lost one.
    await_answer(&other, &hub, Family::V6, Duration::from_secs(60))
}

/// What is wrong is refused with a number, and changes nothing that came before it on other connections.
#[test]
fn wrong_requests_are_refused() -> Result<()> {
    let network = Network::new("dp-uapi")?;
    let mut peer = Peer::start(&network, Program::subject(), 1)?;
    let shown = || peer.host.exec(["wg", "showconf", &peer.interface]);
    let before = shown()?.stdout;
    let zeros = "00".repeat(32);
    for wrong in [
        "set=1\nprivate_key=zz\n\n".to_owned(),
        "set=1\nlisten_port=70000\n\n".into(),
        "set=1\nlisten_port=\n\n".into(),
        "set=1\nfwmark=-1\n\n".into(),
        "set=1\nnonsense=1\n\n".into(),
        "set=1\npublic_key=00\n\n".into(),
        format!("set=1\npublic_key={zeros}\nallowed_ip=10.0.0.0/33\n\n"),
        format!("set=1\npublic_key={zeros}\nallowed_ip=10.0.0\n\n"),
        format!("set=1\npublic_key={zeros}\nendpoint=192.0.2.1\n\n"),
        format!("set=1\npublic_key={zeros}\npersistent_keepalive_interval=65536\n\n"),
        format!("set=1\npublic_key={zeros}\nprotocol_version=2\n\n"),
        "set=1\nno equals sign\n\n".into(),
    ] {
        let answer = ask(&peer, wrong.as_bytes())?;
        ensure!(
            answer.starts_with("errno=") && !answer.starts_with("errno=0"),
            "{wrong:?} was answered with {answer:?}"
        );
    }
    // Neither answers that make sense, nor an end.
    for nonsense in [
        b"\n".to_vec(),
        b"hello\n\n".to_vec(),
        vec![0; 100_000],
        vec![b'a'; 3 << 20],
        b"set=1\n".to_vec(),
        b"get=1".to_vec(),
    ] {
        let _ = ask(&peer, &nonsense);
    }
    // Somebody who connects and says nothing does not keep others out.
    let silent: Result<Vec<_>> = (0..20).map(|_| connect_to(&peer)).collect();
    let silent = silent?;
    let after = shown()?.stdout;
    drop(silent);
    // A peer may have been made before the line that was wrong, as the kernel does it, too.
    let interface = |text: &str| {
        text.split("[Peer]")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    ensure!(
        interface(&after) == interface(&before),
        "before:\n{before}\nafter:\n{after}"
    );
    let answer = ask(&peer, b"get=1\n\n")?;
    ensure!(answer.ends_with("errno=0\n\n"), "{answer:?}");
    peer.ensure_running()
}

fn connect_to(peer: &Peer) -> Result<UnixStream> {
    let path = format!("/var/run/wireguard/{}.sock", peer.interface);
    UnixStream::connect(&path).context(path)
}

fn ask(peer: &Peer, request: &[u8]) -> Result<String> {
    let mut stream = connect_to(peer)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The socket is the administrator's alone.
#[test]
fn the_socket_is_for_root() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let network = Network::new("dp-socket")?;
    let peer = Peer::start(&network, Program::subject(), 1)?;
    let path = PathBuf::from(format!("/var/run/wireguard/{}.sock", peer.interface));
    let mode = fs::metadata(&path)?.permissions().mode();
    ensure!(mode.trailing_zeros() >= 6, "{mode:o}");
    drop(peer);
    Ok(())
}

/// The configuration that users have, with the program named in the environment, and everything led into the tunnel.
#[test]
fn wg_quick_brings_it_up() -> Result<()> {
    let mut findings = Findings::default();
    for (near, far) in [
        (Program::subject(), Program::WireguardGo),
        (Program::WireguardGo, Program::subject()),
    ] {
        findings.check(&format!("{near:?} and {far:?}"), quickly(near, far));
    }
    findings.conclude()
}

fn quickly(near: Program, far: Program) -> Result<()> {
    let network = Network::new("dp-quick")?;
    let hosts = [network.host("a")?, network.host("b")?];
    let mut keys = Vec::new();
    for host in &hosts {
        let private_key = host.exec(["wg", "genkey"])?.stdout;
        let public_key = host.exec_with_input(["wg", "pubkey"], &private_key)?.stdout;
        keys.push((private_key.trim().to_owned(), public_key.trim().to_owned()));
    }
    let psk = hosts[0].exec(["wg", "genpsk"])?.stdout;
    let addresses = |number| {
        format!(
            "{}/24, {}/64",
            inner(number, Family::V4),
            inner(number, Family::V6)
        )
    };
    let texts = [
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}\n\n[Peer]\nPublicKey = {}\nPresharedKey = {psk}\
             AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 198.18.2.2:51999\nPersistentKeepalive = 25\n",
            keys[0].0,
            addresses(1),
            keys[1].1
        ),
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}\nListenPort = 51999\nMTU = 1380\n\n[Peer]\nPublicKey = {}\n\
             PresharedKey = {psk}AllowedIPs = 10.77.0.1/32, fd77::1/128\n",
            keys[1].0,
            addresses(2),
            keys[0].1
        ),
    ];
    let mut tunnels = Vec::new();
    for ((host, text), program) in hosts.iter().zip(&texts).zip([near, far]) {
        let tunnel = Quick::up(host, text, program);
        tunnels.push(tunnel.with_context(|| format!("{program:?} on {}", host.name()))?);
    }
    for address in ["10.77.0.2", "fd77::2", "198.18.2.2"] {
        wait_until(&format!("an answer of {address}"), LIMIT, || {
            hosts[0].exec(["ping", "-c1", "-W1", address])?;
            Ok(true)
        })?;
    }
    for tunnel in &tunnels {
        tunnel.down()?;
    }
    Ok(())
}

/// A tunnel of wg-quick's; its process is nobody's child.
struct Quick {
    host: Host,
    interface: String,
    configuration: String,
    program: PathBuf,
}

impl Quick {
    fn up(host: &Host, text: &str, program: Program) -> Result<Self> {
        let interface = format!("dq{:x}{}", std::process::id(), host.name());
        let tunnel = Self {
            host: host.clone(),
            configuration: write(host, &format!("{interface}.conf"), text)?,
            program: program.for_wg_quick(&host.folder()?)?,
            interface,
        };
        tunnel.run("up")?;
        Ok(tunnel)
    }

    fn run(&self, verb: &str) -> Result<()> {
        let environment = format!(
            "WG_QUICK_USERSPACE_IMPLEMENTATION={}",
            self.program.display()
        );
        self.host
            .exec(["env", &environment, "wg-quick", verb, &self.configuration])?;
        Ok(())
    }

    /// With the interface its process ends, and its socket goes.
    fn down(&self) -> Result<()> {
        self.run("down")?;
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface));
        wait_until(&format!("end of {}", self.interface), LIMIT, || {
            Ok(!socket.exists())
        })
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        let _ = fs::remove_file(format!("/var/run/wireguard/{}.sock", self.interface));
    }
}

fn write(host: &Host, name: &str, text: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = host.folder()?.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path.to_string_lossy().into_owned())
}
