//! Problems: what the host shows after the decisions were made.

use adit_model::change::{AddDevice, AddSubnet, Change, Ipv6Wish, Patch, SetSubnet, SetUplink};
use adit_model::facts::{AddressFact, Evidence, RouteFact};
use adit_model::problem::{Problem, Severity, of_state};
use adit_model::protocol::Protocol;
use adit_model::state::Delivery;
use adit_model::uplink::{self, Proof};

use crate::world::{
    NOW, World, add_device, add_device_wish, add_forward, add_listener, add_pinhole, add_subnet,
    add_subnet_wish, add_uplink, bare_host, delegate, parse,
};

fn problems(world: &World) -> Vec<Problem> {
    let problems = of_state(&world.state, &world.facts, world.now);
    for problem in &problems {
        assert!(
            !problem.object.is_empty() && problem.message.len() > 20 && problem.fix.len() > 20,
            "{problem:?}"
        );
    }
    problems
}

/// Codes and objects.
fn found(world: &World) -> Vec<String> {
    let problems = problems(world).into_iter();
    problems
        .map(|problem| format!("{}: {}", problem.code, problem.object))
        .collect()
}

fn healthy() -> World {
    let mut world = World::on_link().with([
        Change::SetUplink(
            None,
            SetUplink {
                advertised: Patch::Set(parse("192.0.2.9")),
                ..SetUplink::default()
            },
        ),
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
        delegate("a", &["2001:db8:1::100/120", "2001:db8:9::/56"]),
        add_forward("192.0.2.9@80/tcp", "a"),
        add_forward("443", "a"),
        add_pinhole("a", "80"),
    ]);
    let set = [
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
    ];
    for (path, value) in set {
        world
            .facts
            .sysctls
            .insert(path.to_owned(), value.to_owned());
    }
    world
}

fn add_address(world: &mut World, interface: &str, address: &str) {
    world.facts.addresses.insert(AddressFact {
        interface: interface.to_owned(),
        address: parse(address),
    });
}

fn add_default(world: &mut World, hop: &str) {
    world.facts.routes.insert(RouteFact {
        destination: parse("::/0"),
        interface: "eth0".to_owned(),
        gateway: Some(parse(hop)),
        metric: 50,
        from_router_advertisement: false,
    });
}

#[test]
fn a_healthy_gateway_has_none() {
    assert_eq!(found(&healthy()), [""; 0]);
    let plain = World::on_link().with([add_subnet("home", "10.59.0.0/24", ""), add_device("a")]);
    assert_eq!(found(&plain), [""; 0]);
    assert_eq!(found(&World::new(bare_host())), ["no-uplink: host"]);
}

#[test]
fn a_host_that_lost_its_way_out_says_so() {
    let mut world = healthy();
    world
        .facts
        .routes
        .retain(|route| route.destination.addr().is_ipv4());
    assert_eq!(found(&world), ["no-ipv6-default-route: subnet home"]);
    world.facts.ipv6 = false;
    assert_eq!(found(&world), ["ipv6-disabled: host"]);
    world.facts.ipv6 = true;
    world
        .facts
        .sysctls
        .insert("net/ipv6/conf/all/disable_ipv6".to_owned(), "1".to_owned());
    assert_eq!(found(&world), ["ipv6-disabled: host"]);
    assert!(problems(&world)[0].fix.contains("disable_ipv6=0"));
}

#[test]
fn advertisements_that_go_unheard_are_told_in_time() {
    let mut world = healthy();
    let path = "net/ipv6/conf/eth0/accept_ra".to_owned();
    world.facts.sysctls.insert(path.clone(), "1".to_owned());
    assert_eq!(found(&world), ["accept-ra: uplink eth0"]);
    // 0: user space handles them.
    world.facts.sysctls.insert(path.clone(), "0".to_owned());
    assert_eq!(found(&world), [""; 0]);
    world.facts.sysctls.insert(path, "1".to_owned());
    world
        .facts
        .sysctls
        .insert("net/ipv6/conf/all/forwarding".to_owned(), "0".to_owned());
    assert_eq!(found(&world), [""; 0]);
}

#[test]
fn a_default_route_through_our_own_prefix_is_told() {
    // The router's address inside an on-link prefix is fine, the anycast address is this host's own.
    let mut world = healthy();
    add_default(&mut world, "2001:db8:1::1");
    assert_eq!(found(&world), [""; 0]);
    let mut world = healthy();
    add_default(&mut world, "2001:db8:1::");
    assert_eq!(found(&world), ["default-route-inside-prefix: uplink eth0"]);

    let subnet = AddSubnet {
        delivery: Delivery::Routed,
        ..add_subnet_wish("home", "10.59.0.0/24", "2001:db8:77::/64")
    };
    let mut world = World::on_link().with([Change::AddSubnet(subnet)]);
    add_default(&mut world, "2001:db8:77::5");
    assert_eq!(found(&world), ["default-route-inside-prefix: uplink eth0"]);
}

#[test]
fn a_wide_delegation_out_of_the_link_cannot_be_answered_for() {
    let world = healthy().with([delegate("a", &["2001:db8:1::8000:0/112"])]);
    assert_eq!(found(&world), ["delegation-not-answered: device a"]);
    assert!(problems(&world)[0].fix.contains("route the prefix"));
    let own = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "none"),
        add_device("a"),
        delegate("a", &["2001:db8:1::8000:0/112"]),
    ]);
    assert_eq!(found(&own), ["delegation-not-answered: device a"]);
}

#[test]
fn addresses_that_the_host_got_later_are_told() {
    for (address, object) in [
        ("10.59.0.1/24", "subnet home"),
        ("2001:db8:1::a3b:2/64", "device a"),
        ("10.59.0.2/32", "device a"),
        ("2001:db8:9::1/128", "device a"),
    ] {
        let mut world = healthy();
        add_address(&mut world, "eth0", address);
        assert_eq!(
            found(&world),
            [format!("address-collision: {object}")],
            "{address}"
        );
    }
    let mut world = healthy();
    add_default(&mut world, "2001:db8:1::a3b:2");
    assert_eq!(found(&world), ["address-collision: device a"]);
    // The gateway's own is the host's own.
    let mut world = healthy();
    add_address(&mut world, "eth0", "2001:db8:1::a3b:1/64");
    assert_eq!(found(&world), [""; 0]);
}

#[test]
fn forwards_that_the_host_took_away_are_told() {
    let id = |world: &World, port: u16| {
        let mut forwards = world.state.forwards.values();
        forwards.find(|forward| forward.port == port).unwrap().id
    };
    let mut world = healthy();
    add_listener(&mut world.facts, Protocol::Tcp, "0.0.0.0", 443);
    add_listener(&mut world.facts, Protocol::Udp, "::", 80);
    add_listener(&mut world.facts, Protocol::Tcp, "10.0.0.5", 80);
    assert_eq!(
        found(&world),
        [format!(
            "forward-hides-service: forward {}",
            id(&world, 443)
        )]
    );
    assert!(problems(&world)[0].message.contains("service-443"));

    // Another address on the uplink; the forward by the advertised address follows, a named local one cannot.
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", ""),
        add_device("a"),
        add_forward("203.0.113.10@80/tcp", "a"),
        add_forward("443/tcp", "a"),
    ]);
    world
        .facts
        .addresses
        .retain(|fact| fact.address.addr().is_ipv6());
    add_address(&mut world, "eth0", "203.0.113.11/24");
    assert_eq!(
        found(&world),
        [format!("forward-address-gone: forward {}", id(&world, 80))]
    );
    world.facts.addresses.clear();
    let gone = |it: &&String| it.starts_with("forward-address-gone");
    assert_eq!(found(&world).iter().filter(gone).count(), 2);
}

#[test]
fn of_a_public_and_a_private_address_the_public_one_is_used() {
    let mut facts = bare_host();
    let addresses = ["10.17.0.5/16", "203.0.113.7/24"];
    add_uplink(&mut facts, "eth0", 100, &addresses, &["203.0.113.1"], false);
    let mut world = World::new(facts);
    assert_eq!(found(&world), [""; 0]);
    for (advertised, local) in [
        (None, "203.0.113.7"),
        (Some("203.0.113.7"), "203.0.113.7"),
        // A reserved address, which the provider translates to the private one.
        (Some("198.51.100.9"), "10.17.0.5"),
    ] {
        if let Some(advertised) = advertised {
            let wish = SetUplink {
                advertised: Patch::Set(parse(advertised)),
                ..SetUplink::default()
            };
            world = world.with([Change::SetUplink(None, wish)]);
        }
        let uplinks = uplink::list(&world.state, &world.facts);
        assert_eq!(
            uplinks[0].local_ipv4(),
            Some(parse(local)),
            "{advertised:?}"
        );
    }
}

#[test]
fn what_the_internet_sees_of_a_private_address_is_asked_for() {
    for (local, asked) in [
        ("10.0.0.2/24", true),
        ("172.31.0.2/20", true),
        ("192.168.0.2/24", true),
        ("100.64.0.2/10", true),
        ("100.128.0.2/24", false),
        ("172.32.0.2/24", false),
    ] {
        let mut facts = bare_host();
        add_uplink(&mut facts, "eth0", 100, &[local], &["10.0.0.1"], false);
        let mut world = World::new(facts);
        assert_eq!(
            found(&world),
            if asked {
                vec!["advertised-unknown: uplink eth0"]
            } else {
                vec![]
            },
            "{local}"
        );
        let uplinks = uplink::list(&world.state, &world.facts);
        assert_eq!(uplinks[0].endpoint_host().is_none(), asked, "{local}");
        let advertised = |address: &str| {
            Change::SetUplink(
                None,
                SetUplink {
                    advertised: Patch::Set(parse(address)),
                    ..SetUplink::default()
                },
            )
        };
        let (own, _) = local.split_once('/').unwrap();
        for address in ["203.0.113.7", own] {
            world = world.with([advertised(address)]);
            assert_eq!(found(&world), [""; 0], "{local} seen as {address}");
            let uplinks = uplink::list(&world.state, &world.facts);
            assert_eq!(uplinks[0].endpoint_host().as_deref(), Some(address));
        }
    }
}

#[test]
fn a_host_without_ipv6_is_told_once_and_not_blamed() {
    let mut facts = bare_host();
    add_uplink(
        &mut facts,
        "eth0",
        100,
        &["203.0.113.10/24"],
        &["203.0.113.1"],
        false,
    );
    let world = World::new(facts).with([
        add_subnet("home", "10.59.0.0/24", ""),
        add_subnet("other", "10.60.0.0/24", ""),
    ]);
    assert_eq!(found(&world), ["no-ipv6: host"]);
    assert_eq!(problems(&world)[0].severity(), Severity::Notice);
    assert!(
        problems(&healthy())
            .iter()
            .all(|it| it.severity() == Severity::Error)
    );
    let plain = Change::SetSubnet(
        "home".to_owned(),
        SetSubnet {
            ipv6: Some(Ipv6Wish::None),
            ..SetSubnet::default()
        },
    );
    let plain2 = Change::SetSubnet(
        "other".to_owned(),
        SetSubnet {
            ipv6: Some(Ipv6Wish::None),
            ..SetSubnet::default()
        },
    );
    assert_eq!(found(&world.with([plain, plain2])), [""; 0]);
}

#[test]
fn an_expired_device_is_told() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", ""),
        Change::AddDevice(AddDevice {
            expires: Some(NOW + 1),
            ..add_device_wish("a")
        }),
    ]);
    assert_eq!(found(&world), [""; 0]);
    world.now = NOW + 1;
    assert_eq!(found(&world), ["device-expired: device a"]);
}

#[test]
fn what_packets_show_of_a_delivery_is_told_when_it_is_proved() {
    let seen = |asked, heard, spoke| Evidence {
        asked,
        heard,
        spoke,
    };
    for (of_prefix, of_uplink, routed, proof, code) in [
        (seen(false, false, false), true, true, Proof::Unknown, None),
        // What devices sent may have come back to nobody for many reasons while nothing else came in either.
        (seen(false, false, true), false, true, Proof::Unknown, None),
        (
            seen(false, false, true),
            true,
            true,
            Proof::Nothing,
            Some("prefix-unreached"),
        ),
        (seen(false, true, true), true, true, Proof::Routed, None),
        (
            seen(true, false, true),
            true,
            true,
            Proof::OnLink,
            Some("prefix-asked-for"),
        ),
        (seen(true, true, true), true, false, Proof::OnLink, None),
        (
            seen(false, false, true),
            true,
            false,
            Proof::Nothing,
            Some("prefix-unreached"),
        ),
    ] {
        let prefix = if routed {
            "2001:db8:77::/64"
        } else {
            "2001:db8:1::/64"
        };
        let mut world = World::on_link().with([add_subnet("home", "10.59.0.0/24", prefix)]);
        let (first, _) = prefix.split_once('/').unwrap();
        world.facts.evidence.insert(parse(first), of_prefix);
        let own = seen(false, of_uplink, false);
        world.facts.evidence.insert(parse("2001:db8:1::2"), own);
        let uplinks = uplink::list(&world.state, &world.facts);
        let subnet = world.state.subnet("home").unwrap();
        assert_eq!(uplink::proven(&uplinks, &world.facts, subnet), Some(proof));
        let expected: Vec<String> = code
            .iter()
            .map(|code| format!("{code}: subnet home"))
            .collect();
        assert_eq!(found(&world), expected, "{of_prefix:?}");
    }
}
