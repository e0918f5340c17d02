//! The client beside our own server, and with what other gateways say.

use std::net::Ipv4Addr;

use super::{
    DescriptionError, ExchangeError, Location, MappedPort, Mapper, RemoteGateway, SearchTarget,
};
use crate::igd::action::{Action, Answer, Mapping, Outside, PortProtocol, samples};
use crate::igd::description::Identity;
use crate::igd::fault::Fault;
use crate::igd::server::{Connection, Event, Seen};
use crate::igd::service::{Service, Version};
use crate::igd::ssdp::receive_search;

fn identity() -> Identity {
    Identity {
        seed: [9; 16],
        name: "Adit".to_owned(),
        software: "0.1.0".to_owned(),
        boot: 1,
    }
}

/// Carries an exchange to a connection of ours and back, some bytes at a time.
fn carry(
    mut exchange: super::Exchange,
    mut outcome: impl FnMut(Action) -> Result<Answer, Fault>,
) -> super::Exchange {
    let mut connection = Connection::new(identity(), exchange.address());
    let request = exchange.poll_transmit().unwrap();
    for piece in request.chunks(11) {
        connection.handle_input(piece);
    }
    match connection.poll_event() {
        Some(Event::Call(request)) => connection.handle_outcome(outcome(request.action)),
        Some(Event::Seen(_)) => connection.handle_seen(Some([203, 0, 113, 2].into())),
        None => {}
    }
    while let Some(bytes) = connection.poll_transmit() {
        for piece in bytes.chunks(7) {
            exchange.handle_input(piece);
        }
    }
    assert!(connection.is_finished());
    exchange
}

fn found(version: Version) -> RemoteGateway {
    let server = "10.59.0.1:5000".parse().unwrap();
    let target = SearchTarget::Gateway(version);
    let search = target.search("239.255.255.250:1900".parse().unwrap(), 2);
    let answers = receive_search(&search, true, &identity(), server)
        .unwrap()
        .answers;
    // A device of version 2 answers for version 1, too, and after it.
    let answer = answers.first().unwrap();
    assert_eq!(target.answered(answer, "10.59.0.2".parse().unwrap()), None);
    let location = target.answered(answer, server.ip()).unwrap();
    let exchange = carry(location.describe(), |action| panic!("{action:?}"));
    let document = exchange.outcome().unwrap().unwrap();
    RemoteGateway::from_description(&location, document).unwrap()
}

#[test]
fn everything_that_can_be_asked_comes_through() {
    let first = found(Version::One);
    let second = found(Version::Two);
    assert_eq!(
        (first.version(), second.version()),
        (Some(Version::One), Some(Version::Two))
    );
    assert_eq!((first.has_pinholes(), second.has_pinholes()), (false, true));
    for (service, action, answer) in samples() {
        let gateway = match service {
            Service::WanIpConnection(Version::One) | Service::WanCommonInterfaceConfig => &first,
            Service::WanIpConnection(Version::Two)
            | Service::WanIpv6FirewallControl
            | Service::Layer3Forwarding => &second,
        };
        let exchange = carry(gateway.call(&action).unwrap(), |asked| {
            assert_eq!(asked, action);
            Ok(answer.clone())
        });
        let body = exchange.outcome().unwrap().unwrap();
        assert_eq!(gateway.read(&action, body), Ok(answer));
        let exchange = carry(gateway.call(&action).unwrap(), |_| {
            Err(Fault::NotAuthorized)
        });
        let body = exchange.outcome().unwrap().unwrap();
        assert_eq!(
            gateway.read(&action, body),
            Err(super::CallError::Fault(Fault::NotAuthorized))
        );
    }
}

#[test]
fn nothing_leads_elsewhere() {
    let location = Location::parse("http://192.168.1.1:49152/rootDesc.xml").unwrap();
    let describe = |base: &str, control: &str| {
        let document = format!(
            "<root>{base}<device><deviceList><device><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
             <controlURL>{control}</controlURL></service></serviceList></device></deviceList></device></root>"
        );
        RemoteGateway::from_description(&location, document.as_bytes()).map(|gateway| {
            gateway
                .services
                .into_iter()
                .map(|(_, location)| location)
                .next()
                .unwrap()
        })
    };
    for (base, control, expected) in [
        ("", "/ctl", "http://192.168.1.1:49152/ctl"),
        ("", "ctl", "http://192.168.1.1:49152/ctl"),
        ("", "http://192.168.1.1:80/ctl", "http://192.168.1.1:80/ctl"),
        (
            "<URLBase>http://192.168.1.1:5000/a/b</URLBase>",
            "ctl",
            "http://192.168.1.1:5000/a/ctl",
        ),
        (
            "<URLBase>http://10.0.0.1:5000/</URLBase>",
            "ctl",
            "http://192.168.1.1:49152/ctl",
        ),
    ] {
        assert_eq!(
            describe(base, control),
            Ok(Location::parse(expected).unwrap()),
            "{base} {control}"
        );
    }
    for control in [
        "http://10.0.0.1/ctl",
        "https://192.168.1.1/ctl",
        "http://router/ctl",
        "",
        "/a&#10;b",
    ] {
        assert_eq!(
            describe("", control),
            Err(DescriptionError::NoService),
            "{control}"
        );
    }
    for url in [
        "http://router/x",
        "https://10.0.0.1/",
        "10.0.0.1",
        "http://10.0.0.1:0/",
        "http://10.0.0.1/a b",
    ] {
        assert_eq!(Location::parse(url), None, "{url}");
    }
    assert_eq!(
        Location::parse("http://[fd00::1]/x").unwrap().address,
        "[fd00::1]:80".parse().unwrap()
    );
}

#[test]
fn other_statuses_are_no_answer() {
    let location = Location::parse("http://192.168.1.1/x").unwrap();
    let mut exchange = location.describe();
    exchange.handle_input(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(exchange.outcome(), Some(Err(ExchangeError::Status(404))));
    let mut endless = location.describe();
    endless.handle_input(b"HTTP/1.1 200 OK\r\n\r\n");
    for _ in 0..200 {
        endless.handle_input(&[b'x'; 1024]);
    }
    assert!(matches!(
        endless.outcome(),
        Some(Err(ExchangeError::Http(_)))
    ));
}

fn wish() -> Mapping {
    Mapping {
        outside: Outside::Anyone,
        external_port: 65535,
        protocol: PortProtocol::Tcp,
        internal_port: 8080,
        internal_client: Ipv4Addr::new(192, 168, 1, 2),
        enabled: true,
        description: "adit".to_owned(),
        lease: 3600,
    }
}

#[test]
fn a_gateway_of_permanent_leases_and_taken_ports() {
    let mut mapper = Mapper::new(&found(Version::One), wish());
    mapper.handle_answer(Err(Fault::OnlyPermanentLeases));
    mapper.handle_answer(Err(Fault::Conflict));
    let expected = Mapping {
        external_port: 1024,
        lease: 0,
        ..wish()
    };
    assert_eq!(mapper.next_action(), Some(Action::Add(expected)));
    mapper.handle_answer(Ok(Answer::Done));
    let port = MappedPort {
        external_port: 1024,
        lease: 0,
    };
    assert_eq!(mapper.outcome(), Some(Ok(port)));
    assert_eq!(mapper.next_action(), None);
}

#[test]
fn a_gateway_of_version_two_chooses() {
    let mut mapper = Mapper::new(&found(Version::Two), wish());
    assert_eq!(mapper.next_action(), Some(Action::AddAny(wish())));
    mapper.handle_answer(Ok(Answer::Reserved(7777)));
    assert_eq!(mapper.outcome().unwrap().unwrap().external_port, 7777);

    let mut poor = Mapper::new(&found(Version::Two), wish());
    poor.handle_answer(Err(Fault::InvalidAction));
    assert_eq!(poor.next_action(), Some(Action::Add(wish())));
}

#[test]
fn no_gateway_is_asked_for_ever() {
    for fault in [
        Fault::Conflict,
        Fault::OnlyPermanentLeases,
        Fault::NotAuthorized,
        Fault::Other(799),
    ] {
        let mut mapper = Mapper::new(&found(Version::One), wish());
        let mut asked = 0;
        while mapper.next_action().is_some() {
            mapper.handle_answer(Err(fault));
            asked += 1;
        }
        assert!(asked <= 16, "{fault:?}");
        assert_eq!(mapper.outcome(), Some(Err(fault)));
    }
}

#[test]
fn gateway_of_ours_tells_how_this_host_is_seen() {
    for seen in Seen::ALL {
        let exchange = seen.ask("10.59.0.1:5000".parse().unwrap());
        let exchange = carry(exchange, |action| panic!("{action:?}"));
        let body = exchange.outcome().unwrap().unwrap();
        assert_eq!(Seen::read(body), Some([203, 0, 113, 2].into()));
    }
    assert_eq!(Seen::read(b"<html>"), None);
}
