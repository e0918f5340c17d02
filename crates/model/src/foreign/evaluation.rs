//! What becomes of a packet in a base chain, with both ways followed wherever it is not known.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::packet::{Byte, Packet, Value};
use super::{Element, Expression, Name, Outcome, Register, Ruleset, Table, Verdict};

pub(super) fn evaluate(ruleset: &Ruleset, base: &Name, packet: &Packet) -> Outcome {
    let mut evaluation = Evaluation {
        ruleset,
        table: &base.table,
        packet,
        known: BTreeMap::new(),
    };
    let ends = evaluation.chain(&base.name, 0);
    let chain = ruleset.chains.get(base);
    let drops = chain
        .and_then(|chain| chain.base)
        .is_some_and(|base| base.drops);
    let falls = ends.falls || ends.leaves;
    Outcome {
        may_pass: ends.passes || (falls && !drops),
        dropped_in: (falls && drops)
            .then(|| base.name.clone())
            .or(ends.dropped_in),
    }
}

/// The kernel does not take a ruleset that jumps deeper.
const DEEPEST: usize = 16;

/// All that may happen in a chain.
#[derive(Clone, Debug, Default)]
struct Ends {
    passes: bool,
    /// The last chain that may: where a drop is certain, nothing comes after it.
    dropped_in: Option<String>,
    /// It comes to the end, or returns.
    falls: bool,
    /// A goto came to its end: the jump that led here returns.
    leaves: bool,
}

struct Evaluation<'a> {
    ruleset: &'a Ruleset,
    table: &'a Table,
    packet: &'a Packet,
    /// Chains that were gone through: the packet is the same each time.
    known: BTreeMap<String, Ends>,
}

/// Whether a rule goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Maybe,
}

impl Evaluation<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> Ends {
        if let Some(ends) = self.known.get(name) {
            return ends.clone();
        }
        let key = Name {
            table: self.table.clone(),
            name: name.to_owned(),
        };
        let Some(chain) = self.ruleset.chains.get(&key).filter(|_| depth <= DEEPEST) else {
            return Ends::unknown();
        };
        let mut ends = Ends::default();
        for rule in &chain.rules {
            if !self.rule(rule, name, depth, &mut ends) {
                self.known.insert(name.to_owned(), ends.clone());
                return ends;
            }
        }
        ends.falls = true;
        self.known.insert(name.to_owned(), ends.clone());
        ends
    }

    /// Adds what may happen in a rule; false if the next one is not reached.
    fn rule(&mut self, rule: &[Expression], chain: &str, depth: usize, ends: &mut Ends) -> bool {
        let mut registers = Registers::default();
        let mut is_certain = true;
        for expression in rule {
            let (matches, verdicts) = self.expression(expression, &mut registers);
            match matches {
                Match::Yes => {}
                Match::No => return true,
                Match::Maybe => is_certain = false,
            }
            let mut goes_on = verdicts.is_empty();
            for verdict in verdicts {
                goes_on |= self.verdict(&verdict, chain, depth, ends);
            }
            if !goes_on {
                return !is_certain;
            }
        }
        true
    }

    /// Adds what a verdict does; true if it may go on behind it.
    fn verdict(&mut self, verdict: &Verdict, chain: &str, depth: usize, ends: &mut Ends) -> bool {
        match verdict {
            Verdict::Accept => ends.passes = true,
            Verdict::Drop => ends.dropped_in = Some(chain.to_owned()),
            Verdict::Return => ends.falls = true,
            Verdict::Continue => return true,
            Verdict::Unknown => {
                ends.add(Ends::unknown());
                return true;
            }
            Verdict::Jump(target) => {
                let inner = self.chain(target, depth + 1);
                let goes_on = inner.falls || inner.leaves;
                ends.add(Ends {
                    falls: false,
                    leaves: false,
                    ..inner
                });
                return goes_on;
            }
            Verdict::Goto(target) => {
                let inner = self.chain(target, depth + 1);
                ends.add(Ends {
                    falls: false,
                    leaves: inner.falls || inner.leaves,
                    ..inner
                });
            }
        }
        false
    }

    /// Whether the rule goes on, and what it may decide.
    fn expression(
        &self,
        expression: &Expression,
        registers: &mut Registers,
    ) -> (Match, Vec<Verdict>) {
        let matches = match expression {
            Expression::Meta { key, register } => {
                registers.store(*register, self.packet.meta(*key));
                Match::Yes
            }
            Expression::Connection { key, register } => {
                registers.store(*register, self.packet.connection(*key));
                Match::Yes
            }
            Expression::Payload {
                base,
                offset,
                length,
                register,
            } => {
                let value = self.packet.payload(*base, *offset, *length);
                registers.store(*register, value);
                Match::Yes
            }
            Expression::Constant { register, value } => {
                registers.store(*register, Value::known(value));
                Match::Yes
            }
            Expression::Bits {
                from,
                to,
                mask,
                flip,
            } => {
                let value = masked(&registers.load(*from, mask.len()), mask, flip);
                registers.store(*to, value);
                Match::Yes
            }
            Expression::Equal {
                register,
                value,
                inverted,
            } => {
                let held = registers.load(*register, value.len());
                equal(&held, value).inverted_if(*inverted)
            }
            Expression::Within {
                register,
                from,
                to,
                inverted,
            } => {
                let held = registers.load(*register, from.len());
                within(&held, from, to).inverted_if(*inverted)
            }
            Expression::Lookup {
                set,
                register,
                verdict,
                inverted,
            } => return self.lookup(set, *register, *verdict, *inverted, registers),
            Expression::State { states, inverted } => {
                let states = self
                    .packet
                    .states()
                    .map(|held| u32::from(*states) & held != 0);
                states
                    .map_or(Match::Maybe, Match::from)
                    .inverted_if(*inverted)
            }
            Expression::Ports {
                source,
                destination,
                ranges,
                inverted,
            } => {
                let source = source.then_some(self.packet.source_port);
                let destination = destination.then_some(self.packet.destination_port);
                let each = source.into_iter().chain(destination);
                let found = each.map(|port| match port {
                    Some(port) => Match::from(
                        ranges
                            .iter()
                            .any(|(from, to)| (*from..=*to).contains(&port)),
                    ),
                    None => Match::Maybe,
                });
                found.fold(Match::No, Match::or).inverted_if(*inverted)
            }
            Expression::Unknown => {
                *registers = Registers::default();
                Match::Maybe
            }
            Expression::Verdict(verdict) => return (Match::Yes, vec![verdict.clone()]),
        };
        (matches, Vec::new())
    }

    fn lookup(
        &self,
        set: &str,
        register: Register,
        verdict: bool,
        inverted: bool,
        registers: &Registers,
    ) -> (Match, Vec<Verdict>) {
        let key = Name {
            table: self.table.clone(),
            name: set.to_owned(),
        };
        let elements = self.ruleset.sets.get(&key);
        let Some(elements) = elements.and_then(|set| set.elements.as_ref()) else {
            let verdicts = if verdict {
                vec![Verdict::Unknown]
            } else {
                Vec::new()
            };
            return (Match::Maybe, verdicts);
        };
        let mut found = Match::No;
        let mut verdicts = Vec::new();
        for element in elements {
            let this = has(element, registers, register);
            if this != Match::No {
                verdicts.extend(element.verdict.clone().filter(|_| verdict));
            }
            found = found.or(this);
            if this == Match::Yes {
                break;
            }
        }
        (found.inverted_if(inverted), verdicts)
    }
}

fn has(element: &Element, registers: &Registers, register: Register) -> Match {
    let value = registers.load(register, element.from.len());
    if element.from == element.to {
        equal(&value, &element.from)
    } else {
        within(&value, &element.from, &element.to)
    }
}

impl Ends {
    fn unknown() -> Self {
        Self {
            passes: true,
            dropped_in: None,
            falls: true,
            leaves: false,
        }
    }

    fn add(&mut self, other: Self) {
        self.passes |= other.passes;
        self.falls |= other.falls;
        self.leaves |= other.leaves;
        self.dropped_in = other.dropped_in.or(self.dropped_in.take());
    }
}

impl From<bool> for Match {
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

impl Match {
    const fn inverted_if(self, inverted: bool) -> Self {
        match self {
            Self::Yes if inverted => Self::No,
            Self::No if inverted => Self::Yes,
            Self::Yes | Self::No | Self::Maybe => self,
        }
    }

    const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            (Self::No, Self::No) => Self::No,
        }
    }
}

/// The kernel has 64 bytes of registers.
const REGISTERS: usize = 64;

#[derive(Clone, Debug)]
struct Registers {
    bytes: [Byte; REGISTERS],
    /// Where some public address begins.
    internet: Vec<Register>,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            bytes: [Byte::default(); REGISTERS],
            internet: Vec::new(),
        }
    }
}

impl Registers {
    fn store(&mut self, register: Register, value: Value) {
        let end = register + value.bytes.len();
        self.internet.retain(|it| !(register..end).contains(it));
        if value.is_internet {
            self.internet.push(register);
        }
        for (place, byte) in self.bytes.iter_mut().skip(register).zip(value.bytes) {
            *place = byte;
        }
    }

    fn load(&self, register: Register, length: usize) -> Value {
        let held = self.bytes.iter().skip(register).copied();
        let bytes = held.chain(std::iter::repeat(Byte::default()));
        Value {
            bytes: bytes.take(length).collect(),
            is_internet: self.internet.contains(&register),
        }
    }
}

fn masked(value: &Value, mask: &[u8], flip: &[u8]) -> Value {
    let bytes = value.bytes.iter().zip(mask).enumerate();
    Value {
        bytes: bytes
            .map(|(place, (byte, mask))| Byte {
                value: (byte.value & mask) ^ flip.get(place).copied().unwrap_or_default(),
                known: byte.known | !mask,
            })
            .collect(),
        is_internet: value.is_internet && flip.iter().all(|it| *it == 0),
    }
}

fn equal(held: &Value, wanted: &[u8]) -> Match {
    let differs = |(byte, wanted): (&Byte, &u8)| (byte.value ^ wanted) & byte.known != 0;
    if held.bytes.iter().zip(wanted).any(differs) {
        return Match::No;
    }
    if held.bytes.iter().all(|byte| byte.known == 0xff) {
        return Match::Yes;
    }
    if held.is_internet && special(wanted).is_some() {
        return Match::No;
    }
    Match::Maybe
}

/// Numbers are compared as they are in a packet, the highest byte first.
fn within(held: &Value, from: &[u8], to: &[u8]) -> Match {
    let lowest: Vec<u8> = held
        .bytes
        .iter()
        .map(|byte| byte.value & byte.known)
        .collect();
    let highest: Vec<u8> = held
        .bytes
        .iter()
        .map(|byte| (byte.value & byte.known) | !byte.known)
        .collect();
    if lowest.as_slice().cmp(to) == Ordering::Greater
        || highest.as_slice().cmp(from) == Ordering::Less
    {
        return Match::No;
    }
    if lowest.as_slice() >= from && highest.as_slice() <= to {
        return Match::Yes;
    }
    if held.is_internet && special(from).is_some() && special(from) == special(to) {
        return Match::No;
    }
    Match::Maybe
}

/// Prefixes from which nobody on the Internet has an address.
const SPECIAL: [&str; 12] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Which of those an address lies in, or what the mask of a rule left of it.
fn special(bytes: &[u8]) -> Option<&'static str> {
    let mut four = [0; 4];
    let mut sixteen = [0; 16];
    let address = if bytes.len() <= four.len() {
        four.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        IpAddr::from(four)
    } else {
        sixteen
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        IpAddr::from(sixteen)
    };
    SPECIAL.into_iter().find(|prefix| {
        prefix
            .parse()
            .is_ok_and(|prefix: IpNet| prefix.contains(&address))
    })
}
