//! Values that requests carry as text, read so that the message says what the field takes.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use adit_model::change::{DelegationWish, Ipv6Wish};
pub use adit_model::declaration::PortSpan;
use adit_model::state::Egress;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is text in JSON and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// What can stand in a [`Text`].
pub trait Readable: Sized {
    /// What the field takes, for messages.
    const TAKES: &'static str;

    /// Reads it; the error says what is wrong with the text.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes what [`Readable::read`] reads.
    fn write(&self) -> String;
}

/// A delegation that is wanted: a length (integer) or a prefix (text).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delegate(pub DelegationWish);

impl<T: Readable> FromStr for Text<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        T::read(text).map(Self)
    }
}

impl<T: Readable> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.write())
    }
}

impl<'de, T: Readable> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);

        impl<T: Readable> Visitor<'_> for Reader<T> {
            type Value = Text<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a text: {}", T::TAKES)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<T>, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Reader(PhantomData))
    }
}

impl Readable for Ipv4Addr {
    const TAKES: &'static str = "an IPv4 address such as 10.59.0.2";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| refuse::<Self>(text))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for IpAddr {
    const TAKES: &'static str = "an address such as 198.51.100.7 or 2001:db8::7";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| refuse::<Self>(text))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for Ipv4Net {
    const TAKES: &'static str = "an IPv4 prefix such as 10.59.0.0/24";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| refuse_prefix::<Self>(text))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for Ipv6Net {
    const TAKES: &'static str = "an IPv6 prefix such as 2001:db8:1::/64";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| refuse_prefix::<Self>(text))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for IpNet {
    const TAKES: &'static str = "a prefix such as 2001:db8:1:2::/64 or 192.168.7.0/24";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| refuse_prefix::<Self>(text))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for Ipv6Wish {
    const TAKES: &'static str =
        "an IPv6 prefix such as 2001:db8:1::/64, `none`, or `private` for a random private one";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "private" => Ok(Self::Private),
            prefix => prefix
                .parse()
                .map(Self::Prefix)
                .map_err(|_| refuse_prefix::<Self>(prefix)),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Private => "private".to_owned(),
            Self::None => "none".to_owned(),
            Self::Prefix(prefix) => prefix.to_string(),
        }
    }
}

impl Readable for Egress {
    const TAKES: &'static str = Self::TAKES;

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Readable for PortSpan {
    const TAKES: &'static str = "a range of ports such as 40000-65535";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

const DELEGATE_TAKES: &str =
    "an IPv6 prefix length such as 64, or a prefix such as 2001:db8:1:2::/64";

impl FromStr for Delegate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let length = text.strip_prefix('/').unwrap_or(text);
        if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) {
            return length
                .parse()
                .ok()
                .filter(|length| *length <= 128)
                .map(|length| Self(DelegationWish::Length(length)))
                .ok_or_else(|| {
                    format!(
                        "`{}` is longer than an IPv6 address: use at most 128",
                        short(text)
                    )
                });
        }
        IpNet::read(text).map(|prefix| Self(DelegationWish::Prefix(prefix)))
    }
}

impl fmt::Display for Delegate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DelegationWish::Length(length) => write!(formatter, "/{length}"),
            DelegationWish::Prefix(prefix) => prefix.fmt(formatter),
        }
    }
}

impl Serialize for Delegate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            DelegationWish::Length(length) => serializer.serialize_u8(length),
            DelegationWish::Prefix(prefix) => serializer.collect_str(&prefix),
        }
    }
}

impl<'de> Deserialize<'de> for Delegate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Delegate;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(DELEGATE_TAKES)
            }

            fn visit_u64<E: serde::de::Error>(self, length: u64) -> Result<Delegate, E> {
                length.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, length: i64) -> Result<Delegate, E> {
                Err(E::custom(format!(
                    "`{length}` is no length: use {DELEGATE_TAKES}"
                )))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Delegate, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer
            .deserialize_any(Reader)
            .map_err(D::Error::custom)
    }
}

fn refuse<T: Readable>(text: &str) -> String {
    format!("`{}` is not {}", short(text), T::TAKES)
}

fn refuse_prefix<T: Readable>(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(address) => {
            let usual = if address.is_ipv4() { 24 } else { 64 };
            format!(
                "`{address}` has no prefix length: write it behind the address, such as {address}/{usual}"
            )
        }
        Err(_) => refuse::<T>(text),
    }
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_without_a_length_is_told_so() {
        for error in [
            Text::<Ipv4Net>::from_str("10.59.0.0").unwrap_err(),
            Text::<Ipv6Wish>::from_str("2001:db8::").unwrap_err(),
            Delegate::from_str("2001:db8::").unwrap_err(),
        ] {
            assert!(error.contains("no prefix length"), "{error}");
        }
    }

    #[test]
    fn a_delegation_is_a_length_or_a_prefix() {
        let read = |text: &str| serde_json::from_str::<Delegate>(text).map(|wish| wish.0);
        let prefix = DelegationWish::Prefix("192.168.7.0/24".parse().unwrap());
        assert_eq!(read("64").unwrap(), DelegationWish::Length(64));
        assert_eq!(read("\"/56\"").unwrap(), DelegationWish::Length(56));
        assert_eq!(read("\"192.168.7.0/24\"").unwrap(), prefix);
        for bad in ["129", "-1", "6.5", "true", "null", "\"\"", "300"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
