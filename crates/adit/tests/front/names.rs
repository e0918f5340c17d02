//! Names lead to devices, and devices see who comes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use adit_front::{Change, ListenerChange, Mode, Route, Service, Target};
use anyhow::{Result, ensure};

use crate::device::{Plain, Seen, Serving, TLS, connect, exchange, hello};
use crate::findings::Findings;
use crate::network::{FAMILIES, Family, Network, Place, listeners};

/// A record with the fatal alert `unrecognized_name`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

fn ensure_seen(seen: &Seen, server: &str, client: std::net::IpAddr) -> Result<()> {
    ensure!(
        seen.server == server && seen.client.ip() == client,
        "expected {server} and {client}: {seen:?}"
    );
    Ok(())
}

#[test]
fn each_name_leads_to_its_device_which_sees_the_client() -> Result<()> {
    let network = Network::new("front-names")?;
    let certificate = network.certificate(&["nas.example", "*.blog.example", "*.any.example"])?;
    let _nas = network.serve(Place::Nas, 443, "nas", TLS, &certificate)?;
    let _blog = network.serve(Place::Blog, 8443, "blog", TLS, &certificate)?;
    let front = network.start_front()?;
    let names = [
        ("nas.example", Place::Nas, 443),
        ("*.blog.example", Place::Blog, 8443),
        ("exact.blog.example", Place::Nas, 443),
    ];
    front.set(listeners(Service::Tls, 443, &names, None))?;
    let mut findings = Findings::default();
    for family in FAMILIES {
        for (name, server) in [
            ("nas.example", "nas"),
            ("NAS.Example", "nas"),
            ("a.blog.example", "blog"),
            ("exact.blog.example", "nas"),
        ] {
            let url = format!("https://{name}/");
            let seen = network.fetch(&network.client, family, &url, &certificate);
            let client = Place::Client.address(family);
            findings.check(
                &format!("{name} over {family:?}"),
                seen.and_then(|seen| ensure_seen(&seen, server, client)),
            );
        }
        findings.check("unknown names", ensure_alert(&network, family));
    }
    let status = front.status()?;
    let expected = (FAMILIES.len() * 2) as u64;
    findings.check("failures", {
        let unknown = status.failures.unknown_name;
        if unknown == expected {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{status:?}"))
        }
    });
    // With a fallback, everything finds somebody.
    let fallback = Some((Place::Blog, 8443));
    front.set(listeners(Service::Tls, 443, &names, fallback))?;
    for family in FAMILIES {
        let url = "https://x.any.example/";
        let seen = network.fetch(&network.client, family, url, &certificate);
        let client = Place::Client.address(family);
        findings.check(
            "the fallback",
            seen.and_then(|seen| ensure_seen(&seen, "blog", client)),
        );
    }
    findings.conclude()
}

/// What `openssl s_client` says of a name that nobody has, and of none.
fn ensure_alert(network: &Network, family: Family) -> Result<()> {
    let front = Place::Front.at(family, 443).to_string();
    for options in [&["-servername", "nobody.example"][..], &["-noservername"]] {
        let words = [&["openssl", "s_client", "-connect", &front][..], options].concat();
        let output = network.client.try_exec(words)?;
        ensure!(
            output.stderr.contains("unrecognized name"),
            "{options:?}: {output}"
        );
    }
    Ok(())
}

#[test]
fn a_hello_cut_at_every_byte_arrives_as_it_was_sent() -> Result<()> {
    let network = Network::new("front-cut")?;
    let front = network.start_front()?;
    let names = [("nas.example", Place::Nas, 443)];
    front.set(listeners(Service::Tls, 443, &names, None))?;
    let server = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    // One of post-quantum size comes in several segments however it is cut.
    for (more, step) in [(0, 1), (1400, 61)] {
        let hello = hello(&network.client, "nas.example", more)?;
        ensure!(hello.len() > more, "{}", hello.len());
        for cut in (1..hello.len()).step_by(step) {
            let mut client = connect(&network.client, Place::Front.at(Family::V4, 443))?;
            let (first, second) = hello.split_at(cut);
            client.write_all(first)?;
            client.write_all(second)?;
            let (mut device, _) = server.accept()?;
            let mut received = vec![0; hello.len()];
            device.read_exact(&mut received)?;
            ensure!(received == hello, "cut at {cut}");
            exchange(&client, &device)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_no_hello_is_closed_and_the_alert_arrives_behind_whatever_was_sent() -> Result<()> {
    let network = Network::new("front-alert")?;
    let front = network.start_front()?;
    let names = [("nas.example", Place::Nas, 443)];
    front.set(listeners(Service::Tls, 443, &names, None))?;
    let address = Place::Front.at(Family::V4, 443);
    let mut client = connect(&network.client, address)?;
    let mut bytes = hello(&network.client, "nobody.example", 0)?;
    bytes.extend([0; 4096]);
    client.write_all(&bytes)?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    ensure!(answer == UNRECOGNIZED_NAME, "{answer:?}");
    let mut client = connect(&network.client, address)?;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    ensure!(read.is_err() || answer.is_empty(), "{answer:?}");
    front.await_status("both are counted", |status| {
        status.failures.malformed == 1 && status.failures.unknown_name == 1 && status.waiting == 0
    })?;
    Ok(())
}

#[test]
fn a_change_of_names_ends_their_connections_and_no_others() -> Result<()> {
    let network = Network::new("front-change")?;
    let front = network.start_front()?;
    let names = [
        ("kept.example", Place::Nas, 443),
        ("gone.example", Place::Nas, 443),
    ];
    front.set(listeners(Service::Tls, 443, &names, None))?;
    let address = Place::Front.at(Family::V4, 443);
    let nas = Plain::listen(&network.nas, Place::Nas.at(Family::V4, 443))?;
    let blog = Plain::listen(&network.blog, Place::Blog.at(Family::V4, 443))?;
    let open = |name: &str, device: &Plain| -> Result<(TcpStream, TcpStream)> {
        let hello = hello(&network.client, name, 0)?;
        let mut client = connect(&network.client, address)?;
        client.write_all(&hello)?;
        let (mut device, _) = device.accept()?;
        device.read_exact(&mut vec![0; hello.len()])?;
        Ok((client, device))
    };
    let kept = open("kept.example", &nas)?;
    let (mut gone, _gone_device) = open("gone.example", &nas)?;
    let to_blog = Route::Device(Target::transparent(Place::Blog.at(Family::V4, 443)));
    let mut change = Change {
        from: 1,
        revision: 2,
        listeners: vec![ListenerChange {
            address,
            service: Service::Tls,
            names: [
                ("gone.example".to_owned(), None),
                ("new.example".to_owned(), Some(to_blog)),
            ]
            .into(),
        }],
    };
    let status = front.client()?.change(&change)?;
    ensure!(
        status.revision == 2 && status.names.is_empty(),
        "{status:?}"
    );
    ensure!(!matches!(gone.read(&mut [0]), Ok(1..)), "it was answered");
    exchange(&kept.0, &kept.1)?;
    let new = open("new.example", &blog)?;
    exchange(&new.0, &new.1)?;
    // Of the table from before.
    change.revision = 3;
    ensure!(front.client()?.change(&change).is_err(), "it is done twice");
    let names = front.status()?.names;
    let total = names.iter().map(|name| name.total).sum::<u64>();
    ensure!(names.len() == 4 && total == 2, "{names:?}");
    Ok(())
}

#[test]
fn a_device_that_visits_a_name_of_its_own_gets_there() -> Result<()> {
    let network = Network::new("front-own")?;
    let certificate = network.certificate(&["nas.example"])?;
    let _nas = network.serve(Place::Nas, 443, "nas", TLS, &certificate)?;
    let front = network.start_front()?;
    let names = [("nas.example", Place::Nas, 443)];
    front.set(listeners(Service::Tls, 443, &names, None))?;
    let mut findings = Findings::default();
    for family in FAMILIES {
        for (place, sees) in [(Place::Nas, Place::BesideNas), (Place::Blog, Place::Blog)] {
            let host = network.host(place);
            let seen = network.fetch(host, family, "https://nas.example/", &certificate);
            findings.check(
                &format!("from {place:?} over {family:?}"),
                seen.and_then(|seen| ensure_seen(&seen, "nas", sees.address(family))),
            );
        }
    }
    // A network behind the device, which it answers directly.
    let mut listeners = listeners(Service::Tls, 443, &names, None);
    for listener in &mut listeners {
        for route in listener.names.values_mut() {
            if let Route::Device(target) = route {
                target.near = ["198.51.100.0/24", "2001:db8:ffff::/64"]
                    .map(|network| network.parse().unwrap())
                    .into();
            }
        }
    }
    front.set(listeners)?;
    for family in FAMILIES {
        let seen = network.fetch(
            &network.client,
            family,
            "https://nas.example/",
            &certificate,
        );
        findings.check(
            &format!("from a network behind it over {family:?}"),
            seen.and_then(|seen| ensure_seen(&seen, "nas", Place::BesideNas.address(family))),
        );
    }
    findings.conclude()
}

#[test]
fn devices_get_the_address_by_the_proxy_protocol_or_the_gateways() -> Result<()> {
    let network = Network::new("front-modes")?;
    let certificate = network.certificate(&["nas.example", "blog.example"])?;
    let serving = Serving {
        is_tls: true,
        is_behind_proxy: true,
    };
    let _nas = network.serve(Place::Nas, 443, "nas", serving, &certificate)?;
    let _blog = network.serve(Place::Blog, 443, "blog", TLS, &certificate)?;
    let front = network.start_front()?;
    let names = [
        ("nas.example", Place::Nas, 443),
        ("blog.example", Place::Blog, 443),
    ];
    let mut listeners = listeners(Service::Tls, 443, &names, None);
    for listener in &mut listeners {
        let is_ipv4 = listener.address.is_ipv4();
        for (name, route) in &mut listener.names {
            let Route::Device(Target { address, mode, .. }) = route else {
                continue;
            };
            if name == "nas.example" {
                *mode = Mode::ProxyProtocol;
            } else if !is_ipv4 {
                // A device without IPv6 is reached over IPv4 all the same.
                *address = Place::Blog.at(Family::V4, 443);
            } else {
                *mode = Mode::Gateway;
            }
        }
    }
    front.set(listeners)?;
    let mut findings = Findings::default();
    for family in FAMILIES {
        for (name, sees) in [
            ("nas", Place::Client.address(family)),
            ("blog", Place::BesideBlog.address(Family::V4)),
        ] {
            let url = format!("https://{name}.example/");
            let seen = network.fetch(&network.client, family, &url, &certificate);
            findings.check(
                &format!("{name} over {family:?}"),
                seen.and_then(|seen| ensure_seen(&seen, name, sees)),
            );
        }
    }
    findings.conclude()
}
