//! Every refusal that a decision can give is given, with an object, a reason and a way out.

use std::collections::BTreeSet;

use adit_model::change::{
    AddDevice, AddForward, AddSubnet, AddToken, Apply, Change, Expected, Patch, SetDevice,
    SetForward, SetSettings, SetSubnet, SetUplink,
};
use adit_model::configuration::Routing;
use adit_model::declaration::Declaration;
use adit_model::edit::Key;
use adit_model::key::PublicKey;
use adit_model::protocol::{PortRange, Protocol};
use adit_model::refusal::{LeaseRefusal, Refusal};
use adit_model::state::Egress;

use crate::world::{
    NOW, World, add_device, add_device_at, add_device_in, add_device_wish, add_forward,
    add_forward_wish, add_listener, add_pinhole, add_subnet, add_subnet_wish, add_token, bare_host,
    delegate, parse, revoke, set_device, set_forward, set_subnet_ipv6,
};

/// Two uplinks; subnet `home` is global and on the link of eth0, `flat` has a private prefix.
fn furnished() -> World {
    let world = World::two_uplinks().with([
        add_subnet("home", "10.59.0.0/28", "2001:db8:1::40/122"),
        add_subnet("flat", "10.60.0.0/24", ""),
        add_device_in("home", "nas"),
        add_device_in("flat", "web"),
        add_device_in("flat", "phone"),
        delegate("nas", &["2001:db8:1::50/124", "192.168.7.0/24"]),
        add_forward("80", "web"),
        add_forward("8000-8010/tcp", "nas"),
        add_pinhole("nas", "443/tcp"),
        add_token("admin"),
    ]);
    let mut world = world.with([set_device(
        "phone",
        SetDevice {
            routing: Some(Routing::Split),
            ..SetDevice::default()
        },
    )]);
    add_listener(&mut world.facts, Protocol::Tcp, "203.0.113.10", 9000);
    world
}

fn forward_id(world: &World, port: u16) -> u64 {
    let mut forwards = world.state.forwards.values();
    forwards.find(|forward| forward.port == port).unwrap().id.0
}

fn set_subnet(name: &str, patch: SetSubnet) -> Change {
    Change::SetSubnet(name.to_owned(), patch)
}

fn set_settings(patch: SetSettings) -> Change {
    Change::SetSettings(patch)
}

fn set_uplink(name: &str, patch: SetUplink) -> Change {
    Change::SetUplink((!name.is_empty()).then(|| name.to_owned()), patch)
}

fn advertise(name: &str, address: &str) -> Change {
    set_uplink(
        name,
        SetUplink {
            advertised: Patch::Set(parse(address)),
            ..SetUplink::default()
        },
    )
}

/// What is asked, the code of the answer, and a word that its message has to hold.
fn cases(world: &World) -> Vec<(Change, &'static str, &'static str)> {
    let label = "x".repeat(201);
    let device = |wish: AddDevice| {
        Change::AddDevice(AddDevice {
            subnet: Some("flat".to_owned()),
            ..wish
        })
    };
    let key = |bytes: [u8; 32]| {
        device(AddDevice {
            public_key: PublicKey::from_bytes(bytes),
            ..add_device_wish("x")
        })
    };
    let subnet = |ipv4: &str, ipv6: &str| add_subnet("x", ipv4, ipv6);
    let snat = |first, last| {
        set_settings(SetSettings {
            snat_ports: Some((first, last)),
            ..SetSettings::default()
        })
    };
    let listen = |port| {
        set_settings(SetSettings {
            listen_port: Some(port),
            ..SetSettings::default()
        })
    };
    let split = |name: &str| {
        set_device(
            name,
            SetDevice {
                routing: Some(Routing::Split),
                ..SetDevice::default()
            },
        )
    };
    let target = |text: &str, name: &str, target_port| {
        Change::AddForward(AddForward {
            target_port: Some(target_port),
            ..add_forward_wish(text, name)
        })
    };
    let past = Some(NOW);
    vec![
        (Change::RemoveDevice("gone".into()), "not-found", "gone"),
        (Change::RemoveForward("999".into()), "not-found", "999"),
        (Change::RemovePinhole("999".into()), "not-found", "999"),
        (Change::RemoveToken("gone".into()), "not-found", "gone"),
        (add_forward("81", "gone"), "not-found", "gone"),
        (add_device_in("gone", "x"), "not-found", "gone"),
        (add_device_in("flat", "no good"), "name-invalid", "no good"),
        (add_token(""), "name-invalid", "token"),
        (add_subnet("77", "10.61.0.0/24", ""), "name-invalid", "`77`"),
        (add_device_in("flat", "nas"), "name-taken", "`nas`"),
        (
            add_subnet("home", "10.61.0.0/24", ""),
            "name-taken",
            "`home`",
        ),
        (add_token("admin"), "name-taken", "`admin`"),
        (
            set_device(
                "nas",
                SetDevice {
                    name: Some("web".into()),
                    ..SetDevice::default()
                },
            ),
            "name-taken",
            "`web`",
        ),
        (
            Change::AddForward(AddForward {
                label,
                ..add_forward_wish("81", "web")
            }),
            "label-too-long",
            "201",
        ),
        (add_device("x"), "subnet-unclear", "2 subnets"),
        (
            Change::RemoveSubnet {
                reference: "flat".into(),
                force: false,
            },
            "subnet-in-use",
            "2 devices",
        ),
        (subnet("10.61.0.0/31", ""), "ipv4-subnet-invalid", "/30"),
        (
            subnet("10.61.0.1/24", ""),
            "ipv4-subnet-invalid",
            "host bits",
        ),
        (
            subnet("127.0.0.0/24", ""),
            "ipv4-subnet-invalid",
            "loopback",
        ),
        (
            subnet("169.254.0.0/24", ""),
            "ipv4-subnet-invalid",
            "link-local",
        ),
        (
            subnet("224.0.0.0/24", ""),
            "ipv4-subnet-invalid",
            "multicast",
        ),
        (
            subnet("0.0.0.0/8", ""),
            "ipv4-subnet-invalid",
            "unspecified",
        ),
        (
            subnet("10.61.0.0/24", "2001:db8::/31"),
            "ipv6-prefix-invalid",
            "/32",
        ),
        (
            subnet("10.61.0.0/24", "2001:db8::/128"),
            "ipv6-prefix-invalid",
            "/127",
        ),
        (
            subnet("10.61.0.0/24", "2001:db8:9::1/64"),
            "ipv6-prefix-invalid",
            "host bits",
        ),
        (
            subnet("10.61.0.0/24", "fe80::/64"),
            "ipv6-prefix-invalid",
            "link-local",
        ),
        (
            subnet("10.61.0.0/24", "ff0e::/64"),
            "ipv6-prefix-invalid",
            "multicast",
        ),
        (
            subnet("10.61.0.0/24", "::/96"),
            "ipv6-prefix-invalid",
            "loopback",
        ),
        (
            subnet("10.61.0.0/24", "::ffff:10.0.0.0/104"),
            "ipv6-prefix-invalid",
            "IPv4-mapped",
        ),
        (subnet("10.60.0.128/25", ""), "overlap", "`flat`"),
        (subnet("203.0.113.0/28", ""), "overlap", "uplink eth0"),
        (subnet("192.168.0.0/16", ""), "overlap", "`nas`"),
        (
            subnet("10.61.0.0/24", "2001:db8:1::/64"),
            "overlap",
            "`home`",
        ),
        (advertise("eth0", "10.59.0.9"), "overlap", "`home`"),
        (
            set_subnet(
                "flat",
                SetSubnet {
                    egress: Patch::Set(Egress::Interface("wlan0".into())),
                    ..SetSubnet::default()
                },
            ),
            "egress-unknown",
            "wlan0",
        ),
        (
            Change::AddSubnet(AddSubnet {
                egress: Some(Egress::Address(parse("198.51.100.7"))),
                ..add_subnet_wish("x", "10.61.0.0/24", "")
            }),
            "egress-unknown",
            "198.51.100.7",
        ),
        (
            subnet("10.61.0.0/24", "2001:db8:2::/124"),
            "ipv6-collision",
            "next hop of uplink eth1",
        ),
        (
            set_device(
                "nas",
                SetDevice {
                    ipv4: Some(parse("10.59.0.1")),
                    ..SetDevice::default()
                },
            ),
            "address-taken",
            "the gateway",
        ),
        (
            device(AddDevice {
                ipv4: Some(parse("10.60.0.2")),
                ..add_device_wish("x")
            }),
            "address-taken",
            "`web`",
        ),
        (
            device(AddDevice {
                ipv4: Some(parse("10.60.0.255")),
                ..add_device_wish("x")
            }),
            "address-outside",
            "10.60.0.0/24",
        ),
        (
            device(AddDevice {
                public_key: world.device("nas").public_key,
                ..add_device_wish("x")
            }),
            "key-taken",
            "`nas`",
        ),
        (key([0; 32]), "key-invalid", "zero"),
        (key([250; 32]), "key-invalid", "gateway"),
        (
            Change::RekeyDevice {
                reference: "web".into(),
                public_key: world.device("nas").public_key,
            },
            "key-taken",
            "`nas`",
        ),
        (
            device(AddDevice {
                expires: past,
                ..add_device_wish("x")
            }),
            "expiry-passed",
            "`x`",
        ),
        (
            Change::AddToken(AddToken {
                name: "x".into(),
                hash: String::new(),
                scopes: BTreeSet::new(),
                device: None,
                expires: past,
            }),
            "expiry-passed",
            "`x`",
        ),
        (
            delegate("nas", &["2001:db8:9::1/64"]),
            "delegation-invalid",
            "host bits",
        ),
        (delegate("nas", &["122"]), "delegation-invalid", "/122"),
        (delegate("nas", &["129"]), "delegation-invalid", "128"),
        (
            revoke("nas", &["2001:db8:9::/64"]),
            "delegation-invalid",
            "`nas`",
        ),
        (
            set_subnet_ipv6("home", "2001:db8:77::/64"),
            "delegation-invalid",
            "--revoke",
        ),
        (
            delegate("nas", &["123", "123"]),
            "delegation-exhausted",
            "/123",
        ),
        (
            delegate("nas", &["2001:db8:1::40/124"]),
            "delegation-covers-host",
            "the gateway",
        ),
        (
            delegate("nas", &["2001:db8:1::50/125"]),
            "delegation-covers-host",
            "`nas`",
        ),
        (delegate("nas", &["192.168.7.128/25"]), "overlap", "`nas`"),
        (
            delegate("nas", &["172.16.0.0/16", "172.16.1.0/24"]),
            "overlap",
            "`nas`",
        ),
        (
            add_forward("192.0.2.1@81", "web"),
            "forward-address-unknown",
            "192.0.2.1",
        ),
        (target("81-90/tcp", "web", 91), "range-shifted", "81-90"),
        (add_forward("80/tcp", "nas"), "port-taken", "`web`"),
        (
            add_forward("203.0.113.10@80/udp", "nas"),
            "port-taken",
            "80/udp",
        ),
        (add_forward("8005", "web"), "port-taken", "8000-8010"),
        (add_forward("7990-8000", "web"), "port-taken", "8000-8010"),
        (
            add_forward("2001:db8:1::2@80", "web"),
            "port-taken",
            "forward",
        ),
        (add_pinhole("nas", "400-500"), "port-taken", "pinhole"),
        (add_forward("22/tcp", "web"), "port-reserved", "service-22"),
        (
            add_forward("20-30/tcp", "web"),
            "port-reserved",
            "service-22",
        ),
        (add_forward("9000", "web"), "port-reserved", "service-9000"),
        (
            add_forward("51820/udp", "web"),
            "port-reserved",
            "WireGuard",
        ),
        (
            add_forward("40000/tcp", "web"),
            "port-in-snat-range",
            "32768-49151",
        ),
        (
            add_forward("32000-33000/tcp", "web"),
            "port-in-snat-range",
            "32768-49151",
        ),
        (add_forward("81", "phone"), "split-tunnel", "`phone`"),
        (split("web"), "split-tunnel", "`web`"),
        (
            set_forward(
                forward_id(world, 80),
                SetForward {
                    device: Some("phone".into()),
                    ..SetForward::default()
                },
            ),
            "split-tunnel",
            "`phone`",
        ),
        (
            add_forward("2001:db8:1::2@81", "nas"),
            "forward-ipv6-global",
            "`nas`",
        ),
        (
            set_subnet_ipv6("home", "none"),
            "delegation-invalid",
            "2001:db8:1::50/124",
        ),
        (
            Change::AddForward(AddForward {
                hostname: Some("www.example.net".into()),
                ..add_forward_wish("443/tcp", "web")
            }),
            "hostname-unsupported",
            "www.example.net",
        ),
        (add_forward("90-80", "web"), "setting-invalid", "90-80"),
        (add_forward("0", "web"), "setting-invalid", "0-0"),
        (target("81", "web", 0), "setting-invalid", "port"),
        (listen(0), "setting-invalid", "listen-port"),
        (listen(80), "setting-invalid", "80/udp"),
        (snat(80, 9000), "setting-invalid", "snat-ports"),
        (snat(40000, 40100), "setting-invalid", "1024"),
        (snat(7000, 9000), "setting-invalid", "forward"),
        (
            set_settings(SetSettings {
                mtu: Patch::Set(1279),
                ..SetSettings::default()
            }),
            "setting-invalid",
            "1280",
        ),
        (
            set_settings(SetSettings {
                clamp_mtu: Some(100),
                ..SetSettings::default()
            }),
            "setting-invalid",
            "576",
        ),
        (
            set_settings(SetSettings {
                dns_servers: Some(vec![parse("::")]),
                ..SetSettings::default()
            }),
            "setting-invalid",
            "dns-servers",
        ),
        (advertise("", "192.0.2.1"), "uplink-unknown", "eth0, eth1"),
        (advertise("wlan0", "192.0.2.1"), "uplink-unknown", "wlan0"),
        (advertise("eth0", "127.0.0.1"), "uplink-invalid", "eth0"),
        (advertise("eth0", "198.51.100.5"), "uplink-invalid", "eth1"),
        (
            set_uplink(
                "eth0",
                SetUplink {
                    endpoint: Patch::Set("vpn.example.net:51820".into()),
                    ..SetUplink::default()
                },
            ),
            "uplink-invalid",
            "port",
        ),
        (
            set_device("nas", SetDevice::default()),
            "nothing-to-change",
            "nas",
        ),
        (
            set_subnet("home", SetSubnet::default()),
            "nothing-to-change",
            "home",
        ),
        (
            set_uplink("eth0", SetUplink::default()),
            "nothing-to-change",
            "eth0",
        ),
        (
            set_settings(SetSettings::default()),
            "nothing-to-change",
            "settings",
        ),
    ]
}

fn check(refusal: &Refusal, code: &str, word: &str) {
    let message = refusal.to_string();
    assert_eq!(refusal.code(), code, "{message}");
    assert!(message.contains(word), "`{message}` does not say `{word}`");
    let hint = refusal.hint();
    assert!(
        hint.len() > 10 && !hint.contains(['{', '}']) && hint != message,
        "{code}: {hint}"
    );
}

#[test]
fn every_code_is_reached_and_names_its_object() {
    let world = furnished();
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    for (change, code, word) in cases(&world) {
        check(&world.refused(change), code, word);
        reached.insert(code);
    }

    let small = World::on_link().with([
        add_subnet("home", "10.59.0.0/30", "2001:db8:1::/64"),
        add_device("a"),
    ]);
    let full = small.refused(add_device("b"));
    check(&full, "addresses-exhausted", "10.59.0.0/30");
    reached.insert("addresses-exhausted");

    let narrow = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::100/126"),
        add_device("a"),
    ]);
    let collision = narrow.refused(add_device_at("b", "10.59.0.6"));
    check(&collision, "address-collision", "`a`");
    reached.insert("address-collision");

    let plain =
        World::on_link().with([add_subnet("home", "10.59.0.0/24", "none"), add_device("a")]);
    check(
        &plain.refused(add_pinhole("a", "80")),
        "pinhole-without-ipv6",
        "`a`",
    );
    reached.insert("pinhole-without-ipv6");

    let alone =
        World::new(bare_host()).with([add_subnet("home", "10.59.0.0/24", ""), add_device("a")]);
    check(&alone.refused(add_forward("80", "a")), "no-uplink", "`a`");
    reached.insert("no-uplink");
    let global = add_subnet_wish("x", "10.60.0.0/24", "2001:db8:9::/64");
    let refusal = alone.refused(Change::AddSubnet(global.clone()));
    check(&refusal, "no-ipv6-default-route", "2001:db8:9::/64");
    reached.insert("no-ipv6-default-route");
    alone.with([Change::AddSubnet(AddSubnet {
        force: true,
        ..global
    })]);

    let stale = Expected {
        key: Key::Settings,
        versions: vec![world.state.revision],
    };
    let refusal = stale.check(&world.state).unwrap_err();
    check(&refusal, "version-mismatch", "settings");
    reached.insert("version-mismatch");

    let mut declaration = Declaration::of(&world.state);
    declaration.settings.listen_port = 0;
    let refusal = world.refused(Change::Apply(Box::new(Apply {
        declaration,
        revision: None,
    })));
    check(&refusal, "declaration-refused", "settings");
    reached.insert("declaration-refused");
    let idle = world.refused(Change::Confirm);
    check(&idle, "nothing-to-confirm", "revision");
    reached.insert("nothing-to-confirm");
    let kept = Refusal::NotTakenBack {
        reason: "the private key".to_owned(),
    };
    check(&kept, "not-taken-back", "private key");
    reached.insert("not-taken-back");
    let awaits = Refusal::AwaitsConfirmation {
        revision: 7,
        reason: "device `a`: it is there".to_owned(),
    };
    check(&awaits, "awaits-confirmation", "device `a`");
    reached.insert("awaits-confirmation");
    let moved = Refusal::RevisionMoved {
        expected: 7,
        revision: 8,
    };
    check(&moved, "revision-moved", "revision 8");
    reached.insert("revision-moved");

    let asked = Refusal::from(LeaseRefusal::Quota { limit: 3 });
    check(&asked, "lease-refused", "3 ports");
    reached.insert("lease-refused");
    let leased = Refusal::PortLeased {
        range: PortRange::new(443, 443).unwrap(),
        protocol: Protocol::Tcp,
        lease: 7,
        device: "nas".to_owned(),
    };
    check(&leased, "port-leased", "lease 7");
    reached.insert("port-leased");
    let lease = Refusal::IsLease {
        kind: "forward",
        id: 7,
    };
    check(&lease, "is-lease", "forward 7");
    reached.insert("is-lease");
    let owned = Refusal::ImportKeyTaken { devices: 3 };
    check(&owned, "import-key-taken", "3");
    reached.insert("import-key-taken");
    let foreign = Refusal::ImportRefused {
        place: "wg0.conf, line 12".to_owned(),
        reason: "the address is taken".to_owned(),
        hint: "choose another address there".to_owned(),
    };
    check(&foreign, "import-refused", "line 12");
    reached.insert("import-refused");

    let all: BTreeSet<&str> = Refusal::CODES.iter().map(|(code, _)| *code).collect();
    assert_eq!(all.len(), Refusal::CODES.len(), "a code is there twice");
    assert_eq!(reached, all);
}

#[test]
fn forwards_that_move_with_their_subnet_need_free_ports() {
    let egress = |egress: Patch<Egress>| {
        set_subnet(
            "flat",
            SetSubnet {
                egress,
                ..SetSubnet::default()
            },
        )
    };
    let to_eth1 = || egress(Patch::Set(Egress::Interface("eth1".into())));
    let other = |port: &str| add_forward(&format!("198.51.100.5@{port}"), "web");
    let world = World::two_uplinks().with([
        add_subnet("home", "10.59.0.0/24", "none"),
        add_subnet("flat", "10.60.0.0/24", ""),
        add_device_in("home", "nas"),
        add_device_in("flat", "web"),
        add_forward("198.51.100.5@8005/tcp", "nas"),
        add_forward("8000-8010/tcp", "web"),
    ]);
    let refusal = world.refused(to_eth1());
    check(&refusal, "port-taken", "`nas`");

    let mut world = World::two_uplinks().with([
        add_subnet("flat", "10.60.0.0/24", ""),
        add_device("web"),
        add_forward("443/tcp", "web"),
    ]);
    add_listener(&mut world.facts, Protocol::Tcp, "2001:db8:2::5", 443);
    check(&world.refused(to_eth1()), "port-reserved", "service-443");
    world.facts.listeners.clear();
    let world = world.with([to_eth1()]);
    check(&world.refused(other("443/tcp")), "port-taken", "443/tcp");
    let world = world.with([egress(Patch::Clear), other("443/tcp")]);
    check(&world.refused(to_eth1()), "port-taken", "443/tcp");
}

#[test]
fn what_the_host_took_in_the_meantime_can_still_be_mended() {
    let mut world = World::on_link().with([
        add_subnet("home", "10.59.0.0/24", "2001:db8:1::/64"),
        add_device("a"),
        add_forward("8080/tcp", "a"),
    ]);
    add_listener(&mut world.facts, Protocol::Tcp, "0.0.0.0", 8080);
    let address: ipnet::IpNet = parse("2001:db8:1::a3b:2/64");
    world
        .facts
        .addresses
        .insert(adit_model::facts::AddressFact {
            interface: "eth0".to_owned(),
            address,
        });
    let id = forward_id(&world, 8080);
    let enabled = |enabled| {
        set_forward(
            id,
            SetForward {
                enabled: Some(enabled),
                ..SetForward::default()
            },
        )
    };
    let world = world.with([enabled(false), add_device("b")]);
    check(&world.refused(enabled(true)), "port-reserved", "8080");
    let taken = world.refused(add_device_at("c", "10.59.0.2"));
    check(&taken, "address-taken", "`a`");
}
