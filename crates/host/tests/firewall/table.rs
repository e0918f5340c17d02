//! Loading, comparing, watching and healing the table, and how long that takes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use adit_host::firewall::Table;
use adit_model::desired::firewall::{Endpoint, Firewall, Keep, Port};
use adit_model::protocol::Protocol;
use ipnet::Ipv4Net;
use tokio::time::timeout;

use crate::world::World;
use crate::{DEVICE, PUBLIC, firewall, keep, range, udp};

#[test]
fn kernel_lists_what_was_loaded_and_every_delta() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        assert_eq!(table.observe().await.unwrap(), None);
        let mut held = firewall();
        table.replace(&held).await.unwrap();
        assert!(table.observe().await.unwrap().unwrap().matches(&held));

        for change in changes() {
            let mut next = held.clone();
            change(&mut next);
            assert!(Firewall::delta(&held, &next).is_some_and(|delta| !delta.is_empty()));
            let handle = world.shell("gateway", TABLE_HANDLE);
            table.update(&held, &next).await.unwrap();
            assert_eq!(world.shell("gateway", TABLE_HANDLE), handle, "replaced");
            let observed = table.observe().await.unwrap().unwrap();
            assert_eq!(observed.elements, next.elements());
            assert!(observed.matches(&next) && !observed.matches(&held));
            held = next;
        }

        // The first name brings rules along, the next one is an element; the last takes all of it away.
        let named = |port| Port {
            address: IpAddr::V4(PUBLIC),
            protocol: Protocol::Tcp,
            port,
        };
        let plain = held.clone();
        for ports in [&[443][..], &[443, 8443], &[]] {
            let mut next = plain.clone();
            next.names = ports.iter().map(|port| named(*port)).collect();
            let advertised = ports.iter().map(|port| {
                let address = Ipv4Addr::new(198, 51, 100, 7);
                let key = Port {
                    address,
                    protocol: Protocol::Tcp,
                    port: *port,
                };
                (key, PUBLIC)
            });
            next.advertised_names = advertised.collect();
            table.update(&held, &next).await.unwrap();
            assert!(table.observe().await.unwrap().unwrap().matches(&next));
            held = next;
        }

        // A delta on top of a table that is not as it was left.
        world.shell("gateway", "nft flush map inet adit forwards4");
        let mut next = held.clone();
        next.translations4.forwards.clear();
        table.update(&held, &next).await.unwrap();
        assert!(table.observe().await.unwrap().unwrap().matches(&next));

        world.shell("gateway", "nft insert rule inet adit to_tunnel accept");
        assert!(!table.observe().await.unwrap().unwrap().matches(&next));
        table.replace(&next).await.unwrap();
        assert!(table.observe().await.unwrap().unwrap().matches(&next));
        world.shell(
            "gateway",
            "nft add element inet adit networks4 { 10.99.0.0/16 }",
        );
        assert!(!table.observe().await.unwrap().unwrap().matches(&next));
        table.replace(&next).await.unwrap();
        assert!(table.observe().await.unwrap().unwrap().matches(&next));

        table.remove().await.unwrap();
        table.remove().await.unwrap();
        assert_eq!(table.observe().await.unwrap(), None);
    });
}

/// Changes of elements alone, of every kind of set, some of them in intervals that stay partly the same.
/// Another table of the same name has another one.
const TABLE_HANDLE: &str = "nft -a list tables | grep 'inet adit'";

fn changes() -> [fn(&mut Firewall); 8] {
    [
        |next| {
            let target = next
                .translations4
                .forwards
                .get_mut(&udp(PUBLIC, 80))
                .unwrap();
            *target = (DEVICE, 8081);
        },
        |next| {
            let (mut media, target) = first_range(next);
            next.translations4.forward_ranges.remove(&media);
            media.ports = range(5005, 5020);
            next.translations4.forward_ranges.insert(media, target);
            next.translations4.keep_ranges.clear();
        },
        |next| {
            let (removed, target) = first_range(next);
            next.translations4.forward_ranges.remove(&removed);
            let (mut media, _) = first_range(&firewall());
            for first in [1, 100, 200] {
                media.ports = range(first, first + 49);
                next.translations4.forward_ranges.insert(media, target);
            }
        },
        |next| {
            let policy = next.subnets.get_mut(&2).unwrap();
            policy.peers_allowed = true;
            policy.networks4 = ["10.60.0.0/25", "10.60.0.128/26", "10.61.0.1/32"]
                .iter()
                .map(|network| network.parse::<Ipv4Net>().unwrap())
                .collect();
            policy
                .networks6
                .insert("2001:db8:0:3::/64".parse().unwrap());
        },
        |next| {
            let policy = next.subnets.get_mut(&2).unwrap();
            policy.networks4 = ["10.60.0.0/24", "10.61.0.0/24"]
                .iter()
                .map(|network| network.parse::<Ipv4Net>().unwrap())
                .collect();
            policy.host_access = true;
            next.own_prefixes6.remove_min();
        },
        |next| {
            next.uplinks.insert("wan-2.7".to_owned());
            next.services.clear();
            next.pinholes.remove_min();
            next.open_addresses = vec!["2001:db8:0:1::3".parse().unwrap()].into();
        },
        |next| {
            let (ports, mut peers) = next.filters.get_min().unwrap().clone();
            peers.pop_first();
            next.filters.clear();
            next.filters.insert(ports, peers);
        },
        |next| *next = firewall(),
    ]
}

fn first_range(firewall: &Firewall) -> (Endpoint<Ipv4Addr>, Ipv4Addr) {
    *firewall.translations4.forward_ranges.get_min().unwrap()
}

#[test]
fn foreign_changes_are_noticed_and_own_ones_are_not() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        let mut watch = table.watch().unwrap();
        let wanted = firewall();
        let mut other = firewall();
        other.translations4.forwards.clear();
        for _ in 0..5 {
            table.replace(&wanted).await.unwrap();
            table.update(&wanted, &other).await.unwrap();
            table.update(&other, &wanted).await.unwrap();
        }
        world.shell(
            "gateway",
            "nft add table inet foreign; nft delete table inet foreign; nft add table ip adit",
        );
        let quiet = timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(
            quiet.is_err(),
            "our own changes and those of other tables are told"
        );

        for foreign in [
            "nft flush ruleset",
            "nft delete element inet adit uplinks { uplink0 }",
            "nft flush chain inet adit to_tunnel",
        ] {
            // The machine may be busy with something else: the best of three counts.
            let mut fastest = Duration::MAX;
            for _ in 0..3 {
                world.shell("gateway", foreign);
                let start = Instant::now();
                timeout(Duration::from_secs(5), watch.changed())
                    .await
                    .expect(foreign)
                    .unwrap();
                table.replace(&wanted).await.unwrap();
                fastest = fastest.min(start.elapsed());
                assert!(table.observe().await.unwrap().unwrap().matches(&wanted));
            }
            println!("{foreign}: healed within {fastest:?}");
            assert!(
                fastest < Duration::from_millis(100),
                "{foreign}: healed after {fastest:?}"
            );
        }
        let quiet = timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(quiet.is_err(), "healing is taken for a foreign change");
    });
}

#[test]
fn ten_thousand_forwards() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        let mut watch = table.watch().unwrap();
        let mut many = firewall();
        for number in 0..10_000u16 {
            let device = [10, 59, (number >> 8) as u8, number as u8].into();
            many.translations4
                .forwards
                .insert(udp(PUBLIC, 10_000 + number), (device, 80));
            many.translations4.keeps.insert(
                Keep {
                    device: udp(device, 80),
                    ..keep(0)
                },
                (PUBLIC, 10_000 + number),
            );
        }
        let start = Instant::now();
        table.replace(&many).await.unwrap();
        println!(
            "10,000 forwards with keeps: loaded in {:?}",
            start.elapsed()
        );
        let start = Instant::now();
        table.replace(&many).await.unwrap();
        println!(
            "10,000 forwards with keeps: replaced in {:?}",
            start.elapsed()
        );
        let mut more = many.clone();
        more.translations4
            .forwards
            .insert(udp(PUBLIC, 9), (DEVICE, 9));
        let start = Instant::now();
        table.update(&many, &more).await.unwrap();
        println!(
            "10,000 forwards with keeps: one added in {:?}",
            start.elapsed()
        );
        let start = Instant::now();
        assert!(table.observe().await.unwrap().unwrap().matches(&more));
        println!(
            "10,000 forwards with keeps: compared in {:?}",
            start.elapsed()
        );
        let quiet = timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(quiet.is_err(), "the events of a large table were lost");

        world.shell("gateway", "nft flush ruleset");
        let start = Instant::now();
        watch.changed().await.unwrap();
        let noticed = start.elapsed();
        table.replace(&more).await.unwrap();
        println!(
            "10,000 forwards with keeps: flush noticed in {noticed:?}, healed in {:?}",
            start.elapsed()
        );
    });
}
