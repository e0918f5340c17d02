//! What is desired of the front, as the front is told it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_front::{Listener, ListenerChange, Mode, Route, Service, Target};
use adit_model::desired::firewall::Port;
use adit_model::desired::names::{self, HTTP, HTTPS, Names};
use adit_model::protocol::Protocol;

/// In the order of their addresses.
pub(super) fn listeners(names: &Names) -> Vec<Listener> {
    let mut listeners: BTreeMap<Port<IpAddr>, Listener> = BTreeMap::new();
    for socket in names.listeners() {
        let listener = Listener {
            address: SocketAddr::new(socket.address, socket.port),
            service: service(&socket),
            names: BTreeMap::new(),
            fallback: names.fallbacks.get(&socket).map(device),
        };
        listeners.insert(socket, listener);
    }
    for (socket, name) in names.routes.keys() {
        for socket in concerned(names, socket) {
            if let (Some(listener), Some(route)) =
                (listeners.get_mut(&socket), route(names, socket, name))
            {
                listener.names.insert(name.clone(), route);
            }
        }
    }
    listeners.into_values().collect()
}

/// What changes where the listeners stay as they are; nothing when they do not.
pub(super) fn changes(before: &Names, after: &Names) -> Option<Vec<ListenerChange>> {
    let is_of_names = before.redirects == after.redirects
        && before.fallbacks.diff(&after.fallbacks).next().is_none()
        && before.sockets() == after.sockets();
    if !is_of_names {
        return None;
    }
    let mut changes: BTreeMap<Port<IpAddr>, ListenerChange> = BTreeMap::new();
    for (socket, name) in before.changed(after) {
        for socket in concerned(after, socket) {
            let change = changes.entry(socket).or_insert_with(|| ListenerChange {
                address: SocketAddr::new(socket.address, socket.port),
                service: service(&socket),
                names: BTreeMap::new(),
            });
            let route = route(after, socket, name);
            change.names.insert(name.clone(), route);
        }
    }
    Some(changes.into_values().collect())
}

/// Whether a listener leads to no device.
pub(super) fn only_redirects(listener: &Listener) -> bool {
    listener.routes().all(|route| route.device().is_none())
}

/// The sockets at which a name of a socket leads somewhere.
fn concerned(names: &Names, socket: &Port<IpAddr>) -> impl Iterator<Item = Port<IpAddr>> + use<> {
    let is_secure = (socket.protocol, socket.port) == (Protocol::Tcp, HTTPS);
    let redirects = is_secure && names.redirects.contains(&socket.address);
    let port = |port| Port { port, ..*socket };
    [Some(*socket), redirects.then(|| port(HTTP))]
        .into_iter()
        .flatten()
}

/// Where a name leads to. One that has port 80 of its own is led there, and not on to port 443.
fn route(names: &Names, socket: Port<IpAddr>, name: &str) -> Option<Route> {
    let at = |port| {
        names
            .routes
            .get(&(Port { port, ..socket }, name.to_owned()))
    };
    if let Some(target) = at(socket.port) {
        return Some(device(target));
    }
    let is_plain = (socket.protocol, socket.port) == (Protocol::Tcp, HTTP);
    let redirects = is_plain && names.redirects.contains(&socket.address);
    (redirects && at(HTTPS).is_some()).then_some(Route::Redirect {
        port: HTTPS,
        challenges: None,
    })
}

fn service(socket: &Port<IpAddr>) -> Service {
    match (socket.protocol, socket.port) {
        (Protocol::Tcp, HTTP) => Service::Http,
        (Protocol::Tcp, _) => Service::Tls,
        (Protocol::Udp, _) => Service::Quic,
    }
}

fn device(target: &names::Target) -> Route {
    Route::Device(Target {
        address: target.device,
        mode: match target.mode {
            names::Mode::Transparent => Mode::Transparent,
            names::Mode::ProxyProtocol => Mode::ProxyProtocol,
            names::Mode::Gateway => Mode::Gateway,
        },
        near: target.near.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16) -> Port<IpAddr> {
        Port {
            address: [203, 0, 113, 10].into(),
            protocol: Protocol::Tcp,
            port,
        }
    }

    fn target(last: u8, port: u16) -> names::Target {
        names::Target {
            device: ([10, 59, 0, last], port).into(),
            near: [IpAddr::from([10, 59, 0, last]).into()].into(),
            mode: names::Mode::Transparent,
        }
    }

    #[test]
    fn names_of_port_80_lead_to_their_device_and_those_of_443_on_to_it() {
        let mut names = Names::default();
        for (port, name, last) in [
            (80, "a.example", 2),
            (443, "a.example", 2),
            (443, "b.example", 3),
        ] {
            names
                .routes
                .insert((socket(port), name.to_owned()), target(last, port));
        }
        names.redirects.insert([203, 0, 113, 10].into());
        names.fallbacks.insert(socket(443), target(4, 8443));
        let listeners = listeners(&names);
        let [plain, secure] = listeners.as_slice() else {
            panic!("{listeners:?}");
        };
        assert_eq!(
            (plain.service, secure.service),
            (Service::Http, Service::Tls)
        );
        assert!(matches!(&plain.names["a.example"], Route::Device(to) if to.address.port() == 80));
        assert!(matches!(
            plain.names["b.example"],
            Route::Redirect { port: 443, .. }
        ));
        assert!(matches!(&secure.fallback, Some(Route::Device(to)) if to.address.port() == 8443));
        assert_eq!(secure.names.len(), 2);
        assert!(!only_redirects(plain));
        names.routes.remove(&(socket(80), "a.example".to_owned()));
        assert!(only_redirects(&super::listeners(&names)[0]));
    }

    /// Every step from any set of names to any other.
    #[test]
    fn what_changes_makes_one_table_of_the_other() {
        let keys: Vec<_> = [80, 443]
            .into_iter()
            .flat_map(|port| ["a.example", "b.example"].map(|name| (socket(port), name.to_owned())))
            .collect();
        let sets: Vec<Names> = (0..3_usize.pow(4))
            .map(|number| {
                let mut names = Names::default();
                for (place, key) in keys.iter().enumerate() {
                    match number / 3_usize.pow(place as u32) % 3 {
                        0 => {}
                        other => {
                            names.routes.insert(key.clone(), target(other as u8, 1));
                        }
                    }
                }
                if number % 2 == 0 {
                    names.redirects.insert([203, 0, 113, 10].into());
                }
                names
            })
            .collect();
        let mut count = 0;
        for before in &sets {
            for after in &sets {
                let expected = listeners(after);
                let Some(changes) = changes(before, after) else {
                    continue;
                };
                let mut table = adit_front::Table {
                    revision: 1,
                    listeners: listeners(before),
                    ..adit_front::Table::default()
                };
                let change = adit_front::Change {
                    from: 1,
                    revision: 2,
                    listeners: changes,
                };
                assert_eq!(table.change(&change), Ok(()), "{before:?}, {after:?}");
                assert_eq!(table.listeners, expected, "{before:?}, {after:?}");
                count += 1;
            }
        }
        assert!(count > 1000, "{count}");
    }
}
