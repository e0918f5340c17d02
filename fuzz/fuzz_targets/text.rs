//! Texts that people and programs write: times, keys, ports, prefixes. What was read is written and read again as the
//! same.

#![no_main]

use std::fmt::{Debug, Display};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use adit_api::text::{Delegate, PortSpan, Text};
use adit_api::timestamp::Timestamp;
use adit_model::hostname;
use adit_model::key::{PresharedKey, PublicKey};
use adit_model::protocol::Protocol;
use adit_model::state::Egress;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use libfuzzer_sys::fuzz_target;

fn again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        let reread = written.parse::<T>().ok();
        assert_eq!(
            reread.as_ref(),
            Some(&read),
            "{text:?} is written as {written:?}"
        );
    }
}

fuzz_target!(|text: &str| {
    again::<Timestamp>(text);
    again::<PublicKey>(text);
    again::<Delegate>(text);
    if let Ok(name) = hostname::parse(text) {
        assert_eq!(hostname::parse(&name).as_ref(), Ok(&name), "{text:?}");
    }
    let _ = text.parse::<PresharedKey>();
    let _ = text.parse::<Protocol>();
    let _ = text.parse::<Text<PortSpan>>();
    let _ = text.parse::<Text<IpNet>>();
    let _ = text.parse::<Text<Ipv4Net>>();
    let _ = text.parse::<Text<Ipv6Net>>();
    let _ = text.parse::<Text<IpAddr>>();
    let _ = text.parse::<Text<Ipv4Addr>>();
    let _ = text.parse::<Text<Egress>>();
});
