//! What every datagram holds to, whatever its octets.

use std::net::{IpAddr, Ipv4Addr};

use adit_proto::pcp::server::{Granted, Received as PcpReceived, Request, Wildcards};
use adit_proto::pcp::wire::{PcpOption, ResponseMessage, split_options};
use adit_proto::port_control::{Policy, Received, receive};
use adit_proto::{nat_pmp, pcp};
use proptest::prelude::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 59, 0, 2));

fn policies() -> impl Strategy<Value = Policy> {
    let wildcards = prop_oneof![
        Just(Wildcards::Unsupported),
        Just(Wildcards::Forbidden),
        Just(Wildcards::Allowed)
    ];
    let flags = any::<[bool; 5]>();
    (wildcards, flags).prop_map(
        |(wildcards, [map, peer, third_party, hostnames, nat_pmp])| Policy {
            pcp: pcp::server::Policy {
                map,
                peer,
                third_party,
                wildcards,
                hostnames,
            },
            nat_pmp,
        },
    )
}

/// Options, most of them with the length that they ought to have.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        (Just(1_u8), Just(16_usize)),
        (Just(2), Just(0)),
        (Just(3), Just(20)),
        (Just(130), Just(5)),
        (Just(224), 0..40_usize),
        (any::<u8>(), 0..24_usize),
    ]
    .prop_flat_map(|(code, length)| (Just(code), prop::collection::vec(any::<u8>(), length)))
    .prop_map(|(code, mut data)| {
        let mut option = vec![code, 0, 0, data.len() as u8];
        data.resize(data.len().next_multiple_of(4), 0);
        option.extend(data);
        option
    });
    prop::collection::vec(option, 0..6).prop_map(|it| it.concat())
}

/// Datagrams that come far: the header is right, the rest is anything.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let protocols = prop_oneof![Just(6_u8), Just(17), any::<u8>()];
    let bodies = prop::collection::vec(any::<u8>(), 56);
    (
        0..4_u8,
        any::<[u8; 4]>(),
        any::<bool>(),
        protocols,
        bodies,
        options(),
    )
        .prop_map(
            |(opcode, lifetime, is_delete, protocol, mut body, options)| {
                let lifetime = if is_delete { [0; 4] } else { lifetime };
                let mut datagram = vec![2, opcode, 0, 0];
                datagram.extend(lifetime);
                datagram.extend(Ipv4Addr::new(10, 59, 0, 2).to_ipv6_mapped().octets());
                body[12] = protocol;
                body.truncate([0, 36, 56, 8][usize::from(opcode)]);
                datagram.extend(body);
                datagram.extend(options);
                datagram
            },
        )
}

fn check(datagram: &[u8], policy: &Policy) -> Result<(), TestCaseError> {
    let answer = match receive(datagram, CLIENT, policy, 77) {
        Received::Silence | Received::Request(_) => return Ok(()),
        Received::Answer(answer) => answer,
    };
    prop_assert!(answer.len() <= pcp::wire::MAXIMUM_LENGTH);
    // Nobody is made to send much by little (24 octets is the least that PCP can say).
    prop_assert!(answer.len() <= datagram.len().max(32) + 3);
    prop_assert!(answer[1] & 0x80 != 0);
    if answer[0] == 2 {
        prop_assert!(answer.len().is_multiple_of(4));
        prop_assert_eq!(&answer[8..12], 77_u32.to_be_bytes());
    }
    // What was said is not taken for a request.
    prop_assert!(matches!(
        receive(&answer, CLIENT, policy, 77),
        Received::Silence
    ));
    Ok(())
}

proptest! {
    #[test]
    fn anything_is_answered_as_the_rules_say(
        datagram in prop::collection::vec(any::<u8>(), 0..1300),
        policy in policies(),
    ) {
        check(&datagram, &policy)?;
        let _ = nat_pmp::wire::ResponseMessage::decode(&datagram);
        let _ = ResponseMessage::decode(&datagram);
    }

    #[test]
    fn requests_are_decided_or_refused(datagram in requests(), policy in policies()) {
        check(&datagram, &policy)?;
        let received = pcp::server::receive(&datagram, CLIENT, &policy.pcp, 77);
        let PcpReceived::Request(request) = received else {
            return Ok(());
        };
        let granted = Granted { external: CLIENT, port: None, lifetime: 9, ports: 3 };
        let answer = match &request {
            Request::Map(map) => {
                prop_assert!(policy.pcp.map && map.lifetime > 0);
                prop_assert!(policy.pcp.third_party || map.third_party.is_none());
                prop_assert!(policy.pcp.hostnames || map.hostnames.is_empty());
                map.granted(&granted, 77)
            }
            Request::Delete(delete) => delete.deleted(77),
            Request::Peer(peer) => {
                prop_assert!(policy.pcp.peer && peer.remote.port() != 0);
                peer.granted(&granted, 77)
            }
        };
        prop_assert!(answer.len() <= datagram.len());
        let Some(ResponseMessage::Answer(read)) = ResponseMessage::decode(&answer) else {
            return Err(TestCaseError::fail("the answer is none"));
        };
        prop_assert_eq!(read.error, None);
        prop_assert_eq!(read.epoch, 77);
    }

    #[test]
    fn options_are_read_as_they_were_written(octets in options()) {
        let Some(raw) = split_options(&octets) else {
            return Err(TestCaseError::fail("options cannot be told apart"));
        };
        for option in raw {
            let Ok(read) = PcpOption::decode(option) else {
                continue;
            };
            if let PcpOption::Unknown(_) = read {
                continue;
            }
            let mut written = Vec::new();
            read.encode(&mut written);
            let again = split_options(&written).and_then(|it| PcpOption::decode(*it.first()?).ok());
            prop_assert_eq!(again, Some(read));
        }
    }
}
