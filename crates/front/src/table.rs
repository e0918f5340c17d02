//! What leads where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All that a front is told. A new table takes the place of the one before: connections over what is the same in both go on,
/// those over what is gone or leads elsewhere are ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whatever number the caller gives it; [`Status`](crate::Status) has that of the table in force.
    pub revision: u64,
    pub listeners: Vec<Listener>,
    #[serde(default)]
    pub limits: Limits,
}

/// A local address and port, and the names behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// An address of this host; it need not be there yet.
    pub address: SocketAddr,
    pub service: Service,
    /// Where each name leads to: in lower case, without a dot at the end, `*` as the whole first label or not at all. An exact
    /// name is preferred to a wildcard, which stands for one label.
    pub names: BTreeMap<String, Route>,
    /// Where everything else leads to, what says no name included. Without it that is refused.
    #[serde(default)]
    pub fallback: Option<Route>,
}

/// Names that come, go or lead elsewhere, where the listeners of a table stay: what costs in proportion to the change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// That of the table that it changes; any other is not changed.
    pub from: u64,
    /// That of the table that comes of it.
    pub revision: u64,
    pub listeners: Vec<ListenerChange>,
}

/// What changes at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerChange {
    pub address: SocketAddr,
    pub service: Service,
    /// Where each name leads to from now on; nowhere if it goes.
    pub names: BTreeMap<String, Option<Route>>,
}

/// How the name is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// TCP, by the server name of a ClientHello.
    Tls,
    /// TCP, by the host of the first request of an HTTP/1 connection.
    Http,
    /// UDP, by the server name in the Initials of QUIC.
    Quic,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// To a device, which gets the bytes as they came.
    Device(Target),
    /// To the same over TLS at another port. Only of [`Service::Http`].
    Redirect {
        port: u16,
        /// Who gets what is below `/.well-known/acme-challenge/` all the same (RFC 8555 §8.3).
        #[serde(default)]
        challenges: Option<Target>,
    },
}

/// An address and port of a device, and how it is talked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub address: SocketAddr,
    pub mode: Mode,
    /// Sources that the device would answer by another way than through the tunnel: its own addresses, the networks behind
    /// it. To them the front talks from an address of this host. The target's own address is always one.
    #[serde(default)]
    pub near: BTreeSet<IpNet>,
}

/// Which address the device sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The client's, with its port. Its replies have to come back to this host, which has to divert them to the front:
    /// a packet from the tunnel that belongs to a transparent socket gets a mark (`socket transparent 1` in nftables), and a
    /// rule leads that mark to a table with `local default dev lo`, in both families. Where client and device are of
    /// different families it is as [`Self::Gateway`].
    Transparent,
    /// This host's; the client's comes in front of the connection as PROXY protocol version 2. With QUIC it is as
    /// [`Self::Gateway`].
    ProxyProtocol,
    /// This host's.
    Gateway,
}

/// How much may be at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// TCP connections. It is less where the process may not have so many files, and so are the next two.
    pub connections: u32,
    /// QUIC flows whose clients are known to be where they say.
    pub flows: u32,
    /// Other flows, for each thread: the oldest make room for those who come.
    pub unproven: u32,
    /// Connections, and flows, from one IPv4 address, or from one IPv6 /64; from a /48 four times as many.
    pub per_source: u32,
    /// Bytes that are held for those who have not said yet where they want to.
    pub waiting_bytes: usize,
}

/// Why a table is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("{address} is there twice")]
    Twice { address: SocketAddr },
    #[error("{address} has no port")]
    NoPort { address: SocketAddr },
    #[error("the name {name:?} of {address} is not in lower case, or no name")]
    Name { address: SocketAddr, name: String },
    #[error("{address} redirects, which only HTTP can")]
    Redirect { address: SocketAddr },
    #[error("it changes revision {from}, and the table has {revision}")]
    OtherRevision { from: u64, revision: u64 },
    #[error("{address} is in no listener of the table")]
    NoListener { address: SocketAddr },
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32_768,
            flows: 16_384,
            unproven: 4096,
            per_source: 1024,
            waiting_bytes: 64 << 20,
        }
    }
}

impl Listener {
    /// All that it leads to, the fallback included.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.names.values().chain(&self.fallback)
    }
}

impl Route {
    /// The device that it leads to, if it does.
    pub const fn device(&self) -> Option<&Target> {
        match self {
            Self::Device(target) => Some(target),
            Self::Redirect { challenges, .. } => challenges.as_ref(),
        }
    }
}

impl Service {
    pub const fn is_tcp(self) -> bool {
        match self {
            Self::Tls | Self::Http => true,
            Self::Quic => false,
        }
    }
}

impl Target {
    /// A device behind a tunnel whose replies come back.
    pub const fn transparent(address: SocketAddr) -> Self {
        Self {
            address,
            mode: Mode::Transparent,
            near: BTreeSet::new(),
        }
    }

    /// Whether the device answers this source by another way than through the tunnel.
    pub(crate) fn is_near(&self, source: IpAddr) -> bool {
        self.address.ip() == source || self.near.iter().any(|network| network.contains(&source))
    }
}

impl Table {
    /// Changes it, or leaves it as it is.
    ///
    /// # Errors
    ///
    /// When it is a change of another table, or of listeners that are not there, or what comes of it would be none.
    pub fn change(&mut self, change: &Change) -> Result<(), TableError> {
        let Change { from, revision, .. } = *change;
        if from != self.revision {
            let revision = self.revision;
            return Err(TableError::OtherRevision { from, revision });
        }
        for changed in &change.listeners {
            let address = changed.address;
            self.listener(changed)
                .ok_or(TableError::NoListener { address })?;
            let routes = changed.names.values().flatten();
            check_names(address, changed.names.keys())?;
            check_routes(address, changed.service, routes)?;
        }
        for changed in &change.listeners {
            let Some(listener) = self.listener(changed) else {
                continue;
            };
            for (name, route) in &changed.names {
                match route {
                    Some(route) => listener.names.insert(name.clone(), route.clone()),
                    None => listener.names.remove(name),
                };
            }
        }
        self.revision = revision;
        Ok(())
    }

    fn listener(&mut self, changed: &ListenerChange) -> Option<&mut Listener> {
        let key = (changed.address, changed.service);
        let mut listeners = self.listeners.iter_mut();
        listeners.find(|listener| (listener.address, listener.service) == key)
    }

    pub(crate) fn check(&self) -> Result<(), TableError> {
        let mut seen = BTreeSet::new();
        for listener in &self.listeners {
            let address = listener.address;
            if address.port() == 0 {
                return Err(TableError::NoPort { address });
            }
            if !seen.insert((address, listener.service.is_tcp())) {
                return Err(TableError::Twice { address });
            }
            check_names(address, listener.names.keys())?;
            check_routes(address, listener.service, listener.routes())?;
        }
        Ok(())
    }
}

fn check_names<'a>(
    address: SocketAddr,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), TableError> {
    match names.find(|name| !is_name(name)) {
        Some(name) => Err(TableError::Name {
            address,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

fn check_routes<'a>(
    address: SocketAddr,
    service: Service,
    mut routes: impl Iterator<Item = &'a Route>,
) -> Result<(), TableError> {
    let redirects = routes.any(|route| matches!(route, Route::Redirect { .. }));
    if redirects && service != Service::Http {
        return Err(TableError::Redirect { address });
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    adit_proto::tls::host_name(labels.as_bytes()).as_deref() == Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_table_as_it_is_told() {
        let target = r#"{"address":"10.59.0.2:443","mode":"transparent","near":["10.9.0.0/24"]}"#;
        let table = table(&format!(
            r#"{{"revision":7,"listeners":[
                {{"address":"203.0.113.1:443","service":"tls","names":{{"a.example":{{"device":{target}}}}}}},
                {{"address":"203.0.113.1:80","service":"http","names":{{
                    "*.example":{{"redirect":{{"port":443,"challenges":{target}}}}}}}}}]}}"#
        ));
        assert_eq!(table.check(), Ok(()));
        assert_eq!(table.limits, Limits::default());
        let Route::Device(target) = &table.listeners[0].names["a.example"] else {
            panic!("{table:?}");
        };
        assert!(target.is_near([10, 59, 0, 2].into()));
        assert!(target.is_near([10, 9, 0, 77].into()));
        assert!(!target.is_near([10, 59, 0, 3].into()));
        let again: Table = serde_json::from_str(&serde_json::to_string(&table).unwrap()).unwrap();
        assert_eq!(again, table);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let address = "203.0.113.1:443".parse().unwrap();
        let listener = |service, name: &str, route| Listener {
            address,
            service,
            names: [(name.to_owned(), route)].into(),
            fallback: None,
        };
        let device = || Route::Device(Target::transparent("10.59.0.2:443".parse().unwrap()));
        let redirect = || Route::Redirect {
            port: 443,
            challenges: None,
        };
        let check = |listeners: Vec<Listener>| {
            Table {
                listeners,
                ..Table::default()
            }
            .check()
        };
        let tls = || listener(Service::Tls, "a.example", device());
        let quic = || listener(Service::Quic, "*.example", device());
        assert_eq!(check(vec![tls(), quic()]), Ok(()));
        assert_eq!(
            check(vec![tls(), tls()]),
            Err(TableError::Twice { address })
        );
        for name in [
            "A.example",
            "*",
            "a.*.example",
            "",
            "a.example.",
            "*a.example",
        ] {
            let refused = check(vec![listener(Service::Tls, name, device())]);
            assert!(matches!(refused, Err(TableError::Name { .. })), "{name}");
        }
        assert_eq!(
            check(vec![listener(Service::Tls, "a.example", redirect())]),
            Err(TableError::Redirect { address })
        );
    }

    #[test]
    fn a_change_is_of_one_table_and_all_of_it_or_nothing() {
        let address: SocketAddr = "203.0.113.1:443".parse().unwrap();
        let device = |port| Route::Device(Target::transparent(([10, 59, 0, 2], port).into()));
        let mut table = Table {
            revision: 7,
            listeners: vec![Listener {
                address,
                service: Service::Tls,
                names: ["a.example", "b.example", "c.example"]
                    .map(|name| (name.to_owned(), device(1)))
                    .into(),
                fallback: None,
            }],
            ..Table::default()
        };
        let change = |from, address, names: &[(&str, Option<Route>)]| Change {
            from,
            revision: 9,
            listeners: vec![ListenerChange {
                address,
                service: Service::Tls,
                names: names
                    .iter()
                    .map(|(name, route)| ((*name).to_owned(), route.clone()))
                    .collect(),
            }],
        };
        let before = table.clone();
        let some = [("d.example", Some(device(4)))];
        let elsewhere = "203.0.113.2:443".parse().unwrap();
        let redirect = Route::Redirect {
            port: 443,
            challenges: None,
        };
        for wrong in [
            change(6, address, &some),
            change(7, elsewhere, &some),
            change(7, address, &[("a.example", None), ("D.example", None)]),
            change(
                7,
                address,
                &[("a.example", None), ("d.example", Some(redirect))],
            ),
        ] {
            assert!(table.change(&wrong).is_err(), "{wrong:?}");
            assert_eq!(table, before);
        }
        let right = [
            ("a.example", None),
            ("b.example", Some(device(2))),
            ("d.example", Some(device(4))),
        ];
        table.change(&change(7, address, &right)).unwrap();
        let mut expected = before;
        expected.revision = 9;
        let names = &mut expected.listeners[0].names;
        names.remove("a.example");
        names.insert("b.example".to_owned(), device(2));
        names.insert("d.example".to_owned(), device(4));
        assert_eq!(table, expected);
    }
}
