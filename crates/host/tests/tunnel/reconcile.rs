//! Reconciling: what is desired is there, what others break is healed, what others own is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_host::reconcile::{Handle, Openings, Reconciler, start};
use adit_host::wireguard::Starter;
use adit_model::desired::Desired;
use adit_model::desired::address::Address;
use adit_model::desired::firewall::{
    Clamp, Connections, Endpoint, Firewall, Port, Sources, Translations,
};
use adit_model::desired::link::Link;
use adit_model::desired::names::Names;
use adit_model::desired::neighbor::ProxyNeighbor;
use adit_model::desired::route::{MAIN_TABLE, Route, RouteTarget};
use adit_model::desired::rule::Rule;
use adit_model::desired::wireguard::{Peer, WireGuard};
use adit_model::key::{PresharedKey, PrivateKey, PublicKey};
use adit_model::protocol::{PortRange, Protocol};
use adit_model::state::Filter;

use crate::namespace::{Namespace, join, unique};
use crate::wireguard::wireguard_go;

pub(crate) fn interface() -> String {
    format!("adr{}", unique())
}

fn peer(number: u32) -> (PublicKey, Peer) {
    let mut key = [3; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let [_, _, high, low] = number.to_be_bytes();
    let prefixes = [
        format!("10.59.{high}.{low}/32"),
        format!("2001:db8:1::{number:x}/128"),
    ];
    let peer = Peer {
        preshared_key: PresharedKey::from_bytes([4; 32]),
        allowed_ips: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
    };
    (PublicKey::from_bytes(key), peer)
}

/// The gateway of a network with that many devices, each with a forward.
pub(crate) fn gateway(interface: &str, devices: std::ops::Range<u32>) -> Desired {
    let peers: BTreeMap<_, _> = devices.clone().map(peer).collect();
    let routes = peers.values().flat_map(|peer| &peer.allowed_ips);
    let routes = routes.map(|destination| Route {
        table: MAIN_TABLE,
        destination: *destination,
        metric: 1024,
        target: RouteTarget::Interface {
            interface: interface.to_owned(),
            gateway: None,
        },
    });
    let unreachable = Route {
        table: 4200,
        destination: "::/0".parse().unwrap(),
        metric: 2048,
        target: RouteTarget::Unreachable,
    };
    let routes = routes.chain([unreachable]).collect();
    let addresses = ["10.59.255.1/32", "2001:db8:1::ffff/128"];
    let mut firewall = firewall(interface);
    for number in devices.clone() {
        let [_, _, high, low] = number.to_be_bytes();
        let external = Port {
            address: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: u16::try_from(1000 + number).unwrap(),
        };
        let device = [10, 59, high, low].into();
        firewall
            .translations4
            .forwards
            .insert(external, (device, 80));
    }
    Desired {
        names: Names::default(),
        link: Some(Link {
            name: interface.to_owned(),
            mtu: 1400,
        }),
        wireguard: Some(WireGuard {
            private_key: PrivateKey::from_random([6; 32]),
            listen_port: 51820,
            peers: peers.into(),
        }),
        addresses: addresses
            .map(|address| Address {
                interface: interface.to_owned(),
                address: address.parse().unwrap(),
            })
            .into(),
        routes,
        rules: vec![Rule {
            priority: 4210,
            source: "2001:db8:1::/64".parse().unwrap(),
            destination: None,
            input_interface: Some(interface.to_owned()),
            mark: None,
            table: 4200,
            suppress_prefix_length: None,
        }]
        .into(),
        neighbors: devices
            .take(2)
            .map(|number| ProxyNeighbor {
                interface: "wan".to_owned(),
                address: format!("2001:db8:1::{number:x}").parse().unwrap(),
            })
            .collect(),
        sysctls: [
            ("net/ipv4/conf/all/forwarding", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/wan/accept_ra", "2"),
            ("net/ipv6/conf/wan/proxy_ndp", "1"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned()))
        .into(),
        firewall: Some(firewall),
    }
}

fn firewall(interface: &str) -> Firewall {
    Firewall {
        interface: interface.to_owned(),
        uplinks: ["wan".to_owned()].into(),
        reply_marks: BTreeMap::new(),
        sources: Sources::default(),
        watched: BTreeSet::new(),
        snat_ports: PortRange::new(40_000, 65_535).unwrap(),
        clamp: Clamp {
            ipv4: 1360,
            ipv6: 1340,
        },
        connections: Connections::default(),
        subnets: BTreeMap::new(),
        own_prefixes6: vec!["2001:db8:1::/64".parse().unwrap()].into(),
        services: [].into(),
        translations4: Translations::default(),
        translations6: Translations::default(),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
        filters: Vec::<(Endpoint<IpAddr>, BTreeSet<Filter>)>::new().into(),
        open_addresses: Default::default(),
        pinholes: vec![Endpoint {
            address: "2001:db8:1::1".parse().unwrap(),
            protocol: Protocol::Tcp,
            ports: PortRange::new(22, 22).unwrap(),
        }]
        .into(),
    }
}

/// A namespace with an uplink, and with things of others in every place where ours go.
pub(crate) fn host() -> (Namespace, Namespace) {
    let [gateway, provider] = [Namespace::new(), Namespace::new()];
    join([
        (&gateway, "wan", &["192.0.2.1/24", "2001:db8:1::a/64"]),
        (&provider, "lan", &["192.0.2.254/24", "2001:db8:1::b/64"]),
    ]);
    for command in [
        "ip route add 198.51.100.0/24 via 192.0.2.254",
        "ip -6 route add 2001:db8:ffff::/48 via 2001:db8:1::b",
        "ip rule add priority 4211 from 198.51.100.1 lookup 4201",
        "ip route add unreachable default table 4201",
        "ip -6 neigh add proxy 2001:db8:1::eeee dev wan",
        "nft add table inet others",
        "nft add chain inet others input { type filter hook input priority 0 ; }",
        "nft add rule inet others input tcp dport 4711 counter accept",
    ] {
        let words: Vec<_> = command.split(' ').collect();
        gateway.run(words[0], &words[1..]);
    }
    (gateway, provider)
}

/// Everything that could be touched; ours is told by its marks.
fn picture(namespace: &Namespace, interface: &str) -> String {
    let commands: [&[&str]; 8] = [
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "rule"],
        &["ip", "-6", "rule"],
        &["ip", "-6", "neigh", "show", "proxy"],
        &["ip", "-o", "address"],
        &["nft", "list", "table", "inet", "others"],
        &["nft", "list", "tables"],
    ];
    let mut picture = String::new();
    for command in commands {
        for line in namespace.run(command[0], &command[1..]).lines() {
            let is_ours = ["proto 173", interface, "inet adit"]
                .iter()
                .any(|mark| line.contains(mark));
            // Lifetimes and counters run, and forwarding brings anycast addresses along.
            let is_moving = ["counter", "anycast", "fe80:"]
                .iter()
                .any(|mark| line.contains(mark));
            if !is_ours && !is_moving {
                picture.push_str(line.split(" valid_lft").next().unwrap());
                picture.push('\n');
            }
        }
    }
    picture
}

fn sysctls(namespace: &Namespace) -> String {
    namespace.run("sysctl", &["-a", "-r", r"^net\.ipv[46]\.(conf|ip_forward)"])
}

pub(crate) async fn until(
    what: &str,
    limit: Duration,
    mut is_true: impl FnMut() -> bool,
) -> Duration {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < limit, "{what} not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

pub(crate) fn open(interface: &str, record: &Path) -> Reconciler {
    let reconciler = Reconciler::open(interface, record).unwrap();
    reconciler.with_starter(Starter::Own(wireguard_go()))
}

pub(crate) async fn run_in(record: &Path, interface: &str) -> Handle {
    start(open(interface, record)).await.unwrap()
}

#[test]
fn what_is_desired_is_there_stays_there_and_goes() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("sysctls.json");
    let name = interface();
    let before = (picture(&gateway_host, &name), sysctls(&gateway_host));
    let desired = Arc::new(gateway(&name, 1..3));
    let ours = |arguments: &[&str]| gateway_host.run("ip", arguments);

    gateway_host.enter(async || {
        let handle = run_in(&record, &name).await;
        assert!(handle.facts().borrow().links.contains_key("wan"));
        let report = handle
            .apply(Arc::clone(&desired), Openings::AtOnce)
            .await
            .unwrap();
        assert_eq!(report.problems, []);
        assert!(matches!(
            handle.status().borrow().dataplane,
            Some("kernel" | "wireguard-go")
        ));

        let peers = gateway_host.run("wg", &["show", &name, "allowed-ips"]);
        assert_eq!(peers.lines().count(), 2);
        assert!(peers.contains("10.59.0.1/32"), "{peers}");
        assert!(ours(&["link", "show", &name]).contains("mtu 1400"));
        assert_eq!(ours(&["route", "show", "proto", "173"]).lines().count(), 2);
        assert_eq!(
            ours(&["-6", "route", "show", "proto", "173"])
                .lines()
                .count(),
            2
        );
        assert!(ours(&["-6", "rule"]).contains("4210:"));
        let table = gateway_host.run("nft", &["list", "table", "inet", "adit"]);
        assert!(
            table.contains("192.0.2.1 . tcp . 1001 : 10.59.0.1 . 80"),
            "{table}"
        );
        assert_eq!(picture(&gateway_host, &name), before.0);

        // A second time there is nothing to do, and our own events did not count as others' changes.
        let again = handle
            .apply(Arc::clone(&desired), Openings::AtOnce)
            .await
            .unwrap();
        assert_eq!(again.changed, BTreeMap::new());
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(handle.status().borrow().healed, BTreeMap::new());

        break_and_wait(&gateway_host, &name).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let healed = handle.status().borrow().healed.clone();
        assert_eq!(
            healed.keys().copied().collect::<Vec<_>>(),
            ["firewall", "neighbor", "route", "rule", "sysctl"]
        );
        assert_eq!(healed["rule"], 1);
        assert_eq!(handle.status().borrow().problems, [].into());
    });

    // The daemon is gone and the tunnel is not; another one takes it over, a third withdraws everything.
    assert_eq!(
        gateway_host
            .run("wg", &["show", &name, "peers"])
            .lines()
            .count(),
        2
    );
    gateway_host.enter(async || {
        let mut reconciler = open(&name, &record);
        let report = reconciler.reconcile(&desired).await;
        // A new daemon cannot vouch for rules that it did not load; all else it takes over as it is.
        assert_eq!(report.changed, BTreeMap::from([("firewall", 1)]));
        assert!(matches!(
            reconciler.dataplane(),
            Some("kernel" | "wireguard-go")
        ));
    });
    gateway_host.enter(async || {
        let mut reconciler = open(&name, &record);
        let report = reconciler.teardown().await;
        assert_eq!((&report.problems, &report.kept), (&vec![], &vec![]));
        assert!(report.changed["route"] > 0 && report.changed["firewall"] == 1);
        let second = reconciler.teardown().await;
        assert_eq!(second, adit_host::reconcile::Report::default());
    });
    assert!(!Path::new(&format!("/var/run/wireguard/{name}.sock")).exists());
    assert!(
        !gateway_host
            .run("nft", &["list", "tables"])
            .contains("adit")
    );
    assert_eq!(ours(&["route", "show", "table", "all", "proto", "173"]), "");
    assert_eq!(
        ours(&["-6", "route", "show", "table", "all", "proto", "173"]),
        ""
    );
    // What nft flushed was of others, too.
    let picture = picture(&gateway_host, &name);
    assert_eq!(
        picture.replace("table inet others\n", ""),
        before.0.replace("table inet others\n", "")
    );
    assert_eq!(sysctls(&gateway_host), before.1);
}

async fn break_and_wait(host: &Namespace, name: &str) {
    let second = Duration::from_secs(1);
    let contains = |arguments: &[&str], text: &str| host.run("ip", arguments).contains(text);
    let others = host.run("nft", &["-s", "list", "table", "inet", "others"]);
    host.run("nft", &["flush", "ruleset"]);
    let took = until("the table is back", second, || {
        host.run("nft", &["list", "tables"]).contains("adit")
    })
    .await;
    println!("flushed ruleset: healed within {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), others).unwrap();
    host.run("nft", &["-f", file.path().to_str().unwrap()]);

    host.run("ip", &["route", "del", "10.59.0.1/32", "dev", name]);
    let took = until("the route is back", second, || {
        contains(&["route", "show", "proto", "173"], "10.59.0.1 ")
    })
    .await;
    println!("deleted route: healed within {took:?}");
    host.run("ip", &["-6", "rule", "del", "priority", "4210"]);
    let took = until("the rule is back", second, || {
        contains(&["-6", "rule"], "4210:")
    })
    .await;
    println!("deleted rule: healed within {took:?}");
    host.run(
        "ip",
        &["-6", "neigh", "del", "proxy", "2001:db8:1::1", "dev", "wan"],
    );
    let took = until("the proxy neighbour is back", second, || {
        contains(&["-6", "neigh", "show", "proxy"], "2001:db8:1::1 ")
    })
    .await;
    println!("deleted proxy neighbour: healed within {took:?}");
    host.run("sysctl", &["-q", "net.ipv6.conf.wan.proxy_ndp=0"]);
    until("the setting is back", second, || {
        host.run("sysctl", &["-n", "net.ipv6.conf.wan.proxy_ndp"])
            .trim()
            == "1"
    })
    .await;
    // A foreign route that bears our mark is ours to remove.
    host.run(
        "ip",
        &[
            "route",
            "add",
            "203.0.113.0/24",
            "dev",
            "wan",
            "proto",
            "173",
        ],
    );
    until("the stray route is gone", second, || {
        !contains(&["route", "show", "proto", "173"], "203.0.113.0")
    })
    .await;
}

#[test]
fn a_lost_interface_comes_back_with_everything_on_it() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("sysctls.json");
    let name = interface();
    let desired = Arc::new(gateway(&name, 1..3));
    gateway_host.enter(async || {
        let handle = run_in(&record, &name).await;
        let report = handle
            .apply(Arc::clone(&desired), Openings::AtOnce)
            .await
            .unwrap();
        assert_eq!(report.problems, []);
        gateway_host.run("ip", &["link", "del", &name]);
        let took = until(
            "two peers and their routes are back",
            Duration::from_secs(3),
            || {
                let routes = gateway_host.run("ip", &["-6", "route", "show", "proto", "173"]);
                routes.contains(&name)
            },
        )
        .await;
        println!("deleted interface: healed within {took:?}");
        let observed = handle.wireguard().await.unwrap().unwrap();
        assert_eq!(observed.peers.len(), 2);
        assert_eq!(observed.listen_port, 51820);
        gateway_host.run("ip", &["link", "set", &name, "down"]);
        until("it is up again", Duration::from_secs(1), || {
            gateway_host
                .run("ip", &["link", "show", &name])
                .contains(",UP")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            gateway_host
                .run("ip", &["route", "show", "proto", "173"])
                .lines()
                .count(),
            2
        );
        assert_eq!(handle.status().borrow().problems, [].into());
        open(&name, &record).teardown().await;
    });
}

#[test]
fn an_interface_of_others_is_left_alone_and_told() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let name = interface();
    gateway_host.run("ip", &["link", "add", &name, "type", "bridge"]);
    gateway_host.enter(async || {
        let mut reconciler = open(&name, &folder.path().join("sysctls.json"));
        let desired = Arc::new(gateway(&name, 1..3));
        let report = reconciler.reconcile(&desired).await;
        let codes: Vec<_> = report
            .problems
            .iter()
            .map(|problem| problem.code.as_str())
            .collect();
        assert_eq!(codes, ["interface-taken"]);
        assert_eq!(
            gateway_host.run("ip", &["route", "show", "proto", "173"]),
            ""
        );
        assert!(
            !gateway_host
                .run("nft", &["list", "tables"])
                .contains("adit")
        );
        gateway_host.run("ip", &["link", "del", &name]);
        let report = reconciler.change(&desired).await;
        assert_eq!(report.problems, []);
        reconciler.teardown().await;
        assert_eq!(reconciler.problems().len(), 0);
    });
}

#[test]
fn a_failing_step_stops_no_other() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let name = interface();
    gateway_host.run(
        "ip",
        &["-6", "neigh", "add", "proxy", "2001:db8:1::1", "dev", "wan"],
    );
    gateway_host.enter(async || {
        let mut reconciler = open(&name, &folder.path().join("sysctls.json"));
        let mut desired = gateway(&name, 1..3);
        desired
            .sysctls
            .insert("net/ipv4/conf/nowhere/rp_filter".to_owned(), "2".to_owned());
        let report = reconciler.reconcile(&Arc::new(desired)).await;
        let codes: Vec<_> = report
            .problems
            .iter()
            .map(|problem| problem.code.as_str())
            .collect();
        assert_eq!(codes, ["sysctl-failed", "neighbor-failed"]);
        assert_eq!(
            gateway_host
                .run("ip", &["route", "show", "proto", "173"])
                .lines()
                .count(),
            2
        );
        assert!(
            gateway_host
                .run("ip", &["-6", "neigh", "show", "proxy"])
                .contains("2001:db8:1::2 ")
        );
        // It is there, but another's: removed with ours it would be missed.
        reconciler.teardown().await;
        assert!(
            gateway_host
                .run("ip", &["-6", "neigh", "show", "proxy"])
                .contains("2001:db8:1::1 ")
        );
    });
}

#[test]
fn ten_thousand_devices() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let name = interface();
    gateway_host.enter(async || {
        let mut reconciler = open(&name, &folder.path().join("sysctls.json"));
        let [all, more] = [0..10_000, 0..10_001].map(|devices| Arc::new(gateway(&name, devices)));
        let started = Instant::now();
        assert_eq!(reconciler.reconcile(&all).await.problems, []);
        let cold = started.elapsed();
        let started = Instant::now();
        let steps = adit_model::plan::plan_change(&all, &more);
        println!(
            "planning the change: {:?} {}",
            started.elapsed(),
            steps.len()
        );
        let started = Instant::now();
        let report = reconciler.change(&more).await;
        let one = started.elapsed();
        assert_eq!(
            report.changed,
            BTreeMap::from([("firewall", 1), ("peer", 1), ("route", 2)])
        );
        let started = Instant::now();
        assert_eq!(
            reconciler.reconcile(&more).await,
            adit_host::reconcile::Report::default()
        );
        let look = started.elapsed();
        let started = Instant::now();
        assert_eq!(reconciler.teardown().await.problems, []);
        println!(
            "10,000 devices: cold {cold:?}, one more {one:?}, full look {look:?}, teardown {:?}",
            started.elapsed()
        );
        assert!(cold < Duration::from_secs(20) && look < Duration::from_secs(8));
    });
}
