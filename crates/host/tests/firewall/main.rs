//! The firewall and the conntrack sweep against this kernel, with packets. They need root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod connections;
mod flows;
mod packets;
mod policing;
mod table;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_model::desired::firewall::{
    Clamp, Connections, Endpoint, Firewall, Keep, Port, SourceAddress, Sources, SubnetPolicy,
    Translations,
};
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::Filter;
use ipnet::Ipv6Net;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 2);
const UPLINK: &str = "uplink0";

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

fn udp(address: Ipv4Addr, port: u16) -> Port<Ipv4Addr> {
    Port {
        address,
        protocol: Protocol::Udp,
        port,
    }
}

/// What device 1 sends from this port keeps the public port.
fn keep(port: u16) -> Keep<Port<Ipv4Addr>> {
    Keep {
        uplink: UPLINK.to_owned(),
        device: udp(DEVICE, port),
    }
}

/// Devices of the first subnet reach each other and the host; those of the second do not.
fn firewall() -> Firewall {
    let subnet = |number: u64, open: bool| SubnetPolicy {
        networks4: vec![format!("10.{}.0.0/24", 58 + number).parse().unwrap()].into(),
        networks6: vec![format!("2001:db8:0:{number}::/64").parse().unwrap()].into(),
        peers_allowed: open,
        host_access: open,
        snat4: Some(SourceAddress {
            uplink: UPLINK.to_owned(),
            address: PUBLIC,
        }),
        snat6: None,
    };
    let media = |address| Endpoint {
        address,
        protocol: Protocol::Udp,
        ports: range(5000, 5010),
    };
    let pinhole = |ports| Endpoint {
        address: "2001:db8:0:1::2".parse::<Ipv6Addr>().unwrap(),
        protocol: Protocol::Udp,
        ports,
    };
    Firewall {
        interface: "adit0".to_owned(),
        uplinks: BTreeSet::from([UPLINK.to_owned()]),
        reply_marks: BTreeMap::new(),
        sources: Sources::default(),
        watched: BTreeSet::new(),
        snat_ports: range(40000, 65535),
        clamp: Clamp {
            ipv4: 1380,
            ipv6: 1360,
        },
        connections: Connections::default(),
        subnets: BTreeMap::from([(1, subnet(1, true)), (2, subnet(2, false))]),
        own_prefixes6: ["2001:db8:0:1::/64", "2001:db8:0:2::/64"]
            .iter()
            .map(|prefix| prefix.parse::<Ipv6Net>().unwrap())
            .collect(),
        services: BTreeSet::from([(Protocol::Udp, 5351)]),
        translations4: Translations {
            forwards: vec![(udp(PUBLIC, 80), (DEVICE, 8080))].into(),
            forward_ranges: vec![(media(PUBLIC), DEVICE)].into(),
            keeps: vec![(keep(8080), (PUBLIC, 80))].into(),
            keep_ranges: vec![(
                Keep {
                    uplink: UPLINK.to_owned(),
                    device: media(DEVICE),
                },
                PUBLIC,
            )]
            .into(),
            egresses: Translations::<Ipv4Addr>::default().egresses,
            hairpins: vec![(DEVICE, Ipv4Addr::new(10, 59, 0, 1))].into(),
        },
        translations6: Translations::default(),
        pinholes: [range(7000, 7000), range(7100, 7200)]
            .map(pinhole)
            .into_iter()
            .collect(),
        open_addresses: Default::default(),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
        filters: filters().into(),
    }
}

/// Ports that are open to some peers only, of every form that they can have.
fn filters() -> Vec<(Endpoint<IpAddr>, BTreeSet<Filter>)> {
    let ports = |address: &str, ports| Endpoint {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        ports,
    };
    let filter = |network: &str, port| Filter {
        network: network.parse().unwrap(),
        port,
    };
    let peers4 = [
        filter("198.51.100.0/24", 0),
        filter("203.0.113.7/32", 0),
        filter("198.51.0.0/16", 443),
        filter("203.0.113.9/32", 53),
    ];
    let peers6 = [
        filter("2001:db8:7::/48", 0),
        filter("2001:db8:8::7/128", 443),
    ];
    vec![
        (ports("192.0.2.1", range(9000, 9000)), peers4.into()),
        (
            ports("192.0.2.1", range(9100, 9200)),
            [filter("0.0.0.0/0", 80)].into(),
        ),
        (ports("2001:db8:0:1::2", range(9000, 9000)), peers6.into()),
    ]
}
