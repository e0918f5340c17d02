//! Plain declarations: which hosts there are, how they are connected, what runs on them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

mod provider;
mod world;

/// The link that [`crate::Lab::set_path_mtu`] narrows: in the middle of the way between VPS and home.
pub const PATH: &str = "path";

const RESERVED_HOST_NAMES: [&str; 4] = ["interfaces", "processes", "run", "state"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub name: String,
    pub summary: String,
    /// An IPv6 prefix that the provider gave the VPS for its subnets.
    #[serde(default)]
    pub prefix: Option<String>,
    pub hosts: Vec<HostPlan>,
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// Letters and digits only, so that `adit-INSTANCE-HOST` can be taken apart again.
    pub name: String,
    pub kind: HostKind,
    pub note: String,
    /// Dotted name and value, written before any interface exists.
    pub sysctls: Vec<(String, String)>,
    pub bridges: Vec<Bridge>,
    pub routes: Vec<Route>,
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    Endpoint,
    /// Forwards, and is part of the network in between: [`crate::Lab::drop_icmp`] silences it.
    Router,
    /// One bridge, no addresses.
    Switch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    pub name: String,
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// A prefix, or `default`.
    pub destination: String,
    /// The next hop, and a metric if it matters: `192.0.2.1 metric 200`.
    pub via: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// IPv4 source NAT of everything that leaves by the interface.
    Masquerade { interface: String },
    /// A public IPv4 address that stands for a private one of a neighbour, beyond the interface, in both directions.
    OneToOne {
        interface: String,
        public: String,
        private: String,
    },
    /// What comes in by the interface passes only from these prefixes (BCP 38).
    SourceFilter {
        interface: String,
        prefixes: Vec<String>,
    },
    /// IPv6 leaves by the interface only to this prefix.
    DestinationFilter { interface: String, prefix: String },
    /// Router Advertisements; the prefixes are on-link and not for autoconfiguration.
    Radvd {
        interface: String,
        prefixes: Vec<String>,
        /// Shortest and longest interval between two advertisements, in seconds.
        interval: (u32, u32),
        /// The lifetime of the default route that is advertised, in seconds.
        lifetime: u32,
    },
}

/// A veth pair between two hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub name: Option<String>,
    pub ends: [End; 2],
    pub mtu: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub host: String,
    pub interface: String,
    pub addresses: Vec<String>,
    /// The bridge of the same host that this end is a port of.
    pub bridge: Option<String>,
}

impl Topology {
    pub fn names() -> &'static [&'static str] {
        provider::NAMES
    }

    pub fn by_name(name: &str) -> Result<Self> {
        provider::topology(name).with_context(|| {
            format!(
                "no topology is named {name:?}: there are {}",
                Self::names().join(", ")
            )
        })
    }

    pub fn new(name: &str, summary: &str) -> Self {
        Self {
            name: name.into(),
            summary: summary.into(),
            prefix: None,
            hosts: Vec::new(),
            links: Vec::new(),
        }
    }

    pub fn host(mut self, host: HostPlan) -> Self {
        self.hosts.push(host);
        self
    }

    pub fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// A switch with every end on it; its ports bear the names of the hosts that they lead to.
    pub fn switch(mut self, name: &str, note: &str, ends: impl IntoIterator<Item = End>) -> Self {
        let mut switch = HostPlan::new(name, HostKind::Switch, note);
        switch.bridges.push(Bridge {
            name: "br0".into(),
            addresses: Vec::new(),
        });
        self.hosts.push(switch);
        for end in ends {
            let port = End::new(name, &end.host).port_of("br0");
            self.links.push(Link::between(port, end));
        }
        self
    }

    pub fn find_host(&self, name: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.name == name)
    }

    pub fn find_link(&self, name: &str) -> Option<&Link> {
        self.links
            .iter()
            .find(|link| link.name.as_deref() == Some(name))
    }

    /// One line for each host: its name, its interfaces with their addresses, and what it is.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for host in self
            .hosts
            .iter()
            .filter(|host| host.kind != HostKind::Switch)
        {
            let mut interfaces = Vec::new();
            for end in self
                .ends_of(&host.name)
                .filter(|end| !end.addresses.is_empty())
            {
                interfaces.push(format!("{} {}", end.interface, end.addresses.join(" ")));
            }
            for bridge in &host.bridges {
                interfaces.push(format!("{} {}", bridge.name, bridge.addresses.join(" ")));
            }
            let _ = writeln!(
                text,
                "{:<10} {:<36} {}",
                host.name,
                host.note,
                interfaces.join(", ")
            );
        }
        text
    }

    pub(crate) fn ends_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a End> {
        self.links
            .iter()
            .flat_map(|link| &link.ends)
            .filter(move |end| end.host == host)
    }

    /// What the kernel would only refuse when half of it is built.
    pub(crate) fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for host in &self.hosts {
            let name = &host.name;
            ensure!(
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
                "topology {}: host name {name:?} is not made of lower-case letters and digits",
                self.name
            );
            ensure!(
                !RESERVED_HOST_NAMES.contains(&name.as_str()),
                "topology {}: the lab uses the name {name:?} itself",
                self.name
            );
            ensure!(
                names.insert(name),
                "topology {}: two hosts are named {name:?}",
                self.name
            );
        }
        let mut interfaces = BTreeSet::new();
        for end in self.links.iter().flat_map(|link| &link.ends) {
            let host = self.find_host(&end.host).with_context(|| {
                format!(
                    "topology {}: a link leads to the unknown host {:?}",
                    self.name, end.host
                )
            })?;
            ensure!(
                (1..=15).contains(&end.interface.len()),
                "topology {}: interface name {:?} on {} is not 1 to 15 characters long",
                self.name,
                end.interface,
                end.host
            );
            ensure!(
                interfaces.insert((&end.host, &end.interface)),
                "topology {}: {} has two interfaces named {:?}",
                self.name,
                end.host,
                end.interface
            );
            if let Some(bridge) = &end.bridge {
                ensure!(
                    host.bridges.iter().any(|known| known.name == *bridge),
                    "topology {}: {} has no bridge {bridge:?} for {}",
                    self.name,
                    end.host,
                    end.interface
                );
            }
        }
        Ok(())
    }
}

impl HostPlan {
    pub fn new(name: &str, kind: HostKind, note: &str) -> Self {
        Self {
            name: name.into(),
            kind,
            note: note.into(),
            sysctls: Vec::new(),
            bridges: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
        }
    }

    pub fn sysctl(mut self, name: &str, value: &str) -> Self {
        self.sysctls.push((name.into(), value.into()));
        self
    }

    pub fn bridge(mut self, name: &str, addresses: &[&str]) -> Self {
        self.bridges.push(Bridge {
            name: name.into(),
            addresses: owned(addresses),
        });
        self
    }

    pub fn route(mut self, destination: &str, via: &str) -> Self {
        self.routes.push(Route {
            destination: destination.into(),
            via: via.into(),
        });
        self
    }

    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }
}

impl Link {
    pub fn between(left: End, right: End) -> Self {
        Self {
            name: None,
            ends: [left, right],
            mtu: 1500,
        }
    }

    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }
}

impl End {
    pub fn new(host: &str, interface: &str) -> Self {
        Self {
            host: host.into(),
            interface: interface.into(),
            addresses: Vec::new(),
            bridge: None,
        }
    }

    pub fn addresses(mut self, addresses: &[&str]) -> Self {
        self.addresses = owned(addresses);
        self
    }

    pub fn port_of(mut self, bridge: &str) -> Self {
        self.bridge = Some(bridge.into());
        self
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
