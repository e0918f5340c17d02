//! Clients and servers of PCP and NAT-PMP with each other, in virtual time.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod pair;
mod parsers;
mod server;

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use adit_proto::nat_pmp;
use adit_proto::pcp::client::Client as PcpClient;
use adit_proto::pcp::wire::{ErrorCode, Filter, Hostname, Nonce, Suggestion};
use adit_proto::port_control::client::{Event, Mechanism};
use adit_proto::port_control::wish::{Failure, MappingId, Wish};

use self::pair::{ID, Line, NONCE, Pair};
use self::server::Speaks;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn mapping_is_made_and_renewed_at_half_its_life() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(SECOND);
    assert_eq!(pair.events[0].1, Event::Found(Mechanism::Pcp));
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.7:40000");
    pair.run(HOUR * 100);
    assert!(pair.held().is_some());
    assert_eq!(
        pair.count(|it| matches!(it, Event::Lost(_) | Event::Reset)),
        0
    );
    // ANNOUNCE and MAP, then nothing but renewals, each between 1/2 and 5/8 of the lifetime.
    let times: Vec<_> = pair.sent.iter().map(Duration::as_secs).collect();
    assert_eq!(times[..2], [0, 0]);
    for pair in times[1..].windows(2) {
        let gap = pair[1] - pair[0];
        assert!((1799..=2251).contains(&gap), "{gap} s between renewals");
    }
}

#[test]
fn renewals_come_closer_while_nobody_answers() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(SECOND);
    pair.server.speaks = Speaks::Nothing;
    pair.sent.clear();
    pair.run(HOUR + SECOND);
    // 1/2 to 5/8, 3/4 to 13/16, 7/8 to 29/32, and so on until they are four seconds apart.
    let sent = &pair.sent;
    for (number, at) in sent.iter().take(8).enumerate() {
        let half = 3600.0 / f64::from(1 << (number + 1));
        let at = at.as_secs_f64();
        let from = 3600.0 - half - 0.1;
        assert!(
            (from..=from + half / 4.0 + 0.3).contains(&at),
            "renewal {number} at {at}"
        );
    }
    let gaps = sent.windows(2).map(|it| it[1] - it[0]);
    assert!(gaps.min().unwrap() >= Duration::from_secs(1));
    assert_eq!(pair.count(|it| matches!(it, Event::Lost(_))), 1);
    assert!(sent.len() < 16, "{} renewals", sent.len());
    // Somebody who comes back is asked, at most 1024 s (and a tenth) later, for what was there.
    pair.run(HOUR);
    pair.server.speaks = Speaks::Both;
    pair.run(Duration::from_secs(1127));
    assert!(pair.held().is_some());
    assert_eq!(pair.mapped().unwrap().port(), 40000);
}

#[test]
fn bad_line_changes_nothing_in_the_end() {
    for speaks in [Speaks::Both, Speaks::NatPmpOnly] {
        let mut pair = Pair::new();
        pair.server.speaks = speaks;
        pair.line = Line {
            lost: 30,
            doubled: 20,
            delay: Duration::from_millis(1500),
        };
        pair.insert(Pair::wish());
        for _ in 0..200 {
            pair.run(HOUR / 2);
            if let Some(held) = pair.held() {
                assert_eq!(pair.mapped().map(|it| it.port()), Some(held.port));
            }
        }
        assert!(pair.held().is_some(), "{speaks:?}");
        pair.client.remove(ID, pair.now);
        pair.run(HOUR * 3);
        assert!(pair.held().is_none(), "{speaks:?}");
        assert_eq!(pair.count(|it| matches!(it, Event::Removed(ID, _))), 1);
        let sent = pair.sent.len();
        pair.run(HOUR * 10);
        assert_eq!(pair.sent.len(), sent, "{speaks:?}");
    }
}

#[test]
fn lost_state_is_made_again_as_soon_as_it_is_announced() {
    for (speaks, tell) in [
        (Speaks::Both, true),
        (Speaks::NatPmpOnly, true),
        (Speaks::Both, false),
    ] {
        let mut pair = Pair::new();
        pair.server.speaks = speaks;
        pair.insert(Pair::wish());
        pair.run(HOUR / 4);
        let before = pair.mapped();
        pair.server.lose(tell, pair.now);
        let wait = if tell { SECOND * 6 } else { HOUR };
        pair.run(wait);
        assert_eq!(pair.count(|it| *it == Event::Reset), 1, "{speaks:?} {tell}");
        assert!(pair.held().is_some(), "{speaks:?} {tell}");
        assert_eq!(pair.mapped(), before);
    }
}

#[test]
fn restart_that_keeps_state_goes_unnoticed() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(HOUR * 5);
    let away = SECOND * 300;
    pair.server.restart(away, pair.start, pair.now);
    pair.run(away);
    pair.run(HOUR * 5);
    assert_eq!(
        pair.count(|it| matches!(it, Event::Reset | Event::Lost(_))),
        0
    );
    assert!(pair.held().is_some());
}

#[test]
fn new_external_address_is_told_at_once() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(HOUR / 10);
    pair.server
        .renumber(Ipv4Addr::new(198, 51, 100, 99), pair.now);
    pair.run(SECOND);
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.99:40000");
    assert_eq!(pair.count(|it| *it == Event::Reset), 0);
}

#[test]
fn server_of_nat_pmp_alone_is_spoken_to_in_nat_pmp() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    pair.insert(Pair::wish());
    pair.run(SECOND);
    assert_eq!(pair.events[0].1, Event::Found(Mechanism::NatPmp));
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.7:40000");
    pair.sent.clear();
    pair.run(HOUR * 10);
    assert!(pair.held().is_some());
    // A renewal, and the question for the address.
    let gaps = pair.sent.windows(2).map(|it| (it[1] - it[0]).as_secs());
    let gaps: Vec<_> = gaps.collect();
    assert_eq!(gaps.len(), 39);
    assert!(
        gaps.chunks(2).all(|gap| [0, 1800].starts_with(gap)),
        "{gaps:?}"
    );

    let filtered = Wish {
        prefer_failure: true,
        ..Pair::wish()
    };
    pair.client.insert(MappingId(2), filtered, NONCE, pair.now);
    pair.run(SECOND);
    let refused = |it: &Event| matches!(it, Event::Failed(MappingId(2), Failure::NeedsPcp, None));
    assert_eq!(pair.count(refused), 1);
}

#[test]
fn address_that_nobody_announced_is_told_with_the_next_renewal() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    pair.insert(Pair::wish());
    pair.run(HOUR / 10);
    pair.server.external = Ipv4Addr::new(198, 51, 100, 99);
    pair.run(HOUR / 2);
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.99:40000");
    assert_eq!(pair.count(|it| *it == Event::Reset), 0);
}

#[test]
fn address_is_asked_for_again_after_the_server_lost_its_state() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    pair.insert(Pair::wish());
    pair.insert_at(MappingId(2), 8081);
    pair.run(HOUR / 4);
    pair.server.external = Ipv4Addr::new(198, 51, 100, 99);
    // It tells nobody; the answer to something else shows it.
    pair.server.lose(false, pair.now);
    pair.insert_at(MappingId(3), 8082);
    pair.run(SECOND * 6);
    assert_eq!(pair.count(|it| *it == Event::Reset), 1);
    for number in 1..=3 {
        let told = pair.events.iter().rev().find_map(|(_, event)| match event {
            Event::Mapped(MappingId(id), mapped) if *id == number => Some(mapped.external.ip()),
            _ => None,
        });
        assert_eq!(told, Some([198, 51, 100, 99].into()), "{number}");
    }
}

#[test]
fn renewals_together_ask_for_the_address_once() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    for number in 1..=10 {
        pair.insert_at(MappingId(number), 8080 + number as u16);
    }
    pair.run(HOUR / 4);
    pair.sent.clear();
    pair.run(HOUR / 2);
    assert_eq!(pair.sent.len(), 11);
}

#[test]
fn silence_about_the_address_takes_no_mapping_that_is_held() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    pair.insert(Pair::wish());
    pair.run(HOUR / 2 - SECOND);
    pair.events.clear();
    // The renewal is answered, the question after it is not.
    pair.server.is_mute_of_address = true;
    pair.run(HOUR / 3);
    assert!(pair.held().is_some());
    let expected = |it: &Event| matches!(it, Event::Mapped(ID, _));
    assert_eq!(pair.count(expected), pair.events.len(), "{:?}", pair.events);
    pair.server.external = Ipv4Addr::new(198, 51, 100, 99);
    pair.server.is_mute_of_address = false;
    pair.run(SECOND * 250);
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.99:40000");
}

#[test]
fn server_without_an_address_is_told_of_until_it_has_one_again() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::NatPmpOnly;
    pair.insert(Pair::wish());
    pair.run(HOUR / 2 - SECOND);
    pair.events.clear();
    pair.server.has_no_address = true;
    pair.run(SECOND * 5);
    let failure = Failure::NatPmp(nat_pmp::wire::ErrorCode::NetworkFailure);
    let failed = |it: &Event| matches!(it, Event::Failed(ID, why, _) if *why == failure);
    assert_eq!(pair.count(failed), 1, "{:?}", pair.events);
    pair.events.clear();
    pair.server.has_no_address = false;
    pair.run(SECOND * 60);
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.7:40000");
}

#[test]
fn server_of_pcp_alone_is_spoken_to_in_pcp_over_either_family() {
    for (local, remote) in [
        ("10.59.0.2:40000", "10.59.0.1:5351"),
        ("[fd00::2]:40000", "[fd00::1]:5351"),
    ] {
        let mut pair = Pair::between(local, remote);
        pair.server.speaks = Speaks::PcpOnly;
        pair.insert(Pair::wish());
        pair.run(SECOND);
        assert_eq!(pair.events[0].1, Event::Found(Mechanism::Pcp));
        assert!(pair.held().is_some(), "{local}");
    }
}

#[test]
fn silence_is_noticed_and_a_server_that_comes_later_is_found() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::Nothing;
    pair.insert(Pair::wish());
    pair.run(SECOND * 9);
    let expected = [(SECOND * 8, Event::Absent(SECOND * 30))];
    assert_eq!(pair.events, expected);
    pair.run(HOUR * 20);
    // Each attempt is a few datagrams, and they become rare.
    assert!(pair.sent.len() < 400, "{} datagrams", pair.sent.len());
    pair.server.speaks = Speaks::Both;
    pair.run(HOUR);
    assert!(pair.held().is_some());
}

#[test]
fn closed_port_is_noticed_at_once() {
    let mut pair = Pair::new();
    pair.server.speaks = Speaks::Nothing;
    pair.run(SECOND / 10);
    pair.client.handle_unreachable(pair.now);
    pair.run(SECOND / 10);
    assert_eq!(pair.count(|it| matches!(it, Event::Absent(_))), 1);
}

#[test]
fn mapping_of_another_nonce_is_refused_for_as_long_as_it_lives() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(SECOND * 100);
    let stranger = MappingId(2);
    pair.client
        .insert(stranger, Pair::wish(), Nonce([8; 12]), pair.now);
    pair.run(SECOND);
    let refusal = pair.events.iter().find_map(|(_, event)| match event {
        Event::Failed(id, failure, Some(rest)) if *id == stranger => {
            Some((*failure, rest.as_secs()))
        }
        _ => None,
    });
    let (failure, rest) = refusal.unwrap();
    assert_eq!(failure, Failure::Pcp(ErrorCode::NotAuthorized));
    assert!((3498..=3500).contains(&rest), "{rest}");
    assert!(pair.held().is_some());
}

#[test]
fn removed_mapping_is_gone() {
    for speaks in [Speaks::Both, Speaks::NatPmpOnly] {
        let mut pair = Pair::new();
        pair.server.speaks = speaks;
        pair.insert(Pair::wish());
        pair.run(SECOND);
        assert!(pair.held().is_some());
        pair.client.remove(ID, pair.now);
        pair.run(SECOND);
        assert!(pair.server.held.is_empty());
        assert_eq!(pair.events.last().unwrap().1, Event::Removed(ID, true));
    }
}

#[test]
fn suggestion_that_cannot_be_had_fails_where_nothing_else_will_do() {
    let mut pair = Pair::new();
    let low = Suggestion {
        address: None,
        port: NonZeroU16::new(80),
    };
    let wish = Wish {
        suggestion: low,
        ..Pair::wish()
    };
    pair.insert(wish.clone());
    pair.run(SECOND);
    assert_eq!(pair.mapped().unwrap().port(), 40000);
    pair.client.remove(ID, pair.now);
    pair.run(SECOND);
    pair.insert(Wish {
        prefer_failure: true,
        ..wish
    });
    pair.run(SECOND);
    let failure = Failure::Pcp(ErrorCode::CannotProvideExternal);
    let refused = |it: &Event| matches!(it, Event::Failed(ID, why, _) if *why == failure);
    assert_eq!(pair.count(refused), 1);
    assert!(pair.held().is_none());
}

#[test]
fn port_sets_are_given_as_far_as_the_server_goes() {
    let mut pair = Pair::new();
    pair.server.most_ports = 10;
    let wish = Wish {
        ports: 32,
        ..Pair::wish()
    };
    pair.insert(wish);
    pair.run(HOUR * 3);
    let ports = pair.events.iter().filter_map(|(_, event)| match event {
        Event::Mapped(_, mapped) => Some(mapped.ports),
        _ => None,
    });
    assert!(ports.clone().count() > 3);
    assert!(ports.into_iter().all(|it| it == 10));
    assert_eq!(pair.held().unwrap().ports, 10);
    pair.client.remove(ID, pair.now);
    pair.run(SECOND);
    assert!(pair.held().is_none());
}

#[test]
fn server_that_stumbles_over_port_sets_is_asked_for_one_port() {
    let mut pair = Pair::new();
    pair.server.stumbles_over_sets = true;
    let wish = Wish {
        ports: 3,
        ..Pair::wish()
    };
    pair.insert(wish);
    pair.run(HOUR);
    assert_eq!(pair.held().unwrap().ports, 1);
    assert_eq!(pair.count(|it| matches!(it, Event::Failed(..))), 0);
}

#[test]
fn outbound_mapping_is_kept_and_then_left_to_run_out() {
    let mut pair = Pair::new();
    let wish = Wish {
        remote: Some("203.0.113.9:443".parse().unwrap()),
        ..Pair::wish()
    };
    pair.insert(wish);
    pair.run(HOUR);
    // The server gives 300 s, so it is renewed every 150 to 188 s.
    let renewals = pair.count(|it| matches!(it, Event::Mapped(ID, _)));
    assert!((19..=25).contains(&renewals), "{renewals} grants");
    assert_eq!(pair.mapped().unwrap().to_string(), "198.51.100.7:8080");
    let sent = pair.sent.len();
    pair.client.remove(ID, pair.now);
    pair.run(HOUR);
    assert_eq!(pair.events.last().unwrap().1, Event::Removed(ID, false));
    assert_eq!(pair.sent.len(), sent);
}

#[test]
fn mapping_for_another_host_needs_a_server_that_allows_it() {
    for allowed in [true, false] {
        let mut pair = Pair::new();
        pair.server.policy.pcp.third_party = allowed;
        let other = "10.59.0.9".parse().unwrap();
        let wish = Wish {
            third_party: Some(other),
            ..Pair::wish()
        };
        pair.insert(wish);
        pair.run(HOUR);
        let held = pair.server.held.keys().map(|(internal, _)| *internal);
        if allowed {
            assert_eq!(held.collect::<Vec<_>>(), [other]);
            assert!(pair.mapped().is_some());
            pair.client.remove(ID, pair.now);
            pair.run(SECOND);
            assert!(pair.server.held.is_empty());
        } else {
            assert_eq!(held.count(), 0);
            let failure = Failure::Pcp(ErrorCode::UnsupportedOption);
            let refused = |it: &Event| matches!(it, Event::Failed(ID, why, _) if *why == failure);
            assert!(pair.count(refused) >= 1);
        }
    }
}

#[test]
fn filters_take_the_place_of_those_of_before() {
    let mut pair = Pair::new();
    let filter = Filter {
        prefix: "198.51.100.0/24".parse().unwrap(),
        port: None,
    };
    let wish = Wish {
        filters: vec![filter],
        ..Pair::wish()
    };
    pair.insert(wish);
    pair.run(HOUR * 3);
    let held = pair.held().unwrap();
    assert!(pair.count(|it| matches!(it, Event::Mapped(ID, _))) > 2);
    assert_eq!(held.filters, [filter]);
}

#[test]
fn names_are_asked_for_only_where_they_are_known() {
    for offered in [true, false] {
        let mut pair = Pair::new();
        pair.server.policy.pcp.hostnames = offered;
        let name = Hostname::new("blog.example.org").unwrap();
        let wish = Wish {
            hostnames: vec![name.clone()],
            ..Pair::wish()
        };
        pair.insert(wish);
        pair.run(HOUR);
        let refused = |it: &Event| matches!(it, Event::Failed(ID, Failure::HostnamesNotOffered, _));
        if offered {
            assert_eq!(pair.held().unwrap().hostnames, [name]);
            assert_eq!(pair.count(refused), 0);
        } else {
            assert!(pair.held().is_none());
            assert!(pair.count(refused) >= 1);
            // Only whether it is known is asked, at first and when the refusal is over.
            assert_eq!(pair.sent.len(), 2, "{:?}", pair.sent);
        }
    }
}

#[test]
fn answers_from_elsewhere_and_nonsense_are_passed_over() {
    let mut pair = Pair::new();
    pair.insert(Pair::wish());
    pair.run(SECOND);
    let known = pair.events.len();
    let mut reset = vec![2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    reset.extend([0; 12]);
    pair.run(HOUR / 4);
    pair.inject(&reset, "10.59.0.1:5350");
    pair.inject(&reset, "10.59.0.9:5351");
    pair.inject(&[2, 0, 0, 0], "10.59.0.1:5351");
    pair.inject(&reset[..20], "10.59.0.1:5351");
    pair.inject(&[], "10.59.0.1:5351");
    assert_eq!(pair.events.len(), known);
    let server = format!("{}:5351", pair.server_address());
    pair.inject(&reset, &server);
    assert_eq!(pair.events.last().unwrap().1, Event::Reset);
}

#[test]
fn server_without_resources_is_left_alone() {
    let pair = Pair::new();
    let server = "10.59.0.1:5351".parse().unwrap();
    let local = "10.59.0.2".parse().unwrap();
    let start = pair.now;
    let mut client = PcpClient::new(server, local, 1, start);
    client.insert(ID, Pair::wish(), NONCE, start);
    client.handle_timeout(start);
    let sent: Vec<_> = std::iter::from_fn(|| client.poll_transmit()).collect();
    let mut refusal = sent[1].datagram.clone();
    refusal[1] |= 0x80;
    refusal[3] = ErrorCode::NoResources.number();
    refusal[4..8].copy_from_slice(&100_u32.to_be_bytes());
    client.handle_input(&refusal, server, start);
    // ANNOUNCE is still asked, but nothing new.
    client.insert(MappingId(2), Pair::wish(), Nonce([9; 12]), start);
    let mut now = start;
    let mut first_map = None;
    while first_map.is_none() {
        now = client.poll_timeout().unwrap();
        client.handle_timeout(now);
        first_map = std::iter::from_fn(|| client.poll_transmit()).find(|it| it.datagram[1] == 1);
    }
    assert_eq!(now - start, SECOND * 100);
}
