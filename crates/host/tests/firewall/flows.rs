//! Established connections: what a reload leaves alone, and what a sweep ends.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use adit_host::conntrack::{Changed, sweep};
use adit_host::firewall::Table;
use adit_model::desired::firewall::Firewall;

use crate::packets::delivered;
use crate::world::World;
use crate::{DEVICE, PUBLIC, firewall, udp};

const SOON: Duration = Duration::from_millis(1500);
const NEVER: Duration = Duration::from_millis(150);

#[test]
fn replacing_the_table_interrupts_no_translated_connection() {
    let world = World::build();
    let wanted = firewall();
    world.on_gateway(async |_| Table::default().replace(&wanted).await.unwrap());
    let outside = world.udp("outside", "192.0.2.9:9000");
    let web = world.udp("device1", "10.59.0.2:8080");
    let address: SocketAddr = "192.0.2.9:81".parse().unwrap();
    let listener = world.within("outside", || TcpListener::bind(address).unwrap());
    let mut sent = world.within("device1", || {
        TcpStream::connect_timeout(&address, SOON).unwrap()
    });
    let (mut accepted, _) = listener.accept().unwrap();
    assert!(delivered(&outside, "192.0.2.1:80", &web, SOON).is_some());

    std::thread::scope(|scope| {
        let reload = scope.spawn(|| {
            world.on_gateway(async |_| {
                let mut table = Table::default();
                for _ in 0..30 {
                    table.replace(&wanted).await.unwrap();
                }
            });
        });
        let mut exchanges = 0;
        while !reload.is_finished() || exchanges < 100 {
            let source =
                delivered(&outside, "192.0.2.1:80", &web, SOON).expect("lost on the way in");
            assert_eq!(source.to_string(), "192.0.2.9:9000");
            let source =
                delivered(&web, "192.0.2.9:9000", &outside, SOON).expect("lost on the way out");
            assert_eq!(source.to_string(), "192.0.2.1:80");
            sent.write_all(b"x").unwrap();
            accepted.read_exact(&mut [0]).unwrap();
            exchanges += 1;
        }
        println!("{exchanges} exchanges during 30 reloads, none lost");
    });
}

#[test]
fn sweep_ends_what_changed_and_nothing_else() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        let from = firewall();
        table.replace(&from).await.unwrap();
        let outside = world.udp("outside", "192.0.2.9:9000");
        let outside6 = world.udp("outside", "[2001:db8:ff::9]:9001");
        let web = world.udp("device1", "10.59.0.2:8080");
        let web2 = world.udp("device2", "10.59.0.3:8080");
        let media = world.udp("device1", "10.59.0.2:5004");
        let hole = world.udp("device1", "[2001:db8:0:1::2]:7000");
        let holes = world.udp("device1", "[2001:db8:0:1::2]:7123");
        let device3 = world.udp("device3", "10.60.0.2:9000");
        let arrives = |sender, to, receiver| delivered(sender, to, receiver, SOON).is_some();
        let is_cut = |sender, to, receiver| delivered(sender, to, receiver, NEVER).is_none();
        assert!(arrives(&outside, "192.0.2.1:80", &web));
        assert!(arrives(&outside, "192.0.2.1:5004", &media));
        assert!(arrives(&outside6, "[2001:db8:0:1::2]:7000", &hole));
        assert!(
            arrives(&hole, "[2001:db8:ff::9]:9001", &outside6),
            "established"
        );
        assert!(arrives(&outside6, "[2001:db8:0:1::2]:7123", &holes));
        let port = delivered(&device3, "192.0.2.9:9000", &outside, SOON).unwrap();
        let back = port.to_string();
        assert!(arrives(&outside, &back, &device3));

        let mut to = from.clone();
        to.translations4
            .forwards
            .insert(udp(PUBLIC, 80), ("10.59.0.3".parse().unwrap(), 8080));
        to.translations4.keeps.clear();
        to.pinholes.remove_min();
        table.update(&from, &to).await.unwrap();
        assert!(arrives(&outside, "192.0.2.1:80", &web), "still tracked");
        assert!(
            arrives(&outside6, "[2001:db8:0:1::2]:7000", &hole),
            "still tracked"
        );
        let endpoints = Firewall::changed_endpoints(&from, &to);
        let ended = sweep(Changed {
            endpoints,
            ..Changed::default()
        })
        .await
        .unwrap();
        assert_eq!(ended, 2);
        assert!(arrives(&outside, "192.0.2.1:80", &web2), "moved");
        assert!(is_cut(&outside6, "[2001:db8:0:1::2]:7000", &hole), "closed");
        assert!(arrives(&outside6, "[2001:db8:0:1::2]:7123", &holes));
        assert!(arrives(&outside, "192.0.2.1:5004", &media));
        assert!(arrives(&outside, &back, &device3), "untouched");

        // What a device began itself from a forwarded port ends with the forward too.
        table.update(&to, &from).await.unwrap();
        let endpoints = Firewall::changed_endpoints(&to, &from);
        sweep(Changed {
            endpoints: endpoints.clone(),
            ..Changed::default()
        })
        .await
        .unwrap();
        assert!(arrives(&web, "192.0.2.9:9000", &outside));
        assert!(arrives(&outside, "192.0.2.1:80", &web));
        table.update(&from, &to).await.unwrap();
        assert_eq!(
            sweep(Changed {
                endpoints,
                ..Changed::default()
            })
            .await
            .unwrap(),
            1
        );
        assert!(arrives(&outside, "192.0.2.1:80", &web2));

        let networks = BTreeSet::from([
            "10.60.0.0/24".parse().unwrap(),
            "2001:db8:0:1::2/128".parse().unwrap(),
        ]);
        let ended = sweep(Changed {
            networks,
            ..Changed::default()
        })
        .await
        .unwrap();
        assert_eq!(ended, 2, "what device 3 sends, and a range of pinholes");
        assert!(is_cut(&outside, &back, &device3), "a device that is gone");
        assert_eq!(web.local_addr().unwrap().ip(), DEVICE);
    });
}

#[test]
fn an_open_address_has_whatever_comes_in_until_it_closes() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        let closed = firewall();
        table.replace(&closed).await.unwrap();
        let mut open = closed.clone();
        open.open_addresses = vec!["2001:db8:0:1::3".parse().unwrap()].into();
        let outside = world.udp("outside", "[2001:db8:ff::9]:9001");
        let outside_raw = world.raw("outside", "[2001:db8:ff::9]:0");
        let device = world.udp("device2", "[2001:db8:0:1::3]:9000");
        let device_raw = world.raw("device2", "[2001:db8:0:1::3]:0");
        let other = world.udp("device1", "[2001:db8:0:1::2]:7050");
        let other_raw = world.raw("device1", "[2001:db8:0:1::2]:0");
        let device3 = world.udp("device3", "[2001:db8:0:2::2]:9000");
        let arrives = |sender, to, receiver| delivered(sender, to, receiver, SOON).is_some();
        let is_dropped = |sender, to, receiver| delivered(sender, to, receiver, NEVER).is_none();
        let is_closed = || {
            is_dropped(&outside, "[2001:db8:0:1::3]:9000", &device)
                && is_dropped(&outside_raw, "[2001:db8:0:1::3]:0", &device_raw)
                && is_dropped(&device3, "[2001:db8:0:1::3]:9000", &device)
        };
        assert!(is_closed());

        table.update(&closed, &open).await.unwrap();
        assert!(arrives(&outside, "[2001:db8:0:1::3]:9000", &device));
        assert!(arrives(&outside_raw, "[2001:db8:0:1::3]:0", &device_raw));
        assert!(arrives(&device3, "[2001:db8:0:1::3]:9000", &device));
        assert!(arrives(&device_raw, "[2001:db8:ff::9]:0", &outside_raw));
        assert!(is_dropped(&outside, "[2001:db8:0:1::2]:7050", &other));
        assert!(is_dropped(&outside_raw, "[2001:db8:0:1::2]:0", &other_raw));

        table.update(&open, &closed).await.unwrap();
        assert!(
            arrives(&outside_raw, "[2001:db8:0:1::3]:0", &device_raw),
            "still tracked"
        );
        let ended = sweep(Changed {
            networks: Firewall::closed_addresses(&open, &closed),
            ..Changed::default()
        });
        assert_eq!(ended.await.unwrap(), 3);
        assert!(is_closed());
    });
}

#[test]
fn sweep_of_many_connections_is_quick() {
    World::build().on_gateway(async |world| {
        let mut table = Table::default();
        let mut wanted = firewall();
        wanted.connections.limit = 100_000;
        table.replace(&wanted).await.unwrap();
        // One tracked connection for each port outside.
        let web = world.udp("device1", "10.59.0.2:8080");
        for port in 1..20_000u16 {
            web.send_to(b"x", ("192.0.2.9", port)).unwrap();
        }
        let start = std::time::Instant::now();
        let networks = BTreeSet::from(["10.59.0.2/32".parse().unwrap()]);
        let ended = sweep(Changed {
            networks,
            ..Changed::default()
        })
        .await
        .unwrap();
        println!("{ended} connections ended in {:?}", start.elapsed());
        assert!(ended > 15_000, "{ended}");
        let networks = BTreeSet::from(["10.59.0.2/32".parse().unwrap()]);
        assert_eq!(
            sweep(Changed {
                networks,
                ..Changed::default()
            })
            .await
            .unwrap(),
            0
        );
    });
}
