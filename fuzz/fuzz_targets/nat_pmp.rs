//! NAT-PMP to a server and to a client: the first octet is the policy, the rest the datagram.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Instant;

use adit_model::protocol::Protocol;
use adit_proto::nat_pmp::client::Client;
use adit_proto::nat_pmp::server::{Granted, Received, Request, receive};
use adit_proto::nat_pmp::wire::{ErrorCode, ResponseMessage};
use adit_proto::port_control::wish::{MappingId, Wish};
use libfuzzer_sys::fuzz_target;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 1);

fuzz_target!(|input: &[u8]| {
    let Some((flags, datagram)) = input.split_first() else {
        return;
    };
    serve(flags & 1 != 0, datagram);
    ask(datagram);
});

fn serve(map: bool, datagram: &[u8]) {
    let code = ErrorCode::OutOfResources;
    let answers = match receive(datagram, CLIENT, map, 77) {
        Received::Silence | Received::Answer(_) => return,
        Received::Request(Request::ExternalAddress(request)) => {
            [request.granted(SERVER, 77), request.refused(code, 77)]
        }
        Received::Request(Request::Map(request)) => {
            assert!(map);
            let granted = Granted {
                port: NonZeroU16::MAX,
                lifetime: request.lifetime.get(),
            };
            [request.granted(&granted, 77), request.refused(code, 77)]
        }
        Received::Request(Request::Delete(request)) => {
            [request.deleted(77), request.refused(code, 77)]
        }
        Received::Request(Request::DeleteAll(request)) => {
            [request.deleted(77), request.refused(code, 77)]
        }
    };
    for answer in answers {
        assert!(ResponseMessage::decode(&answer).is_some());
    }
}

fn ask(datagram: &[u8]) {
    let now = Instant::now();
    let server = SocketAddr::new(IpAddr::V4(SERVER), 5351);
    let mut client = Client::new(server, 1, now);
    let port = NonZeroU16::MIN.saturating_add(8079);
    client.insert(MappingId(1), Wish::new(Protocol::Tcp, port, 3600), now);
    client.handle_timeout(now);
    client.handle_input(datagram, server, now);
    client.handle_input(datagram, server, now);
    for _ in 0..20 {
        let Some(next) = client.poll_timeout() else {
            break;
        };
        client.handle_timeout(next);
    }
    while client.poll_event().is_some() {}
}
