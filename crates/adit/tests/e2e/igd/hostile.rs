//! What nobody should send to a UPnP gateway, and who should not reach one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use socket2::SockRef;

use super::{GATEWAY, SHORT};
use crate::support::{Capture, Device, Findings, Injector, PUBLIC4, World, at, connect, udp, udp4};

const PORT: u16 = 5351;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SEARCH: &str = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";

#[test]
fn hostile_requests_and_outsiders() -> Result<()> {
    let world = World::with_subnet("routed", "e2e-igd-hostile")?;
    let server = world.join("box", "--kind server")?;
    let client = world.join("laptop", "--kind client")?;
    let mut findings = Findings::default();
    findings.check("requests", requests(&world, &server));
    findings.check("half of a request", halves(&server));
    findings.check("a search", search(&server, at(GATEWAY, 1900), true));
    findings.check(
        "a search of the group",
        search(&server, at(GROUP, 1900), true),
    );
    findings.check("a search in IPv6", search_in_ipv6(&server));
    findings.check("devices that may not ask", silent(&client));
    findings.check("many connections", many(&world, &server, &client));
    findings.check("from the uplink", outside(&world));
    findings.check("in a device's name", spoofed(&world, &server));
    findings.check("it still answers", answers(&server));
    findings.conclude()
}

/// What is answered on one connection, to the end.
fn ask(device: &Device, request: &str) -> Result<String> {
    let mut stream = connect(&device.host, None, at(GATEWAY, PORT), SHORT * 3)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    // It may be refused before all of it is there.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let text = String::from_utf8(answer)?;
    end.with_context(|| format!("after {text:?}"))?;
    Ok(text)
}

fn call(body: &str) -> String {
    format!(
        "POST /igd2/control/WANIPConnection HTTP/1.1\r\nHost: {GATEWAY}:{PORT}\r\n\
         SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:2#GetExternalIPAddress\"\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn body() -> String {
    "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
     <u:GetExternalIPAddress xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:2\"/></s:Body></s:Envelope>"
        .to_owned()
}

fn answers(device: &Device) -> Result<()> {
    let answer = ask(device, &call(&body()))?;
    ensure!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!(">{PUBLIC4}<")),
        "{answer}"
    );
    Ok(())
}

fn requests(world: &World, device: &Device) -> Result<()> {
    answers(device)?;
    let before = world.revision()?;
    let entities = body().replacen(
        "<s:Envelope",
        "<!DOCTYPE s [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]><s:Envelope",
        1,
    );
    let deep = format!("{}{}", "<a>".repeat(2000), "</a>".repeat(2000));
    let good = call(&body());
    for (what, request, status) in [
        ("entities", call(&entities), "400"),
        ("deep XML", call(&deep), "400"),
        ("no XML", call("hello"), "400"),
        ("a large body", call(&"x".repeat(20_000)), "413"),
        (
            "a long header",
            good.replacen("Host", &format!("X: {}\r\nHost", "y".repeat(10_000)), 1),
            "431",
        ),
        (
            "many headers",
            good.replacen("Host", &format!("{}Host", "X: y\r\n".repeat(100)), 1),
            "431",
        ),
        (
            "a foreign host",
            good.replacen(&format!("Host: {GATEWAY}"), "Host: gateway.example", 1),
            "403",
        ),
        (
            "no host",
            good.replacen(&format!("Host: {GATEWAY}:{PORT}\r\n"), "", 1),
            "400",
        ),
        (
            "an absolute foreign target",
            good.replacen("POST ", "POST http://evil.example", 1),
            "403",
        ),
        ("a form", good.replacen("SOAPAction", "X-Action", 1), "400"),
        (
            "a subscription",
            good.replacen("POST /igd2/control", "SUBSCRIBE /igd2/event", 1),
            "501",
        ),
        (
            "another path",
            good.replacen("/igd2/", "/../etc/", 1),
            "404",
        ),
    ] {
        let answer = ask(device, &request).with_context(|| what.to_owned())?;
        ensure!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{what}: {answer:?}"
        );
    }
    ensure!(world.revision()? == before, "something was changed");
    Ok(())
}

/// Who does not finish what it says is not waited for, and keeps no others out.
fn halves(device: &Device) -> Result<()> {
    let mut halves = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&device.host, None, at(GATEWAY, PORT), SHORT * 3)?;
        stream.write_all(b"POST /igd2/control/WANIPConnection HTTP/1.1\r\nHo")?;
        halves.push(stream);
    }
    answers(device)?;
    for mut stream in halves {
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        ensure!(
            rest.is_empty() && end.is_ok_and(|length| length == 0),
            "half a request is answered: {rest:?}"
        );
    }
    Ok(())
}

fn silent(client: &Device) -> Result<()> {
    let mut stream = connect(&client.host, None, at(GATEWAY, PORT), SHORT * 3)?;
    let _ = stream.write_all(call(&body()).as_bytes());
    let mut answer = Vec::new();
    // The end, or a reset: both say nothing.
    let _ = stream.read_to_end(&mut answer);
    ensure!(answer.is_empty(), "a client is answered: {answer:?}");
    search(client, at(GATEWAY, 1900), false)?;
    search(client, at(GROUP, 1900), false)
}

/// A device that holds connections open is held to a few, and keeps nobody else out.
fn many(world: &World, server: &Device, other: &Device) -> Result<()> {
    world.adit("device set laptop --auto-ports on")?;
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&other.host, None, at(GATEWAY, PORT), SHORT * 3)?;
        // Who is not let in may be cut off already.
        let _ = stream.write_all(b"POST /igd2/control/WANIPConnection HTTP/1.1\r\nHo");
        held.push(stream);
    }
    answers(server)?;
    let mut cut = 0;
    for mut stream in held {
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        let mut rest = [0; 16];
        match stream.read(&mut rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => cut += 1,
            Ok(length) => anyhow::bail!("answered: {:?}", &rest[..length]),
        }
    }
    ensure!(cut >= 12, "{cut} of 20 connections of one device were cut");
    Ok(())
}

fn search(device: &Device, to: SocketAddr, is_answered: bool) -> Result<()> {
    let socket = udp(&device.host, at(device.ipv4, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(SEARCH.as_bytes(), to)?;
    let mut buffer = [0; 2048];
    let answer = socket.recv_from(&mut buffer);
    ensure!(
        answer.is_ok() == is_answered,
        "{} searches at {to}: {answer:?}",
        device.host.name()
    );
    Ok(())
}

/// The documents are where the device reaches the gateway in IPv6.
fn search_in_ipv6(device: &Device) -> Result<()> {
    let own = device.ipv6()?;
    let interface = device.interface.as_str();
    let index = device.host.enter(|| if_nametoindex(interface))??;
    for group in ["ff02::c", "ff05::c"] {
        let socket = udp(&device.host, at(own, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        SockRef::from(&socket).set_multicast_if_v6(index)?;
        let place = SocketAddrV6::new(group.parse()?, 1900, 0, index);
        socket.send_to(SEARCH.as_bytes(), place)?;
        let mut buffer = [0; 2048];
        let (length, source) = socket
            .recv_from(&mut buffer)
            .with_context(|| group.to_owned())?;
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let gateway = source.ip();
        ensure!(
            answer.contains(&format!("LOCATION: http://[{gateway}]:{PORT}/igd1/")),
            "{answer}"
        );
        let mut stream = connect(&device.host, None, at(gateway, PORT), SHORT * 3)?;
        let request =
            format!("GET /igd1/description.xml HTTP/1.1\r\nHost: [{gateway}]:{PORT}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut document = String::new();
        stream.read_to_string(&mut document)?;
        ensure!(document.starts_with("HTTP/1.1 200 "), "{document}");
    }
    Ok(())
}

/// Neither the gateway's public address nor that inside the tunnel answers anybody on the Internet.
fn outside(world: &World) -> Result<()> {
    let internet = world.host("internet")?;
    // The way to the tunnel's addresses, as a neighbour on the provider's network could set it.
    let edge = world.host("edge")?;
    edge.exec([
        "ip",
        "route",
        "add",
        "10.59.0.0/24",
        "via",
        &PUBLIC4.to_string(),
    ])?;
    for host in [&internet, &edge] {
        for address in [PUBLIC4, GATEWAY] {
            let reached = connect(host, None, at(address, PORT), SHORT);
            ensure!(reached.is_err(), "{} reaches {address}:{PORT}", host.name());
            let socket = udp(host, at(Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(SHORT))?;
            // What cannot be sent is not answered, either.
            let _ = socket.send_to(SEARCH.as_bytes(), at(address, 1900));
            let mut buffer = [0; 2048];
            let answer = socket.recv_from(&mut buffer);
            ensure!(
                answer.is_err(),
                "{} hears {answer:?} of {address}",
                host.name()
            );
        }
    }
    Ok(())
}

/// A search in a device's name that does not come through its tunnel is not answered, not even to the device.
fn spoofed(world: &World, server: &Device) -> Result<()> {
    let edge = world.host("edge")?;
    let heard = Capture::start(&server.host, &server.interface, "udp src port 1900")?;
    let injector = Injector::new(&edge, "vps")?;
    for address in [PUBLIC4, GATEWAY, GROUP] {
        let source = SocketAddrV4::new(server.ipv4, 40_000);
        let spoofed = udp4(source, SocketAddrV4::new(address, 1900), SEARCH.as_bytes());
        injector.send(&spoofed)?;
    }
    // What is asked later is answered later: twice, once for each version.
    let socket = udp(&server.host, at(server.ipv4, 40_001))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(SEARCH.as_bytes(), at(GATEWAY, 1900))?;
    for _ in 0..2 {
        let (_, source) = socket.recv_from(&mut [0; 2048])?;
        ensure!(source == at(GATEWAY, 1900), "the answer is from {source}");
    }
    heard.wait_for(".40001: UDP")?;
    ensure!(heard.count(".40000: UDP")? == 0, "{}", heard.text()?);
    Ok(())
}
