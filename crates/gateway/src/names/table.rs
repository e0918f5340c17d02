//! What is desired of the front, as the front is told it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_front::{Listener, Mode, Route, Service, Target};
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
    // In this order, which is that of the ports, a name of port 80 is in place before that of port 443 is looked at.
    for ((socket, name), target) in &names.routes {
        if let Some(listener) = listeners.get_mut(socket) {
            listener.names.insert(name.clone(), device(target));
        }
        let is_secure = (socket.protocol, socket.port) == (Protocol::Tcp, HTTPS);
        if is_secure && names.redirects.contains(&socket.address) {
            let plain = Port {
                port: HTTP,
                ..*socket
            };
            // A name that has port 80 of its own is led there.
            if let Some(listener) = listeners.get_mut(&plain) {
                let redirect = || Route::Redirect {
                    port: HTTPS,
                    challenges: None,
                };
                listener.names.entry(name.clone()).or_insert_with(redirect);
            }
        }
    }
    listeners.into_values().collect()
}

/// Whether a listener leads to no device.
pub(super) fn only_redirects(listener: &Listener) -> bool {
    listener.routes().all(|route| route.device().is_none())
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
}
