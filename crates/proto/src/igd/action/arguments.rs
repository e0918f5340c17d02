//! Arguments of calls and answers: reading and writing their values.

use super::{Arguments, Mapping, MappingKey, MappingRange, Outside, PinholeRequest, PortProtocol};
use crate::igd::fault::Fault;
use crate::igd::xml::{Element, Limits, escape};

/// The arguments that came with a call.
pub(super) struct Given<'a>(&'a Element);

impl<'a> Given<'a> {
    /// An argument that is there twice means two things.
    pub(super) fn of(call: &'a Element) -> Result<Self, Fault> {
        let mut names: Vec<&str> = call
            .children
            .iter()
            .map(|child| child.name.as_str())
            .collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Fault::InvalidArguments);
        }
        Ok(Self(call))
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Fault> {
        let argument = self.0.child(name).ok_or(Fault::InvalidArguments)?;
        if argument.children.is_empty() {
            Ok(&argument.text)
        } else {
            Err(Fault::InvalidArguments)
        }
    }

    /// Clients leave out what they take for unimportant.
    fn text_or_empty(&self, name: &str) -> Result<&'a str, Fault> {
        match self.0.child(name) {
            Some(_) => self.text(name),
            None => Ok(""),
        }
    }

    pub(super) fn number<N: TryFrom<u64>>(&self, name: &str) -> Result<N, Fault> {
        number(self.text(name)?).ok_or(Fault::InvalidArguments)
    }

    pub(super) fn truth(&self, name: &str) -> Result<bool, Fault> {
        match self.text(name)? {
            "1" | "true" | "True" | "yes" => Ok(true),
            "0" | "false" | "False" | "no" => Ok(false),
            _ => Err(Fault::InvalidArguments),
        }
    }

    fn protocol(&self) -> Result<PortProtocol, Fault> {
        let text = self.text("NewProtocol")?;
        [PortProtocol::Tcp, PortProtocol::Udp]
            .into_iter()
            .find(|protocol| protocol.word().eq_ignore_ascii_case(text))
            .ok_or(Fault::InvalidArguments)
    }

    /// Whether the protocol is there and empty.
    pub(super) fn names_no_protocol(&self) -> bool {
        self.text("NewProtocol") == Ok("")
    }

    pub(super) fn outside(&self) -> Result<Outside, Fault> {
        Ok(Outside::read(self.text_or_empty("NewRemoteHost")?))
    }

    pub(super) fn key(&self) -> Result<MappingKey, Fault> {
        Ok(MappingKey {
            outside: self.outside()?,
            external_port: self.number("NewExternalPort")?,
            protocol: self.protocol()?,
        })
    }

    pub(super) fn mapping(&self) -> Result<Mapping, Fault> {
        self.mapping_of(self.key()?)
    }

    pub(super) fn mapping_of(&self, key: MappingKey) -> Result<Mapping, Fault> {
        let lease = match self.text_or_empty("NewLeaseDuration")? {
            "" => 0,
            text => number(text).ok_or(Fault::InvalidArguments)?,
        };
        let enabled = match self.text_or_empty("NewEnabled")? {
            "" => true,
            _ => self.truth("NewEnabled")?,
        };
        Ok(Mapping {
            outside: key.outside,
            external_port: key.external_port,
            protocol: key.protocol,
            internal_port: self.number("NewInternalPort")?,
            internal_client: address(self.text("NewInternalClient")?)?,
            enabled,
            description: self.text_or_empty("NewPortMappingDescription")?.to_owned(),
            lease,
        })
    }

    pub(super) fn range(&self) -> Result<MappingRange, Fault> {
        Ok(MappingRange {
            start: self.number("NewStartPort")?,
            end: self.number("NewEndPort")?,
            protocol: self.protocol()?,
            manage: self.truth("NewManage")?,
        })
    }

    pub(super) fn pinhole(&self, lease: u32) -> Result<PinholeRequest, Fault> {
        Ok(PinholeRequest {
            outside: Outside::read(self.text("RemoteHost")?),
            remote_port: self.number("RemotePort")?,
            internal_client: address(self.text("InternalClient")?)?,
            internal_port: self.number("InternalPort")?,
            protocol: self.number("Protocol")?,
            lease,
        })
    }
}

fn address<A: std::str::FromStr>(text: &str) -> Result<A, Fault> {
    text.parse().map_err(|_| Fault::InvalidArguments)
}

/// Digits and nothing else: `parse` alone takes a sign.
fn number<N: TryFrom<u64>>(text: &str) -> Option<N> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    N::try_from(text.parse::<u64>().ok()?).ok()
}

pub(super) fn boolean(truth: bool) -> String {
    if truth { "1" } else { "0" }.to_owned()
}

pub(super) fn wrapped(total: u64) -> String {
    (total & u64::from(u32::MAX)).to_string()
}

pub(super) fn of_key(key: &MappingKey) -> Arguments {
    vec![
        ("NewRemoteHost", key.outside.word()),
        ("NewExternalPort", key.external_port.to_string()),
        ("NewProtocol", key.protocol.word().to_owned()),
    ]
}

pub(super) fn of_mapping(mapping: &Mapping) -> Arguments {
    let mut arguments = of_key(&mapping.key());
    arguments.extend([
        ("NewInternalPort", mapping.internal_port.to_string()),
        ("NewInternalClient", mapping.internal_client.to_string()),
        ("NewEnabled", boolean(mapping.enabled)),
        ("NewPortMappingDescription", mapping.description.clone()),
        ("NewLeaseDuration", mapping.lease.to_string()),
    ]);
    arguments
}

pub(super) fn of_range(range: &MappingRange) -> Arguments {
    vec![
        ("NewStartPort", range.start.to_string()),
        ("NewEndPort", range.end.to_string()),
        ("NewProtocol", range.protocol.word().to_owned()),
        ("NewManage", boolean(range.manage)),
    ]
}

pub(super) fn of_flow(request: &PinholeRequest) -> Arguments {
    vec![
        ("RemoteHost", request.outside.word()),
        ("RemotePort", request.remote_port.to_string()),
        ("InternalClient", request.internal_client.to_string()),
        ("InternalPort", request.internal_port.to_string()),
        ("Protocol", request.protocol.to_string()),
    ]
}

/// A document inside the answer. Its entries call the lease `NewLeaseTime`.
pub(super) fn listing(mappings: &[Mapping]) -> String {
    let mut document = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
        "<p:PortMappingList xmlns:p=\"urn:schemas-upnp-org:gw:WANIPConnection\"",
        " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
        " xsi:schemaLocation=\"urn:schemas-upnp-org:gw:WANIPConnection",
        " http://www.upnp.org/schemas/gw/WANIPConnection-v2.xsd\">",
    ));
    for mapping in mappings {
        document.push_str("<p:PortMappingEntry>");
        for (name, value) in of_mapping(mapping) {
            let name = match name {
                "NewLeaseDuration" => "NewLeaseTime",
                "NewPortMappingDescription" => "NewDescription",
                name => name,
            };
            document.push_str(&format!("<p:{name}>{}</p:{name}>", escape(&value)));
        }
        document.push_str("</p:PortMappingEntry>");
    }
    document.push_str("</p:PortMappingList>");
    document
}

pub(super) fn read_listing(document: &str) -> Result<Vec<Mapping>, Fault> {
    let list = Element::parse(document.as_bytes(), Limits::DOCUMENT)
        .map_err(|_| Fault::InvalidArguments)?;
    let entries = list
        .children
        .into_iter()
        .filter(|entry| entry.name == "PortMappingEntry");
    entries
        .map(|mut entry| {
            for child in &mut entry.children {
                if child.name == "NewLeaseTime" {
                    child.name = "NewLeaseDuration".to_owned();
                } else if child.name == "NewDescription" {
                    child.name = "NewPortMappingDescription".to_owned();
                }
            }
            Given::of(&entry)?.mapping()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_digits() {
        assert_eq!(number::<u16>("65535"), Some(65535));
        for text in ["", "+1", "-1", " 1", "65536", "0x10", "1.0", "٣"] {
            assert_eq!(number::<u16>(text), None, "{text:?}");
        }
    }
}
