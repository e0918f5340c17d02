//! Names on shared ports: who is let on one, and what is derived.

use adit_model::change::{AddForward, Change, RequestLease, SetDevice, SetForward, SetUplink};
use adit_model::configuration::Routing;
use adit_model::decide::lease::granted;
use adit_model::desired::Desired;
use adit_model::desired::derive::{Derivation, Inputs};
use adit_model::desired::names::Mode;
use adit_model::facts::Listener;
use adit_model::key::PrivateKey;
use adit_model::protocol::Protocol;
use adit_model::refusal::{LeaseRefusal, Refusal};
use adit_model::state::{DeviceKind, Mechanism};

use crate::desired::{routes, rules};
use crate::leases::wish;
use crate::world::{
    TUNNEL, World, add_device, add_forward, add_forward_wish, add_subnet, add_uplink, bare_host,
    parse, set_device, set_forward,
};

fn add_name(text: &str, device: &str, hostname: &str) -> Change {
    Change::AddForward(AddForward {
        hostname: Some(hostname.to_owned()),
        ..add_forward_wish(text, device)
    })
}

fn world() -> World {
    World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "fd00:59::/64"),
        add_device("nas"),
        add_device("web"),
    ])
}

/// Who gets what: names, fallbacks (`-`), redirects and translations.
fn told(desired: &Desired) -> Vec<String> {
    let names = &desired.names;
    let mode = |mode| match mode {
        Mode::Transparent => "",
        Mode::ProxyProtocol => " proxy",
        Mode::Gateway => " gateway",
    };
    let routes = names.routes.iter().map(|((socket, name), target)| {
        format!(
            "{} {}/{} {name} {}{}",
            socket.address,
            socket.port,
            socket.protocol,
            target.device,
            mode(target.mode)
        )
    });
    let fallbacks = names.fallbacks.iter().map(|(socket, target)| {
        format!(
            "{} {}/{} - {}",
            socket.address, socket.port, socket.protocol, target.device
        )
    });
    let redirects = names.redirects.iter().map(|it| format!("{it} redirect"));
    let firewall = desired.firewall.as_ref().unwrap();
    let translations = firewall.translations4.forwards.iter();
    let translations = translations.map(|(from, to)| {
        format!(
            "{} {}/{} dnat {}:{}",
            from.address, from.port, from.protocol, to.0, to.1
        )
    });
    let all = routes.chain(fallbacks).chain(redirects).chain(translations);
    all.filter(|text| !text.starts_with("2001:")).collect()
}

#[test]
fn many_devices_share_a_port_by_names_and_one_takes_the_rest() {
    let world = world().with([
        add_name("443/tcp", "nas", "Blog.Example.ORG"),
        add_name("443/tcp", "web", "*.example.org"),
        add_forward("443/tcp", "web"),
        add_forward("444/tcp", "web"),
    ]);
    let desired = world.desired();
    assert_eq!(
        told(&desired),
        [
            "203.0.113.10 443/tcp *.example.org 10.59.0.3:443",
            "203.0.113.10 443/tcp blog.example.org 10.59.0.2:443",
            "203.0.113.10 443/tcp - 10.59.0.3:443",
            "203.0.113.10 redirect",
            "203.0.113.10 444/tcp dnat 10.59.0.3:444",
        ]
    );
    assert!(
        rules(&desired)
            .contains(&"4293 from 0.0.0.0/0 iif adit0 mark 0x3f000000 table 4293".to_owned())
    );
    for local in ["4293 0.0.0.0/0 local dev lo", "4293 ::/0 local dev lo"] {
        assert!(routes(&desired).contains(&local.to_owned()), "{local}");
    }
    // Without names the port is translated again, and nothing is left.
    let ids: Vec<u64> = world.state.forwards.keys().map(|id| id.0).collect();
    let world = world.with([
        Change::RemoveForward(ids[0].to_string()),
        Change::RemoveForward(ids[1].to_string()),
    ]);
    let desired = world.desired();
    assert_eq!(
        told(&desired),
        [
            "203.0.113.10 443/tcp dnat 10.59.0.3:443",
            "203.0.113.10 444/tcp dnat 10.59.0.3:444"
        ]
    );
    assert!(!rules(&desired).iter().any(|rule| rule.starts_with("4293")));
    assert!(!routes(&desired).iter().any(|it| it.starts_with("4293")));
}

#[test]
fn a_name_is_one_devices_and_a_range_is_no_place_for_one() {
    let world = world().with([
        add_name("443/tcp", "nas", "blog.example.org"),
        add_forward("443/tcp", "web"),
        add_forward("8000-8010/tcp", "web"),
    ]);
    for (change, code) in [
        (
            add_name("443/tcp", "web", "BLOG.example.org"),
            "hostname-taken",
        ),
        (
            add_name("203.0.113.10@443/tcp", "web", "blog.example.org"),
            "hostname-taken",
        ),
        (add_forward("443/tcp", "nas"), "port-taken"),
        (add_forward("440-450/tcp", "nas"), "port-taken"),
        (add_name("8005/tcp", "nas", "a.example"), "port-taken"),
        (add_name("51820/udp", "nas", "a.example"), "port-reserved"),
    ] {
        assert_eq!(world.refused(change).code(), code);
    }
    // Another protocol, another port, another name.
    let world = world.with([
        add_name("443/udp", "web", "blog.example.org"),
        add_name("8443/tcp", "web", "blog.example.org"),
        add_name("443/tcp", "web", "*.blog.example.org"),
    ]);
    assert_eq!(world.state.forwards.len(), 6);
}

#[test]
fn requests_on_port_80_are_led_by_host_and_else_to_https_where_the_port_is_free() {
    let redirects = |world: &World| world.desired().names.redirects.len();
    let secure = world().with([add_name("443", "nas", "blog.example.org")]);
    assert_eq!(redirects(&secure), 2);
    let quic_only = world().with([add_name("443/udp", "nas", "blog.example.org")]);
    assert_eq!(redirects(&quic_only), 0);
    let named = world().with([
        add_name("443/tcp", "nas", "blog.example.org"),
        add_forward("80", "web"),
    ]);
    assert_eq!(redirects(&named), 0);
    let named = named.with([add_name("80", "nas", "blog.example.org")]);
    assert_eq!(redirects(&named), 2);
    assert_eq!(
        told(&named.desired()),
        [
            "203.0.113.10 80/tcp blog.example.org 10.59.0.2:80",
            "203.0.113.10 443/tcp blog.example.org 10.59.0.2:443",
            "203.0.113.10 80/tcp - 10.59.0.3:80",
            "203.0.113.10 redirect",
            "203.0.113.10 80/udp dnat 10.59.0.3:80",
        ]
    );
    let mut taken = secure;
    for process in [Some(Listener::FRONT), Some("nginx")] {
        taken.facts.listeners = [Listener {
            protocol: Protocol::Tcp,
            address: parse("0.0.0.0"),
            port: 80,
            process: process.map(str::to_owned),
        }]
        .into();
        let expected = if process == Some(Listener::FRONT) {
            2
        } else {
            0
        };
        assert_eq!(redirects(&taken), expected, "{process:?}");
    }
}

#[test]
fn the_device_sees_the_client_unless_its_replies_go_elsewhere() {
    let split = SetDevice {
        routing: Some(Routing::Split),
        ..SetDevice::default()
    };
    let world = world().with([
        add_name("443/tcp", "nas", "a.example"),
        Change::AddForward(AddForward {
            proxy_protocol: true,
            hostname: Some("b.example".to_owned()),
            ..add_forward_wish("443", "web")
        }),
        set_device("nas", split.clone()),
        set_device("web", split),
    ]);
    let told = told(&world.desired());
    assert_eq!(
        told[..2],
        [
            "203.0.113.10 443/tcp a.example 10.59.0.2:443 gateway",
            "203.0.113.10 443/tcp b.example 10.59.0.3:443 proxy",
        ]
    );
    assert!(matches!(
        world.refused(add_forward("443/tcp", "nas")),
        Refusal::SplitTunnel { .. }
    ));
    let udp = world.with([add_name("443/udp", "nas", "c.example")]);
    let id = udp.state.forwards.keys().last().unwrap().0;
    let patch = SetForward {
        proxy_protocol: Some(true),
        ..SetForward::default()
    };
    let refusal = udp.refused(set_forward(id, patch));
    assert_eq!(refusal.code(), "proxy-protocol-alone");
}

#[test]
fn behind_one_to_one_nat_devices_reach_names_by_the_advertised_address() {
    let mut world = World::new(bare_host());
    add_uplink(
        &mut world.facts,
        "eth0",
        100,
        &["10.0.0.5/24"],
        &["10.0.0.1"],
        false,
    );
    let advertise = SetUplink {
        advertised: adit_model::change::Patch::Set(parse("198.51.100.7")),
        ..SetUplink::default()
    };
    let world = world.with([
        Change::SetUplink(None, advertise),
        add_subnet("home", "10.59.0.0/24", "none"),
        add_device("nas"),
        add_name("198.51.100.7@443/tcp", "nas", "a.example"),
    ]);
    let firewall = world.desired().firewall.unwrap();
    let text = firewall.render();
    for part in [
        "add element inet adit names4 { 10.0.0.5 . tcp . 443, 10.0.0.5 . tcp . 80 }",
        "add element inet adit advertised_names4 { 198.51.100.7 . tcp . 443 : 10.0.0.5 . 443, 198.51.100.7 . tcp . 80 : 10.0.0.5 . 80 }",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_is_derived_a_little_at_a_time_is_what_is_derived_whole() {
    let key = PrivateKey::from_random([9; 32]);
    let mut world = world();
    let inputs = |world: &World, run: &mut dyn FnMut(&Inputs<'_>)| {
        run(&Inputs {
            state: &world.state,
            facts: &world.facts,
            interface: TUNNEL,
            private_key: &key,
            now: world.now,
        });
    };
    let mut derivation = None;
    inputs(&world, &mut |it| derivation = Some(Derivation::new(it)));
    let mut derivation = derivation.unwrap();
    let off = SetForward {
        enabled: Some(false),
        ..SetForward::default()
    };
    let switch_off = SetDevice {
        enabled: Some(false),
        ..SetDevice::default()
    };
    for change in [
        add_forward("443", "web"),
        add_name("443/tcp", "nas", "a.example"),
        add_name("443", "nas", "b.example"),
        add_forward("80/tcp", "web"),
        set_forward(5, off.clone()),
        set_device("nas", switch_off),
        set_forward(4, off),
    ] {
        world = world.with([change]);
        inputs(&world, &mut |it| {
            derivation.update(it);
        });
        assert_eq!(**derivation.desired(), world.desired());
    }
}

/// What a device asks for by PCP with names.
fn named(world: &World, device: &str, port: u16, names: &[&str]) -> RequestLease {
    RequestLease {
        protocol: Some(Protocol::Tcp),
        external: Some(port),
        hostnames: names.iter().map(|name| (*name).to_owned()).collect(),
        ..wish(world.device(device).id, Mechanism::Pcp, port)
    }
}

fn ask(world: &mut World, wish: RequestLease) -> Result<u16, LeaseRefusal> {
    match world.change(Change::RequestLease(Box::new(wish.clone()))) {
        Ok(_) => {
            let grant = granted(&world.state, &world.facts, &wish, world.now).unwrap();
            Ok(grant.external)
        }
        Err(Refusal::LeaseRefused { reason }) => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn devices_obtain_names_on_a_port_that_they_could_not_have_whole() {
    let server = SetDevice {
        kind: Some(DeviceKind::Server),
        ..SetDevice::default()
    };
    let mut world = world().with([
        set_device("nas", server.clone()),
        set_device("web", server),
        add_name("443/tcp", "nas", "manual.example"),
        add_forward("443/tcp", "web"),
    ]);
    let taken = |name: &str| {
        let hostname = name.to_owned();
        Err(LeaseRefusal::HostnameTaken { hostname })
    };
    // What an administrator gave it already is no lease.
    let own = named(&world, "nas", 443, &["Manual.example"]);
    assert_eq!(ask(&mut world, own), Ok(443));
    assert!(world.state.leases.is_empty());
    let first = named(&world, "nas", 443, &["a.example", "B.example"]);
    assert_eq!(ask(&mut world, first.clone()), Ok(443));
    assert_eq!(ask(&mut world, first), Ok(443));
    let other = named(&world, "web", 443, &["c.example"]);
    assert_eq!(ask(&mut world, other), Ok(443));
    for name in ["b.example", "manual.example"] {
        let wish = named(&world, "web", 443, &["d.example", name]);
        assert_eq!(ask(&mut world, wish), taken(name));
    }
    // The whole port is nobody's to ask for, and a name is no way to other ports below 1024.
    let whole = named(&world, "web", 444, &[]);
    let whole = RequestLease {
        external: Some(443),
        ..whole
    };
    assert!(ask(&mut world, whole).unwrap() >= 1024);
    let low = RequestLease {
        internal: 993,
        external: Some(993),
        ..named(&world, "web", 443, &["imap.example"])
    };
    assert!(ask(&mut world, low).unwrap() >= 1024);
    let invalid = named(&world, "nas", 80, &["not a name"]);
    assert_eq!(ask(&mut world, invalid), Err(LeaseRefusal::Hostnames));

    let names: Vec<String> = told(&world.desired())
        .into_iter()
        .filter(|text| text.contains(" 443/tcp"))
        .collect();
    assert_eq!(
        names,
        [
            "203.0.113.10 443/tcp a.example 10.59.0.2:443",
            "203.0.113.10 443/tcp b.example 10.59.0.2:443",
            "203.0.113.10 443/tcp c.example 10.59.0.3:443",
            "203.0.113.10 443/tcp manual.example 10.59.0.2:443",
            "203.0.113.10 443/tcp - 10.59.0.3:443",
        ]
    );
    // An administrator takes no name from a device unseen, and takes another one beside it.
    let refusal = world.refused(add_name("443/tcp", "nas", "c.example"));
    assert_eq!(refusal.code(), "port-leased");
    let world = world.with([add_name("443/tcp", "nas", "e.example")]);
    assert_eq!(world.state.forwards.len(), 3);
}

#[test]
fn leases_by_name_are_derived_a_little_at_a_time_as_whole() {
    let key = PrivateKey::from_random([9; 32]);
    let server = SetDevice {
        kind: Some(DeviceKind::Server),
        ..SetDevice::default()
    };
    let mut world = world().with([set_device("nas", server), add_forward("443", "web")]);
    let mut derivation = Derivation::new(&Inputs {
        state: &world.state,
        facts: &world.facts,
        interface: TUNNEL,
        private_key: &key,
        now: world.now,
    });
    for step in 0..4 {
        match step {
            0 => {
                let wish = named(&world, "nas", 443, &["a.example"]);
                ask(&mut world, wish).unwrap();
            }
            1 => {
                let wish = named(&world, "nas", 443, &["b.example"]);
                ask(&mut world, wish).unwrap();
            }
            2 => world = world.with([add_name("443/tcp", "web", "a.example")]),
            _ => world.now += 100_000,
        }
        derivation.update(&Inputs {
            state: &world.state,
            facts: &world.facts,
            interface: TUNNEL,
            private_key: &key,
            now: world.now,
        });
        assert_eq!(**derivation.desired(), world.desired(), "step {step}");
    }
    assert_eq!(
        told(&world.desired()),
        [
            "203.0.113.10 443/tcp a.example 10.59.0.3:443",
            "203.0.113.10 443/tcp - 10.59.0.3:443",
            "203.0.113.10 redirect",
            "203.0.113.10 443/udp dnat 10.59.0.3:443",
        ]
    );
}
