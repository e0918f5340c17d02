//! Reads nft's JSON listing of the table.

#![warn(clippy::indexing_slicing)]

use std::net::IpAddr;

use adit_model::desired::firewall::{ASKED, COUNTED, Elements, HEARD, SPOKE};
use adit_model::protocol::Protocol;
use serde_json::{Map, Value};

use super::FirewallError;

/// All that a listing of the table says except its elements, counters and handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

/// The fingerprint of a listing; `None` when there is no table.
pub(crate) fn fingerprint(listing: &[u8]) -> Result<Option<Fingerprint>, FirewallError> {
    let objects = parse(listing)?;
    let mut lines = String::new();
    for (kind, mut object) in objects {
        object.remove("handle");
        object.remove("elem");
        if let Some(Value::Array(expressions)) = object.get_mut("expr") {
            expressions.retain(|expression| expression.get("counter").is_none());
        }
        lines.push_str(&format!("{kind} {}\n", Value::Object(object)));
    }
    Ok((!lines.is_empty()).then_some(Fingerprint(lines)))
}

/// The elements in a listing, in the notation in which the model renders them.
pub(crate) fn elements(listing: &[u8]) -> Result<Elements, FirewallError> {
    let mut elements = Elements::default();
    for (_, object) in parse(listing)? {
        let (Some(Value::String(set)), Some(Value::Array(list))) =
            (object.get("name"), object.get("elem"))
        else {
            continue;
        };
        // Packets fill these, and the kernel empties them.
        let mut counted = COUNTED.iter().map(|(name, _)| *name);
        if counted.any(|name| name == set) || [ASKED, HEARD, SPOKE].contains(&set.as_str()) {
            continue;
        }
        let is_map = object.contains_key("map");
        for element in list {
            let (key, value) = match element.as_array().map(Vec::as_slice) {
                Some([key, value]) if is_map => (key, Some(notation(value)?)),
                Some(_) | None => (element, None),
            };
            let mut key = notation(key)?;
            if let Some(place) = place_of(&object, "inet_proto") {
                key = name_protocol(&key, place);
            }
            if place_of(&object, "ifname") == Some(0) {
                key = quote_first(&key);
            }
            elements.insert(set, key, value);
        }
    }
    Ok(elements)
}

/// The kind of an object, and what is said about it.
type Listed = (String, Map<String, Value>);

/// The objects of a listing by kind, without the preamble.
fn parse(listing: &[u8]) -> Result<Vec<Listed>, FirewallError> {
    if listing.is_empty() {
        return Ok(Vec::new());
    }
    let Value::Object(mut listing) = serde_json::from_slice(listing)? else {
        return Err(unknown("the listing"));
    };
    let Some(Value::Array(entries)) = listing.remove("nftables") else {
        return Err(unknown("the listing"));
    };
    let mut objects = Vec::with_capacity(entries.len());
    for entry in entries {
        let Value::Object(entry) = entry else {
            return Err(unknown(&entry.to_string()));
        };
        for (kind, object) in entry {
            if let (Value::Object(object), false) = (object, kind == "metainfo") {
                objects.push((kind, object));
            }
        }
    }
    Ok(objects)
}

/// Where in the set's keys a type stands. JSON gives the names of interfaces without quotes, and protocols as numbers
/// where there is no `/etc/protocols`.
fn place_of(set: &Map<String, Value>, name: &str) -> Option<usize> {
    match set.get("type") {
        Some(Value::Array(types)) => types.iter().position(|it| it.as_str() == Some(name)),
        Some(only) if only.as_str() == Some(name) => Some(0),
        Some(_) | None => None,
    }
}

fn name_protocol(key: &str, place: usize) -> String {
    let mut parts: Vec<&str> = key.split(" . ").collect();
    if let Some(part) = parts.get_mut(place) {
        let named = Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.number().to_string() == *part);
        *part = named.map_or(*part, |protocol| protocol.name());
    }
    parts.join(" . ")
}

fn quote_first(key: &str) -> String {
    match key.split_once(" . ") {
        Some((first, rest)) => format!("\"{first}\" . {rest}"),
        None => format!("\"{key}\""),
    }
}

/// A key or value in the notation of nft's text.
fn notation(value: &Value) -> Result<String, FirewallError> {
    match value {
        Value::Number(number) => Ok(number.to_string()),
        // nft and we may write the same IPv6 address differently.
        Value::String(text) => Ok(text
            .parse()
            .map_or_else(|_| text.clone(), |address: IpAddr| address.to_string())),
        Value::Object(object) => match object.iter().next() {
            Some((kind, inner)) => compound(kind, inner, value),
            None => Err(unknown("an empty element")),
        },
        Value::Null | Value::Bool(_) | Value::Array(_) => Err(unknown(&value.to_string())),
    }
}

fn compound(kind: &str, inner: &Value, whole: &Value) -> Result<String, FirewallError> {
    let parts = |list: &Value| match list {
        Value::Array(list) => list.iter().map(notation).collect::<Result<Vec<_>, _>>(),
        other => Err(unknown(&other.to_string())),
    };
    match kind {
        "concat" => Ok(parts(inner)?.join(" . ")),
        "range" => Ok(parts(inner)?.join("-")),
        "prefix" => {
            let address = notation(&inner["addr"])?;
            let length = notation(&inner["len"])?;
            Ok(format!("{address}/{length}"))
        }
        "jump" | "goto" => Ok(format!("{kind} {}", notation(&inner["target"])?)),
        "accept" | "drop" | "return" | "continue" => Ok(kind.to_owned()),
        // An element with a counter, a comment or a timeout that someone else added.
        "elem" => Ok(format!("{} (decorated)", notation(&inner["val"])?)),
        _ => Err(unknown(&whole.to_string())),
    }
}

fn unknown(object: &str) -> FirewallError {
    FirewallError::Unknown {
        object: object.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_read_alike_with_and_without_their_names() {
        let listed = |protocol: &str| {
            let set = r#"{"set": {"name": "pinholes", "type": ["ipv6_addr", "inet_proto", "inet_service"], "elem": "#;
            let text = format!(
                r#"{{"nftables": [{set} [{{"concat": ["2001:db8::6", {protocol}, 6]}}]}}}}]}}"#
            );
            elements(text.as_bytes()).unwrap()
        };
        assert_eq!(listed("6"), listed("\"tcp\""));
        assert_ne!(listed("17"), listed("\"tcp\""));
    }
}
