//! Routes of ours come, change and go; routes of others stay.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use adit_host::netlink::{Cause, Netlink};
use adit_host::route;
use adit_model::desired::route::{MAIN_TABLE, Route, RouteTarget};
use futures_util::FutureExt;

use crate::namespace::Namespace;

fn through(destination: &str, table: u32, metric: u32, gateway: Option<&str>) -> Route {
    Route {
        table,
        destination: destination.parse().unwrap(),
        metric,
        target: RouteTarget::Interface {
            interface: "v0".to_owned(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        },
    }
}

fn unreachable(destination: &str, table: u32, metric: u32) -> Route {
    Route {
        target: RouteTarget::Unreachable,
        ..through(destination, table, metric, None)
    }
}

fn local(destination: &str, table: u32, metric: u32) -> Route {
    Route {
        target: RouteTarget::Local {
            interface: "lo".to_owned(),
        },
        ..through(destination, table, metric, None)
    }
}

fn lines_of_ours(namespace: &Namespace) -> usize {
    ["-4", "-6"]
        .iter()
        .map(|family| {
            namespace
                .ip(&format!("{family} route show table all proto 173"))
                .lines()
                .count()
        })
        .sum()
}

#[test]
fn ours_come_change_and_go_and_others_stay() {
    let namespace = Namespace::new();
    namespace.ip("addr add 192.0.2.1/24 dev v0");
    namespace.ip("route add 198.51.100.0/24 dev v0 metric 7");
    namespace.ip("-6 route add 2001:db8:f::/48 dev v0 metric 7 proto static");
    let foreign = |namespace: &Namespace| {
        [
            namespace.ip("route show table all"),
            namespace.ip("-6 route show 2001:db8:f::/48"),
        ]
    };
    let before = foreign(&namespace);

    let wanted = BTreeSet::from([
        through("0.0.0.0/0", 4200, 0, None),
        through("203.0.113.0/24", MAIN_TABLE, 0, Some("192.0.2.2")),
        through("203.0.113.7/32", MAIN_TABLE, 5, Some("fe80::2")),
        unreachable("203.0.113.0/24", MAIN_TABLE, 4000),
        through("::/0", 4299, 1, None),
        through("2001:db8::1/128", MAIN_TABLE, 1024, None),
        through("2001:db8:1::/64", 4200, 9, Some("fe80::2")),
        unreachable("2001:db8:2::/48", MAIN_TABLE, 4_294_967_295),
        local("0.0.0.0/0", 4293, 173),
        local("::/0", 4293, 173),
    ]);
    let list: Vec<Route> = wanted.iter().cloned().collect();
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        for _ in 0..2 {
            assert!(route::add_many(&netlink, &list).await.is_empty());
            assert_eq!(route::observe(&netlink).await.unwrap(), wanted);
        }
        assert_eq!(lines_of_ours(&namespace), wanted.len());

        for place in ["198.51.100.0/24", "2001:db8:f::/48"] {
            let conflict = through(place, MAIN_TABLE, 7, None);
            let error = route::add(&netlink, &conflict).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Occupied), "{error}");
            route::remove(&netlink, &conflict).await.unwrap();
        }

        for changed in [
            through("203.0.113.0/24", MAIN_TABLE, 0, None),
            unreachable("2001:db8::1/128", MAIN_TABLE, 1024),
        ] {
            route::add(&netlink, &changed).await.unwrap();
            let now = route::observe(&netlink).await.unwrap();
            assert!(now.contains(&changed));
            assert_eq!(now.len(), wanted.len());
        }

        let mut absent = through("2001:db8::2/128", MAIN_TABLE, 1024, None);
        absent.target = RouteTarget::Interface {
            interface: "v9".to_owned(),
            gateway: None,
        };
        let error = route::add(&netlink, &absent).await.unwrap_err();
        assert!(error.to_string().contains("no interface v9"), "{error}");

        let now: Vec<Route> = route::observe(&netlink)
            .await
            .unwrap()
            .into_iter()
            .collect();
        for _ in 0..2 {
            assert!(route::remove_many(&netlink, &now).await.is_empty());
        }
        assert_eq!(route::observe(&netlink).await.unwrap(), BTreeSet::new());
        assert_eq!(lines_of_ours(&namespace), 0);
    });
    assert_eq!(foreign(&namespace), before);
}

#[test]
fn ten_thousand_routes_take_little_time() {
    let namespace = Namespace::new();
    let base = u128::from("2001:db8::".parse::<Ipv6Addr>().unwrap());
    let routes: Vec<Route> = (0..10_000)
        .map(|number| {
            let address = Ipv6Addr::from(base + number);
            through(&format!("{address}/128"), MAIN_TABLE, 1024, None)
        })
        .collect();
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        let start = Instant::now();
        assert!(route::add_many(&netlink, &routes).await.is_empty());
        let added = start.elapsed();
        let seen = route::observe(&netlink).await.unwrap();
        let observed = start.elapsed();
        assert_eq!(seen, routes.iter().cloned().collect());
        assert!(route::remove_many(&netlink, &routes).await.is_empty());
        let removed = start.elapsed();
        assert_eq!(lines_of_ours(&namespace), 0);
        eprintln!(
            "10,000 routes: added in {added:?}, observed in {:?}, removed in {:?}",
            observed - added,
            removed - observed
        );
        assert!(removed < Duration::from_secs(10), "{removed:?}");
    });
}

#[test]
fn a_request_that_was_dropped_halfway_does_not_spoil_the_next() {
    let namespace = Namespace::new();
    let routes: Vec<Route> = (0..200)
        .map(|number| through(&format!("10.9.{number}.0/24"), 4200, 0, None))
        .collect();
    namespace.inside(async || {
        let netlink = Netlink::open().unwrap();
        assert!(route::add_many(&netlink, &routes).await.is_empty());
        let mut unfinished = 0;
        for _ in 0..20 {
            let dropped = tokio::time::timeout(Duration::ZERO, route::observe(&netlink)).await;
            unfinished += u32::from(dropped.is_err());
            unfinished += u32::from(route::observe(&netlink).now_or_never().is_none());
            assert_eq!(route::observe(&netlink).await.unwrap().len(), routes.len());
        }
        assert!(unfinished > 0, "every request was finished at once");
    });
}
