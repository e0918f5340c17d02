//! PCP to a server and to a client: the first octet is the policy, the rest the datagram.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use adit_model::protocol::Protocol;
use adit_proto::pcp::client::Client;
use adit_proto::pcp::server::{Granted, Policy, Received, Refused, Request, Wildcards, receive};
use adit_proto::pcp::wire::{ErrorCode, MAXIMUM_LENGTH, Nonce, ResponseMessage};
use adit_proto::port_control::wish::{MappingId, Wish};
use libfuzzer_sys::fuzz_target;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 59, 0, 2));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 59, 0, 1));

fuzz_target!(|input: &[u8]| {
    let Some((flags, datagram)) = input.split_first() else {
        return;
    };
    serve(*flags, datagram);
    ask(datagram);
});

fn serve(flags: u8, datagram: &[u8]) {
    let policy = Policy {
        map: flags & 1 != 0,
        peer: flags & 2 != 0,
        third_party: flags & 4 != 0,
        wildcards: match flags >> 6 {
            0 => Wildcards::Unsupported,
            1 => Wildcards::Forbidden,
            _ => Wildcards::Allowed,
        },
        hostnames: flags & 8 != 0,
    };
    let granted = Granted {
        external: CLIENT,
        port: NonZeroU16::new(40000),
        lifetime: 7200,
        ports: u16::from(flags) + 1,
    };
    let refused = Refused::from(ErrorCode::NoResources);
    let answers = match receive(datagram, CLIENT, &policy, 77) {
        Received::Silence => return,
        Received::Answer(answer) => {
            assert!(answer.len() <= MAXIMUM_LENGTH);
            return;
        }
        Received::Request(Request::Map(map)) => {
            assert!(map.lifetime > 0);
            [map.granted(&granted, 77), map.refused(&refused, 77)]
        }
        Received::Request(Request::Delete(delete)) => {
            [delete.deleted(77), delete.refused(&refused, 77)]
        }
        Received::Request(Request::Peer(peer)) => {
            [peer.granted(&granted, 77), peer.refused(&refused, 77)]
        }
    };
    for answer in answers {
        assert!(answer.len() <= datagram.len());
        assert!(ResponseMessage::decode(&answer).is_some());
    }
}

fn ask(datagram: &[u8]) {
    let now = Instant::now();
    let server = SocketAddr::new(SERVER, 5351);
    let mut client = Client::new(server, CLIENT, 1, now);
    let port = NonZeroU16::MIN.saturating_add(8079);
    let wish = Wish::new(Protocol::Tcp, port, 3600);
    client.insert(MappingId(1), wish, Nonce(*b"ABCDEFGHIJKL"), now);
    client.handle_timeout(now);
    client.handle_input(datagram, server, now);
    for _ in 0..10 {
        let Some(next) = client.poll_timeout() else {
            break;
        };
        client.handle_timeout(next.max(now + Duration::from_secs(1)));
    }
    while client.poll_event().is_some() {}
    while let Some(transmit) = client.poll_transmit() {
        assert!(transmit.datagram.len() <= MAXIMUM_LENGTH);
    }
}
