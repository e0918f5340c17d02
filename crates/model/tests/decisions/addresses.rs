//! Addresses, prefixes and delegations: who gets which, and in what order.

use adit_model::change::{Change, SetDevice, SetSubnet, SetUplink};
use adit_model::refusal::Refusal;

use crate::world::{
    World, add_device, add_device_at, add_device_in, add_forward, add_pinhole, add_subnet,
    bare_host, delegate, parse, set_device, set_subnet_ipv6, wish,
};

fn move_to(name: &str, ipv4: &str) -> Change {
    let patch = SetDevice {
        ipv4: Some(parse(ipv4)),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

#[test]
fn devices_get_the_lowest_free_address_and_embed_it() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
        add_device_at("b", "10.59.0.4"),
        add_device("c"),
        add_device("d"),
    ]);
    let ipv4 = |world: &World, name: &str| world.device(name).ipv4.to_string();
    assert_eq!(ipv4(&world, "a"), "10.59.0.2");
    assert_eq!(ipv4(&world, "c"), "10.59.0.3");
    assert_eq!(ipv4(&world, "d"), "10.59.0.5");
    assert_eq!(world.ipv6_of("d").unwrap(), "2001:db8:1::a3b:5");
    world = world.with([Change::RemoveDevice("c".to_owned()), add_device("e")]);
    assert_eq!(ipv4(&world, "e"), "10.59.0.3");
}

#[test]
fn a_narrow_prefix_skips_what_collides_and_what_the_link_needs() {
    // ::2 is the VPS's own and ::0 the routers'; the gateway is ::1. 10.59.0.16 would be ::0 as well.
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/124"),
        add_device("a"),
    ]);
    assert_eq!(world.ipv6_of("a").unwrap(), "2001:db8:1::3");
    for index in 4..16 {
        world = world.with([add_device(&format!("d{index}"))]);
    }
    assert_eq!(world.ipv6_of("d15").unwrap(), "2001:db8:1::f");
    assert_eq!(
        world.refused(add_device("more")).code(),
        "addresses-exhausted"
    );
    let Refusal::AddressCollision { other, .. } = world.refused(add_device_at("x", "10.59.0.19"))
    else {
        panic!("not the collision");
    };
    assert_eq!(other, "device `a`");
    let Refusal::AddressCollision { other, .. } = world.refused(add_device_at("x", "10.59.0.18"))
    else {
        panic!("not the collision");
    };
    assert!(other.contains("this host (eth0)"), "{other}");
}

#[test]
fn a_prefix_of_two_addresses_holds_one_device() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::100/127"),
        add_device("a"),
    ]);
    assert_eq!(world.ipv6_of("a").unwrap(), "2001:db8:1::100");
    assert_eq!(world.refused(add_device("b")).code(), "addresses-exhausted");
}

#[test]
fn a_prefix_that_would_take_the_uplinks_address_is_refused() {
    // The gateway would be ::1, which is the next hop on one link.
    let world = World::two_uplinks();
    let refusal = world.refused(add_subnet("home", "10.59.0.0/24", "2001:db8:2::/120"));
    assert_eq!(refusal.code(), "ipv6-collision");
    assert!(refusal.to_string().contains("next hop"), "{refusal}");
    let mut facts = world.facts.clone();
    facts.addresses.insert(adit_model::facts::AddressFact {
        interface: "lo".to_owned(),
        address: parse("2001:db8:7::1/128"),
    });
    // What the host has itself it is reached by, in the tunnel too; a device cannot have it.
    let world = World::new(facts).with([add_subnet("home", "10.59.0.0/24", "2001:db8:7::/120")]);
    let desired = world.desired();
    assert!(
        desired
            .addresses
            .iter()
            .all(|it| it.address != parse("2001:db8:7::1/128"))
    );
    let refusal = world.refused(add_device_at("a", "10.59.0.1"));
    assert_eq!(refusal.code(), "address-taken");
}

#[test]
fn setting_a_prefix_counts_the_hosts_that_are_there() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "none"),
        add_device_at("a", "10.59.0.5"),
        add_device_at("b", "10.59.0.21"),
    ]);
    let refusal = world.refused(set_subnet_ipv6("home", "2001:db8:1::10/124"));
    assert_eq!(refusal.code(), "ipv6-collision");
    let text = refusal.to_string();
    assert!(text.contains("`a`") && text.contains("`b`"), "{text}");
    world.with([set_subnet_ipv6("home", "2001:db8:1::20/123")]);
}

#[test]
fn delegations_are_the_lowest_free_and_keep_hosts_out() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        delegate("a", &["64", "60", "64"]),
    ]);
    // ::/64 holds the hosts, and the /60 around it too.
    assert_eq!(
        world.delegations_of("a"),
        [
            "2001:db8:77:1::/64",
            "2001:db8:77:10::/60",
            "2001:db8:77:2::/64"
        ]
    );
    world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/120"),
        add_device("a"),
        delegate("a", &["2001:db8:77::4/126"]),
        add_device("b"),
        add_device("c"),
    ]);
    assert_eq!(world.device("b").ipv4.to_string(), "10.59.0.3");
    assert_eq!(world.device("c").ipv4.to_string(), "10.59.0.8");
    let refusal = world.refused(move_to("c", "10.59.0.5"));
    assert_eq!(refusal.code(), "address-collision");
    assert!(refusal.to_string().contains("delegation"), "{refusal}");
    let refusal = world.refused(delegate("a", &["2001:db8:77::8/126"]));
    assert_eq!(refusal.code(), "delegation-covers-host");
    assert!(refusal.to_string().contains("`c`"), "{refusal}");
}

#[test]
fn one_change_takes_back_and_delegates() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/120"),
        add_device("a"),
        delegate("a", &["2001:db8:77::80/121", "192.168.7.0/24"]),
    ]);
    let patch = SetDevice {
        ipv4: Some(parse("10.59.0.200")),
        revoke: vec![parse("2001:db8:77::80/121"), parse("192.168.7.0/24")],
        delegate: vec![wish("2001:db8:77::/126"), wish("192.168.0.0/16")],
        ..SetDevice::default()
    };
    // The gateway is ::1, so the first wish cannot be; the address that the device leaves can.
    let refusal = world.refused(set_device("a", patch.clone()));
    assert!(refusal.to_string().contains("the gateway"), "{refusal}");
    let patch = SetDevice {
        delegate: vec![wish("2001:db8:77::2/127"), wish("192.168.0.0/16")],
        ..patch
    };
    world = world.with([set_device("a", patch)]);
    assert_eq!(
        world.delegations_of("a"),
        ["2001:db8:77::2/127", "192.168.0.0/16"]
    );
    assert_eq!(world.ipv6_of("a").unwrap(), "2001:db8:77::c8");
}

#[test]
fn a_delegation_leaves_the_hosts_own_networks_alone() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", ""),
        add_device("a"),
        add_subnet("other", "10.60.0.0/24", "2001:db8:66::/64"),
        add_device_in("other", "b"),
    ]);
    for (prefix, code) in [
        ("10.59.0.128/25", "overlap"),
        ("10.0.0.0/8", "overlap"),
        ("10.60.0.0/24", "overlap"),
        ("203.0.113.64/26", "overlap"),
        ("203.0.0.0/16", "overlap"),
        ("2001:db8:66::/80", "overlap"),
        ("2001:db8::/32", "overlap"),
        ("2001:db8:1::/64", "delegation-covers-host"),
        ("2001:db8:1::2/128", "delegation-covers-host"),
        ("2001:db8:1::/127", "delegation-covers-host"),
        ("fe80::/64", "delegation-invalid"),
        ("fc00::/16", "delegation-invalid"),
        ("2001:db8:9::1/64", "delegation-invalid"),
    ] {
        let refusal = world.refused(delegate("a", &[prefix]));
        assert_eq!(refusal.code(), code, "{prefix}: {refusal}");
    }
    world.with([delegate(
        "a",
        &["2001:db8:1::100/120", "2001:db8:9::/48", "192.0.2.64/26"],
    )]);
}

#[test]
fn addresses_without_a_link_of_their_own_are_safe_as_well() {
    // Some clouds give a /32 and a next hop that lies on no network of the interface.
    let mut facts = bare_host();
    let addresses = ["192.0.2.5/32", "2001:db8:5::5/128"];
    let hops = ["172.31.1.1", "fe80::1"];
    crate::world::add_uplink(&mut facts, "eth0", 100, &addresses, &hops, false);
    facts.routes.retain(|route| route.gateway.is_some());
    let world = World::new(facts);
    for network in ["192.0.2.0/24", "172.31.1.0/24"] {
        let refusal = world.refused(add_subnet("home", network, "none"));
        assert_eq!(refusal.code(), "overlap", "{refusal}");
    }
    let world = world.with([
        add_subnet("home", "10.59.0.0/29", "2001:db8:5::/125"),
        add_device("a"),
        add_device("b"),
        add_device("c"),
        add_device("d"),
    ]);
    // ::5 belongs to the host although no route puts its prefix on the link.
    assert_eq!(world.device("d").ipv4.to_string(), "10.59.0.6");
    let refusal = world.refused(delegate("a", &["192.0.2.5/32"]));
    assert_eq!(refusal.code(), "overlap");
}

#[test]
fn a_prefix_moves_only_with_what_hangs_on_it() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        delegate("a", &["64"]),
        add_pinhole("a", "80/tcp"),
    ]);
    let refusal = world.refused(set_subnet_ipv6("home", "2001:db8:78::/56"));
    assert!(refusal.to_string().contains("--revoke"), "{refusal}");
    let world = world.with([
        set_subnet_ipv6("home", "2001:db8:77::/48"),
        set_subnet_ipv6("home", "2001:db8:77::/56"),
        crate::world::revoke("a", &["2001:db8:77:1::/64"]),
    ]);
    let refusal = world.refused(set_subnet_ipv6("home", "none"));
    assert_eq!(refusal.code(), "pinhole-without-ipv6");
}

#[test]
fn asking_for_what_is_there_changes_nothing() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        add_subnet("private", "10.60.0.0/24", ""),
    ]);
    // The default route is gone by now: what was decided then stays.
    world
        .facts
        .routes
        .retain(|route| route.destination.addr().is_ipv4());
    let rename = |name: &str| SetSubnet {
        name: Some(name.to_owned()),
        ..SetSubnet::default()
    };
    for change in [
        set_subnet_ipv6("home", "2001:db8:77::/56"),
        set_subnet_ipv6("private", ""),
        Change::SetSubnet("home".to_owned(), rename("home")),
        move_to("a", "10.59.0.2"),
        set_device(
            "a",
            SetDevice {
                name: Some("a".to_owned()),
                ..SetDevice::default()
            },
        ),
    ] {
        assert_eq!(world.decide(change.clone()), Ok(Vec::new()), "{change:?}");
    }
    world = world.with([Change::SetSubnet("home".to_owned(), rename("office"))]);
    assert!(world.state.subnet("office").is_ok());
}

#[test]
fn a_removed_device_takes_along_what_was_its_own() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        delegate("a", &["64"]),
        add_forward("80", "a"),
        add_pinhole("a", "80"),
        add_device("b"),
        add_forward("81", "b"),
    ]);
    let before = world.state.sequence;
    world = world.with([Change::RemoveDevice("a".to_owned())]);
    let left = (
        world.state.devices.len(),
        world.state.delegations.len(),
        world.state.forwards.len(),
        world.state.pinholes.len(),
    );
    assert_eq!(left, (1, 0, 1, 0));
    world = world.with([add_device("a")]);
    assert!(
        world.device("a").id.0 > before,
        "an id must not be used again"
    );
}

#[test]
fn forwards_follow_the_advertised_address() {
    let advertise = |text: Option<&str>| {
        let advertised = text.map_or(adit_model::change::Patch::Clear, |text| {
            adit_model::change::Patch::Set(parse(text))
        });
        Change::SetUplink(
            None,
            SetUplink {
                advertised,
                ..SetUplink::default()
            },
        )
    };
    let mut world = World::on_link().with([
        advertise(Some("192.0.2.9")),
        add_subnet("home", "10.59.0.0/24", ""),
        add_device("a"),
        add_forward("192.0.2.9@80/tcp", "a"),
    ]);
    let refusal = world.refused(add_forward("203.0.113.10@80/tcp", "a"));
    assert_eq!(refusal.code(), "port-taken");
    let desired = world.desired();
    for (after, address) in [(Some("192.0.2.10"), "192.0.2.10"), (None, "203.0.113.10")] {
        world = world.with([advertise(after)]);
        let forward = world.state.forwards.values().next().unwrap();
        assert_eq!(forward.address, Some(parse(address)));
    }
    let local = |desired: adit_model::desired::Desired| {
        let forwards = desired.firewall.unwrap().translations4.forwards;
        let ports: Vec<String> = forwards
            .keys()
            .map(|port| port.address.to_string())
            .collect();
        ports
    };
    assert_eq!(local(desired), ["192.0.2.9", "203.0.113.10"]);
    assert_eq!(local(world.desired()), ["203.0.113.10"]);
}
