//! Values that a declaration writes as text.

use std::fmt;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The IPv6 prefix of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// It has none.
    None,
    /// This one.
    Prefix(Ipv6Net),
}

/// The first and the last of consecutive ports, `FIRST-LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpan {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl fmt::Display for Ipv6 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Prefix(prefix) => prefix.fmt(formatter),
        }
    }
}

impl FromStr for Ipv6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::Prefix).map_err(|_| {
            format!(
                "`{}` is not an IPv6 prefix such as 2001:db8:1::/64, or `none`",
                short(text)
            )
        })
    }
}

impl fmt::Display for PortSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('-').map(|(first, last)| {
            let first = first.trim().parse().ok();
            first.zip(last.trim().parse().ok())
        });
        match numbers.flatten() {
            Some((first, last)) => Ok(Self { first, last }),
            None => Err(format!(
                "`{}` is not a range of ports such as 32768-49151",
                short(text)
            )),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Ipv6);
as_text!(PortSpan);

/// A value that may not be there.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, FromStr, Serializer, fmt};

    pub(in super::super) fn serialize<T: fmt::Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}
