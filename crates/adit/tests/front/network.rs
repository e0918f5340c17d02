//! Clients on one side of the front, devices on the other, and what the gateway's rules do for it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_front::{Client, Limits, Listener, Route, Service, Status, Table, Target};
use adit_lab::topology::{End, HostKind, HostPlan, Link};
use adit_lab::{Host, Lab, Process, TemporaryLab, Topology, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::machine::Machine;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// `client` – `gateway` – `nas` and `blog`, both families, each on a link of its own. What leads replies back to the front is
/// as in the gateway's own rules, with a link in the place of the tunnel.
#[derive(Debug)]
pub(crate) struct Network {
    _lab: TemporaryLab,
    pub(crate) client: Host,
    pub(crate) gateway: Host,
    pub(crate) nas: Host,
    pub(crate) blog: Host,
    /// Where the front is told what to do.
    pub(crate) socket: PathBuf,
    _machine: Machine,
}

/// A front that runs in the foreground.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Client,
    /// The gateway as clients see it.
    Front,
    Nas,
    Blog,
    /// The gateway as the device `nas` sees it.
    BesideNas,
    BesideBlog,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

const RULES: &str = r#"
table inet front {
    chain prerouting {
        type filter hook prerouting priority mangle;
        iifname { "to-nas", "to-blog" } meta nfproto ipv4 socket transparent 1 meta mark set meta mark & 0xc0ffffff | 0x3f000000
        iifname { "to-nas", "to-blog" } meta nfproto ipv6 socket transparent 1 meta mark set meta mark & 0xc0ffffff | 0x3f000000
    }
}
"#;

impl Place {
    pub(crate) fn address(self, family: Family) -> IpAddr {
        let (four, six): ([u8; 4], [u16; 8]) = match self {
            Self::Client => (
                [198, 51, 100, 10],
                [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10],
            ),
            Self::Front => ([198, 51, 100, 1], [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
            Self::Nas => ([10, 59, 0, 2], [0xfd59, 0, 0, 0, 0, 0, 0, 2]),
            Self::BesideNas => ([10, 59, 0, 1], [0xfd59, 0, 0, 0, 0, 0, 0, 1]),
            Self::Blog => ([10, 60, 0, 2], [0xfd60, 0, 0, 0, 0, 0, 0, 2]),
            Self::BesideBlog => ([10, 60, 0, 1], [0xfd60, 0, 0, 0, 0, 0, 0, 1]),
        };
        match family {
            Family::V4 => four.into(),
            Family::V6 => six.into(),
        }
    }

    pub(crate) fn at(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    fn prefixed(self) -> [String; 2] {
        [
            format!("{}/24", self.address(Family::V4)),
            format!("{}/64", self.address(Family::V6)),
        ]
    }
}

impl Network {
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        Self::with(purpose, Machine::share())
    }

    /// For what counts bytes of memory or needs all of the time.
    pub(crate) fn alone(purpose: &str) -> Result<Self> {
        Self::with(purpose, Machine::alone())
    }

    fn with(purpose: &str, machine: Machine) -> Result<Self> {
        let end = |name: &str, gateway: Place| {
            let [four, six] = FAMILIES.map(|family| gateway.address(family).to_string());
            HostPlan::new(name, HostKind::Endpoint, "an end of connections")
                .route("default", &four)
                .route("default", &six)
        };
        let link = |name: &str, own: Place, gateway: Place| {
            let (own, gateway) = (own.prefixed(), gateway.prefixed());
            Link::between(
                End::new(name, "eth0").addresses(&own.each_ref().map(String::as_str)),
                End::new("gateway", &format!("to-{name}"))
                    .addresses(&gateway.each_ref().map(String::as_str)),
            )
        };
        let topology = Topology::new("front", "clients, a gateway, two devices")
            .host(HostPlan::new("gateway", HostKind::Router, "has the front"))
            .host(end("client", Place::Front))
            .host(end("nas", Place::BesideNas))
            .host(end("blog", Place::BesideBlog))
            .link(link("client", Place::Client, Place::Front))
            .link(link("nas", Place::Nas, Place::BesideNas))
            .link(link("blog", Place::Blog, Place::BesideBlog));
        let lab = Lab::temporary(&topology, purpose)?;
        let gateway = lab.host("gateway")?;
        gateway.exec_with_input(["nft", "-f", "-"], RULES)?;
        for family in ["-4", "-6"] {
            let rule = ["rule", "add", "fwmark", "0x3f000000/0x3f000000", "lookup"];
            let route = ["route", "add", "local", "default", "dev", "lo", "table"];
            for words in [&rule[..], &route[..]] {
                gateway.exec([&["ip", family], words, &["4293"]].concat())?;
            }
        }
        Ok(Self {
            client: lab.host("client")?,
            nas: lab.host("nas")?,
            blog: lab.host("blog")?,
            socket: gateway.folder()?.join("front.sock"),
            gateway,
            _lab: lab,
            _machine: machine,
        })
    }

    pub(crate) fn start_front(&self) -> Result<Front> {
        let front = Front {
            process: self.spawn_front()?,
            socket: self.socket.clone(),
        };
        wait_until("the front serves its socket", LIMIT, || {
            Ok(Client::connect(&self.socket).is_ok())
        })?;
        Ok(front)
    }

    /// One that takes over if there is one.
    pub(crate) fn spawn_front(&self) -> Result<Process> {
        let socket = self.socket.to_string_lossy().into_owned();
        self.gateway
            .spawn([binary(), "front", "--foreground", &socket])
    }

    pub(crate) fn host(&self, place: Place) -> &Host {
        match place {
            Place::Client => &self.client,
            Place::Nas => &self.nas,
            Place::Blog => &self.blog,
            Place::Front | Place::BesideNas | Place::BesideBlog => &self.gateway,
        }
    }
}

impl Front {
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }

    /// Puts a table in force, all of whose listeners have to listen.
    pub(crate) fn set(&self, listeners: Vec<Listener>) -> Result<Status> {
        self.set_limited(listeners, Limits::default())
    }

    pub(crate) fn set_limited(&self, listeners: Vec<Listener>, limits: Limits) -> Result<Status> {
        let table = Table {
            revision: 1,
            listeners,
            limits,
        };
        let status = self.client()?.set(&table)?;
        for listener in &status.listeners {
            ensure!(listener.problem.is_none(), "{listener:?}");
        }
        Ok(status)
    }

    pub(crate) fn status(&self) -> Result<Status> {
        Ok(self.client()?.status_with_names()?)
    }

    pub(crate) fn await_status(
        &self,
        what: &str,
        is_so: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        wait_until(what, LIMIT, || {
            let status = self.status()?;
            let answer = is_so(&status);
            last = Some(status);
            Ok(answer)
        })
        .with_context(|| format!("{last:?}"))?;
        last.context("a status")
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.context("VmRSS")?.parse::<u64>()? * 1024)
    }
}

/// A listener of the front in both families; each name leads to the device of the same family.
pub(crate) fn listeners(
    service: Service,
    port: u16,
    names: &[(&str, Place, u16)],
    fallback: Option<(Place, u16)>,
) -> Vec<Listener> {
    let listener = |family| {
        let route = |place: Place, port| Route::Device(Target::transparent(place.at(family, port)));
        let names: BTreeMap<String, Route> = names
            .iter()
            .map(|(name, place, port)| ((*name).to_owned(), route(*place, *port)))
            .collect();
        Listener {
            address: Place::Front.at(family, port),
            service,
            names,
            fallback: fallback.map(|(place, port)| route(place, port)),
        }
    };
    FAMILIES.map(listener).into()
}

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_adit")
}

/// Files of these tests.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/front")
        .join(name)
}
