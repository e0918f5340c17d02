//! What packets have shown of the watched prefixes: the sets of our table that they fill.

#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;

use adit_model::desired::firewall::{ASKED, HEARD, SPOKE, SPOKE_HOURS};
use adit_model::facts::Evidence;
use nix::errno::Errno;

use crate::netfilter::{
    Message, Request, Requests, SUBSYSTEM_NFTABLES, attribute, attributes, push_attribute,
};

const GET_ELEMENTS: u8 = 13;
const FAMILY_INET: u8 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

/// Milliseconds after which an answer to what was said should have come.
const ANSWER: u64 = 10_000;

/// What there is to see now; nothing without a table, or while nothing is watched.
pub fn observe() -> io::Result<BTreeMap<Ipv6Addr, Evidence>> {
    let mut requests = Requests::open()?;
    let mut evidence: BTreeMap<Ipv6Addr, Evidence> = BTreeMap::new();
    for seen in elements(&mut requests, ASKED)? {
        evidence.entry(seen.address).or_default().asked = true;
    }
    for seen in elements(&mut requests, HEARD)? {
        evidence.entry(seen.address).or_default().heard = true;
    }
    for seen in elements(&mut requests, SPOKE)? {
        if seen.left + ANSWER <= SPOKE_HOURS * 3_600_000 {
            evidence.entry(seen.address).or_default().spoke = true;
        }
    }
    Ok(evidence)
}

/// An element of one of the sets.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    address: Ipv6Addr,
    /// Milliseconds until it is forgotten.
    left: u64,
}

fn elements(requests: &mut Requests, set: &str) -> io::Result<Vec<Seen>> {
    let mut request = Request {
        subsystem: SUBSYSTEM_NFTABLES,
        kind: GET_ELEMENTS,
        family: FAMILY_INET,
        attributes: Vec::new(),
    };
    push_attribute(&mut request.attributes, LIST_TABLE, b"adit\0");
    let mut name = set.as_bytes().to_vec();
    name.push(0);
    push_attribute(&mut request.attributes, LIST_SET, &name);
    match requests.dump(&request, |message| Some(read(message))) {
        Ok(parts) => Ok(parts.into_iter().flatten().collect()),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(crate) fn read(message: Message<'_>) -> Vec<Seen> {
    let list = attribute(message.attributes, LIST_ELEMENTS).unwrap_or_default();
    attributes(list)
        .filter_map(|(_, element)| seen(element))
        .collect()
}

fn seen(element: &[u8]) -> Option<Seen> {
    let key = attribute(attribute(element, ELEMENT_KEY)?, DATA_VALUE)?;
    let octets: [u8; 16] = key.try_into().ok()?;
    let left: [u8; 8] = attribute(element, ELEMENT_EXPIRATION)?.try_into().ok()?;
    Some(Seen {
        address: octets.into(),
        left: u64::from_be_bytes(left),
    })
}
