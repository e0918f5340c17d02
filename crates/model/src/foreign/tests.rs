//! What becomes of packets in rules, beside what nftables does with them.

use super::*;
use crate::protocol::Protocol;

fn name(name: &str) -> Name {
    Name {
        table: Table {
            family: Family::Inet,
            name: "other".to_owned(),
        },
        name: name.to_owned(),
    }
}

/// A base chain `forward`, and others.
fn ruleset(drops: bool, chains: &[(&str, Vec<Vec<Expression>>)]) -> Ruleset {
    let base = Base {
        hook: Hook::Forward,
        priority: 0,
        drops,
    };
    let chains = chains.iter().map(|(chain, rules)| {
        let base = (*chain == "forward").then_some(base);
        let rules = rules.clone();
        (name(chain), Chain { base, rules })
    });
    Ruleset {
        chains: chains.collect(),
        sets: BTreeMap::new(),
    }
}

/// From a device to the Internet.
fn packet() -> Packet {
    Packet {
        is_ipv6: false,
        input: Some(("adit0".to_owned(), None)),
        output: Some(("eth0".to_owned(), Some(2))),
        source: Place::Network("10.59.0.0/24".parse().unwrap()),
        destination: Place::Internet,
        protocol: Protocol::Tcp,
        source_port: None,
        destination_port: None,
        tracking: Tracking::New,
        is_forward: false,
    }
}

/// Whether it may pass, and where it may be dropped.
fn outcome(ruleset: &Ruleset) -> (bool, Option<String>) {
    let outcome = ruleset.evaluate(&name("forward"), &packet());
    (outcome.may_pass, outcome.dropped_in)
}

fn certain(ruleset: &Ruleset) -> Option<String> {
    let outcome = ruleset.evaluate(&name("forward"), &packet());
    outcome.certain_drop().map(str::to_owned)
}

const ACCEPT: Expression = Expression::Verdict(Verdict::Accept);
const DROP: Expression = Expression::Verdict(Verdict::Drop);
const RETURN: Expression = Expression::Verdict(Verdict::Return);

fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

fn equal(value: &[u8]) -> Expression {
    Expression::Equal {
        register: 0,
        value: value.to_vec(),
        inverted: false,
    }
}

fn from_interface(name: &[u8]) -> [Expression; 2] {
    let key = 6;
    [Expression::Meta { key, register: 0 }, equal(name)]
}

fn address(offset: usize, length: usize) -> Expression {
    Expression::Payload {
        base: 1,
        offset,
        length,
        register: 0,
    }
}

#[test]
fn a_policy_counts_where_no_rule_decides() {
    assert_eq!(
        certain(&ruleset(true, &[("forward", vec![])])).as_deref(),
        Some("forward")
    );
    assert_eq!(
        outcome(&ruleset(false, &[("forward", vec![])])),
        (true, None)
    );
}

#[test]
fn what_is_not_understood_is_followed_both_ways() {
    let rules = vec![vec![Expression::Unknown, ACCEPT]];
    let may_accept = ruleset(true, &[("forward", rules)]);
    assert_eq!(outcome(&may_accept), (true, Some("forward".to_owned())));
    assert_eq!(certain(&may_accept), None);
    // Whatever a rate decides, the packet is gone.
    let rules = vec![vec![Expression::Unknown, DROP], vec![DROP]];
    assert_eq!(
        certain(&ruleset(false, &[("forward", rules)])).as_deref(),
        Some("forward")
    );
    let rules = vec![vec![Expression::Verdict(Verdict::Unknown)]];
    assert_eq!(certain(&ruleset(true, &[("forward", rules)])), None);
    // A chain that was removed while it was read.
    let rules = vec![vec![jump("gone")]];
    assert_eq!(certain(&ruleset(true, &[("forward", rules)])), None);
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let chains = |first: Expression, inner: Vec<Vec<Expression>>| {
        ruleset(
            true,
            &[
                ("forward", vec![vec![first], vec![ACCEPT]]),
                ("inner", inner),
            ],
        )
    };
    assert_eq!(outcome(&chains(jump("inner"), vec![])), (true, None));
    assert_eq!(
        outcome(&chains(jump("inner"), vec![vec![RETURN], vec![DROP]])),
        (true, None)
    );
    assert_eq!(
        certain(&chains(jump("inner"), vec![vec![DROP]])).as_deref(),
        Some("inner")
    );
    // After a goto the policy of the base chain is next.
    assert_eq!(
        certain(&chains(goto("inner"), vec![])).as_deref(),
        Some("forward")
    );
    // A goto within what was jumped to comes back to where that was.
    let nested = ruleset(
        true,
        &[
            ("forward", vec![vec![jump("middle")], vec![ACCEPT]]),
            ("middle", vec![vec![goto("inner")], vec![DROP]]),
            ("inner", vec![]),
        ],
    );
    assert_eq!(outcome(&nested), (true, None));
}

#[test]
fn names_of_interfaces_match_whole_or_by_their_beginning() {
    let dropped = |value: &[u8]| {
        let rule = [from_interface(value).as_slice(), &[DROP]].concat();
        certain(&ruleset(false, &[("forward", vec![rule])])).is_some()
    };
    assert!(dropped(b"adit0\0\0\0\0\0\0\0\0\0\0\0"));
    assert!(dropped(b"adit"), "adit*");
    assert!(!dropped(b"adit\0"), "adit");
    assert!(!dropped(b"docker0\0"));
}

#[test]
fn addresses_are_known_as_far_as_they_are() {
    let rule = |offset, length, mask: &[u8], value: &[u8]| {
        let bits = Expression::Bits {
            from: 0,
            to: 0,
            mask: mask.to_vec(),
            flip: vec![0; mask.len()],
        };
        let rule = vec![address(offset, length), bits, equal(value), ACCEPT];
        outcome(&ruleset(true, &[("forward", vec![rule])])).0
    };
    const SOURCE: usize = 12;
    const DESTINATION: usize = 16;
    assert!(rule(SOURCE, 4, &[255, 255, 255, 0], &[10, 59, 0, 0]));
    assert!(!rule(SOURCE, 4, &[255, 255, 255, 0], &[10, 60, 0, 0]));
    assert!(rule(SOURCE, 4, &[255; 4], &[10, 59, 0, 7]), "perhaps");
    assert!(rule(DESTINATION, 4, &[255; 4], &[9, 9, 9, 9]), "perhaps");
    // Nobody on the Internet has such an address, so the rule is not for this packet.
    assert!(!rule(DESTINATION, 4, &[255, 255, 0, 0], &[172, 17, 0, 0]));
    assert!(!rule(DESTINATION, 1, &[255], &[10]));
}

#[test]
fn a_set_is_searched_for_what_is_known() {
    let element = |from: [u8; 1], to: [u8; 1]| Element {
        from: from.to_vec(),
        to: to.to_vec(),
        verdict: None,
    };
    let protocols = |elements: Option<Vec<Element>>| {
        let lookup = Expression::Lookup {
            set: "protocols".to_owned(),
            register: 0,
            verdict: false,
            inverted: false,
        };
        let load = Expression::Meta {
            key: 16,
            register: 0,
        };
        let mut ruleset = ruleset(true, &[("forward", vec![vec![load, lookup, ACCEPT]])]);
        ruleset.sets.insert(name("protocols"), Set { elements });
        outcome(&ruleset).0
    };
    assert!(protocols(Some(vec![element([1], [1]), element([6], [6])])));
    assert!(protocols(Some(vec![element([2], [17])])));
    assert!(!protocols(Some(vec![element([1], [5]), element([7], [9])])));
    assert!(protocols(None), "perhaps");
}
