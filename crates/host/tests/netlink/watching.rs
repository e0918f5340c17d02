//! What others change is told.

use std::time::Duration;

use adit_host::netlink::Netlink;
use adit_host::route;
use adit_host::watch::{Event, watch};
use adit_model::desired::route::{Route, RouteTarget};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::namespace::Namespace;

/// Everything that is told until nothing more comes.
async fn told(events: &mut Receiver<Event>) -> Vec<Event> {
    let mut told = Vec::new();
    while let Ok(event) = timeout(Duration::from_millis(300), events.recv()).await {
        told.push(event.expect("the watch goes on"));
    }
    told.sort();
    told.dedup();
    told
}

#[test]
fn changes_of_others_are_told_by_kind() {
    let namespace = Namespace::new();
    namespace.execute("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    namespace.ip("route add 198.51.100.0/24 dev v0 proto 173");
    namespace.inside(async || {
        let mut events = watch().unwrap();
        told(&mut events).await;

        namespace.ip("route del 198.51.100.0/24 dev v0");
        let told_of_ours = told(&mut events).await;
        let [Event::OwnRoutes(routes)] = told_of_ours.as_slice() else {
            panic!("{told_of_ours:?}");
        };
        let [route] = routes.as_slice() else {
            panic!("{routes:?}");
        };
        assert!(!route.is_there && route.destination.to_string() == "198.51.100.0/24");
        namespace.ip("route add 198.51.101.0/24 dev v0 proto 174");
        assert_eq!(told(&mut events).await, [Event::Route]);
        namespace.ip("rule add from 192.0.2.1 lookup 4200");
        assert_eq!(told(&mut events).await, [Event::Rule]);
        namespace.ip("link set v0 mtu 1400");
        assert_eq!(told(&mut events).await, [Event::Link]);
        namespace.ip("addr add 192.0.2.1/32 dev v0 noprefixroute");
        assert!(told(&mut events).await.contains(&Event::Address));
        namespace.execute("sysctl -qw net.ipv4.conf.all.forwarding=1");
        assert_eq!(told(&mut events).await, [Event::Setting]);
    });
}

#[test]
fn events_that_do_not_fit_are_told_as_lost() {
    let namespace = Namespace::new();
    let routes: Vec<Route> = (0..10_000u32)
        .map(|number| Route {
            table: 4200,
            destination: format!("10.{}.{}.0/24", number / 250, number % 250)
                .parse()
                .unwrap(),
            metric: 0,
            target: RouteTarget::Interface {
                interface: "v0".to_owned(),
                gateway: None,
            },
        })
        .collect();
    namespace.inside(async || {
        let mut events = watch().unwrap();
        told(&mut events).await;
        // The watch runs on this thread, which waits for the other one: nobody reads events.
        namespace.inside(async || {
            let netlink = Netlink::open().unwrap();
            assert!(route::add_many(&netlink, &routes).await.is_empty());
        });
        assert!(told(&mut events).await.contains(&Event::Lost));
        namespace.ip("rule add from 192.0.2.1 lookup 4200");
        assert_eq!(told(&mut events).await, [Event::Rule]);
    });
}
