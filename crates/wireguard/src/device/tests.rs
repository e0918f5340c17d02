//! Devices that speak with each other, with virtual time.

use std::net::{IpAddr, SocketAddr};

use super::sides::{Side, at, connected, converse, packet, pair, prefixes, to_bob};
use super::*;
use crate::clock::Now;
use crate::lock::SharedLock as _;
use crate::message::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN};

fn to_alice(payload: &[u8]) -> Vec<u8> {
    packet([10, 0, 0, 2], [10, 0, 0, 1], payload)
}

#[test]
fn packets_wait_for_the_handshake_and_then_flow_both_ways() {
    let (alice, bob) = pair();
    let first = alice.send(at(0), &[to_bob(b"one"), to_bob(b"two")]);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].bytes.len(), INITIATION_LEN);
    let more = alice.send(at(1), &[to_bob(b"three")]);
    assert!(more.is_empty(), "no second initiation so soon");
    assert!(
        bob.send(at(1), &[to_alice(b"lost")]).is_empty(),
        "no endpoint yet"
    );

    let (packets, answers) = bob.receive(at(1), &first);
    assert!(packets.is_empty());
    assert_eq!(answers[0].bytes.len(), RESPONSE_LEN);
    // Bob has keys, but may not use them before Alice has.
    let waiting = bob.send(at(1), &[to_alice(b"waits")]);
    assert!(
        waiting
            .iter()
            .all(|sent| sent.bytes.len() == INITIATION_LEN)
    );
    let (_, packets) = alice.receive(at(1), &answers);
    assert_eq!(packets.len(), 3);
    let (packets, answers) = bob.receive(at(1), &packets);
    assert_eq!(packets, [to_bob(b"one"), to_bob(b"two"), to_bob(b"three")]);
    let (packets, _) = alice.receive(at(1), &answers);
    assert_eq!(packets, [to_alice(b"waits")]);

    assert_eq!(bob.peer(&alice).endpoint().unwrap().address, alice.address);
    assert_eq!(bob.peer(&alice).last_handshake(), at(1).wall);
    let sent = bob.send(at(2), &[to_alice(b"back")]);
    assert_eq!(alice.receive(at(2), &sent).0, [to_alice(b"back")]);
    assert_eq!(
        alice.peer(&bob).sent.load(Ordering::Relaxed),
        bob.peer(&alice).received.load(Ordering::Relaxed)
    );
}

#[test]
fn who_begins_and_has_nothing_to_say_still_confirms() {
    let (alice, bob) = pair();
    let mut change = PeerChange::new(bob.public_key);
    change.keepalive_interval = Some(25);
    alice.device.change_peer(at(0), &change);
    let initiation = alice.tick(at(0));
    assert_eq!(initiation.len(), 1);
    converse(&alice, &bob, at(0), initiation, Vec::new());
    let sent = bob.send(at(1), &[to_alice(b"hello")]);
    assert_eq!(alice.receive(at(1), &sent).0, [to_alice(b"hello")]);
    assert!(alice.tick(at(10)).is_empty());
    assert_eq!(alice.tick(at(26)).len(), 1, "a keepalive");
}

#[test]
fn nothing_is_delivered_twice_or_forged_or_from_anothers_address() {
    let (alice, bob) = connected(at(0));
    let carol = Side::new(3);
    bob.knows(&carol, &["10.0.0.3/32", "10.9.0.0/16"], false);
    carol.knows(&bob, &["10.0.0.2/32"], true);

    let sent = alice.send(at(1), &[to_bob(b"once")]);
    assert_eq!(bob.receive(at(1), &sent).0.len(), 1);
    assert!(bob.receive(at(1), &sent).0.is_empty(), "a replay");
    let twice = alice.send(at(1), &[to_bob(b"once")]);
    let twice = [twice[0].clone(), twice[0].clone()];
    assert_eq!(bob.receive(at(1), &twice).0.len(), 1, "in one batch");

    let sent = alice.send(at(1), &[to_bob(b"whole")]);
    for place in 0..sent[0].bytes.len() {
        let mut forged = sent[0].clone();
        forged.bytes[place] ^= 0x10;
        forged.from = carol.address;
        assert!(bob.receive(at(1), &[forged]).0.is_empty(), "byte {place}");
    }
    assert_eq!(
        bob.peer(&alice).endpoint().unwrap().address,
        alice.address,
        "forgeries move nobody"
    );
    assert_eq!(
        bob.receive(at(1), &sent).0.len(),
        1,
        "the true one still counts"
    );

    // Right after one of her own, so that what was allowed once is not allowed for all.
    let spoofed = packet([10, 9, 0, 1], [10, 0, 0, 2], b"spoofed");
    let sent = alice.send(at(1), &[to_bob(b"own"), spoofed, to_bob(b"own")]);
    assert_eq!(
        bob.receive(at(1), &sent).0,
        [to_bob(b"own"), to_bob(b"own")]
    );
}

#[test]
fn a_peer_is_answered_where_its_last_authentic_message_came_from() {
    let (mut alice, bob) = connected(at(0));
    alice.address = SocketAddr::from(([198, 51, 100, 9], 1234));
    let sent = alice.send(at(1), &[to_bob(b"moved")]);
    assert_eq!(bob.receive(at(1), &sent).0.len(), 1);
    let sent = bob.send(at(1), &[to_alice(b"there?")]);
    assert_eq!(sent[0].to, alice.address);
    assert_eq!(alice.receive(at(1), &sent).0.len(), 1);
}

#[test]
fn keys_are_renewed_while_packets_flow_and_none_is_lost() {
    let (alice, bob) = connected(at(0));
    let mut initiations = 0;
    for second in 1..=1000 {
        let now = at(second);
        let mut from_alice = alice.tick(now);
        from_alice.extend(alice.send(now, &[to_bob(&second.to_be_bytes())]));
        let mut from_bob = bob.tick(now);
        from_bob.extend(bob.send(now, &[to_alice(&second.to_be_bytes())]));
        let all = from_alice.iter().chain(&from_bob);
        initiations += all
            .filter(|sent| sent.bytes.len() == INITIATION_LEN)
            .count();
        let (at_alice, at_bob) = converse(&alice, &bob, now, from_alice, from_bob);
        assert_eq!(at_alice.len(), 1, "second {second}");
        assert_eq!(at_bob.len(), 1, "second {second}");
    }
    assert_eq!(initiations, 8, "one in 120 seconds");
    for side in [&alice, &bob] {
        assert!(side.device.indices.look().len() <= 3, "old ones go");
    }
}

#[test]
fn who_only_receives_begins_anew_before_the_keys_end() {
    let (alice, bob) = connected(at(0));
    for second in 1..=400 {
        let now = at(second);
        let mut from_bob = bob.tick(now);
        from_bob.extend(bob.send(now, &[to_alice(b"stream")]));
        let from_alice = alice.tick(now);
        let (at_alice, _) = converse(&alice, &bob, now, from_alice, from_bob);
        assert_eq!(at_alice.len(), 1, "second {second}");
    }
}

#[test]
fn expired_keys_neither_seal_nor_open_and_are_erased() {
    let (alice, bob) = connected(at(0));
    let late = alice.send(at(1), &[to_bob(b"late")]);
    let session = Arc::downgrade(&alice.peer(&bob).current(at(1)).unwrap());
    let sent = alice.send(at(180), &[to_bob(b"too old")]);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes.len(), INITIATION_LEN);
    assert!(bob.receive(at(180), &late).0.is_empty());
    for second in 181..540 {
        alice.tick(at(second));
    }
    assert!(session.upgrade().is_some());
    alice.tick(at(541));
    assert!(session.upgrade().is_none());
}

#[test]
fn nobody_is_called_for_longer_than_ninety_seconds() {
    let (alice, bob) = pair();
    let mut initiations = alice.send(at(0), &[to_bob(b"anybody?")]);
    for second in 1..300 {
        initiations.extend(alice.tick(at(second)));
    }
    assert!(initiations.len() >= 15 && initiations.len() <= 19);
    assert_eq!(alice.device.indices.look().len(), 0);
    // Old initiations that come all at once lead to one handshake, and to none again.
    let (_, answers) = bob.receive(at(300), &initiations);
    assert_eq!(answers.len(), 1);
    assert!(bob.receive(at(301), &initiations).1.is_empty());
    let again = alice.send(at(310), &[to_bob(b"now?")]);
    let (_, at_bob) = converse(&alice, &bob, at(310), again, Vec::new());
    assert_eq!(at_bob, [to_bob(b"now?")], "what waited before was dropped");
}

#[test]
fn both_may_begin_at_once() {
    let (alice, bob) = pair();
    bob.knows(&alice, &["10.0.0.1/32"], true);
    for round in 0..3 {
        let now = at(round * 200);
        let from_alice = alice.send(now, &[to_bob(b"hello")]);
        let from_bob = bob.send(now, &[to_alice(b"hello")]);
        assert_eq!(from_alice[0].bytes.len(), INITIATION_LEN);
        assert_eq!(from_bob[0].bytes.len(), INITIATION_LEN);
        let (at_alice, at_bob) = converse(&alice, &bob, now, from_alice, from_bob);
        assert_eq!(at_alice, [to_alice(b"hello")]);
        assert_eq!(at_bob, [to_bob(b"hello")]);
        for _ in 0..3 {
            let from_alice = alice.send(now, &[to_bob(b"more")]);
            let from_bob = bob.send(now, &[to_alice(b"more")]);
            let (at_alice, at_bob) = converse(&alice, &bob, now, from_alice, from_bob);
            assert_eq!((at_alice.len(), at_bob.len()), (1, 1));
        }
    }
}

/// Initiations of strangers at other addresses, as many as make everybody show cookies.
fn flood(bob: &Side, now: Now) {
    for number in 0..=255_u8 {
        for second in 0..2 {
            let mut stranger = Side::new(number | 4);
            stranger.knows(bob, &["10.0.0.2/32"], true);
            stranger.address = SocketAddr::from(([203, 0, second, number], 9));
            let initiation = stranger.send(at(0), &[to_bob(b"flood")]);
            bob.receive(now, &initiation);
        }
    }
}

#[test]
fn in_a_flood_a_peer_shows_a_cookie_and_connects_at_once() {
    let (alice, bob) = pair();
    flood(&bob, at(20));
    let initiation = alice.send(at(20), &[to_bob(b"through")]);
    let (_, cookie) = bob.receive(at(20), &initiation);
    assert_eq!(cookie.len(), 1);
    assert_eq!(cookie[0].bytes.len(), COOKIE_REPLY_LEN);
    let mut forged = cookie[0].clone();
    forged.bytes[20] ^= 1;
    assert!(alice.receive(at(20), &[forged]).1.is_empty());
    let (_, again) = alice.receive(at(20), &cookie);
    assert_eq!(again.len(), 1);
    let mut stolen = again[0].clone();
    stolen.from = SocketAddr::from(([192, 0, 2, 77], 51820));
    let (_, answers) = bob.receive(at(20), &[stolen]);
    assert_eq!(answers[0].bytes.len(), COOKIE_REPLY_LEN, "not from there");
    let (_, nothing) = alice.receive(at(20), &answers);
    assert!(nothing.is_empty(), "a second cookie has to wait");
    let (_, at_bob) = converse(&alice, &bob, at(20), again, Vec::new());
    assert_eq!(at_bob, [to_bob(b"through")]);
}

#[test]
fn in_a_flood_answers_to_our_own_initiations_need_no_cookie() {
    let (alice, bob) = pair();
    bob.knows(&alice, &["10.0.0.1/32"], true);
    let initiation = bob.send(at(20), &[to_alice(b"through")]);
    flood(&bob, at(20));
    let (at_alice, _) = converse(&alice, &bob, at(20), Vec::new(), initiation);
    assert_eq!(at_alice, [to_alice(b"through")]);
}

#[test]
fn an_address_that_moves_to_another_peer_is_only_that_ones() {
    let (alice, bob) = connected(at(0));
    let carol = Side::new(3);
    bob.knows(&carol, &["10.0.0.1/32"], true);
    let sent = alice.send(at(1), &[to_bob(b"mine?")]);
    assert!(bob.receive(at(1), &sent).0.is_empty());
    let sent = bob.send(at(1), &[to_alice(b"hello")]);
    assert!(sent.iter().all(|sent| sent.to == carol.address));
    assert!(bob.peer(&alice).allowed_ips.lock().unwrap().is_empty());
}

#[test]
fn a_removed_peer_leaves_nothing() {
    let (alice, bob) = connected(at(0));
    let session = Arc::downgrade(&bob.peer(&alice).current(at(0)).unwrap());
    let peer = Arc::downgrade(&bob.peer(&alice));
    let before = alice.send(at(1), &[to_bob(b"late")]);
    let mut change = PeerChange::new(alice.public_key);
    change.remove = true;
    bob.device.change_peer(at(1), &change);
    assert!(session.upgrade().is_none());
    assert!(peer.upgrade().is_none());
    assert_eq!(bob.device.indices.look().len(), 0);
    assert!(bob.receive(at(1), &before).0.is_empty());
    assert!(bob.send(at(1), &[to_alice(b"gone")]).is_empty());
    let initiation = alice.send(at(200), &[to_bob(b"again")]);
    assert!(bob.receive(at(200), &initiation).1.is_empty());
}

#[test]
fn setting_the_same_again_disturbs_nobody_and_another_key_ends_all() {
    let (alice, bob) = connected(at(0));
    let mut change = PeerChange::new(alice.public_key);
    change.replace_allowed_ips = true;
    change.allowed_ips = prefixes(&["10.0.0.1/32", "10.0.1.0/24"]);
    bob.device.change_peer(at(1), &change);
    bob.device.set_private_key(&[2; 32]);
    let sent = alice.send(at(1), &[to_bob(b"still")]);
    assert_eq!(bob.receive(at(1), &sent).0.len(), 1);
    bob.device.set_private_key(&[9; 32]);
    let sent = alice.send(at(1), &[to_bob(b"gone")]);
    assert!(bob.receive(at(1), &sent).0.is_empty());
    assert_eq!(bob.device.indices.look().len(), 0);
}

#[test]
fn a_datagram_of_ours_does_not_go_round_in_circles() {
    let (alice, bob) = connected(at(0));
    alice.knows(&bob, &["0.0.0.0/0"], true);
    alice.device.set_listen_port(51820);
    let IpAddr::V4(outside) = bob.address.ip() else {
        panic!("an IPv4 address");
    };
    let mut datagram = vec![0; 8];
    datagram[..2].copy_from_slice(&51820_u16.to_be_bytes());
    datagram[2..4].copy_from_slice(&51820_u16.to_be_bytes());
    let mut own = packet([192, 0, 2, 1], outside.octets(), &datagram);
    assert_eq!(alice.send(at(1), &[own.clone()]).len(), 1, "not UDP");
    own[9] = 17;
    assert!(alice.send(at(1), &[own.clone()]).is_empty());
    own[21] ^= 1;
    assert_eq!(alice.send(at(1), &[own]).len(), 1, "from another port");
}

#[test]
fn any_bytes_from_the_network_or_the_tunnel_are_survived() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    let (alice, bob) = connected(at(0));
    let genuine = alice.send(at(1), &[to_bob(&[5; 108])])[0].clone();
    assert_eq!(genuine.bytes.len(), 160);
    let strategy = (
        proptest::collection::vec(any::<u8>(), 0..200),
        0..160_usize,
        any::<bool>(),
    );
    let outcome = TestRunner::default().run(&strategy, |(bytes, cut, has_header)| {
        let mut sent = genuine.clone();
        sent.bytes.truncate(if has_header { cut } else { 0 });
        sent.bytes.extend(&bytes);
        prop_assert!(bob.receive(at(1), &[sent]).0.is_empty());
        alice.send(at(1), &[bytes]);
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(bob.receive(at(1), &[genuine]).0.len(), 1);
}
