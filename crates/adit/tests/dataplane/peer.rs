//! One end of a tunnel: a program on a host, and what it is told through its UAPI socket.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use adit_lab::{Host, Process, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::network::{FAMILIES, Family, Network, inner, name_of, only, outer};
use crate::program::Program;

const PORT: u16 = 51820;
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) host: Host,
    pub(crate) number: u16,
    pub(crate) interface: String,
    pub(crate) public_key: String,
    pub(crate) program: Program,
    key_file: PathBuf,
    process: Process,
}

/// What one end is told of the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) preshared_key: Option<String>,
    pub(crate) keepalive: Option<u16>,
    /// The other's addresses, unless something else is said.
    pub(crate) allowed_ips: Option<String>,
}

/// What `wg show dump` says of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) allowed_ips: String,
    /// Seconds since 1970; 0 before the first.
    pub(crate) handshake: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) keepalive: Option<u16>,
}

impl Peer {
    /// On the host of a number, with both inner addresses of it and an MTU of 1420.
    pub(crate) fn start(network: &Network, program: Program, number: u16) -> Result<Self> {
        Self::start_with(network, program, number, 1420, 1)
    }

    /// With another MTU, or with a clock that runs so many times as fast.
    pub(crate) fn start_with(
        network: &Network,
        program: Program,
        number: u16,
        mtu: u32,
        pace: u32,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Sockets of all network namespaces are in one folder.
        let interface = format!("dp{:x}n{count}", std::process::id());
        let host = network.host(name_of(number))?;
        let private_key = host.exec(["wg", "genkey"])?.stdout;
        let public_key = host.exec_with_input(["wg", "pubkey"], &private_key)?.stdout;
        let key_file = host.folder()?.join(format!("{interface}.key"));
        fs::write(&key_file, private_key)?;
        let process = program.start(&host, &interface, pace)?;
        let mut peer = Self {
            host,
            number,
            interface,
            public_key: public_key.trim().to_owned(),
            program,
            key_file,
            process,
        };
        peer.configure(mtu)
            .with_context(|| format!("start of {program:?}; it said:\n{}", peer.log()))?;
        Ok(peer)
    }

    /// The interface as wg-quick would set it up, without peers.
    fn configure(&mut self, mtu: u32) -> Result<()> {
        let what = format!("{:?} serves {}", self.program, self.interface);
        wait_until(&what, LIMIT, || {
            ensure!(self.process.is_running()?, "it has ended");
            self.host.exec(["wg", "show", &self.interface])?;
            Ok(true)
        })?;
        let key_file = self.key_file.to_string_lossy().into_owned();
        self.set(&["private-key", &key_file, "listen-port", &PORT.to_string()])?;
        for family in FAMILIES {
            self.add_address(inner(self.number, family))?;
        }
        let mtu = mtu.to_string();
        self.host
            .exec(["ip", "link", "set", &self.interface, "mtu", &mtu, "up"])?;
        let routes: &[&str] = &["10.77.0.0/24", "fd77::/64"];
        for route in routes {
            self.route(route)?;
        }
        Ok(())
    }

    pub(crate) fn add_address(&self, address: IpAddr) -> Result<()> {
        let address = only(address);
        let mut command = vec!["ip", "address", "add", &address, "dev", &self.interface];
        let is_ipv6 = address.contains(':');
        if is_ipv6 {
            command.push("nodad");
        }
        self.host.exec(command)?;
        // What comes to an IPv6 address is taken a moment after it can be bound: the kernel adds the route on its own.
        let routes = ["ip", "-6", "route", "show", "table", "local", &address];
        wait_until("the address is local", LIMIT, || {
            Ok(!is_ipv6 || !self.host.exec(routes)?.stdout.is_empty())
        })
    }

    /// Leads a prefix into the tunnel.
    pub(crate) fn route(&self, prefix: &str) -> Result<()> {
        self.host
            .exec(["ip", "route", "replace", prefix, "dev", &self.interface])?;
        Ok(())
    }

    /// `wg set INTERFACE …`
    pub(crate) fn set(&self, words: &[&str]) -> Result<()> {
        let command = [&["wg", "set", &self.interface], words].concat();
        self.host.exec(command)?;
        Ok(())
    }

    pub(crate) fn add(&self, other: &Self, link: &Link) -> Result<()> {
        let allowed_ips = link.allowed_ips.clone().unwrap_or_else(|| {
            let own = FAMILIES.map(|family| only(inner(other.number, family)));
            own.join(",")
        });
        let mut words = vec!["peer".to_owned(), other.public_key.clone()];
        if let Some(key) = &link.preshared_key {
            let path = self.host.folder()?.join(format!("{}.psk", self.interface));
            fs::write(&path, key)?;
            words.extend(["preshared-key".into(), path.to_string_lossy().into_owned()]);
        }
        if let Some(endpoint) = link.endpoint {
            words.extend(["endpoint".into(), endpoint.to_string()]);
        }
        if let Some(seconds) = link.keepalive {
            words.extend(["persistent-keepalive".into(), seconds.to_string()]);
        }
        words.extend(["allowed-ips".into(), allowed_ips]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.set(&words)
    }

    pub(crate) fn remove(&self, other: &Self) -> Result<()> {
        self.set(&["peer", &other.public_key, "remove"])
    }

    pub(crate) fn inner(&self, family: Family) -> IpAddr {
        inner(self.number, family)
    }

    /// Where others reach it.
    pub(crate) fn endpoint(&self, family: Family) -> SocketAddr {
        SocketAddr::new(outer(self.number, family), PORT)
    }

    pub(crate) fn seen(&self, other: &Self) -> Result<Seen> {
        let dump = self.host.exec(["wg", "show", &self.interface, "dump"])?;
        let line = dump
            .stdout
            .lines()
            .find(|line| line.starts_with(&other.public_key));
        let line = line.with_context(|| format!("{} in {dump}", other.public_key))?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [
            _,
            _,
            endpoint,
            allowed_ips,
            handshake,
            received,
            sent,
            keepalive,
        ] = fields[..]
        else {
            anyhow::bail!("another number of fields: {line:?}");
        };
        Ok(Seen {
            endpoint: match endpoint {
                "(none)" => None,
                text => Some(text.parse().with_context(|| text.to_owned())?),
            },
            allowed_ips: allowed_ips.to_owned(),
            handshake: handshake.parse()?,
            received: received.parse()?,
            sent: sent.parse()?,
            keepalive: match keepalive {
                "off" => None,
                text => Some(text.parse()?),
            },
        })
    }

    pub(crate) fn await_handshake(&self, other: &Self, limit: Duration) -> Result<()> {
        let what = format!("{:?}: a handshake with {:?}", self.program, other.program);
        wait_until(&what, limit, || Ok(self.seen(other)?.handshake != 0))
    }

    /// Whether the program is the one that was started: none of what it is told or sent may end it.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        ensure!(
            self.process.is_running()?,
            "{:?} has ended:\n{}",
            self.program,
            self.log()
        );
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Packets that the host has put into the tunnel.
    pub(crate) fn carried(&self) -> Result<u64> {
        let shown = self
            .host
            .exec(["ip", "-json", "-s", "link", "show", &self.interface])?;
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout)?;
        shown[0]["stats64"]["tx"]["packets"]
            .as_u64()
            .with_context(|| format!("packets in {shown}"))
    }

    /// What the program wrote.
    pub(crate) fn log(&self) -> String {
        let said = [self.process.stdout(), self.process.stderr()];
        said.map(Result::unwrap_or_default).concat()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What does not end is killed, and its socket left behind for whoever has the name next.
        let _ = self.process.stop();
        let socket = format!("/var/run/wireguard/{}.sock", self.interface);
        let _ = fs::remove_file(Path::new(&socket));
    }
}

/// Makes each a peer of the other; the first alone knows an endpoint, so that it is the one that begins.
pub(crate) fn connect(initiator: &Peer, responder: &Peer, outside: Family) -> Result<()> {
    responder.add(initiator, &Link::default())?;
    initiator.add(
        responder,
        &Link {
            endpoint: Some(responder.endpoint(outside)),
            ..Link::default()
        },
    )
}
