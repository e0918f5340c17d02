//! Leases: who gets which port, by whatever mechanism.

mod hostile;
mod quota;
mod restrictions;
mod search;
mod withdrawal;

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_model::change::{
    Change, EndLease, ExpireLeases, LeasePort, Parties, Patch, RequestLease, SetDevice, SetSettings,
};
use adit_model::decide::lease::{Grant, granted};
use adit_model::edit::{Edit, Key};
use adit_model::protocol::Protocol;
use adit_model::refusal::{LeaseRefusal, Obstacle, Refusal};
use adit_model::state::{DeviceId, DeviceKind, Family, Filter, Lease, Mechanism, Nonce};

pub(crate) use self::hostile::{check_leases, lease_changes};
use crate::world::{
    World, add_device, add_forward, add_listener, add_pinhole, add_subnet, parse, set_device,
};

/// What a device asks for by a mechanism, one port of both families' first.
pub(crate) fn wish(device: DeviceId, mechanism: Mechanism, internal: u16) -> RequestLease {
    RequestLease {
        parties: Parties::own(device),
        mechanism,
        family: Family::Ipv4,
        protocol: Some(Protocol::Udp),
        internal,
        external: None,
        address: None,
        exact: false,
        count: 1,
        parity: false,
        lifetime: 3600,
        nonce: (mechanism == Mechanism::Pcp).then_some(Nonce([1; 12])),
        clear_filters: false,
        filters: Vec::new(),
        remote: None,
        hostnames: BTreeSet::new(),
        description: String::new(),
    }
}

fn kind(name: &str, kind: DeviceKind) -> Change {
    let patch = SetDevice {
        kind: Some(kind),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

fn all_ports(name: &str) -> Change {
    let patch = SetDevice {
        all_ports: Some(true),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

/// Two servers and a client, with an address of both families each.
fn home() -> World {
    World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("nas"),
        add_device("box"),
        add_device("phone"),
        kind("nas", DeviceKind::Server),
        kind("box", DeviceKind::Server),
    ])
}

impl World {
    fn ask(&mut self, wish: &RequestLease) -> Result<Grant, LeaseRefusal> {
        match self.change(Change::RequestLease(Box::new(wish.clone()))) {
            Ok(_) => Ok(granted(&self.state, &self.facts, wish, self.now).unwrap()),
            Err(Refusal::LeaseRefused { reason }) => Err(reason),
            Err(other) => panic!("{other}"),
        }
    }

    fn id(&self, name: &str) -> DeviceId {
        self.device(name).id
    }

    fn end(&mut self, device: DeviceId, internal: u16, nonce: u8) -> Result<(), LeaseRefusal> {
        let wish = EndLease {
            parties: Parties::own(device),
            mechanism: Mechanism::Pcp,
            family: Family::Ipv4,
            protocol: Some(Protocol::Udp),
            port: LeasePort::Internal(internal),
            nonce: Some(Nonce([nonce; 12])),
        };
        match self.change(Change::EndLease(wish)) {
            Ok(_) => Ok(()),
            Err(Refusal::LeaseRefused { reason }) => Err(reason),
            Err(other) => panic!("{other}"),
        }
    }

    fn open(&self) -> Vec<&Lease> {
        let leases = self.state.leases.values();
        leases.filter(|lease| lease.is_open()).collect()
    }
}

#[test]
fn a_wish_is_fulfilled_and_kept_and_others_get_another_port() {
    let mut world = home();
    let (nas, other) = (world.id("nas"), world.id("box"));
    let mut first = wish(nas, Mechanism::Pcp, 51413);
    first.external = Some(51413);
    let grant = world.ask(&first).unwrap();
    assert_eq!((grant.external, grant.lifetime), (51413, 3600));
    assert_eq!(grant.address, parse::<IpAddr>("203.0.113.10"));
    let mut second = wish(other, Mechanism::NatPmp, 51413);
    second.external = Some(51413);
    let theirs = world.ask(&second).unwrap();
    assert_ne!(theirs.external, 51413);
    // With another wish, and after the end of both, it is the same port again.
    second.external = Some(51413);
    assert_eq!(world.ask(&second).unwrap().external, theirs.external);
    second.external = None;
    assert_eq!(world.ask(&second).unwrap().external, theirs.external);
    second.exact = true;
    second.external = Some(51413);
    assert!(matches!(
        world.ask(&second),
        Err(LeaseRefusal::Unavailable {
            obstacle: Obstacle::Existing,
            ..
        })
    ));
}

#[test]
fn a_freed_port_waits_for_its_owner() {
    let mut world = home();
    let (nas, other) = (world.id("nas"), world.id("box"));
    let mut first = wish(nas, Mechanism::Pcp, 6881);
    first.external = Some(6881);
    world.ask(&first).unwrap();
    world.end(nas, 6881, 1).unwrap();
    assert!(world.open().is_empty());
    let mut theirs = wish(other, Mechanism::Pcp, 6881);
    theirs.external = Some(6881);
    theirs.exact = true;
    assert!(world.ask(&theirs).is_err());
    first.external = None;
    assert_eq!(world.ask(&first).unwrap().external, 6881);
    world.end(nas, 6881, 1).unwrap();
    world.now += 121;
    let expire = Change::ExpireLeases(ExpireLeases::default());
    world.change(expire).unwrap();
    assert!(world.state.leases.is_empty());
    assert_eq!(world.ask(&theirs).unwrap().external, 6881);
}

#[test]
fn only_who_knows_the_nonce_renews_and_ends() {
    let mut world = home();
    let nas = world.id("nas");
    let first = wish(nas, Mechanism::Pcp, 5000);
    world.ask(&first).unwrap();
    let mut thief = first.clone();
    thief.nonce = Some(Nonce([2; 12]));
    assert!(matches!(
        world.ask(&thief),
        Err(LeaseRefusal::WrongNonce { remaining: 3600.. })
    ));
    assert!(world.end(nas, 5000, 2).is_err());
    // By another mechanism it is only told.
    let mut told = wish(nas, Mechanism::NatPmp, 5000);
    told.lifetime = 100_000;
    let before = world.state.leases.clone();
    assert!(world.ask(&told).unwrap().lifetime <= 4500);
    assert_eq!(world.state.leases, before);
    world.end(nas, 5000, 1).unwrap();
    assert_eq!(world.open().len(), 0);
    world.end(nas, 5000, 9).unwrap();
}

#[test]
fn clients_and_demoted_devices_may_not() {
    let mut world = home();
    let (nas, phone) = (world.id("nas"), world.id("phone"));
    let refused = world.ask(&wish(phone, Mechanism::Upnp, 5000));
    assert_eq!(refused, Err(LeaseRefusal::NotAllowed));
    world.ask(&wish(nas, Mechanism::Pcp, 5000)).unwrap();
    let edits = world.change(kind("nas", DeviceKind::Client)).unwrap();
    assert!(matches!(edits.last(), Some(Edit::Remove(Key::Lease(_)))));
    assert!(world.state.leases.is_empty());
    let patch = SetDevice {
        auto_ports: Patch::Set(true),
        ..SetDevice::default()
    };
    world.change(set_device("phone", patch)).unwrap();
    assert!(world.ask(&wish(phone, Mechanism::Upnp, 5000)).is_ok());
}

#[test]
fn what_the_gateway_needs_is_nobodys() {
    let mut world = home();
    let nas = world.id("nas");
    add_listener(&mut world.facts, Protocol::Udp, "0.0.0.0", 6000);
    for port in [53, 80, 443, 1023, 5350, 5351, 6000, 51820, 32768, 49151] {
        let mut wish = wish(nas, Mechanism::Pcp, 7000 + port % 1000);
        wish.external = Some(port);
        let given = world.ask(&wish).unwrap().external;
        assert_ne!(given, port);
        wish.internal += 1000;
        wish.exact = true;
        let refused = world.ask(&wish).unwrap_err();
        assert!(
            matches!(refused, LeaseRefusal::Unavailable { .. }),
            "{port}: {refused}"
        );
    }
    // A service that begins to listen later takes the port out of use, and no further.
    let mut wish = wish(nas, Mechanism::Pcp, 6100);
    wish.external = Some(6100);
    world.ask(&wish).unwrap();
    let forwards = |world: &World| {
        world
            .desired()
            .firewall
            .unwrap()
            .translations4
            .forwards
            .len()
    };
    let before = forwards(&world);
    add_listener(&mut world.facts, Protocol::Udp, "203.0.113.10", 6100);
    assert_eq!(forwards(&world), before - 1);
    let problems = adit_model::problem::of_state(&world.state, &world.facts, world.now);
    assert!(problems.iter().any(|it| it.code == "lease-suspended"));
    // Who asks for it again has it elsewhere, unless nothing else would do.
    let id = world.open().last().unwrap().id;
    wish.exact = true;
    assert!(matches!(
        world.ask(&wish).unwrap_err(),
        LeaseRefusal::Unavailable { .. }
    ));
    wish.exact = false;
    let moved = world.ask(&wish).unwrap();
    assert_eq!(moved.lease, Some(id));
    assert_ne!(moved.external, 6100);
    assert_eq!(forwards(&world), before);
    assert_eq!(world.ask(&wish).unwrap().external, moved.external);
}

#[test]
fn all_ports_at_once_are_for_who_may_have_them() {
    let mut world = home();
    let nas = world.id("nas");
    let mut all = wish(nas, Mechanism::Pcp, 0);
    all.family = Family::Ipv6;
    assert_eq!(world.ask(&all), Err(LeaseRefusal::AllPorts));
    world = world.with([all_ports("nas"), add_pinhole("nas", "7002/udp")]);
    let grant = world.ask(&all).unwrap();
    assert!(grant.is_whole);
    assert_eq!(world.state.leased_ports(nas), 1);
    // Beside single ports, leased and manual, of which it is none.
    let mut single = wish(nas, Mechanism::Pcp, 7000);
    single.family = Family::Ipv6;
    single.nonce = Some(Nonce([2; 12]));
    assert_eq!(world.ask(&single).unwrap().external, 7000);
    assert_eq!(world.state.leased_ports(nas), 2);
    world = world.with([add_pinhole("nas", "7003/udp")]);
    assert!(world.state.leases.contains_key(&grant.lease.unwrap()));
    for refused in [
        RequestLease {
            family: Family::Ipv4,
            ..all.clone()
        },
        RequestLease {
            mechanism: Mechanism::Upnp,
            nonce: None,
            ..all.clone()
        },
    ] {
        assert_eq!(world.ask(&refused), Err(LeaseRefusal::AllPorts));
    }
    let filtered = RequestLease {
        filters: vec![Filter {
            network: parse("2001:db8::/32"),
            port: 0,
        }],
        ..all.clone()
    };
    assert_eq!(
        world.ask(&filtered),
        Err(LeaseRefusal::Filters { limit: 0 })
    );
    let before = world.state.leases.len();
    world = world.with([kind("nas", DeviceKind::Server)]);
    assert_eq!(world.state.leases.len(), before - 1);
    assert_eq!(world.ask(&all), Err(LeaseRefusal::AllPorts));
}

#[test]
fn whatever_comes_in_is_for_who_may_have_it() {
    let mut world = home();
    let nas = world.id("nas");
    let all = RequestLease {
        family: Family::Ipv6,
        protocol: None,
        ..wish(nas, Mechanism::Pcp, 0)
    };
    assert_eq!(world.ask(&all), Err(LeaseRefusal::AllPorts));
    world = world.with([all_ports("nas")]);
    let grant = world.ask(&all).unwrap();
    let id = grant.lease.unwrap();
    assert!(grant.is_whole);
    assert_eq!(world.state.leased_ports(nas), 1);
    assert_eq!(world.ask(&all).unwrap().lease, Some(id));
    let open = |world: &World| {
        let firewall = world.desired().firewall.unwrap();
        let addresses = firewall.open_addresses.iter().map(ToString::to_string);
        (addresses.collect::<Vec<_>>(), firewall.pinholes.len())
    };
    let address = grant.address.to_string();
    assert_eq!(open(&world), (vec![address.clone()], 0));
    // Beside what is of TCP or UDP, even of all their ports.
    let udp = RequestLease {
        protocol: Some(Protocol::Udp),
        nonce: Some(Nonce([2; 12])),
        ..all.clone()
    };
    world.ask(&udp).unwrap();
    assert_eq!(open(&world), (vec![address.clone()], 1));
    world = world.with([add_pinhole("nas", "1-65535")]);
    assert_eq!(
        world.open().iter().map(|it| it.id).collect::<Vec<_>>(),
        [id]
    );
    assert_eq!(open(&world), (vec![address], 2));
    for refused in [
        RequestLease {
            family: Family::Ipv4,
            ..all.clone()
        },
        RequestLease {
            internal: 7000,
            ..all.clone()
        },
        RequestLease {
            remote: Some(parse("[2001:db8::1]:53")),
            ..all.clone()
        },
    ] {
        assert_eq!(world.ask(&refused), Err(LeaseRefusal::AllPorts));
    }
    let stored = serde_json::to_value(&world.state.leases[&id]).unwrap();
    assert_eq!(stored["protocol"], "all");
    let read: Lease = serde_json::from_value(stored).unwrap();
    assert_eq!(read, world.state.leases[&id]);
    let end = |nonce| {
        Change::EndLease(EndLease {
            parties: Parties::own(nas),
            mechanism: Mechanism::Pcp,
            family: Family::Ipv6,
            protocol: None,
            port: LeasePort::Internal(0),
            nonce: Some(Nonce([nonce; 12])),
        })
    };
    assert!(world.change(end(2)).is_err());
    world = world.with([end(1)]);
    assert_eq!(open(&world), (Vec::new(), 2));
    assert_ne!(world.ask(&all).unwrap().lease, Some(id));
    world = world.with([kind("nas", DeviceKind::Server)]);
    assert!(world.open().is_empty());
    assert_eq!(open(&world), (Vec::new(), 2));
}

#[test]
fn administrators_go_first() {
    let mut world = home().with([
        add_forward("7000/udp", "box"),
        add_forward("7001/udp", "nas"),
        add_pinhole("nas", "7002/udp"),
    ]);
    let nas = world.id("nas");
    let mut first = wish(nas, Mechanism::Pcp, 7000);
    first.external = Some(7000);
    assert_ne!(world.ask(&first).unwrap().external, 7000);
    // What leads to the device already is told as it is, for ever.
    let grant = world.ask(&wish(nas, Mechanism::Pcp, 7001)).unwrap();
    assert_eq!(
        (grant.lease, grant.external, grant.lifetime),
        (None, 7001, u32::MAX)
    );
    assert_eq!(world.end(nas, 7001, 1), Err(LeaseRefusal::NotOwner));
    let mut hole = wish(nas, Mechanism::Pcp, 7002);
    hole.family = Family::Ipv6;
    assert_eq!(world.ask(&hole).unwrap().lease, None);
    let mut leased = wish(nas, Mechanism::Pcp, 7100);
    leased.external = Some(7100);
    let id = world.ask(&leased).unwrap().lease.unwrap();
    let refusal = world.refused(add_forward("7100/udp", "box"));
    assert_eq!(refusal.code(), "port-leased");
    assert!(refusal.hint().contains(&format!("lease remove {id}")));
    world.change(add_forward("7100/tcp", "box")).unwrap();
    // Outbound connections get their ports at the cost of leases.
    let patch = SetSettings {
        snat_ports: Some((10_000, 20_000)),
        ..SetSettings::default()
    };
    let mut low = wish(nas, Mechanism::Pcp, 15_000);
    low.external = Some(15_000);
    world.ask(&low).unwrap();
    world.change(Change::SetSettings(patch)).unwrap();
    assert!(world.open().iter().all(|lease| lease.external != 15_000));
    world.change(Change::RemoveLease(id.to_string())).unwrap();
    assert!(world.open().iter().all(|lease| lease.id != id));
}

#[test]
fn companions_of_nat_pmp_stay_with_their_owner() {
    let mut world = home();
    let (nas, other) = (world.id("nas"), world.id("box"));
    let mut tcp = wish(nas, Mechanism::NatPmp, 8080);
    (tcp.protocol, tcp.external) = (Some(Protocol::Tcp), Some(8080));
    assert_eq!(world.ask(&tcp).unwrap().external, 8080);
    for mechanism in Mechanism::ALL {
        let mut udp = wish(other, mechanism, 8080);
        udp.external = Some(8080);
        assert_ne!(world.ask(&udp).unwrap().external, 8080, "{mechanism}");
    }
    let mut own = wish(nas, Mechanism::NatPmp, 8080);
    own.external = Some(8080);
    assert_eq!(world.ask(&own).unwrap().external, 8080);
}

#[test]
fn sets_of_ports_are_given_whole_and_within_the_quota() {
    let mut world = home();
    let nas = world.id("nas");
    let mut set = wish(nas, Mechanism::Pcp, 20_001);
    (set.count, set.parity, set.external) = (100, true, Some(20_000));
    let grant = world.ask(&set).unwrap();
    assert_eq!((grant.count, grant.external % 2), (100, 1));
    let firewall = world.desired().firewall.unwrap();
    assert_eq!(firewall.translations4.forwards.len(), 100);
    // What meets a port that the device has is given up to there, and the other lease is let be.
    let mut met = world.clone();
    let mut before = wish(nas, Mechanism::Pcp, 19_990);
    (before.count, before.nonce) = (50, Some(Nonce([2; 12])));
    assert_eq!(met.ask(&before).unwrap().count, 11);
    let id = grant.lease.unwrap();
    assert_eq!(met.state.leases[&id], world.state.leases[&id]);
    let patch = SetDevice {
        lease_quota: Patch::Set(104),
        ..SetDevice::default()
    };
    world.change(set_device("nas", patch)).unwrap();
    let mut more = wish(nas, Mechanism::Pcp, 30_000);
    more.count = 50;
    assert_eq!(world.ask(&more).unwrap().count, 4);
    let refused = world.ask(&wish(nas, Mechanism::Pcp, 31_000));
    assert_eq!(refused, Err(LeaseRefusal::Quota { limit: 104 }));
    assert_eq!(world.ask(&set).unwrap().count, 100);
    set.internal = 20_050;
    (set.count, set.parity, set.external) = (1, false, None);
    assert_eq!(world.ask(&set).unwrap().external, grant.external + 49);
}

#[test]
fn filters_let_only_those_in() {
    let mut world = home();
    let nas = world.id("nas");
    let filter = |network: &str, port| Filter {
        network: parse(network),
        port,
    };
    let mut request = wish(nas, Mechanism::Pcp, 5000);
    request.filters = vec![filter("192.0.2.0/24", 0), filter("192.0.2.7/32", 80)];
    world.ask(&request).unwrap();
    request.filters = vec![filter("198.51.100.1/32", 443)];
    world.ask(&request).unwrap();
    let firewall = world.desired().firewall.unwrap();
    let (_, peers) = firewall.filters.iter().next().unwrap();
    assert_eq!(
        *peers,
        BTreeSet::from([filter("192.0.2.0/24", 0), filter("198.51.100.1/32", 443)])
    );
    request.clear_filters = true;
    request.filters.clear();
    world.ask(&request).unwrap();
    assert!(world.desired().firewall.unwrap().filters.is_empty());
    request.filters = (0..33)
        .map(|host| filter(&format!("192.0.2.{host}/32"), 0))
        .collect();
    assert_eq!(
        world.ask(&request),
        Err(LeaseRefusal::Filters { limit: 32 })
    );
}

#[test]
fn renewals_within_what_is_stored_are_no_write() {
    let mut world = home();
    let nas = world.id("nas");
    let request = wish(nas, Mechanism::Pcp, 5000);
    world.ask(&request).unwrap();
    let change = || Change::RequestLease(Box::new(request.clone()));
    for _ in 0..9 {
        world.now += 100;
        assert_eq!(world.decide(change()), Ok(Vec::new()));
    }
    world.now += 100;
    assert_ne!(world.decide(change()), Ok(Vec::new()));
    // A shorter time is taken at its word.
    let mut short = request.clone();
    short.lifetime = 120;
    world.ask(&short).unwrap();
    assert_eq!(world.open().first().unwrap().expires, world.now + 150);
}

#[test]
fn outbound_leases_keep_a_port_without_opening_it() {
    let mut world = home();
    let nas = world.id("nas");
    let mut request = wish(nas, Mechanism::Pcp, 5000);
    request.remote = Some(parse("198.51.100.9:53"));
    request.external = Some(5000);
    assert_eq!(world.ask(&request).unwrap().external, 5000);
    let firewall = world.desired().firewall.unwrap();
    assert!(firewall.translations4.forwards.is_empty());
    assert_eq!(firewall.translations4.keeps.len(), 1);
    assert_eq!(world.end(nas, 5000, 1), Err(LeaseRefusal::Outbound));
    let mut taken = wish(world.id("box"), Mechanism::Pcp, 5000);
    taken.external = Some(5000);
    assert_ne!(world.ask(&taken).unwrap().external, 5000);
}

#[test]
fn what_is_opened_after_an_outbound_lease_has_the_same_port() {
    let mut world = home();
    let (nas, other) = (world.id("nas"), world.id("box"));
    let peer = |port, external, remote| RequestLease {
        remote: Some(parse(remote)),
        external: Some(external),
        ..wish(nas, Mechanism::Pcp, port)
    };
    world.ask(&peer(5000, 5005, "198.51.100.9:53")).unwrap();
    let translations = |world: &World| {
        let firewall = world.desired().firewall.unwrap();
        let forwards = firewall.translations4.forwards.iter();
        let forwards: Vec<(u16, u16)> = forwards.map(|(key, to)| (key.port, to.1)).collect();
        let keeps = firewall.translations4.keeps.iter();
        let keeps: Vec<(u16, u16)> = keeps.map(|(key, to)| (key.device.port, to.1)).collect();
        (forwards, keeps)
    };
    assert_eq!(translations(&world), (vec![], vec![(5000, 5005)]));
    let exact = |external| RequestLease {
        external: Some(external),
        exact: true,
        ..wish(nas, Mechanism::Pcp, 5000)
    };
    assert!(matches!(
        world.ask(&exact(6000)),
        Err(LeaseRefusal::Unavailable {
            obstacle: Obstacle::Existing,
            ..
        })
    ));
    for request in [
        exact(5005),
        wish(nas, Mechanism::Pcp, 5000),
        RequestLease {
            external: Some(6000),
            ..wish(nas, Mechanism::NatPmp, 5000)
        },
    ] {
        let mut world = world.clone();
        assert_eq!(world.ask(&request).unwrap().external, 5005);
        assert_eq!(
            translations(&world),
            (vec![(5005, 5000)], vec![(5000, 5005)])
        );
        // Another remote end is reached from the same port.
        let more = RequestLease {
            external: None,
            ..peer(5000, 5005, "192.0.2.1:80")
        };
        assert_eq!(world.ask(&more).unwrap().external, 5005);
    }
    // A set, too, and nothing at another place of it.
    let set = RequestLease {
        count: 8,
        ..wish(nas, Mechanism::Pcp, 4998)
    };
    let grant = world.clone().ask(&set).unwrap();
    assert!(
        !(grant.external..grant.external + 8).contains(&5005),
        "{grant:?}"
    );
    let set = RequestLease {
        internal: 5000,
        ..set
    };
    let grant = world.clone().ask(&set).unwrap();
    assert_eq!((grant.external, grant.count), (5005, 8));
    // Other ports, other devices and UPnP, which names its mappings by the public port, get another.
    let mut wishes = vec![
        wish(nas, Mechanism::Pcp, 5001),
        wish(other, Mechanism::Pcp, 5000),
    ];
    for wish in &mut wishes {
        wish.external = Some(5005);
        assert_ne!(world.clone().ask(wish).unwrap().external, 5005);
    }
    let upnp = RequestLease {
        mechanism: Mechanism::Upnp,
        nonce: None,
        ..exact(6000)
    };
    assert_eq!(world.clone().ask(&upnp).unwrap().external, 6000);
    // The outbound lease stays when the other one ends.
    world.ask(&exact(5005)).unwrap();
    world.end(nas, 5000, 1).unwrap();
    assert_eq!(translations(&world), (vec![], vec![(5000, 5005)]));
}

fn pinhole_of(world: &World) -> (usize, usize) {
    let firewall = world.desired().firewall.unwrap();
    (
        firewall.pinholes.len(),
        firewall.translations6.forwards.len(),
    )
}

#[test]
fn pinholes_are_of_the_own_address_and_may_be_translated() {
    let mut world = home();
    let nas = world.id("nas");
    let mut request = wish(nas, Mechanism::Pcp, 5000);
    request.family = Family::Ipv6;
    let grant = world.ask(&request).unwrap();
    let address: IpAddr = parse(&world.ipv6_of("nas").unwrap());
    assert_eq!((grant.external, grant.address), (5000, address));
    assert_eq!(pinhole_of(&world), (1, 0));
    request.internal = 22;
    request.external = Some(2222);
    assert_eq!(world.ask(&request).unwrap().external, 2222);
    assert_eq!(pinhole_of(&world), (1, 1));
}

#[test]
fn nobody_asks_for_others_unless_allowed() {
    let mut world = home();
    let mut request = wish(world.id("nas"), Mechanism::Pcp, 5000);
    request.parties.owner = world.id("phone");
    assert_eq!(world.ask(&request), Err(LeaseRefusal::ThirdParty));
    let patch = SetDevice {
        third_party: Some(true),
        ..SetDevice::default()
    };
    world.change(set_device("nas", patch)).unwrap();
    assert!(world.ask(&request).is_ok());
    assert_eq!(world.open().first().unwrap().device, world.id("phone"));
}
