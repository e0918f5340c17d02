//! Datagrams by the layouts of RFC 6886, and what is said to them.

use super::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 59, 0, 2);
const EPOCH: u32 = 0x0102_0304;

fn request(datagram: &[u8]) -> Request {
    let Received::Request(request) = receive(datagram, CLIENT, true, EPOCH) else {
        panic!("{datagram:02x?} leads to something else");
    };
    request
}

fn answer(datagram: &[u8], map: bool) -> Vec<u8> {
    let Received::Answer(answer) = receive(datagram, CLIENT, map, EPOCH) else {
        panic!("{datagram:02x?} leads to something else");
    };
    answer
}

#[test]
fn external_address_is_answered_with_twelve_octets() {
    let Request::ExternalAddress(request) = request(&[0, 0]) else {
        panic!("no request for the address");
    };
    let address = Ipv4Addr::new(198, 51, 100, 7);
    let expected = [0, 128, 0, 0, 1, 2, 3, 4, 198, 51, 100, 7];
    assert_eq!(request.granted(address, EPOCH), expected);
    let expected = [0, 128, 0, 3, 1, 2, 3, 4, 0, 0, 0, 0];
    assert_eq!(request.refused(ErrorCode::NetworkFailure, EPOCH), expected);
    assert_eq!(announcement(address, EPOCH)[..4], [0, 128, 0, 0]);
}

#[test]
fn mapping_is_answered_with_sixteen_octets() {
    let datagram = [0, 2, 0xff, 0xff, 0x1f, 0x90, 0, 80, 0, 0, 0x1c, 0x20];
    let Request::Map(request) = request(&datagram) else {
        panic!("no request for a mapping");
    };
    assert_eq!(request.protocol, Protocol::Tcp);
    assert_eq!(request.internal_port.get(), 8080);
    assert_eq!(request.suggested.map(NonZeroU16::get), Some(80));
    assert_eq!(request.lifetime.get(), 7200);
    let granted = Granted {
        port: NonZeroU16::new(40001).unwrap(),
        lifetime: 3600,
    };
    let expected = [
        0, 130, 0, 0, 1, 2, 3, 4, 0x1f, 0x90, 0x9c, 0x41, 0, 0, 0x0e, 0x10,
    ];
    assert_eq!(request.granted(&granted, EPOCH), expected);
    let expected = [0, 130, 0, 4, 1, 2, 3, 4, 0x1f, 0x90, 0, 0, 0, 0, 0, 0];
    assert_eq!(request.refused(ErrorCode::OutOfResources, EPOCH), expected);
}

#[test]
fn deletions_are_told_apart() {
    let one = [0, 1, 0, 0, 0, 53, 0, 80, 0, 0, 0, 0];
    let Request::Delete(request_for_one) = request(&one) else {
        panic!("no deletion");
    };
    let expected = [0, 129, 0, 0, 1, 2, 3, 4, 0, 53, 0, 0, 0, 0, 0, 0];
    assert_eq!(request_for_one.deleted(EPOCH), expected);
    let all = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(request(&all), Request::DeleteAll(_)));
    // Neither a mapping nor a deletion of anything: internal port 0 with an external port, or with a lifetime.
    for odd in [[0, 80, 0, 0], [0, 0, 0, 9]] {
        let datagram = [0, 1, 0, 0, 0, 0, odd[0], odd[1], 0, 0, odd[2], odd[3]];
        assert_eq!(answer(&datagram, true)[2..4], [0, 2]);
    }
}

#[test]
fn who_may_not_map_is_refused_and_still_learns_the_address() {
    let datagram = [0, 1, 0, 0, 0, 53, 0, 80, 0, 0, 0x1c, 0x20];
    let expected = [0, 129, 0, 2, 1, 2, 3, 4, 0, 53, 0, 0, 0, 0, 0, 0];
    assert_eq!(answer(&datagram, false), expected);
    assert!(matches!(
        receive(&[0, 0], CLIENT, false, EPOCH),
        Received::Request(Request::ExternalAddress(_))
    ));
}

#[test]
fn what_is_unknown_comes_back_and_what_is_cut_off_does_not() {
    assert_eq!(answer(&[0, 3], true), [0, 131, 0, 5]);
    assert_eq!(answer(&[0, 9, 7, 7, 7], true), [0, 137, 0, 5, 7]);
    for silent in [
        &[][..],
        &[0],
        &[0, 128],
        &[0, 130, 0, 0],
        &[0, 1, 0, 0, 0, 53],
    ] {
        let received = receive(silent, CLIENT, true, EPOCH);
        assert!(matches!(received, Received::Silence), "{silent:?}");
    }
}
