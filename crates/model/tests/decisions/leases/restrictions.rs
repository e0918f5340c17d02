//! What restricts a lease, filters and names, is in force or refused.

use std::net::IpAddr;

use adit_model::change::RequestLease;
use adit_model::protocol::Protocol;
use adit_model::refusal::{LeaseRefusal, Obstacle};
use adit_model::state::{Family, Filter, Mechanism};

use super::{home, wish};
use crate::world::{World, add_forward, add_pinhole, parse};

const NONE_POSSIBLE: LeaseRefusal = LeaseRefusal::Filters { limit: 0 };

fn filter(network: &str) -> Filter {
    Filter {
        network: parse(network),
        port: 0,
    }
}

impl World {
    fn wish_of_nas(&self, mechanism: Mechanism, family: Family) -> RequestLease {
        RequestLease {
            family,
            protocol: Some(Protocol::Tcp),
            ..wish(self.id("nas"), mechanism, 7001)
        }
    }
}

fn filtered(wish: &RequestLease, networks: &[&str]) -> RequestLease {
    RequestLease {
        filters: networks.iter().map(|network| filter(network)).collect(),
        ..wish.clone()
    }
}

fn named(wish: &RequestLease, names: &[&str]) -> RequestLease {
    RequestLease {
        hostnames: names.iter().map(|name| (*name).to_owned()).collect(),
        ..wish.clone()
    }
}

#[test]
fn names_let_everyone_in() {
    let mut world = home();
    let plain = world.wish_of_nas(Mechanism::Pcp, Family::Ipv4);
    let name = named(&plain, &["a.example"]);
    world.ask(&name).unwrap();
    let only = filtered(&plain, &["192.0.2.0/24"]);
    assert_eq!(world.ask(&only), Err(NONE_POSSIBLE));
    assert!(world.ask(&plain).is_ok());
    // The other way around, filters have to go first.
    let mut world = home();
    world.ask(&only).unwrap();
    assert_eq!(world.ask(&name), Err(LeaseRefusal::Hostnames));
    let instead = RequestLease {
        clear_filters: true,
        ..name
    };
    world.ask(&instead).unwrap();
    assert!(world.open()[0].is_named() && world.open()[0].filters.is_empty());
}

#[test]
fn what_an_administrator_opened_is_open_to_all() {
    let mut world = home().with([add_forward("7001", "nas"), add_pinhole("nas", "7001")]);
    for (family, network) in [
        (Family::Ipv4, "192.0.2.0/24"),
        (Family::Ipv6, "2001:db8:9::/48"),
    ] {
        let plain = world.wish_of_nas(Mechanism::Pcp, family);
        assert_eq!(world.ask(&filtered(&plain, &[network])), Err(NONE_POSSIBLE));
        let cleared = RequestLease {
            clear_filters: true,
            ..plain
        };
        assert_eq!(world.ask(&cleared).unwrap().lease, None);
    }
    // By UPnP it is asked who is to come in, and not who is not.
    let pinhole = world.wish_of_nas(Mechanism::Upnp, Family::Ipv6);
    let pinhole = filtered(&pinhole, &["2001:db8:9::1/128"]);
    assert_eq!(world.ask(&pinhole).unwrap().lease, None);
}

#[test]
fn what_was_obtained_otherwise_stays_as_it_is() {
    for mechanism in [Mechanism::NatPmp, Mechanism::Upnp] {
        let mut world = home();
        let other = world.wish_of_nas(mechanism, Family::Ipv4);
        world.ask(&other).unwrap();
        let before = world.state.leases.clone();
        let plain = world.wish_of_nas(Mechanism::Pcp, Family::Ipv4);
        let only = filtered(&plain, &["192.0.2.0/24"]);
        assert_eq!(world.ask(&only), Err(NONE_POSSIBLE), "{mechanism}");
        let name = named(&plain, &["a.example"]);
        assert_eq!(
            world.ask(&name),
            Err(LeaseRefusal::Hostnames),
            "{mechanism}"
        );
        assert!(!world.ask(&plain).unwrap().is_own);
        assert_eq!(world.state.leases, before);
    }
}

#[test]
fn filters_of_another_protocol_are_told_as_far_as_they_are_those_asked_for() {
    let [near, within, far] = ["2001:db8:9::/48", "2001:db8:9:1::/64", "2001:db8:a::/48"];
    let all = |wish: &RequestLease| RequestLease {
        clear_filters: true,
        ..wish.clone()
    };
    let mut world = home();
    let pinhole = world.wish_of_nas(Mechanism::Upnp, Family::Ipv6);
    world.ask(&filtered(&pinhole, &[near])).unwrap();
    let plain = world.wish_of_nas(Mechanism::Pcp, Family::Ipv6);
    assert!(world.ask(&filtered(&plain, &[near])).is_ok());
    assert!(world.ask(&all(&filtered(&plain, &[near]))).is_ok());
    assert!(world.ask(&plain).is_ok());
    for refused in [
        filtered(&plain, &[far]),
        all(&filtered(&plain, &[within])),
        all(&plain),
    ] {
        assert_eq!(world.ask(&refused), Err(NONE_POSSIBLE), "{refused:?}");
    }

    let mut world = home();
    world.ask(&filtered(&plain, &[near])).unwrap();
    assert!(world.ask(&filtered(&pinhole, &[within])).is_ok());
    for refused in [filtered(&pinhole, &[far]), all(&pinhole)] {
        assert_eq!(world.ask(&refused), Err(NONE_POSSIBLE), "{refused:?}");
    }
    let mut world = home();
    world.ask(&plain).unwrap();
    assert!(world.ask(&filtered(&pinhole, &[near])).is_ok());
}

#[test]
fn an_outbound_port_is_at_the_address_that_was_suggested_or_refused() {
    let mut world = home();
    let peer = RequestLease {
        remote: Some(parse("198.51.100.9:53")),
        ..world.wish_of_nas(Mechanism::Pcp, Family::Ipv4)
    };
    let at = |address: &str| RequestLease {
        address: Some(parse(address)),
        ..peer.clone()
    };
    let refused = LeaseRefusal::Unavailable {
        obstacle: Obstacle::Address,
        remaining: None,
    };
    assert_eq!(world.ask(&at("192.0.2.1")), Err(refused));
    assert!(world.state.leases.is_empty());
    for address in ["0.0.0.0", "::", "203.0.113.10"] {
        let mut world = world.clone();
        let granted = world.ask(&at(address)).unwrap();
        assert_eq!(granted.address, parse::<IpAddr>("203.0.113.10"));
    }
    // Of what is there already it is told where that is (RFC 6887 section 12.3).
    let before = world.ask(&peer).unwrap();
    assert_eq!(world.ask(&at("192.0.2.1")).unwrap().lease, before.lease);
}
