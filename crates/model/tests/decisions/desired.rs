//! What is derived for the kernel, in whole for small networks.

use std::net::IpAddr;

use adit_model::change::{AddForward, AddSubnet, Change, Patch, SetDevice, SetSubnet, SetUplink};
use adit_model::desired::Desired;
use adit_model::desired::route::RouteTarget;
use adit_model::state::{Delivery, Egress};
use imbl::OrdSet;

use crate::world::{
    NOW, World, add_device, add_device_in, add_forward, add_forward_wish, add_pinhole, add_subnet,
    add_subnet_wish, bare_host, delegate, parse, set_device,
};

pub(crate) fn routes(desired: &Desired) -> Vec<String> {
    let routes = desired.routes.iter().map(|route| {
        let target = match &route.target {
            RouteTarget::Interface {
                interface,
                gateway: Some(hop),
            } => format!("via {hop} dev {interface}"),
            RouteTarget::Interface {
                interface,
                gateway: None,
            } => format!("dev {interface}"),
            RouteTarget::Local { interface } => format!("local dev {interface}"),
            RouteTarget::Unreachable => "unreachable".to_owned(),
        };
        format!("{} {} {target}", route.table, route.destination)
    });
    routes.collect()
}

pub(crate) fn rules(desired: &Desired) -> Vec<String> {
    let rules = desired.rules.iter().map(|rule| {
        let suppress = rule
            .suppress_prefix_length
            .map_or(String::new(), |length| format!(" suppress {length}"));
        let to = rule
            .destination
            .map_or(String::new(), |net| format!(" to {net}"));
        let input = rule.input_interface.as_deref().unwrap_or("any");
        let mark = rule
            .mark
            .map_or(String::new(), |mark| format!(" mark {mark:#x}"));
        format!(
            "{} from {}{to} iif {input}{mark} table {}{suppress}",
            rule.priority, rule.source, rule.table
        )
    });
    rules.collect()
}

fn neighbors(desired: &Desired) -> Vec<String> {
    let entries = desired.neighbors.iter();
    entries
        .map(|entry| format!("{} {}", entry.interface, entry.address))
        .collect()
}

fn sysctls(desired: &Desired) -> Vec<String> {
    let settings = desired.sysctls.iter();
    settings
        .map(|(path, value)| format!("{path}={value}"))
        .collect()
}

fn peers(desired: &Desired) -> Vec<Vec<String>> {
    let peers = desired.wireguard.as_ref().unwrap().peers.values();
    peers
        .map(|peer| peer.allowed_ips.iter().map(ToString::to_string).collect())
        .collect()
}

/// Public IPv4 and IPv6 endpoints of single ports, and where they lead.
fn forwards(desired: &Desired) -> Vec<String> {
    let firewall = desired.firewall.as_ref().unwrap();
    let ipv4 = firewall.translations4.forwards.iter().map(|(from, to)| {
        let (address, port) = (IpAddr::V4(from.address), from.port);
        format!("{address} {port}/{} {} {}", from.protocol, to.0, to.1)
    });
    let ipv6 = firewall.translations6.forwards.iter().map(|(from, to)| {
        let (address, port) = (IpAddr::V6(from.address), from.port);
        format!("{address} {port}/{} {} {}", from.protocol, to.0, to.1)
    });
    ipv4.chain(ipv6).collect()
}

const ON_LINK_SYSCTLS: [&str; 5] = [
    "net/ipv4/conf/all/forwarding=1",
    "net/ipv6/conf/all/forwarding=1",
    "net/ipv6/conf/eth0/accept_ra=2",
    "net/ipv6/conf/eth0/proxy_ndp=1",
    "net/ipv6/neigh/eth0/proxy_delay=0",
];

#[test]
fn an_on_link_subnet_is_answered_for_host_by_host() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
        add_device("b"),
        delegate("b", &["2001:db8:1::100/127"]),
        add_forward("80/tcp", "a"),
        add_pinhole("b", "443/tcp"),
    ]);
    let desired = world.desired();
    assert_eq!(
        peers(&desired),
        [
            vec!["10.59.0.2/32", "2001:db8:1::a3b:2/128"],
            vec![
                "10.59.0.3/32",
                "2001:db8:1::100/127",
                "2001:db8:1::a3b:3/128"
            ]
        ]
    );
    assert_eq!(
        routes(&desired),
        [
            "254 10.59.0.0/24 unreachable",
            "254 10.59.0.2/32 dev adit0",
            "254 10.59.0.3/32 dev adit0",
            "254 2001:db8:1::/64 unreachable",
            "254 2001:db8:1::100/127 dev adit0",
            "254 2001:db8:1::a3b:2/128 dev adit0",
            "254 2001:db8:1::a3b:3/128 dev adit0",
        ]
    );
    assert_eq!(rules(&desired), [""; 0]);
    assert_eq!(
        neighbors(&desired),
        [
            "eth0 2001:db8:1::100",
            "eth0 2001:db8:1::101",
            "eth0 2001:db8:1::a3b:1",
            "eth0 2001:db8:1::a3b:2",
            "eth0 2001:db8:1::a3b:3",
        ]
    );
    assert_eq!(sysctls(&desired), ON_LINK_SYSCTLS);
    let addresses: Vec<String> = (desired.addresses.iter())
        .map(|address| address.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.59.0.1/32", "2001:db8:1::a3b:1/128"]);
    assert_eq!(forwards(&desired), ["203.0.113.10 80/tcp 10.59.0.2 80"]);
    let firewall = desired.firewall.unwrap();
    let policy = firewall.subnets.values().next().unwrap();
    let source = policy.snat4.as_ref().unwrap();
    assert_eq!(source.address.to_string(), "203.0.113.10");
    assert_eq!(policy.snat6, None);
    assert_eq!(
        firewall.own_prefixes6,
        vec![parse("2001:db8:1::/64")].into()
    );
    let holes: Vec<String> = (firewall.pinholes.iter())
        .map(|hole| hole.address.to_string())
        .collect();
    assert_eq!(holes, ["2001:db8:1::a3b:3"]);
}

#[test]
fn a_routed_subnet_needs_no_answers() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        delegate("a", &["64", "192.168.7.0/24", "2001:db8:88::/64"]),
    ]);
    let desired = world.desired();
    assert_eq!(
        routes(&desired),
        [
            "254 10.59.0.0/24 unreachable",
            "254 10.59.0.2/32 dev adit0",
            "254 192.168.7.0/24 dev adit0",
            "254 192.168.7.0/24 unreachable",
            "254 2001:db8:77::/56 unreachable",
            "254 2001:db8:77::a3b:2/128 dev adit0",
            "254 2001:db8:77:1::/64 dev adit0",
            "254 2001:db8:88::/64 dev adit0",
            "254 2001:db8:88::/64 unreachable",
        ]
    );
    assert_eq!(neighbors(&desired), [""; 0]);
    assert_eq!(sysctls(&desired), ON_LINK_SYSCTLS[..3]);

    // Said to be routed, although it lies on the link.
    let routed = World::on_link().with([
        Change::AddSubnet(AddSubnet {
            delivery: Delivery::Routed,
            ..add_subnet_wish("home", "10.59.0.0/24", "2001:db8:1::/80")
        }),
        add_device("a"),
    ]);
    assert_eq!(neighbors(&routed.desired()), [""; 0]);
}

#[test]
fn a_sink_leaves_the_next_hop_alone() {
    // The next hop 2001:db8:2::1 lies in the subnet's prefix, which is longer than the link's.
    for delivery in [Delivery::Auto, Delivery::Routed] {
        let subnet = AddSubnet {
            delivery,
            ..add_subnet_wish("home", "10.59.0.0/24", "2001:db8:2::/72")
        };
        let world = World::two_uplinks().with([Change::AddSubnet(subnet), add_device("a")]);
        let sinks = routes(&world.desired());
        let sinks: Vec<&String> = sinks
            .iter()
            .filter(|route| route.ends_with("unreachable"))
            .collect();
        assert_eq!(sinks, ["254 10.59.0.0/24 unreachable"]);
    }
}

#[test]
fn who_may_not_connect_is_in_nothing() {
    let active = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
    ]);
    let full = active.clone().with([
        add_device("b"),
        delegate("b", &["2001:db8:1::100/127", "2001:db8:1:1::/64"]),
        add_forward("80/tcp", "b"),
        add_forward("8000-8010", "b"),
        add_pinhole("b", "443/tcp"),
    ]);
    let disabled = full.clone().with([set_device(
        "b",
        SetDevice {
            enabled: Some(false),
            ..SetDevice::default()
        },
    )]);
    let mut expired = full.clone().with([set_device(
        "b",
        SetDevice {
            expires: Patch::Set(NOW + 10),
            ..SetDevice::default()
        },
    )]);
    assert_eq!(expired.desired(), full.desired());
    expired.now = NOW + 10;
    // What is sent to the prefix of its own ends here, instead of going back to the Internet.
    let mut without = active.desired();
    for (desired, name) in [
        (disabled.desired(), "disabled"),
        (expired.desired(), "expired"),
    ] {
        let routes = desired.routes.iter();
        let routes: OrdSet<_> = routes
            .filter(|route| route.destination != parse("2001:db8:1:1::/64"))
            .cloned()
            .collect();
        assert_eq!(routes.len() + 1, desired.routes.len(), "{name}");
        without.firewall.as_mut().unwrap().own_prefixes6 =
            vec![parse("2001:db8:1::/64"), parse("2001:db8:1:1::/64")].into();
        let desired = Desired { routes, ..desired };
        assert_eq!(desired, without, "{name}");
    }
}

#[test]
fn an_egress_has_a_table_and_rules_of_its_own() {
    let egress = |egress| SetSubnet {
        egress,
        ..SetSubnet::default()
    };
    let world = World::two_uplinks().with([
        add_subnet("one", "10.59.0.0/24", "none"),
        add_subnet("two", "10.60.0.0/24", ""),
        Change::SetSubnet(
            "two".to_owned(),
            egress(Patch::Set(Egress::Address(parse("198.51.100.6")))),
        ),
        add_device_in("two", "a"),
        delegate("a", &["192.168.7.0/24"]),
        add_forward("80/tcp", "a"),
    ]);
    let prefix = world.state.subnet("two").unwrap().ipv6.unwrap();
    let desired = world.desired();
    let sources = ["10.60.0.0/24", "192.168.7.0/24", &prefix.to_string()];
    let mut expected = Vec::new();
    for (priority, mark, table) in [(4200, "0x1000000", 4200), (4202, "0x2000000", 4201)] {
        for any in ["0.0.0.0/0", "::/0"] {
            let from = format!("from {any} iif adit0 mark {mark} table");
            expected.push(format!("{priority} {from} 254 suppress 0"));
            expected.push(format!("{} {from} {table}", priority + 1));
        }
    }
    for own in ["203.0.113.10/32", "2001:db8:1::2/128"] {
        expected.push(format!("4296 from {own} iif lo table 254 suppress 0"));
        expected.push(format!("4297 from {own} iif lo table 4200"));
    }
    for own in ["198.51.100.5/32", "198.51.100.6/32", "2001:db8:2::5/128"] {
        expected.push(format!("4296 from {own} iif lo table 254 suppress 0"));
        expected.push(format!("4297 from {own} iif lo table 4201"));
    }
    for net in ["10.59.0.0/24", "10.60.0.0/24", "192.168.7.0/24"] {
        expected.push(format!("4294 from 0.0.0.0/0 to {net} iif any table 254"));
    }
    expected.push(format!("4294 from ::/0 to {prefix} iif any table 254"));
    for source in sources {
        expected.push(format!("4298 from {source} iif adit0 table 254 suppress 0"));
        expected.push(format!("4299 from {source} iif adit0 table 4201"));
    }
    expected.sort();
    let mut found = rules(&desired);
    found.sort();
    assert_eq!(found, expected);
    let tables: Vec<String> = (routes(&desired).into_iter())
        .filter(|route| !route.starts_with("254 "))
        .collect();
    assert_eq!(
        tables,
        [
            "4200 0.0.0.0/0 via 203.0.113.1 dev eth0",
            "4200 ::/0 via fe80::1 dev eth0",
            "4201 0.0.0.0/0 via 198.51.100.1 dev eth1",
            "4201 ::/0 via 2001:db8:2::1 dev eth1"
        ]
    );
    let address = world.ipv6_of("a").unwrap();
    assert_eq!(
        forwards(&desired),
        [
            "198.51.100.6 80/tcp 10.60.0.2 80".to_owned(),
            format!("2001:db8:2::5 80/tcp {address} 80"),
        ]
    );
    let firewall = desired.firewall.unwrap();
    let sources: Vec<String> = (firewall.subnets.values())
        .map(|policy| policy.snat4.as_ref().unwrap().address.to_string())
        .collect();
    assert_eq!(sources, ["203.0.113.10", "198.51.100.6"]);
    let world = world.with([Change::SetSubnet("two".to_owned(), egress(Patch::Clear))]);
    let left = rules(&world.desired());
    assert!(
        left.iter()
            .all(|rule| !rule.starts_with("4298") && !rule.starts_with("4299")),
        "{left:?}"
    );
}

#[test]
fn a_strict_filter_of_sources_is_loosened_where_there_are_several_uplinks() {
    let wanted = |mut world: World, all: &str, eth1: &str| {
        for (name, value) in [("all", all), ("eth1", eth1)] {
            let path = format!("net/ipv4/conf/{name}/rp_filter");
            world.facts.sysctls.insert(path, value.to_owned());
        }
        let world = world.with([add_subnet("home", "10.59.0.0/24", "none")]);
        let sysctls = world.desired().sysctls;
        sysctls.get("net/ipv4/conf/eth1/rp_filter").cloned()
    };
    for (all, eth1, expected) in [
        ("0", "0", None),
        ("2", "0", None),
        ("1", "0", Some("2")),
        ("0", "1", Some("2")),
        ("1", "2", Some("2")),
    ] {
        let found = wanted(World::two_uplinks(), all, eth1);
        assert_eq!(found.as_deref(), expected, "{all} {eth1}");
    }
    assert_eq!(wanted(World::on_link(), "1", "1"), None);
}

#[test]
fn a_prefix_on_another_link_leaves_by_it() {
    let world = World::two_uplinks().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:2::/64"),
        add_device("a"),
    ]);
    let desired = world.desired();
    let sources: Vec<String> = rules(&desired);
    assert!(
        sources.contains(&"4299 from 2001:db8:2::/64 iif adit0 table 4201".to_owned()),
        "{sources:?}"
    );
    let on = neighbors(&desired);
    assert!(
        on.iter().all(|entry| entry.starts_with("eth1 ")) && on.len() == 2,
        "{on:?}"
    );
    // A statically configured uplink is not told to listen to advertisements.
    assert!(!desired.sysctls.contains_key("net/ipv6/conf/eth1/accept_ra"));
}

#[test]
fn a_private_prefix_is_translated_and_forwarded_on_both_families() {
    let world = World::on_link().with([
        Change::SetUplink(
            None,
            SetUplink {
                advertised: Patch::Set(parse("192.0.2.9")),
                ..SetUplink::default()
            },
        ),
        add_subnet("home", "10.59.0.0/24", "fd00:7::/64"),
        add_device("a"),
        Change::AddForward(AddForward {
            target_port: Some(8080),
            ..add_forward_wish("80/tcp", "a")
        }),
    ]);
    let desired = world.desired();
    assert_eq!(
        forwards(&desired),
        [
            "192.0.2.9 80/tcp 10.59.0.2 8080",
            "203.0.113.10 80/tcp 10.59.0.2 8080",
            "2001:db8:1::2 80/tcp fd00:7::a3b:2 8080",
        ]
    );
    assert_eq!(neighbors(&desired), [""; 0]);
    let firewall = desired.firewall.unwrap();
    let policy = firewall.subnets.values().next().unwrap();
    let source = policy.snat6.as_ref().unwrap();
    assert_eq!(
        (source.uplink.as_str(), source.address.to_string().as_str()),
        ("eth0", "2001:db8:1::2")
    );
    let hairpins: Vec<String> = (firewall.translations6.hairpins.iter())
        .map(|(device, gateway)| format!("{device} {gateway}"))
        .collect();
    assert_eq!(hairpins, ["fd00:7::a3b:2 fd00:7::a3b:1"]);
    let keeps: Vec<String> = (firewall.translations4.keeps.iter())
        .map(|(keep, to)| format!("{} {} {}", keep.device.port, to.0, to.1))
        .collect();
    assert_eq!(keeps, ["8080 203.0.113.10 80"]);
}

#[test]
fn a_global_prefix_behind_a_private_one_is_not_translated() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "fd00:7::/64"),
        add_device("a"),
        delegate("a", &["2001:db8:88::/64"]),
    ]);
    let text = world.desired().firewall.unwrap().render();
    assert!(text.contains("fd00:7::/64 : jump snat_subnet_1"), "{text}");
    assert!(!text.contains("2001:db8:88::/64 : jump snat"), "{text}");
}

#[test]
fn a_delegation_out_of_the_link_is_answered_for_in_any_subnet() {
    let world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "none"),
        add_device("a"),
        delegate("a", &["2001:db8:1::40/126"]),
    ]);
    let desired = world.desired();
    assert_eq!(
        neighbors(&desired),
        [
            "eth0 2001:db8:1::40",
            "eth0 2001:db8:1::41",
            "eth0 2001:db8:1::42",
            "eth0 2001:db8:1::43"
        ]
    );
    assert_eq!(sysctls(&desired), ON_LINK_SYSCTLS);
}

#[test]
fn a_host_without_ipv6_gets_none() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
    ]);
    world
        .facts
        .sysctls
        .insert("net/ipv6/conf/all/disable_ipv6".to_owned(), "1".to_owned());
    let desired = world.desired();
    assert_eq!(
        routes(&desired),
        ["254 10.59.0.0/24 unreachable", "254 10.59.0.2/32 dev adit0"]
    );
    assert_eq!(desired.addresses.len(), 1);
    assert_eq!(sysctls(&desired), ON_LINK_SYSCTLS[..1]);
}

#[test]
fn router_advertisements_stay_heard() {
    let accept = |world: &World| {
        let path = "net/ipv6/conf/eth0/accept_ra";
        world.desired().sysctls.get(path).cloned()
    };
    let mut world = World::on_link().with([add_subnet("home", "10.59.0.0/24", "")]);
    assert_eq!(accept(&world).as_deref(), Some("2"));
    // Right after boot the first advertisement may be still to come.
    world
        .facts
        .routes
        .retain(|route| route.destination.addr().is_ipv4());
    assert_eq!(accept(&world).as_deref(), Some("2"));
    let path = "net/ipv6/conf/eth0/accept_ra".to_owned();
    world.facts.sysctls.insert(path, "0".to_owned());
    assert_eq!(accept(&world), None, "user space handles them");
}

#[test]
fn what_the_host_needs_itself_is_taken_from_devices() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/56"),
        add_device("a"),
        delegate("a", &["64", "2001:db8:88::/64"]),
        add_pinhole("a", "80/tcp"),
    ]);
    for address in ["2001:db8:77::a3b:2/128", "2001:db8:88::1/128"] {
        world
            .facts
            .addresses
            .insert(adit_model::facts::AddressFact {
                interface: "lo".to_owned(),
                address: parse(address),
            });
    }
    let desired = world.desired();
    assert_eq!(peers(&desired), [["10.59.0.2/32", "2001:db8:77:1::/64"]]);
    assert!(desired.firewall.unwrap().pinholes.is_empty());
}

#[test]
fn forwards_that_meet_when_an_uplink_goes_leave_a_table_that_loads() {
    let mut world = World::two_uplinks().with([
        add_subnet("one", "10.59.0.0/24", "none"),
        Change::AddSubnet(AddSubnet {
            egress: Some(Egress::Interface("eth1".to_owned())),
            ..add_subnet_wish("two", "10.60.0.0/24", "none")
        }),
        add_device_in("one", "a"),
        add_device_in("two", "b"),
        add_forward("8000-8010/tcp", "a"),
        add_forward("8005-8015/tcp", "b"),
        add_forward("443/tcp", "a"),
        add_forward("443/udp", "b"),
    ]);
    let ranges = |world: &World| {
        let firewall = world.desired().firewall.unwrap();
        let targets = firewall.translations4.forward_ranges.values();
        targets.map(ToString::to_string).collect::<Vec<String>>()
    };
    assert_eq!(ranges(&world), ["10.60.0.2", "10.59.0.2"]);
    world.facts.routes.retain(|route| route.interface != "eth1");
    assert_eq!(ranges(&world), ["10.59.0.2"]);
    assert_eq!(forwards(&world.desired()).len(), 2);
}

#[test]
fn a_global_address_is_translated_for_nobody() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:77::/64"),
        add_device("a"),
        add_forward("80/tcp", "a"),
    ]);
    let mut forward = world.state.forwards.values().next().unwrap().clone();
    forward.address = Some(parse("2001:db8:1::2"));
    world.state.absorb(&adit_model::edit::Edit::Set(
        adit_model::edit::Object::Forward(forward),
    ));
    assert_eq!(forwards(&world.desired()), [""; 0]);
}

#[test]
fn without_subnets_there_is_only_the_interface() {
    let desired = World::new(bare_host()).desired();
    assert!(desired.routes.is_empty() && desired.sysctls.is_empty() && desired.rules.is_empty());
    assert_eq!(desired.link.unwrap().name, "adit0");
}
