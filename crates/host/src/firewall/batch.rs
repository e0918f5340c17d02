//! Elements of the table's maps and sets as netlink messages: a few of them are there sooner than a program has started.

#![warn(clippy::indexing_slicing)]

use std::net::{Ipv4Addr, Ipv6Addr};

use adit_model::desired::firewall::{Delta, Elements, Firewall};
use adit_model::protocol::Protocol;

use crate::netfilter::{Request, SUBSYSTEM_NFTABLES, push_attribute};

/// More go through `nft`: they must fit in what a socket sends at once.
const MOST: usize = 1000;

/// Elements in one message, whose lengths have 16 bits.
const CHUNK: usize = 100;

const NEW_ELEMENTS: u8 = 12;
const DELETE_ELEMENTS: u8 = 14;
const FAMILY_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;

/// What makes the kernel exchange the elements; none where that takes `nft`: prefixes, ranges, verdicts, and many.
pub(super) fn requests(delta: &Delta) -> Option<Vec<Request>> {
    if delta.obsolete.len() + delta.missing.len() > MOST {
        return None;
    }
    let mut requests = Vec::new();
    push(&mut requests, DELETE_ELEMENTS, &delta.obsolete)?;
    push(&mut requests, NEW_ELEMENTS, &delta.missing)?;
    Some(requests)
}

fn push(requests: &mut Vec<Request>, kind: u8, elements: &Elements) -> Option<()> {
    for (set, elements) in elements.sets() {
        let (key_types, value_types) = split(Firewall::types_of(set)?);
        let mut encoded = Vec::with_capacity(elements.len());
        for (key, value) in elements {
            let mut element = Vec::new();
            push_data(&mut element, ELEMENT_KEY, &concatenation(key_types, key)?);
            if let (NEW_ELEMENTS, Some(value)) = (kind, value) {
                push_data(
                    &mut element,
                    ELEMENT_DATA,
                    &concatenation(value_types?, value)?,
                );
            }
            encoded.push(element);
        }
        for chunk in encoded.chunks(CHUNK) {
            let mut list = Vec::new();
            for element in chunk {
                push_attribute(&mut list, LIST_ELEMENT | NESTED, element);
            }
            let mut attributes = Vec::new();
            push_attribute(&mut attributes, LIST_TABLE, b"adit\0");
            push_attribute(&mut attributes, LIST_SET, format!("{set}\0").as_bytes());
            push_attribute(&mut attributes, LIST_ELEMENTS | NESTED, &list);
            requests.push(Request {
                subsystem: SUBSYSTEM_NFTABLES,
                kind,
                family: FAMILY_INET,
                attributes,
            });
        }
    }
    Some(())
}

fn push_data(element: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let mut data = Vec::new();
    push_attribute(&mut data, DATA_VALUE, value);
    push_attribute(element, kind | NESTED, &data);
}

fn split(types: &str) -> (&str, Option<&str>) {
    match types.split_once(" : ") {
        Some((key, value)) => (key, Some(value)),
        None => (types, None),
    }
}

/// The parts as the kernel's registers have them: each begins on a word of its own.
fn concatenation(types: &str, text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut parts = text.split(" . ");
    for name in types.split(" . ") {
        push_part(&mut bytes, name, parts.next()?)?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    parts.next().is_none().then_some(bytes)
}

fn push_part(bytes: &mut Vec<u8>, name: &str, text: &str) -> Option<()> {
    const INTERFACE_NAME: usize = 16;
    match name {
        "ipv4_addr" => bytes.extend(text.parse::<Ipv4Addr>().ok()?.octets()),
        "ipv6_addr" => bytes.extend(text.parse::<Ipv6Addr>().ok()?.octets()),
        "inet_proto" => bytes.push(text.parse::<Protocol>().ok()?.number()),
        "inet_service" => bytes.extend(text.parse::<u16>().ok()?.to_be_bytes()),
        "ifname" => {
            let name = text.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
            let end = bytes.len() + INTERFACE_NAME;
            bytes.extend(name);
            // The name ends with a zero.
            if bytes.len() >= end {
                return None;
            }
            bytes.resize(end, 0);
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_on_words() {
        let bytes = concatenation(
            "ipv4_addr . inet_proto . inet_service",
            "192.0.2.1 . tcp . 80",
        );
        assert_eq!(bytes.unwrap(), [192, 0, 2, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        let name = concatenation("ifname . inet_service", "\"eth0\" . 258").unwrap();
        assert_eq!(name, *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\0\0");
    }

    #[test]
    fn what_is_written_otherwise_is_left_to_nft() {
        let types = "ipv4_addr . inet_proto . inet_service";
        for text in [
            "192.0.2.1 . tcp",
            "192.0.2.1 . tcp . 80 . 81",
            "192.0.2.1 . tcp . 80-90",
            "192.0.2.0/24 . tcp . 80",
            "192.0.2.1 . icmp . 80",
        ] {
            assert_eq!(concatenation(types, text), None, "{text}");
        }
        assert_eq!(concatenation("ifname", "\"a-name-of-sixteen\""), None);
        assert_eq!(concatenation("verdict", "jump x"), None);
        let mut missing = Elements::default();
        missing.insert("pinhole_ranges", "2001:db8::1 . tcp . 80-90", None);
        let delta = Delta {
            missing,
            ..Delta::default()
        };
        assert!(requests(&delta).is_none());
    }
}
