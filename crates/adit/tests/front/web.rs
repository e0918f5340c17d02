//! Port 80: by the Host of a request, or to the same over TLS.

use adit_front::{Route, Service, Target};
use anyhow::{Result, ensure};

use crate::device::Serving;
use crate::findings::Findings;
use crate::network::{FAMILIES, Family, Network, Place, listeners};

#[test]
fn requests_go_to_the_host_they_name_or_are_told_to_come_over_tls() -> Result<()> {
    let network = Network::new("front-web")?;
    let none = [String::new(), String::new()];
    let _nas = network.serve(Place::Nas, 80, "nas", Serving::default(), &none)?;
    let _blog = network.serve(Place::Blog, 8080, "blog", Serving::default(), &none)?;
    let front = network.start_front()?;
    let names = [("nas.example", Place::Nas, 80)];
    let mut listeners = listeners(Service::Http, 80, &names, None);
    for listener in &mut listeners {
        let family = if listener.address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let redirect = Route::Redirect {
            port: 443,
            challenges: Some(Target::transparent(Place::Blog.at(family, 8080))),
        };
        listener.names.insert("*.blog.example".to_owned(), redirect);
        let redirect = Route::Redirect {
            port: 8443,
            challenges: None,
        };
        listener.names.insert("dead.example".to_owned(), redirect);
        let closed = Route::Device(Target::transparent(Place::Blog.at(family, 81)));
        listener.names.insert("closed.example".to_owned(), closed);
    }
    front.set(listeners)?;
    let mut findings = Findings::default();
    for family in FAMILIES {
        let challenge = "/.well-known/acme-challenge/token";
        for (url, server, path) in [
            ("http://nas.example/a?b", "nas", "/a?b"),
            (
                &format!("http://a.blog.example{challenge}"),
                "blog",
                challenge,
            ),
        ] {
            let seen = network.fetch(&network.client, family, url, &certificate());
            findings.check(
                &format!("{url} over {family:?}"),
                seen.and_then(|seen| {
                    let client = Place::Client.address(family);
                    ensure!(seen.server == server && seen.path == path, "{seen:?}");
                    ensure!(seen.client.ip() == client, "{seen:?}");
                    Ok(())
                }),
            );
        }
        for (url, expected) in [
            (
                "http://a.blog.example/x?y",
                "308 https://a.blog.example/x?y",
            ),
            (
                "http://dead.example/.well-known/acme-challenge/x",
                "308 https://dead.example:8443/.well-known/acme-challenge/x",
            ),
            ("http://nobody.example/", "421 "),
            ("http://closed.example/", "502 "),
        ] {
            let options = [
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code} %{redirect_url}",
            ];
            let told = network.curl(&network.client, family, url, &certificate(), &options);
            findings.check(
                &format!("{url} over {family:?}"),
                told.and_then(|told| {
                    ensure!(told == expected, "{told:?}");
                    Ok(())
                }),
            );
        }
    }
    findings.conclude()
}

/// What TLS alone needs.
fn certificate() -> [String; 2] {
    [
        "/etc/ssl/certs/ca-certificates.crt".to_owned(),
        String::new(),
    ]
}
