//! Datagrams by the layouts of RFC 6887, and what is said to them.

use std::net::Ipv4Addr;

use super::super::wire::RequestMessage;
use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 59, 0, 2));
const EXTERNAL: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const EPOCH: u32 = 0x0102_0304;
const POLICY: Policy = Policy {
    map: true,
    peer: true,
    third_party: false,
    wildcards: Wildcards::Unsupported,
    hostnames: true,
};

/// MAP of TCP 8080, external wish 80, for an hour, then options.
fn map_datagram(options: &[u8]) -> Vec<u8> {
    let mut datagram = vec![2, 1, 0, 0, 0, 0, 0x0e, 0x10];
    datagram.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 59, 0, 2]);
    datagram.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    datagram.extend([6, 0, 0, 0, 0x1f, 0x90, 0, 80]);
    datagram.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    datagram.extend(options);
    datagram
}

fn peer_datagram(options: &[u8]) -> Vec<u8> {
    let mut datagram = map_datagram(&[]);
    datagram[1] = 2;
    datagram.extend([1, 187, 0, 0]);
    datagram.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9]);
    datagram.extend(options);
    datagram
}

fn ask(datagram: &[u8], policy: &Policy) -> Received {
    receive(datagram, CLIENT, policy, EPOCH)
}

fn map(datagram: &[u8]) -> MapRequest {
    let Received::Request(Request::Map(request)) = ask(datagram, &POLICY) else {
        panic!("{datagram:02x?} asks for no mapping");
    };
    request
}

fn answer(datagram: &[u8], policy: &Policy) -> Vec<u8> {
    let Received::Answer(answer) = ask(datagram, policy) else {
        panic!("{datagram:02x?} is not answered at once");
    };
    answer
}

/// The result of a datagram that is answered at once; the rest of the answer has to be right for it.
fn refusal(datagram: &[u8], policy: &Policy) -> Option<ErrorCode> {
    let answer = answer(datagram, policy);
    assert_eq!(answer[0], VERSION);
    assert_eq!(answer[1], datagram[1] | RESPONSE_BIT);
    assert_eq!(answer[8..12], EPOCH.to_be_bytes());
    assert!(answer.len().is_multiple_of(4) && answer.len() <= MAXIMUM_LENGTH);
    let code = ErrorCode::from_number(answer[3])?;
    assert_eq!(answer[4..8], code.usual_lifetime().to_be_bytes());
    // Behind the header it is the request.
    let kept = datagram.len().min(answer.len());
    assert_eq!(answer.get(24..kept), datagram.get(24..kept));
    Some(code)
}

fn granted(port: u16, ports: u16) -> Granted {
    Granted {
        external: EXTERNAL,
        port: NonZeroU16::new(port),
        lifetime: 7200,
        ports,
    }
}

#[test]
fn mapping_is_read_and_granted() {
    let request = map(&map_datagram(&[]));
    assert_eq!(request.client, CLIENT);
    assert_eq!(
        request.target,
        Target::Port(Protocol::Tcp, NonZeroU16::new(8080).unwrap())
    );
    assert_eq!(request.suggestion.address, None);
    assert_eq!(request.suggestion.port, NonZeroU16::new(80));
    assert_eq!(request.lifetime, 3600);
    let mut expected = vec![2, 0x81, 0, 0, 0, 0, 0x1c, 0x20, 1, 2, 3, 4];
    expected.extend([0; 12]);
    expected.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    expected.extend([6, 0, 0, 0, 0x1f, 0x90, 0x9c, 0x40]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
    assert_eq!(request.granted(&granted(40000, 1), EPOCH), expected);
}

#[test]
fn refusal_copies_the_request_and_zeroes_what_is_reserved() {
    let datagram = map_datagram(&[2, 0, 0, 0]);
    let request = map(&datagram);
    let refused = Refused {
        code: ErrorCode::NotAuthorized,
        lifetime: Some(77),
    };
    let mut expected = vec![2, 0x81, 0, 2, 0, 0, 0, 77, 1, 2, 3, 4];
    expected.extend([0; 12]);
    expected.extend(&datagram[24..]);
    assert_eq!(request.refused(&refused, EPOCH), expected);
}

#[test]
fn checks_come_in_the_order_of_section_8_2() {
    for silent in [&[][..], &[2], &[2, 0x81], &[7, 0x80], &[2; 23]] {
        assert!(
            matches!(ask(silent, &POLICY), Received::Silence),
            "{silent:?}"
        );
    }
    // Another version of any length, with the fields that the answer has.
    let short = answer(&[3, 1, 9, 9, 9], &POLICY);
    assert_eq!(short[..8], [2, 0x81, 0, 1, 0, 0, 7, 8]);
    assert_eq!(short.len(), 24);
    assert_eq!(answer(&[0, 0], &POLICY)[..4], [2, 0x80, 0, 1]);

    let good = map_datagram(&[]);
    let malformed = Some(ErrorCode::MalformedRequest);
    assert_eq!(refusal(&good[..58], &POLICY), malformed);
    assert_eq!(refusal(&good[..56], &POLICY), malformed);
    let mut long = good.clone();
    long.resize(1104, 0);
    assert_eq!(refusal(&long, &POLICY), malformed);
    assert_eq!(answer(&long, &POLICY).len(), 1100);
    // What could not be read keeps the end of the client's address.
    assert_eq!(answer(&long, &POLICY)[12..24], good[12..24]);

    let mut elsewhere = good.clone();
    elsewhere[23] = 3;
    assert_eq!(
        refusal(&elsewhere, &POLICY),
        Some(ErrorCode::AddressMismatch)
    );
    // The whole prefix counts: ::ff:10.59.0.2 is no IPv4 address.
    let mut other_prefix = good.clone();
    other_prefix[18] = 0;
    assert_eq!(
        refusal(&other_prefix, &POLICY),
        Some(ErrorCode::AddressMismatch)
    );
    let mut unknown = good.clone();
    unknown[1] = 3;
    assert_eq!(
        refusal(&unknown, &POLICY),
        Some(ErrorCode::UnsupportedOpcode)
    );
}

#[test]
fn source_of_a_dual_stack_socket_is_the_same_client() {
    let source = IpAddr::V6(Ipv4Addr::new(10, 59, 0, 2).to_ipv6_mapped());
    let received = receive(&map_datagram(&[]), source, &POLICY, EPOCH);
    assert!(matches!(
        received,
        Received::Request(Request::Map(MapRequest { client: CLIENT, .. }))
    ));
}

#[test]
fn wildcards_follow_the_policy() {
    let all_ports = {
        let mut datagram = map_datagram(&[]);
        datagram[40..44].fill(0);
        datagram
    };
    let mut all_protocols = all_ports.clone();
    all_protocols[36] = 0;
    for datagram in [&all_ports, &all_protocols] {
        assert_eq!(
            refusal(datagram, &POLICY),
            Some(ErrorCode::UnsupportedProtocol)
        );
        let policy = Policy {
            wildcards: Wildcards::Forbidden,
            ..POLICY
        };
        assert_eq!(refusal(datagram, &policy), Some(ErrorCode::NotAuthorized));
    }
    let policy = Policy {
        wildcards: Wildcards::Allowed,
        ..POLICY
    };
    let Received::Request(Request::Map(request)) = ask(&all_protocols, &policy) else {
        panic!("not left to decide");
    };
    assert_eq!(request.target, Target::AllProtocols);
    let nothing = Granted {
        port: None,
        ..granted(1, 1)
    };
    assert_eq!(request.granted(&nothing, EPOCH)[40..44], [0; 4]);

    let mut port_without_protocol = map_datagram(&[]);
    port_without_protocol[36] = 0;
    assert_eq!(
        refusal(&port_without_protocol, &policy),
        Some(ErrorCode::MalformedRequest)
    );
    let mut sctp = map_datagram(&[]);
    sctp[36] = 132;
    assert_eq!(
        refusal(&sctp, &policy),
        Some(ErrorCode::UnsupportedProtocol)
    );
    sctp[4..8].fill(0);
    assert_eq!(refusal(&sctp, &policy), None);
}

#[test]
fn deletion_copies_the_external_fields() {
    let mut datagram = map_datagram(&[]);
    datagram[4..8].fill(0);
    let Received::Request(Request::Delete(request)) = ask(&datagram, &POLICY) else {
        panic!("no deletion");
    };
    let deleted = request.deleted(EPOCH);
    assert_eq!(deleted[..12], [2, 0x81, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(deleted[24..], datagram[24..]);
    for option in [&[2, 0, 0, 0][..], &filter(120, EXTERNAL)] {
        let mut with_option = datagram.clone();
        with_option.extend(option);
        assert_eq!(
            refusal(&with_option, &POLICY),
            Some(ErrorCode::MalformedOption)
        );
    }
}

fn filter(length: u8, address: IpAddr) -> Vec<u8> {
    let mut option = vec![3, 0, 0, 20, 0, length, 0, 0];
    option.extend(super::super::wire::octets_of(address));
    option
}

#[test]
fn options_are_refused_as_each_demands() {
    use ErrorCode::{MalformedOption, MalformedRequest, UnsupportedOption};
    let third_party = |last: u8| {
        let mut option = vec![1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        option.extend([10, 59, 0, last]);
        option
    };
    let trusting = Policy {
        third_party: true,
        ..POLICY
    };
    let twice = |option: &[u8]| [option, option].concat();
    let port_set = [130, 0, 0, 5, 0, 10, 0x1f, 0x90, 0, 0, 0, 0];
    let cases: [(Vec<u8>, &Policy, Option<ErrorCode>); 18] = [
        (vec![9, 0, 0, 8, 0, 0, 0, 0], &POLICY, Some(MalformedOption)),
        (
            vec![200, 0, 0, 5, 0, 0, 0, 0],
            &POLICY,
            Some(MalformedOption),
        ),
        (vec![9, 0, 0, 0], &POLICY, Some(UnsupportedOption)),
        (third_party(3), &POLICY, Some(UnsupportedOption)),
        (third_party(2), &POLICY, Some(UnsupportedOption)),
        (third_party(2), &trusting, Some(MalformedRequest)),
        (twice(&third_party(3)), &trusting, Some(MalformedOption)),
        (twice(&[2, 0, 0, 0]), &POLICY, Some(MalformedOption)),
        (vec![2, 0, 0, 4, 0, 0, 0, 0], &POLICY, Some(MalformedOption)),
        (filter(95, EXTERNAL), &POLICY, Some(MalformedOption)),
        (filter(129, EXTERNAL), &POLICY, Some(MalformedOption)),
        (
            filter(64, "2001:db8::".parse().unwrap()),
            &POLICY,
            Some(MalformedOption),
        ),
        (twice(&port_set), &POLICY, Some(MalformedOption)),
        (
            [&port_set[..], &[2, 0, 0, 0]].concat(),
            &POLICY,
            Some(MalformedOption),
        ),
        (
            vec![130, 0, 0, 5, 0, 0, 0x1f, 0x90, 0, 0, 0, 0],
            &POLICY,
            Some(MalformedOption),
        ),
        (
            vec![130, 0, 0, 5, 0, 9, 0x1f, 0x91, 0, 0, 0, 0],
            &POLICY,
            Some(MalformedOption),
        ),
        (
            vec![224, 0, 0, 2, b'-', b'a', 0, 0],
            &POLICY,
            Some(MalformedOption),
        ),
        (
            vec![224, 0, 0, 1, b'a', 0, 0, 0],
            &Policy {
                hostnames: false,
                ..POLICY
            },
            Some(ErrorCode::HostnameUnsupported),
        ),
    ];
    for (option, policy, expected) in cases {
        assert_eq!(
            refusal(&map_datagram(&option), policy),
            expected,
            "{option:?}"
        );
    }
    let mut any_port = map_datagram(&[2, 0, 0, 0]);
    any_port[42..44].fill(0);
    assert_eq!(refusal(&any_port, &POLICY), Some(MalformedOption));
    let with_preference = peer_datagram(&[2, 0, 0, 0]);
    assert_eq!(refusal(&with_preference, &POLICY), Some(MalformedRequest));
    let with_filter = peer_datagram(&filter(120, EXTERNAL));
    assert_eq!(refusal(&with_filter, &POLICY), Some(MalformedOption));
}

#[test]
fn processed_options_come_back_and_others_do_not() {
    let hostname = b"\xe0\x00\x00\x10blog.example.org";
    let unknown = [201, 0, 0, 1, 7, 0, 0, 0];
    let sent = [
        &unknown[..],
        hostname,
        &filter(120, EXTERNAL),
        &filter(0, EXTERNAL),
    ];
    let request = map(&map_datagram(&sent.concat()));
    assert_eq!(
        request.hostnames,
        [Hostname::new("blog.example.org").unwrap()]
    );
    let [FilterChange::Add(added), FilterChange::Clear] = request.filters[..] else {
        panic!("{:?}", request.filters);
    };
    assert_eq!(added.prefix, "198.51.100.0/24".parse().unwrap());
    let answer = request.granted(&granted(40000, 1), EPOCH);
    assert_eq!(answer[60..], sent[1..].concat());
}

#[test]
fn port_set_says_how_many_ports_there_are() {
    let option = [130, 0, 0, 5, 0xff, 0xff, 0x1f, 0x90, 1, 0, 0, 0];
    let request = map(&map_datagram(&option));
    let set = request.port_set.unwrap();
    assert_eq!((set.size, set.parity), (65535 - 8080 + 1, true));
    let answer = request.granted(&granted(40000, 32), EPOCH);
    assert_eq!(answer[60..], [130, 0, 0, 5, 0, 32, 0x1f, 0x90, 1, 0, 0, 0]);
    // One port is answered as one port.
    assert_eq!(request.granted(&granted(40000, 1), EPOCH).len(), 60);
}

#[test]
fn peer_is_read_and_granted() {
    let datagram = peer_datagram(&[]);
    let Received::Request(Request::Peer(request)) = ask(&datagram, &POLICY) else {
        panic!("no peer");
    };
    assert_eq!(request.remote, "203.0.113.9:443".parse().unwrap());
    let answer = request.granted(&granted(40000, 1), EPOCH);
    assert_eq!(answer.len(), 80);
    assert_eq!(answer[..4], [2, 0x82, 0, 0]);
    assert_eq!(answer[60..], datagram[60..]);
    let malformed = Some(ErrorCode::MalformedRequest);
    for (at, octet) in [(60, 0), (76, 127), (76, 224)] {
        let mut bad = datagram.clone();
        bad[at] = octet;
        if at == 60 {
            bad[61] = 0;
        }
        assert_eq!(refusal(&bad, &POLICY), malformed, "octet {at}");
    }
    let closed = Policy {
        peer: false,
        ..POLICY
    };
    assert_eq!(refusal(&datagram, &closed), Some(ErrorCode::NotAuthorized));
}

#[test]
fn announcement_shows_that_hostnames_are_known() {
    let mut datagram = map_datagram(&[]);
    datagram.truncate(24);
    datagram[1] = 0;
    datagram[4..8].fill(0);
    let mut expected = vec![2, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    expected.extend([0; 12]);
    let without = Policy {
        hostnames: false,
        ..POLICY
    };
    assert_eq!(answer(&datagram, &without), expected);
    expected.extend([0xe1, 0, 0, 4, 0x53, 0x39, 0x3b, 0x01]);
    assert_eq!(answer(&datagram, &POLICY), expected);
}

#[test]
fn what_a_client_writes_is_what_the_server_reads() {
    let message = RequestMessage {
        client: CLIENT,
        lifetime: 3600,
        body: Body::Map(MapBody {
            nonce: Nonce([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            protocol: 6,
            internal_port: 8080,
            external_port: 80,
            external: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }),
        options: vec![PcpOption::PreferFailure],
    };
    assert_eq!(message.encode(), map_datagram(&[2, 0, 0, 0]));
}
