//! What devices are told whose ports went with another change.

use std::net::IpAddr;

use adit_model::change::{AddDevice, AddForward, AddSubnet, Ipv6Wish, Patch, SetDevice, SetSubnet};
use adit_model::facts::{AddressFact, Facts, LinkFact, RouteFact};
use adit_model::key::PublicKey;
use adit_model::protocol::Protocol;
use adit_model::state::{Delivery, DeviceKind, Family, PortPolicy};

use super::*;

const NOW: u64 = 1_800_000_000;

/// A gateway with the uplinks 203.0.113.10 and 198.51.100.5, and its subnet with a server and a client.
fn home() -> Basis {
    let mut facts = Facts {
        ipv6: true,
        gateway_key: Some(PublicKey::from_bytes([250; 32])),
        ..Facts::default()
    };
    for (index, name, address, hop) in [
        (2, "eth0", "203.0.113.10/24", "203.0.113.1"),
        (3, "eth1", "198.51.100.5/24", "198.51.100.1"),
    ] {
        let (mtu, up) = (1500, true);
        facts
            .links
            .insert(name.to_owned(), LinkFact { index, mtu, up });
        facts.addresses.insert(AddressFact {
            interface: name.to_owned(),
            address: address.parse().unwrap(),
        });
        facts.routes.insert(RouteFact {
            destination: "0.0.0.0/0".parse().unwrap(),
            interface: name.to_owned(),
            gateway: Some(hop.parse().unwrap()),
            metric: index * 100,
            from_router_advertisement: false,
        });
    }
    let empty = Basis {
        state: Arc::new(State::default()),
        facts: Arc::new(facts),
    };
    let subnet = change(
        &empty,
        Change::AddSubnet(AddSubnet {
            name: "home".to_owned(),
            ipv4: "10.59.0.0/24".parse().unwrap(),
            ipv6: Ipv6Wish::None,
            delivery: Delivery::Auto,
            egress: None,
            peers: true,
            host_access: false,
            gateway_address: true,
            force: false,
        }),
    );
    let device = |name: &str, kind, byte| {
        Change::AddDevice(AddDevice {
            name: name.to_owned(),
            subnet: None,
            kind,
            routing: None,
            ipv4: None,
            public_key: PublicKey::from_bytes([byte; 32]),
            egress: None,
            delegate: Vec::new(),
            expires: None,
            port_policy: PortPolicy {
                third_party: true,
                ..PortPolicy::default()
            },
        })
    };
    let server = change(&subnet, device("nas", DeviceKind::Server, 1));
    change(&server, device("phone", DeviceKind::Client, 2))
}

fn change(basis: &Basis, change: Change) -> Basis {
    let mut state = State::clone(&basis.state);
    state.revision += 1;
    for edit in decide(&basis.state, change, &basis.facts, NOW, &[7; 64]).unwrap() {
        state.absorb(&edit);
    }
    Basis {
        state: Arc::new(state),
        facts: Arc::clone(&basis.facts),
    }
}

fn wish(basis: &Basis) -> RequestLease {
    RequestLease {
        parties: Parties::own(basis.state.device("nas").unwrap().id),
        mechanism: Mechanism::Pcp,
        family: Family::Ipv4,
        protocol: Some(Protocol::Tcp),
        internal: 7000,
        external: Some(7000),
        address: None,
        exact: false,
        count: 1,
        parity: false,
        lifetime: 3600,
        nonce: Some(adit_model::state::Nonce([1; 12])),
        clear_filters: false,
        filters: Vec::new(),
        remote: None,
        hostnames: Default::default(),
        description: String::new(),
    }
}

fn leased(basis: &Basis, wish: RequestLease) -> (Basis, Lease) {
    let basis = change(basis, Change::RequestLease(Box::new(wish)));
    let lease = basis.state.leases.values().next_back().unwrap().clone();
    (basis, lease)
}

/// What the device of a lease is told, and where, of a change that took the lease.
fn told(
    before: &Basis,
    lease: &Lease,
    changes: impl IntoIterator<Item = Change>,
) -> (Result<Granted, Refused>, Option<SocketAddr>) {
    let mut after = before.clone();
    for it in changes {
        after = change(&after, it);
    }
    assert!(!after.state.leases.contains_key(&lease.id), "it is there");
    let of_before = uplink::list(&before.state, &before.facts);
    let of_after = uplink::list(&after.state, &after.facts);
    let contact = Contact::supposed(lease, &before.state).unwrap();
    let outcome = gone(
        lease,
        &contact,
        standing(lease, before, &of_before),
        (before, &after, &of_after),
        NOW,
    );
    (outcome, contact.address(&after.state))
}

fn egress(egress: &str) -> Change {
    let patch = SetSubnet {
        egress: Patch::Set(egress.parse().unwrap()),
        ..SetSubnet::default()
    };
    Change::SetSubnet("home".to_owned(), patch)
}

#[test]
fn what_is_gone_with_its_address_can_be_had_elsewhere() {
    let home = home();
    let (before, lease) = leased(&home, wish(&home));
    let client: SocketAddr = "10.59.0.2:5350".parse().unwrap();
    let (outcome, to) = told(&before, &lease, [egress("eth1")]);
    let gone = outcome.unwrap();
    assert_eq!(gone.external, "203.0.113.10".parse::<IpAddr>().unwrap());
    assert_eq!((gone.lifetime, gone.port), (0, NonZeroU16::new(7000)));
    assert_eq!(to, Some(client));
    // At the same address it would be given again, so it was taken on purpose.
    let (outcome, to) = told(&before, &lease, [Change::RemoveLease(lease.id.to_string())]);
    assert_eq!(outcome, Err(ErrorCode::NotAuthorized.into()));
    assert_eq!(to, Some(client));
}

#[test]
fn who_has_another_address_is_not_told_of_the_mappings_of_the_first() {
    let home = home();
    let (before, lease) = leased(&home, wish(&home));
    let patch = SetDevice {
        ipv4: Some("10.59.0.9".parse().unwrap()),
        ..SetDevice::default()
    };
    let moved = Change::SetDevice("nas".to_owned(), patch);
    assert_eq!(told(&before, &lease, [moved]).1, None);
}

#[test]
fn filters_are_not_told_to_be_in_force_where_an_administrator_lets_everyone_in() {
    let home = home();
    let filter = adit_model::state::Filter {
        network: "192.0.2.0/24".parse().unwrap(),
        port: 0,
    };
    let filtered = RequestLease {
        filters: vec![filter],
        ..wish(&home)
    };
    for (wish, outcome) in [
        (wish(&home), None),
        (filtered, Some(ErrorCode::ExcessiveRemotePeers)),
    ] {
        let (before, lease) = leased(&home, wish);
        let forward = AddForward {
            address: None,
            port: 7000,
            port_end: 7000,
            protocols: [Protocol::Tcp].into(),
            device: "nas".to_owned(),
            target_port: None,
            hostname: None,
            proxy_protocol: false,
            label: String::new(),
        };
        let changes = [
            Change::RemoveLease(lease.id.to_string()),
            Change::AddForward(forward),
        ];
        let (told, _) = told(&before, &lease, changes);
        assert_eq!(told.err().map(|refused| refused.code), outcome);
    }
}

#[test]
fn who_asked_for_another_is_told_what_became_of_that() {
    let home = home();
    let mut other = wish(&home);
    other.parties.owner = home.state.device("phone").unwrap().id;
    let (before, lease) = leased(&home, other);
    let off = SetDevice {
        third_party: Some(false),
        ..SetDevice::default()
    };
    for (change, code) in [
        (
            Change::SetDevice("nas".to_owned(), off),
            ErrorCode::UnsupportedOption,
        ),
        (
            Change::RemoveLease(lease.id.to_string()),
            ErrorCode::NotAuthorized,
        ),
    ] {
        let (outcome, to) = told(&before, &lease, [change]);
        assert_eq!(outcome, Err(code.into()));
        assert_eq!(to, Some("10.59.0.2:5350".parse().unwrap()));
    }
    let contact = Contact::supposed(&lease, &before.state).unwrap();
    let told = mapping(&lease, &contact).unwrap();
    assert_eq!(told.third_party, Some("10.59.0.3".parse().unwrap()));
}
