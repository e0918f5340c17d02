//! Requests as clients send them, and as nobody should.

use super::{Connection, Event, Request, Seen};
use crate::igd::action::{Action, Answer, Mapping, Outside, PortProtocol};
use crate::igd::description::Identity;
use crate::igd::fault::Fault;
use crate::igd::service::{Service, Version};

fn connection() -> Connection {
    let identity = Identity {
        seed: [1; 16],
        name: "Adit".to_owned(),
        software: "0.1.0".to_owned(),
        boot: 1,
    };
    Connection::new(identity, "10.59.0.1:5000".parse().unwrap())
}

fn called(connection: &mut Connection) -> Request {
    match connection.poll_event() {
        Some(Event::Call(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// Everything that is said to these bytes, as long as no outcome is owed.
fn answer(bytes: &[u8]) -> String {
    let mut connection = connection();
    connection.handle_input(bytes);
    assert_eq!(connection.poll_event(), None);
    let said = connection.poll_transmit().unwrap_or_default();
    assert!(said.is_empty() || connection.is_finished());
    String::from_utf8(said).unwrap()
}

fn status(bytes: &[u8]) -> String {
    answer(bytes).chars().skip(9).take(3).collect()
}

/// As miniupnpc 2.2 sends it.
fn miniupnpc(body: &str) -> String {
    format!(
        "POST /igd1/control/WANIPConnection HTTP/1.1\r\nHost: 10.59.0.1:5000\r\n\
         User-Agent: Debian/12, UPnP/1.1, MiniUPnPc/2.2.4\r\nContent-Length: {}\r\n\
         Content-Type: text/xml\r\n\
         SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\"\r\n\
         Connection: Close\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n\r\n{body}",
        body.len()
    )
}

const ADD: &str = concat!(
    "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" ",
    "s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>",
    "<u:AddPortMapping xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">",
    "<NewRemoteHost></NewRemoteHost><NewExternalPort>8080</NewExternalPort><NewProtocol>TCP</NewProtocol>",
    "<NewInternalPort>80</NewInternalPort><NewInternalClient>10.59.0.2</NewInternalClient>",
    "<NewEnabled>1</NewEnabled><NewPortMappingDescription>libminiupnpc</NewPortMappingDescription>",
    "<NewLeaseDuration>0</NewLeaseDuration></u:AddPortMapping></s:Body></s:Envelope>\r\n"
);

#[test]
fn a_mapping_is_asked_and_granted() {
    let mut connection = connection();
    connection.handle_input(miniupnpc(ADD).as_bytes());
    let request = called(&mut connection);
    let mapping = Mapping {
        outside: Outside::Anyone,
        external_port: 8080,
        protocol: PortProtocol::Tcp,
        internal_port: 80,
        internal_client: [10, 59, 0, 2].into(),
        enabled: true,
        description: "libminiupnpc".to_owned(),
        lease: 0,
    };
    assert_eq!(
        request,
        Request {
            service: Service::WanIpConnection(Version::One),
            device: Version::One,
            action: Action::Add(mapping),
        }
    );
    assert_eq!(connection.poll_event(), None);
    assert!(!connection.is_finished());
    connection.handle_outcome(Ok(Answer::Done));
    let said = String::from_utf8(connection.poll_transmit().unwrap()).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(said.contains(
        "<u:AddPortMappingResponse xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">"
    ));
    assert!(connection.is_finished());
}

#[test]
fn a_refusal_and_a_wrong_answer_are_faults() {
    for (outcome, code) in [(Err(Fault::Conflict), 718), (Ok(Answer::Works(true)), 501)] {
        let mut connection = connection();
        connection.handle_input(miniupnpc(ADD).as_bytes());
        connection.poll_event().unwrap();
        connection.handle_outcome(outcome);
        let said = String::from_utf8(connection.poll_transmit().unwrap()).unwrap();
        assert!(said.starts_with("HTTP/1.1 500 "), "{said}");
        assert!(
            said.contains(&format!("<errorCode>{code}</errorCode>")),
            "{said}"
        );
    }
}

#[test]
fn version_two_serves_those_who_know_version_one() {
    let mut connection = connection();
    connection.handle_input(miniupnpc(ADD).replace("/igd1/", "/igd2/").as_bytes());
    let request = called(&mut connection);
    assert_eq!(request.service, Service::WanIpConnection(Version::One));
    assert_eq!(request.device, Version::Two);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    for (from, to) in [
        (">8080<", ">65536<"),
        (">8080<", ">-1<"),
        (">8080<", "><"),
        (">TCP<", ">SCTP<"),
        (">10.59.0.2<", ">nas<"),
        (">10.59.0.2<", "><"),
        ("<NewEnabled>1<", "<NewEnabled>2<"),
        ("<NewLeaseDuration>0<", "<NewLeaseDuration>x<"),
        ("<NewInternalPort>80</NewInternalPort>", ""),
        (
            "<NewProtocol>TCP</NewProtocol>",
            "<NewProtocol>TCP</NewProtocol><NewProtocol>UDP</NewProtocol>",
        ),
        (">8080<", "><a>8080</a><"),
    ] {
        assert!(ADD.contains(from), "{from}");
        let said = answer(miniupnpc(&ADD.replacen(from, to, 1)).as_bytes());
        assert!(said.contains("<errorCode>402</errorCode>"), "{to}: {said}");
    }
    let unheard =
        miniupnpc(&ADD.replace("AddPortMapping", "Unheard")).replace("#AddPortMapping", "#Unheard");
    assert!(answer(unheard.as_bytes()).contains("<errorCode>401</errorCode>"));
}

#[test]
fn documents_are_handed_out() {
    for path in [
        "/igd1/description.xml",
        "/igd2/description.xml",
        "/igd2/WANIPv6FirewallControl.xml",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 10.59.0.1:5000\r\n\r\n");
        let said = answer(request.as_bytes());
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        let (_, document) = said.split_once("\r\n\r\n").unwrap();
        assert!(said.contains(&format!("Content-Length: {}\r\n", document.len())));
        let bare = answer(request.replace("GET", "HEAD").as_bytes());
        assert_eq!(bare, said.split_once(document).unwrap().0);
        let absolute = request.replace(path, &format!("http://10.59.0.1:5000{path}"));
        assert_eq!(answer(absolute.as_bytes()), said);
    }
}

#[test]
fn what_never_varies_is_answered_at_once() {
    let call = |name: &str, inside: &str| {
        let body = ADD.split_once("<u:").unwrap().0.to_owned()
            + &format!(
                "<u:{name} xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">{inside}</u:{name}>"
            )
            + "</s:Body></s:Envelope>";
        answer(
            miniupnpc(&body)
                .replace("#AddPortMapping", &format!("#{name}"))
                .as_bytes(),
        )
    };
    assert!(call("GetConnectionTypeInfo", "").contains("<NewConnectionType>IP_Routed<"));
    assert!(call("GetNATRSIPStatus", "").contains("<NewNATEnabled>1<"));
    assert!(call("RequestConnection", "").starts_with("HTTP/1.1 200 "));
    assert!(call("ForceTermination", "").contains("<errorCode>606<"));
    let kind = |kind: &str| {
        call(
            "SetConnectionType",
            &format!("<NewConnectionType>{kind}</NewConnectionType>"),
        )
    };
    assert!(kind("IP_Routed").starts_with("HTTP/1.1 200 "));
    assert!(kind("IP_Bridged").contains("<errorCode>606<"));
}

#[test]
fn nobody_is_fooled() {
    let ok = miniupnpc(ADD);
    for (request, expected) in [
        (
            ok.replace("Host: 10.59.0.1:5000", "Host: evil.example"),
            "403",
        ),
        (ok.replace("Host: 10.59.0.1:5000", "Host: 10.59.0.3"), "403"),
        (ok.replace("Host: 10.59.0.1:5000\r\n", ""), "400"),
        (
            ok.replace(
                "Host: 10.59.0.1:5000",
                "Host: 10.59.0.1\r\nHost: evil.example",
            ),
            "400",
        ),
        (ok.replace("POST /", "POST http://evil.example/"), "403"),
        (ok.replace("POST", "PUT"), "405"),
        (ok.replace("POST", "GET"), "405"),
        (
            ok.replace("/igd1/control/WANIPConnection", "/igd1/description.xml"),
            "405",
        ),
        (ok.replace("/igd1/", "/igd3/"), "404"),
        (ok.replace("/igd1/", "/../igd1/"), "404"),
        (ok.replace("SOAPAction", "X-Action"), "400"),
        (
            ok.replace("POST /igd1/control", "SUBSCRIBE /igd1/event"),
            "501",
        ),
        (
            ok.replace("Content-Length: ", "Content-Length: 9999"),
            "413",
        ),
        (
            ok.replace("Pragma: no-cache", &"a: b\r\n".repeat(70)),
            "431",
        ),
        (
            ok.replace("Pragma: no-cache", &format!("a: {}", "b".repeat(9000))),
            "431",
        ),
        (ok.replace("<NewEnabled>1", "<NewEnabled>&e;"), "400"),
        (ok.replace("HTTP/1.1", "HTTP/2.0"), "400"),
        ("\u{16}\u{3}\u{1}\n\n".to_owned(), "400"),
    ] {
        assert_eq!(status(request.as_bytes()), expected, "{request:.200}");
    }
    let bomb = ADD.replace(
        "<s:Envelope",
        "<!DOCTYPE s [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><s:Envelope",
    );
    assert_eq!(status(miniupnpc(&bomb).as_bytes()), "400");
    let deep = miniupnpc(&format!("{}{}", "<a>".repeat(2000), "</a>".repeat(2000)));
    assert_eq!(status(deep.as_bytes()), "400");
}

#[test]
fn a_client_that_waits_for_permission_gets_it_once() {
    let request = miniupnpc(ADD).replace("Pragma: no-cache", "Expect: 100-continue");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut connection = connection();
    connection.handle_input(format!("{head}\r\n\r\n").as_bytes());
    assert_eq!(
        connection.poll_transmit().unwrap(),
        b"HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert!(!connection.is_finished());
    connection.handle_input(body.as_bytes());
    assert!(connection.poll_event().is_some());
}

#[test]
fn an_end_in_the_middle_is_the_end() {
    let mut connection = connection();
    connection.handle_input(b"POST /igd1/control/WANIPConnection HTTP/1.1\r\nHo");
    connection.handle_end();
    assert!(connection.is_finished());
    assert_eq!(connection.poll_transmit(), None);
}

#[test]
fn a_client_is_told_how_it_is_seen() {
    let ask = |method: &str, path: &str, host: &str| {
        let mut connection = connection();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.handle_input(request.as_bytes());
        connection
    };
    let here = "10.59.0.1:5000";
    for (path, seen) in [("/address", Seen::Address), ("/endpoint", Seen::Endpoint)] {
        let mut asked = ask("GET", path, here);
        assert_eq!(asked.poll_event(), Some(Event::Seen(seen)));
        // An outcome of something else is none.
        asked.handle_outcome(Ok(Answer::Done));
        assert!(!asked.is_finished());
        asked.handle_seen(Some([203, 0, 113, 2].into()));
        let said = String::from_utf8(asked.poll_transmit().unwrap()).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.ends_with("\r\n\r\n203.0.113.2\n"), "{said}");
        assert!(said.contains("Content-Length: 12\r\n"), "{said}");
        let mut nothing = ask("GET", path, here);
        nothing.poll_event().unwrap();
        nothing.handle_seen(None);
        let said = String::from_utf8(nothing.poll_transmit().unwrap()).unwrap();
        assert!(said.starts_with("HTTP/1.1 404 "), "{said}");
    }
    for (method, host, status) in [
        ("POST", here, "405"),
        ("HEAD", here, "405"),
        ("GET", "gateway.test", "403"),
    ] {
        let mut asked = ask(method, "/address", host);
        assert_eq!(asked.poll_event(), None, "{method} {host}");
        let said = String::from_utf8(asked.poll_transmit().unwrap()).unwrap();
        assert_eq!(&said[9..12], status, "{method} {host}");
    }
}
