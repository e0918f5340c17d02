//! Problems: what the host shows after the decisions were made.

use adit_model::change::{AddDevice, AddSubnet, Change, Patch, SetUplink};
use adit_model::facts::{AddressFact, RouteFact};
use adit_model::problem::{Problem, of_state};
use adit_model::protocol::Protocol;
use adit_model::state::Delivery;

use crate::world::{
    NOW, World, add_device, add_device_wish, add_forward, add_listener, add_pinhole, add_subnet,
    add_subnet_wish, bare_host, delegate, parse,
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
        ("2001:db8:1::a3b:1/64", "subnet home"),
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
    assert_eq!(found(&world).len(), 2);
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
