//! One of each action, for tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Action, Answer, Mapping, MappingRange, Outside, PinholeRequest, PortProtocol};
use crate::igd::service::{Service, Version};

/// One of each action with the services that have it, and an answer to it.
pub(crate) fn samples() -> Vec<(Service, Action, Answer)> {
    let mapping = Mapping {
        outside: Outside::Anyone,
        external_port: 51413,
        protocol: PortProtocol::Tcp,
        internal_port: 51413,
        internal_client: Ipv4Addr::new(10, 59, 0, 2),
        enabled: true,
        description: "a <b> & \"c\" ]]>".to_owned(),
        lease: 3600,
    };
    let remote = Mapping {
        outside: Outside::Address(IpAddr::from([198, 51, 100, 7])),
        protocol: PortProtocol::Udp,
        ..mapping.clone()
    };
    let range = MappingRange {
        start: 1000,
        end: 2000,
        protocol: PortProtocol::Udp,
        manage: true,
    };
    let flow = PinholeRequest {
        outside: Outside::Anyone,
        remote_port: 0,
        internal_client: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        internal_port: 8080,
        protocol: 6,
        lease: 600,
    };
    let common = Service::WanCommonInterfaceConfig;
    let first = Service::WanIpConnection(Version::One);
    let second = Service::WanIpConnection(Version::Two);
    let firewall = Service::WanIpv6FirewallControl;
    vec![
        (first, Action::Status, Answer::Status(Some(77))),
        (second, Action::Status, Answer::Status(None)),
        (
            first,
            Action::ExternalAddress,
            Answer::ExternalAddress(Some(Ipv4Addr::new(203, 0, 113, 9))),
        ),
        (
            second,
            Action::ExternalAddress,
            Answer::ExternalAddress(None),
        ),
        (
            common,
            Action::LinkProperties,
            Answer::LinkProperties {
                upstream: 1_000_000,
                downstream: 2_000_000,
            },
        ),
        (common, Action::BytesSent, Answer::Total(7)),
        (common, Action::BytesReceived, Answer::Total(8)),
        (common, Action::PacketsSent, Answer::Total(9)),
        (common, Action::PacketsReceived, Answer::Total(10)),
        (first, Action::Add(mapping.clone()), Answer::Done),
        (second, Action::Add(remote.clone()), Answer::Done),
        (
            second,
            Action::AddAny(mapping.clone()),
            Answer::Reserved(51414),
        ),
        (first, Action::Delete(mapping.key()), Answer::Done),
        (
            second,
            Action::DeleteBoth {
                outside: Outside::Anyone,
                external_port: 51413,
            },
            Answer::Done,
        ),
        (second, Action::DeleteRange(range), Answer::Done),
        (first, Action::Entry(3), Answer::Entry(mapping.clone())),
        (
            first,
            Action::Specific(remote.key()),
            Answer::Specific(remote.clone()),
        ),
        (
            second,
            Action::List(range, 5),
            Answer::List(vec![mapping, remote]),
        ),
        (
            firewall,
            Action::FirewallStatus,
            Answer::FirewallStatus {
                enabled: true,
                pinholes: false,
            },
        ),
        (
            firewall,
            Action::OutboundTimeout(PinholeRequest {
                lease: 0,
                ..flow.clone()
            }),
            Answer::OutboundTimeout(120),
        ),
        (
            firewall,
            Action::AddPinhole(flow),
            Answer::Pinhole { id: 42 },
        ),
        (
            firewall,
            Action::UpdatePinhole { id: 42, lease: 60 },
            Answer::Done,
        ),
        (firewall, Action::DeletePinhole { id: 42 }, Answer::Done),
        (
            firewall,
            Action::PinholePackets { id: 42 },
            Answer::Packets(5),
        ),
        (
            firewall,
            Action::PinholeWorks { id: 42 },
            Answer::Works(true),
        ),
    ]
}
