//! WireGuard by the kernel, or by `wireguard-go`: what is set is what is there, and no peer notices another's change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_host::link;
use adit_host::netlink::Netlink;
use adit_host::wireguard::{Dataplane, PeerChange, Program, Starter, WireGuardError};
use adit_model::desired::link::Link;
use adit_model::desired::wireguard::Peer;
use adit_model::key::{PresharedKey, PrivateKey, PublicKey};

use crate::namespace::{Namespace, join, run, unique};

/// Carries packets where the kernel does not.
pub(crate) fn wireguard_go() -> Program {
    Program {
        path: "wireguard-go".into(),
        arguments: Vec::new(),
    }
}

fn tunnel() -> Link {
    Link {
        name: format!("adt{}", unique()),
        mtu: 1420,
    }
}

fn peer(preshared: u8, prefixes: &[&str]) -> Peer {
    Peer {
        preshared_key: PresharedKey::from_bytes([preshared; 32]),
        allowed_ips: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn numbered(number: u32) -> (PublicKey, Peer) {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let [_, _, high, low] = number.to_be_bytes();
    let prefixes = [
        format!("10.60.{high}.{low}/32"),
        format!("2001:db8::{number:x}/128"),
    ];
    let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
    (PublicKey::from_bytes(key), peer(low, &prefixes))
}

fn socket(link: &Link) -> PathBuf {
    format!("/var/run/wireguard/{}.sock", link.name).into()
}

async fn peers_of(dataplane: &Dataplane) -> BTreeMap<PublicKey, Peer> {
    let observed = dataplane.observe().await.unwrap();
    observed
        .peers
        .into_iter()
        .map(|(key, peer)| (key, peer.peer))
        .collect()
}

#[test]
fn a_peer_keeps_its_session_while_others_come_and_go() {
    let gateway = Namespace::new();
    let home = Namespace::new();
    join([
        (&gateway, "wan", &["192.0.2.1/24"]),
        (&home, "wan", &["192.0.2.2/24"]),
    ]);
    let link = tunnel();
    let device = tunnel();
    let gateway_key = PrivateKey::from_random([1; 32]);
    let device_key = PrivateKey::from_random([2; 32]);
    let home_name = home.name.clone();

    home.run("wireguard-go", &[&device.name]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), device_key.to_base64()).unwrap();
    let preshared = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        preshared.path(),
        PresharedKey::from_bytes([5; 32]).to_base64(),
    )
    .unwrap();
    home.run(
        "wg",
        &[
            "set",
            &device.name,
            "private-key",
            secret.path().to_str().unwrap(),
            "peer",
            &gateway_key.public_key().to_base64(),
            "preshared-key",
            preshared.path().to_str().unwrap(),
            "endpoint",
            "192.0.2.1:51820",
            "allowed-ips",
            "10.59.0.0/24",
        ],
    );
    home.run("ip", &["link", "set", &device.name, "up"]);
    home.run(
        "ip",
        &["address", "add", "10.59.0.2/24", "dev", &device.name],
    );

    gateway.enter(async || {
        let netlink = Netlink::open().unwrap();
        assert!(
            Dataplane::open(&netlink, &link.name)
                .await
                .unwrap()
                .is_none()
        );
        let dataplane = Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap();
        assert!(["kernel", "wireguard-go"].contains(&dataplane.name()));
        link::set_mtu_up(&netlink, &link).await.unwrap();
        dataplane
            .set_interface(Some(&gateway_key), Some(51820))
            .await
            .unwrap();
        let ours = peer(5, &["10.59.0.2/32"]);
        dataplane
            .apply(&[PeerChange::Extend(device_key.public_key(), ours.clone())])
            .await
            .unwrap();
        run(
            "ip",
            &[
                "netns",
                "exec",
                &gateway.name,
                "ip",
                "address",
                "add",
                "10.59.0.1/24",
                "dev",
                &link.name,
            ],
        );

        let first = tokio::process::Command::new("ip")
            .args([
                "netns",
                "exec",
                &home_name,
                "ping",
                "-c1",
                "-W5",
                "10.59.0.1",
            ])
            .output()
            .await
            .unwrap();
        assert!(first.status.success(), "no tunnel at all");
        let before = dataplane.observe().await.unwrap();
        assert_eq!(before.public_key, Some(gateway_key.public_key()));
        assert_eq!(before.listen_port, 51820);
        let handshake = before.peers[&device_key.public_key()].last_handshake;
        assert!(handshake.is_some());

        let pings = tokio::process::Command::new("ip")
            .args([
                "netns",
                "exec",
                &home_name,
                "ping",
                "-q",
                "-i0.005",
                "-c300",
                "-W1",
                "10.59.0.1",
            ])
            .output();
        let changes = async {
            for number in 0..100 {
                let (key, peer) = numbered(number);
                dataplane
                    .apply(&[PeerChange::Extend(key, peer.clone())])
                    .await
                    .unwrap();
                if number % 2 == 0 {
                    dataplane.apply(&[PeerChange::Remove(key)]).await.unwrap();
                }
                // The one that it has: nothing changes, and nothing may be felt.
                dataplane
                    .apply(&[PeerChange::Extend(device_key.public_key(), ours.clone())])
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
        };
        let (pings, ()) = tokio::join!(pings, changes);
        let text = String::from_utf8(pings.unwrap().stdout).unwrap();
        assert!(text.contains("300 received, 0% packet loss"), "{text}");

        let after = dataplane.observe().await.unwrap();
        let theirs = &after.peers[&device_key.public_key()];
        assert_eq!(theirs.last_handshake, handshake);
        assert_eq!(
            theirs.endpoint.unwrap().ip(),
            "192.0.2.2".parse::<std::net::IpAddr>().unwrap()
        );
        assert!(theirs.received > 300 * 84 && theirs.sent > 300 * 84);
        let mut expected: BTreeMap<_, _> = (0..100)
            .filter(|number| number % 2 == 1)
            .map(numbered)
            .collect();
        expected.insert(device_key.public_key(), ours);
        assert_eq!(peers_of(&dataplane).await, expected);

        // A second daemon finds the same process; it does not start another.
        let adopted = Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap();
        assert_eq!(peers_of(&adopted).await, expected);
        dataplane.remove(&netlink).await.unwrap();
        assert!(!socket(&link).exists());
        assert!(
            Dataplane::open(&netlink, &link.name)
                .await
                .unwrap()
                .is_none()
        );
    });
    home.run("ip", &["link", "del", &device.name]);
}

#[test]
fn a_prefix_moves_from_one_peer_to_another() {
    let gateway = Namespace::new();
    let link = tunnel();
    gateway.enter(async || {
        let netlink = Netlink::open().unwrap();
        let dataplane = Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap();
        let [first, second, third] = [1, 2, 3].map(|byte| PublicKey::from_bytes([byte; 32]));
        let before = [
            PeerChange::Set(first, peer(1, &["10.0.0.1/32", "10.0.0.2/32"])),
            PeerChange::Set(third, peer(3, &["10.0.0.3/32"])),
        ];
        dataplane.apply(&before).await.unwrap();
        let after = [
            PeerChange::Set(first, peer(1, &["10.0.0.1/32"])),
            PeerChange::Set(second, peer(2, &["10.0.0.2/32", "10.0.0.3/32"])),
            PeerChange::Remove(third),
            PeerChange::Remove(PublicKey::from_bytes([4; 32])),
        ];
        dataplane.apply(&after).await.unwrap();
        let expected = [
            (first, peer(1, &["10.0.0.1/32"])),
            (second, peer(2, &["10.0.0.2/32", "10.0.0.3/32"])),
        ];
        assert_eq!(peers_of(&dataplane).await, BTreeMap::from(expected));
        dataplane.remove(&netlink).await.unwrap();
    });
}

#[test]
fn a_process_of_its_own_outlives_its_starter_and_a_name_is_used_once() {
    let [gateway, other] = [Namespace::new(), Namespace::new()];
    let link = tunnel();
    gateway.enter(async || {
        let userspace = Dataplane::start_userspace(&wireguard_go(), &link.name)
            .await
            .unwrap();
        assert_eq!(userspace.name(), "wireguard-go");
    });
    let pid = run("pgrep", &["-f", &format!("^wireguard-go {}$", link.name)]);
    let pid = pid.trim();
    let fields = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = fields.split_whitespace().nth(5).unwrap().parse().unwrap();
    let ours = fs::read_to_string("/proc/self/stat").unwrap();
    let ours: u32 = ours.split_whitespace().nth(5).unwrap().parse().unwrap();
    assert_ne!(session, ours);
    for number in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }

    let taken = other.enter(async || {
        let netlink = Netlink::open().unwrap();
        Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap_err()
    });
    assert!(matches!(taken, WireGuardError::Taken { .. }), "{taken}");
    other.run("ip", &["link", "add", &link.name, "type", "bridge"]);
    let taken = other.enter(async || {
        let netlink = Netlink::open().unwrap();
        Dataplane::open(&netlink, &link.name).await.unwrap_err()
    });
    assert!(matches!(taken, WireGuardError::Taken { .. }), "{taken}");

    gateway.enter(async || {
        let netlink = Netlink::open().unwrap();
        let found = Dataplane::open(&netlink, &link.name).await.unwrap();
        found.unwrap().remove(&netlink).await.unwrap();
    });
    let foreign = other.enter(async || {
        let netlink = Netlink::open().unwrap();
        Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap_err()
    });
    assert!(
        matches!(foreign, WireGuardError::Foreign { .. }),
        "{foreign}"
    );
}

#[test]
fn the_socket_of_a_dead_process_is_no_obstacle() {
    let gateway = Namespace::new();
    let link = tunnel();
    fs::create_dir_all("/var/run/wireguard").unwrap();
    drop(UnixListener::bind(socket(&link)).unwrap());
    gateway.enter(async || {
        let netlink = Netlink::open().unwrap();
        let dataplane = Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap();
        assert!(dataplane.observe().await.unwrap().peers.is_empty());
        dataplane.remove(&netlink).await.unwrap();
    });
}

#[test]
fn ten_thousand_peers() {
    let gateway = Namespace::new();
    let link = tunnel();
    gateway.enter(async || {
        let netlink = Netlink::open().unwrap();
        let dataplane = Dataplane::ensure(&netlink, &link, &Starter::Own(wireguard_go()))
            .await
            .unwrap();
        let peers: BTreeMap<_, _> = (0..10_000).map(numbered).collect();
        let changes: Vec<_> = peers
            .iter()
            .map(|(key, peer)| PeerChange::Set(*key, peer.clone()))
            .collect();
        let started = Instant::now();
        dataplane.apply(&changes).await.unwrap();
        let added = started.elapsed();
        let observed = peers_of(&dataplane).await;
        let read = started.elapsed() - added;
        assert_eq!(observed, peers);
        let one = Instant::now();
        dataplane
            .apply(&[PeerChange::Set(
                numbered(10_000).0,
                numbered(10_000).1.clone(),
            )])
            .await
            .unwrap();
        println!(
            "10,000 peers: added in {added:?}, read in {read:?}, one more in {:?}",
            one.elapsed()
        );
        assert!(added < Duration::from_secs(5) && read < Duration::from_secs(2));
        dataplane.remove(&netlink).await.unwrap();
    });
}
