//! Reads chains, rules and sets from the kernel, in its own expressions.

#![warn(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use adit_model::foreign::{
    Base, Chain, Element, Expression, Family, Hook, Name, Register, Ruleset, Set, Table, Verdict,
};

use super::is_ours;
use crate::netfilter::{
    Message, Request, Requests, SUBSYSTEM_NFTABLES, attribute, attributes, push_attribute, u32_be,
};

/// Sets that take more messages than this, of some hundred elements each, are not read to their end: they hold addresses
/// of others, which are unknown anyway.
const MOST_MESSAGES: usize = 8;

const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_ELEMENTS: u8 = 13;

/// All chains of tables in which a packet of ours may be dropped.
pub(super) fn read() -> io::Result<Ruleset> {
    let mut requests = Requests::open()?;
    let dormant: BTreeSet<Table> = requests
        .dump(&list(GET_TABLE), dormant_table)?
        .into_iter()
        .collect();
    let mut chains: BTreeMap<Name, Chain> = requests
        .dump(&list(GET_CHAIN), chain)?
        .into_iter()
        .filter(|(name, _)| !dormant.contains(&name.table))
        .collect();
    let filtering: BTreeSet<Table> = chains
        .iter()
        .filter(|(_, chain)| chain.base.is_some())
        .map(|(name, _)| name.table.clone())
        .collect();
    chains.retain(|name, _| filtering.contains(&name.table));
    if chains.is_empty() {
        return Ok(Ruleset::default());
    }
    for (name, expressions) in requests.dump(&list(GET_RULE), rule)? {
        if let Some(chain) = chains.get_mut(&name) {
            chain.rules.push(expressions);
        }
    }
    let mut sets = BTreeMap::new();
    for (name, layout) in requests.dump(&list(GET_SET), set)? {
        if filtering.contains(&name.table) {
            let elements = match layout {
                Some(layout) => elements(&name, layout)?,
                None => None,
            };
            sets.insert(name, Set { elements });
        }
    }
    Ok(Ruleset { chains, sets })
}

/// Reads a message as each of the objects that it may be.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_message(message: Message<'_>) {
    let _ = (dormant_table(message), chain(message), rule(message));
    if let Some((_, Some(layout))) = set(message)
        && let Some(elements) = listed(message).flatten()
    {
        intervals(elements, layout.length.min(64));
    }
}

fn list(kind: u8) -> Request {
    Request {
        subsystem: SUBSYSTEM_NFTABLES,
        kind,
        family: 0,
        attributes: Vec::new(),
    }
}

/// The table that an object belongs to, unless it is ours or of another kind.
fn table(message: Message<'_>) -> Option<Table> {
    const NAME: u16 = 1;
    let family = match message.family {
        1 => Family::Inet,
        2 => Family::Ip,
        10 => Family::Ip6,
        _ => return None,
    };
    let name = attribute(message.attributes, NAME).filter(|name| !is_ours(name))?;
    Some(Table {
        family,
        name: text(name),
    })
}

fn dormant_table(message: Message<'_>) -> Option<Table> {
    const FLAGS: u16 = 2;
    const DORMANT: u32 = 1;
    let flags = attribute(message.attributes, FLAGS).and_then(u32_be)?;
    table(message).filter(|_| flags & DORMANT != 0)
}

fn chain(message: Message<'_>) -> Option<(Name, Chain)> {
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const TYPE: u16 = 7;
    const HOOK_NUMBER: u16 = 1;
    const HOOK_PRIORITY: u16 = 2;
    const DROP: u32 = 0;
    let name = Name {
        table: table(message)?,
        name: text(attribute(message.attributes, NAME)?),
    };
    // Chains that translate see the first packet of a connection alone, have thousands of rules in some clusters, and no
    // program drops there.
    let translates = attribute(message.attributes, TYPE).is_some_and(|it| text(it) == "nat");
    let hook = attribute(message.attributes, HOOK).filter(|_| !translates);
    let base = hook.and_then(|nested| {
        let hook = match attribute(nested, HOOK_NUMBER).and_then(u32_be)? {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        };
        Some(Base {
            hook,
            priority: attribute(nested, HOOK_PRIORITY)
                .and_then(u32_be)?
                .cast_signed(),
            drops: attribute(message.attributes, POLICY).and_then(u32_be) == Some(DROP),
        })
    });
    let rules = Vec::new();
    Some((name, Chain { base, rules }))
}

fn rule(message: Message<'_>) -> Option<(Name, Vec<Expression>)> {
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    let name = Name {
        table: table(message)?,
        name: text(attribute(message.attributes, CHAIN)?),
    };
    let list = attribute(message.attributes, EXPRESSIONS).unwrap_or_default();
    let expressions = attributes(list)
        .filter_map(|(_, element)| expression(element))
        .collect();
    Some((name, expressions))
}

/// What an expression does to a packet's fate; none for what only counts, marks or logs.
fn expression(element: &[u8]) -> Option<Expression> {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let name = attribute(element, NAME).map(text).unwrap_or_default();
    let data = attribute(element, DATA).unwrap_or_default();
    match name.as_str() {
        "counter" | "log" | "last" | "notrack" | "dup" => None,
        "meta" | "ct" => load(&name, data),
        "payload" => payload(data),
        "immediate" => Some(immediate(data).unwrap_or(Expression::Unknown)),
        "bitwise" => Some(bits(data).unwrap_or(Expression::Unknown)),
        "cmp" => Some(compare(data).unwrap_or(Expression::Unknown)),
        "range" => Some(range(data).unwrap_or(Expression::Unknown)),
        "lookup" => Some(lookup(data).unwrap_or(Expression::Unknown)),
        "reject" => Some(Expression::Verdict(Verdict::Drop)),
        "nat" | "masq" | "redir" => Some(Expression::Verdict(Verdict::Accept)),
        "queue" | "synproxy" => Some(Expression::Verdict(Verdict::Unknown)),
        "match" => Some(extension_match(data).unwrap_or(Expression::Unknown)),
        "target" => extension_target(data),
        _ => Some(Expression::Unknown),
    }
}

fn load(name: &str, data: &[u8]) -> Option<Expression> {
    const REGISTER: u16 = 1;
    const KEY: u16 = 2;
    // Without one it sets a mark, and the like.
    let register = register_at(data, REGISTER)?;
    let key = attribute(data, KEY).and_then(u32_be)?;
    Some(if name == "meta" {
        Expression::Meta { key, register }
    } else {
        Expression::Connection { key, register }
    })
}

fn payload(data: &[u8]) -> Option<Expression> {
    const REGISTER: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    // Without one it writes into the packet.
    let register = register_at(data, REGISTER)?;
    let number = |kind| attribute(data, kind).and_then(u32_be);
    Some(Expression::Payload {
        base: number(BASE)?,
        offset: number(OFFSET)? as usize,
        length: number(LENGTH)? as usize,
        register,
    })
}

fn immediate(data: &[u8]) -> Option<Expression> {
    const REGISTER: u16 = 1;
    const DATA: u16 = 2;
    let content = attribute(data, DATA)?;
    if let Some(verdict) = verdict(content) {
        return Some(Expression::Verdict(verdict));
    }
    Some(Expression::Constant {
        register: register_at(data, REGISTER)?,
        value: value(content)?,
    })
}

fn bits(data: &[u8]) -> Option<Expression> {
    const FROM: u16 = 1;
    const TO: u16 = 2;
    const MASK: u16 = 4;
    const FLIP: u16 = 5;
    const OPERATION: u16 = 6;
    const BOOLEAN: u32 = 0;
    let operation = attribute(data, OPERATION)
        .and_then(u32_be)
        .unwrap_or(BOOLEAN);
    if operation != BOOLEAN {
        return None;
    }
    Some(Expression::Bits {
        from: register_at(data, FROM)?,
        to: register_at(data, TO)?,
        mask: value(attribute(data, MASK)?)?,
        flip: value(attribute(data, FLIP)?)?,
    })
}

fn compare(data: &[u8]) -> Option<Expression> {
    const REGISTER: u16 = 1;
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    let register = register_at(data, REGISTER)?;
    let bound = value(attribute(data, DATA)?)?;
    let lowest = vec![0; bound.len()];
    let highest = vec![0xff; bound.len()];
    let within = |from, to, inverted| Expression::Within {
        register,
        from,
        to,
        inverted,
    };
    Some(match attribute(data, OPERATOR).and_then(u32_be)? {
        0 | 1 => Expression::Equal {
            register,
            inverted: attribute(data, OPERATOR).and_then(u32_be) == Some(1),
            value: bound,
        },
        // Less, less or equal, greater, greater or equal.
        2 => within(bound, highest, true),
        3 => within(lowest, bound, false),
        4 => within(lowest, bound, true),
        5 => within(bound, highest, false),
        _ => return None,
    })
}

fn range(data: &[u8]) -> Option<Expression> {
    const REGISTER: u16 = 1;
    const OPERATOR: u16 = 2;
    const FROM: u16 = 3;
    const TO: u16 = 4;
    Some(Expression::Within {
        register: register_at(data, REGISTER)?,
        from: value(attribute(data, FROM)?)?,
        to: value(attribute(data, TO)?)?,
        inverted: attribute(data, OPERATOR).and_then(u32_be)? != 0,
    })
}

fn lookup(data: &[u8]) -> Option<Expression> {
    const SET: u16 = 1;
    const REGISTER: u16 = 2;
    const RESULT: u16 = 3;
    const FLAGS: u16 = 5;
    const INVERTED: u32 = 1;
    const VERDICT: u32 = 0;
    let flags = attribute(data, FLAGS).and_then(u32_be).unwrap_or_default();
    let result = attribute(data, RESULT).and_then(u32_be);
    if result.is_some_and(|register| register != VERDICT) {
        return None;
    }
    Some(Expression::Lookup {
        set: text(attribute(data, SET)?),
        register: register_at(data, REGISTER)?,
        verdict: result == Some(VERDICT),
        inverted: flags & INVERTED != 0,
    })
}

/// Extensions of iptables come as the bytes that `iptables` wrote.
fn extension_match(data: &[u8]) -> Option<Expression> {
    const NAME: u16 = 1;
    const REVISION: u16 = 2;
    const INFORMATION: u16 = 3;
    let name = text(attribute(data, NAME)?);
    let revision = attribute(data, REVISION).and_then(u32_be)?;
    let information = attribute(data, INFORMATION)?;
    let half = |offset: usize| -> Option<u16> {
        let bytes = information.get(offset..offset + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    match (name.as_str(), revision) {
        // struct xt_conntrack_mtinfo2 and 3
        ("conntrack", 2 | 3) => {
            const FLAGS: usize = 146;
            const INVERTED: usize = 148;
            const STATES: usize = 150;
            const BY_STATE: u16 = 1;
            (half(FLAGS)? == BY_STATE).then_some(())?;
            Some(Expression::State {
                states: half(STATES)?,
                inverted: half(INVERTED)? & BY_STATE != 0,
            })
        }
        // struct xt_tcp and xt_udp: ranges of both ports, then conditions of TCP's own, then what is inverted
        ("tcp" | "udp", 0) => {
            let ranges = [(half(0)?, half(2)?), (half(4)?, half(6)?)];
            let rest = information.get(8..if name == "tcp" { 12 } else { 9 })?;
            let is_plain = rest.iter().all(|byte| *byte == 0);
            let [source, destination] = ranges;
            let whole = (0, u16::MAX);
            if !is_plain || (source != whole && destination != whole) {
                return None;
            }
            Some(Expression::Ports {
                source: source != whole,
                destination: source == whole,
                ranges: vec![if source == whole { destination } else { source }],
                inverted: false,
            })
        }
        // struct xt_multiport_v1
        ("multiport", 1) => {
            const PORTS: usize = 2;
            const MOST: usize = 15;
            const CONTINUES: usize = PORTS + 2 * MOST;
            const INVERTED: usize = CONTINUES + MOST;
            let which = *information.first()?;
            let count = usize::from(*information.get(1)?);
            let mut ranges = Vec::new();
            let mut place = 0;
            while place < count.min(MOST) {
                let first = half(PORTS + 2 * place)?;
                let is_range = *information.get(CONTINUES + place)? != 0;
                place += usize::from(is_range);
                ranges.push((first, half(PORTS + 2 * place)?));
                place += 1;
            }
            Some(Expression::Ports {
                source: which != 1,
                destination: which != 0,
                ranges,
                inverted: *information.get(INVERTED)? != 0,
            })
        }
        _ => None,
    }
}

fn extension_target(data: &[u8]) -> Option<Expression> {
    const NAME: u16 = 1;
    const GOES_ON: [&str; 16] = [
        "AUDIT",
        "CHECKSUM",
        "CLASSIFY",
        "CONNMARK",
        "CONNSECMARK",
        "CT",
        "DSCP",
        "HL",
        "LOG",
        "MARK",
        "NFLOG",
        "SECMARK",
        "TCPMSS",
        "TOS",
        "TRACE",
        "TTL",
    ];
    const TRANSLATES: [&str; 5] = ["DNAT", "SNAT", "MASQUERADE", "NETMAP", "REDIRECT"];
    let name = attribute(data, NAME).map(text).unwrap_or_default();
    let verdict = match name.as_str() {
        "REJECT" => Verdict::Drop,
        name if GOES_ON.contains(&name) => return None,
        name if TRANSLATES.contains(&name) => Verdict::Accept,
        _ => Verdict::Unknown,
    };
    Some(Expression::Verdict(verdict))
}

/// How a set's elements are to be read.
#[derive(Clone, Copy)]
struct Layout {
    is_interval: bool,
    length: usize,
}

/// None for what cannot be understood, or changes by itself.
fn set(message: Message<'_>) -> Option<(Name, Option<Layout>)> {
    const NAME: u16 = 2;
    const FLAGS: u16 = 3;
    const KEY_LENGTH: u16 = 5;
    const DATA_TYPE: u16 = 6;
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVALUATED: u32 = 0x20;
    const CONCATENATED: u32 = 0x80;
    const VERDICTS: u32 = 0xffff_ff00;
    let name = Name {
        table: table(message)?,
        name: text(attribute(message.attributes, NAME)?),
    };
    let number = |kind| attribute(message.attributes, kind).and_then(u32_be);
    let flags = number(FLAGS).unwrap_or_default();
    let is_plain = flags & (TIMEOUT | EVALUATED) == 0
        && (flags & MAP == 0 || number(DATA_TYPE) == Some(VERDICTS))
        && flags & (INTERVAL | CONCATENATED) != INTERVAL | CONCATENATED;
    let layout = Layout {
        is_interval: flags & INTERVAL != 0,
        length: number(KEY_LENGTH)? as usize,
    };
    Some((name, is_plain.then_some(layout)))
}

/// A key, whether it begins what is *not* in the set, and what a map gives for it.
type Listed = (Vec<u8>, bool, Option<Verdict>);

fn elements(name: &Name, layout: Layout) -> io::Result<Option<Vec<Element>>> {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    let mut attributes = Vec::new();
    push_attribute(
        &mut attributes,
        TABLE,
        format!("{}\0", name.table.name).as_bytes(),
    );
    push_attribute(&mut attributes, SET, format!("{}\0", name.name).as_bytes());
    let request = Request {
        subsystem: SUBSYSTEM_NFTABLES,
        kind: GET_ELEMENTS,
        family: match name.table.family {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Ip6 => 10,
        },
        attributes,
    };
    let listed = match Requests::open()?.dump_up_to(MOST_MESSAGES, &request, listed) {
        Ok(listed) => listed,
        // It went since the sets were listed; the change is told.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(listed) = listed.and_then(|parts| parts.into_iter().collect::<Option<Vec<_>>>())
    else {
        return Ok(None);
    };
    let listed: Vec<Listed> = listed.into_iter().flatten().collect();
    Ok(Some(if layout.is_interval {
        intervals(listed, layout.length)
    } else {
        let single = |(key, _, verdict): Listed| Element {
            to: key.clone(),
            from: key,
            verdict,
        };
        listed.into_iter().map(single).collect()
    }))
}

/// The elements of one message; none where one of them is not understood.
fn listed(message: Message<'_>) -> Option<Option<Vec<Listed>>> {
    const ELEMENTS: u16 = 3;
    let list = attribute(message.attributes, ELEMENTS).unwrap_or_default();
    Some(attributes(list).map(|(_, element)| one(element)).collect())
}

fn one(element: &[u8]) -> Option<Listed> {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const FLAGS: u16 = 3;
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const EXPRESSION: u16 = 8;
    const KEY_END: u16 = 10;
    const EXPRESSIONS: u16 = 11;
    const ENDS: u32 = 1;
    const FOR_ALL: u32 = 2;
    let flags = attribute(element, FLAGS)
        .and_then(u32_be)
        .unwrap_or_default();
    let has = |kind| attribute(element, kind).is_some();
    let is_fleeting = has(TIMEOUT) || has(EXPIRATION);
    if is_fleeting || has(EXPRESSION) || has(EXPRESSIONS) || has(KEY_END) || flags & FOR_ALL != 0 {
        return None;
    }
    let key = value(attribute(element, KEY)?)?;
    let verdict = attribute(element, DATA).and_then(verdict);
    Some((key, flags & ENDS != 0, verdict))
}

/// Each begins at an element and ends before the next one, or before the element that says so.
fn intervals(mut listed: Vec<Listed>, length: usize) -> Vec<Element> {
    // Where one ends and the next begins, the beginning counts.
    listed.sort_by(|a, b| (&a.0, !a.1).cmp(&(&b.0, !b.1)));
    let mut elements = Vec::new();
    for (place, (from, ends, verdict)) in listed.iter().enumerate() {
        if *ends {
            continue;
        }
        let next = listed.get(place + 1..).and_then(|rest| rest.first());
        elements.push(Element {
            from: from.clone(),
            to: next.map_or_else(|| vec![0xff; length], |(key, _, _)| before(key)),
            verdict: verdict.clone(),
        });
    }
    elements
}

/// The number before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut bytes = key.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    bytes
}

fn verdict(data: &[u8]) -> Option<Verdict> {
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    let nested = attribute(data, VERDICT)?;
    let code = attribute(nested, CODE).and_then(u32_be)?.cast_signed();
    let target = attribute(nested, CHAIN).map(text);
    Some(match (code, target) {
        (0, _) => Verdict::Drop,
        (1, _) => Verdict::Accept,
        (-1, _) => Verdict::Continue,
        (-3, Some(chain)) => Verdict::Jump(chain),
        (-4, Some(chain)) => Verdict::Goto(chain),
        (-5, _) => Verdict::Return,
        _ => Verdict::Unknown,
    })
}

fn value(data: &[u8]) -> Option<Vec<u8>> {
    const VALUE: u16 = 1;
    attribute(data, VALUE).map(<[u8]>::to_vec)
}

/// The kernel numbers four registers of 16 bytes, or the same as sixteen of 4.
fn register_at(data: &[u8], kind: u16) -> Option<Register> {
    let number = attribute(data, kind).and_then(u32_be)? as usize;
    match number {
        1..=4 => Some((number - 1) * 16),
        8..=23 => Some((number - 8) * 4),
        _ => None,
    }
}

/// Names end with a zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}
