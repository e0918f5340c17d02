//! What clients ask and what they are told, with types; from and to the arguments of a call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fault::Fault;
use super::service::{Service, Version};
use super::xml::Element;

mod arguments;
#[cfg(test)]
mod samples;

use arguments::{
    Given, boolean, listing, of_flow, of_key, of_mapping, of_range, read_listing, wrapped,
};
#[cfg(test)]
pub(crate) use samples::samples;

/// What only the gateway itself can answer. Calls whose answer never varies do not come this far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// How the connection to the Internet is.
    Status,
    ExternalAddress,
    LinkProperties,
    BytesSent,
    BytesReceived,
    PacketsSent,
    PacketsReceived,
    /// Map this port, or refuse.
    Add(Mapping),
    /// Map this port, or another one.
    AddAny(Mapping),
    Delete(MappingKey),
    /// The same of both protocols, which clients mean that name none.
    DeleteBoth {
        outside: Outside,
        external_port: u16,
    },
    DeleteRange(MappingRange),
    /// The mapping of this number, from 0.
    Entry(u16),
    Specific(MappingKey),
    /// Mappings of a range; at most that many, all if 0.
    List(MappingRange, u16),
    FirewallStatus,
    /// Seconds that the firewall remembers what a device has sent.
    OutboundTimeout(PinholeRequest),
    /// Seconds in `lease`.
    AddPinhole(PinholeRequest),
    UpdatePinhole {
        id: u16,
        lease: u32,
    },
    DeletePinhole {
        id: u16,
    },
    PinholePackets {
        id: u16,
    },
    PinholeWorks {
        id: u16,
    },
}

/// What an action is answered. The variants are those of the actions; what only succeeds is `Done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Seconds since the connection is up; none if it is not.
    Status(Option<u32>),
    /// None while there is none.
    ExternalAddress(Option<Ipv4Addr>),
    /// Bits in a second that the line can carry out and in.
    LinkProperties {
        upstream: u32,
        downstream: u32,
    },
    /// Bytes or packets. The services have 32 bits for them, and begin anew after.
    Total(u64),
    /// The port that was mapped.
    Reserved(u16),
    Entry(Mapping),
    Specific(Mapping),
    List(Vec<Mapping>),
    FirewallStatus {
        enabled: bool,
        pinholes: bool,
    },
    OutboundTimeout(u32),
    Pinhole {
        id: u16,
    },
    Packets(u32),
    Works(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortProtocol {
    Tcp,
    Udp,
}

impl PortProtocol {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A mapping that is wished or there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub outside: Outside,
    pub external_port: u16,
    pub protocol: PortProtocol,
    pub internal_port: u16,
    pub internal_client: Ipv4Addr,
    pub enabled: bool,
    pub description: String,
    /// Seconds; 0 is for ever.
    pub lease: u32,
}

impl Mapping {
    pub fn key(&self) -> MappingKey {
        MappingKey {
            outside: self.outside.clone(),
            external_port: self.external_port,
            protocol: self.protocol,
        }
    }
}

/// What names a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingKey {
    pub outside: Outside,
    pub external_port: u16,
    pub protocol: PortProtocol,
}

/// External ports, both ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingRange {
    pub start: u16,
    pub end: u16,
    pub protocol: PortProtocol,
    /// Whether those of other clients are meant, too.
    pub manage: bool,
}

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    Anyone,
    Address(IpAddr),
    /// A name that would have to be resolved.
    Name(String),
}

impl Outside {
    fn word(&self) -> String {
        match self {
            Self::Anyone => String::new(),
            Self::Address(address) => address.to_string(),
            Self::Name(name) => name.clone(),
        }
    }

    /// An unspecified address and `*` are what some clients mean by the empty string.
    fn read(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => Self::Anyone,
            Ok(address) => Self::Address(address),
            Err(_) if text.is_empty() || text == "*" => Self::Anyone,
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// A flow of IPv6 from outside to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinholeRequest {
    pub outside: Outside,
    /// 0 is any.
    pub remote_port: u16,
    pub internal_client: Ipv6Addr,
    /// 0 is any.
    pub internal_port: u16,
    /// The protocol's number in the IP header; 65535 is any.
    pub protocol: u16,
    /// Seconds.
    pub lease: u32,
}

/// The names and values of a call, in order.
pub(crate) type Arguments = Vec<(&'static str, String)>;

impl Action {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status => "GetStatusInfo",
            Self::ExternalAddress => "GetExternalIPAddress",
            Self::LinkProperties => "GetCommonLinkProperties",
            Self::BytesSent => "GetTotalBytesSent",
            Self::BytesReceived => "GetTotalBytesReceived",
            Self::PacketsSent => "GetTotalPacketsSent",
            Self::PacketsReceived => "GetTotalPacketsReceived",
            Self::Add(_) => "AddPortMapping",
            Self::AddAny(_) => "AddAnyPortMapping",
            Self::Delete(_) | Self::DeleteBoth { .. } => "DeletePortMapping",
            Self::DeleteRange(_) => "DeletePortMappingRange",
            Self::Entry(_) => "GetGenericPortMappingEntry",
            Self::Specific(_) => "GetSpecificPortMappingEntry",
            Self::List(..) => "GetListOfPortMappings",
            Self::FirewallStatus => "GetFirewallStatus",
            Self::OutboundTimeout(_) => "GetOutboundPinholeTimeout",
            Self::AddPinhole(_) => "AddPinhole",
            Self::UpdatePinhole { .. } => "UpdatePinhole",
            Self::DeletePinhole { .. } => "DeletePinhole",
            Self::PinholePackets { .. } => "GetPinholePackets",
            Self::PinholeWorks { .. } => "CheckPinholeWorking",
        }
    }

    /// Reads a call. The service has an action of that name.
    pub(crate) fn read(service: Service, name: &str, call: &Element) -> Result<Self, Fault> {
        let arguments = Given::of(call)?;
        match service {
            Service::Layer3Forwarding => Err(Fault::InvalidAction),
            Service::WanCommonInterfaceConfig => match name {
                "GetCommonLinkProperties" => Ok(Self::LinkProperties),
                "GetTotalBytesSent" => Ok(Self::BytesSent),
                "GetTotalBytesReceived" => Ok(Self::BytesReceived),
                "GetTotalPacketsSent" => Ok(Self::PacketsSent),
                "GetTotalPacketsReceived" => Ok(Self::PacketsReceived),
                _ => Err(Fault::InvalidAction),
            },
            Service::WanIpConnection(version) => Self::read_connection(version, name, &arguments),
            Service::WanIpv6FirewallControl => Self::read_firewall(name, &arguments),
        }
    }

    fn read_connection(version: Version, name: &str, given: &Given<'_>) -> Result<Self, Fault> {
        match (name, version) {
            ("GetStatusInfo", _) => Ok(Self::Status),
            ("GetExternalIPAddress", _) => Ok(Self::ExternalAddress),
            ("AddPortMapping", _) => Ok(Self::Add(given.mapping()?)),
            ("AddAnyPortMapping", Version::Two) => Ok(Self::AddAny(given.mapping()?)),
            ("DeletePortMapping", _) if given.names_no_protocol() => Ok(Self::DeleteBoth {
                outside: given.outside()?,
                external_port: given.number("NewExternalPort")?,
            }),
            ("DeletePortMapping", _) => Ok(Self::Delete(given.key()?)),
            ("DeletePortMappingRange", Version::Two) => Ok(Self::DeleteRange(given.range()?)),
            ("GetGenericPortMappingEntry", _) => {
                Ok(Self::Entry(given.number("NewPortMappingIndex")?))
            }
            ("GetSpecificPortMappingEntry", _) => Ok(Self::Specific(given.key()?)),
            ("GetListOfPortMappings", Version::Two) => Ok(Self::List(
                given.range()?,
                given.number("NewNumberOfPorts")?,
            )),
            _ => Err(Fault::InvalidAction),
        }
    }

    fn read_firewall(name: &str, given: &Given<'_>) -> Result<Self, Fault> {
        let id = || given.number("UniqueID");
        match name {
            "GetFirewallStatus" => Ok(Self::FirewallStatus),
            "GetOutboundPinholeTimeout" => Ok(Self::OutboundTimeout(given.pinhole(0)?)),
            "AddPinhole" => {
                let lease = given.number("LeaseTime")?;
                Ok(Self::AddPinhole(given.pinhole(lease)?))
            }
            "UpdatePinhole" => Ok(Self::UpdatePinhole {
                id: id()?,
                lease: given.number("NewLeaseTime")?,
            }),
            "DeletePinhole" => Ok(Self::DeletePinhole { id: id()? }),
            "GetPinholePackets" => Ok(Self::PinholePackets { id: id()? }),
            "CheckPinholeWorking" => Ok(Self::PinholeWorks { id: id()? }),
            _ => Err(Fault::InvalidAction),
        }
    }

    pub(crate) fn arguments(&self) -> Arguments {
        match self {
            Self::Status
            | Self::ExternalAddress
            | Self::LinkProperties
            | Self::BytesSent
            | Self::BytesReceived
            | Self::PacketsSent
            | Self::PacketsReceived
            | Self::FirewallStatus => Vec::new(),
            Self::Add(mapping) | Self::AddAny(mapping) => of_mapping(mapping),
            Self::Delete(key) | Self::Specific(key) => of_key(key),
            Self::DeleteBoth {
                outside,
                external_port,
            } => vec![
                ("NewRemoteHost", outside.word()),
                ("NewExternalPort", external_port.to_string()),
                ("NewProtocol", String::new()),
            ],
            Self::DeleteRange(range) => of_range(range),
            Self::Entry(index) => vec![("NewPortMappingIndex", index.to_string())],
            Self::List(range, number) => {
                let mut arguments = of_range(range);
                arguments.push(("NewNumberOfPorts", number.to_string()));
                arguments
            }
            Self::OutboundTimeout(request) => of_flow(request),
            Self::AddPinhole(request) => {
                let mut arguments = of_flow(request);
                arguments.push(("LeaseTime", request.lease.to_string()));
                arguments
            }
            Self::UpdatePinhole { id, lease } => vec![
                ("UniqueID", id.to_string()),
                ("NewLeaseTime", lease.to_string()),
            ],
            Self::DeletePinhole { id }
            | Self::PinholePackets { id }
            | Self::PinholeWorks { id } => vec![("UniqueID", id.to_string())],
        }
    }
}

impl Answer {
    /// The values that an action returns. An answer to another action is a mistake of the caller, and returns nothing.
    pub(crate) fn arguments(&self, action: &Action) -> Option<Arguments> {
        let arguments = match (action, self) {
            (
                Action::Add(_)
                | Action::Delete(_)
                | Action::DeleteBoth { .. }
                | Action::DeleteRange(_)
                | Action::UpdatePinhole { .. }
                | Action::DeletePinhole { .. },
                Self::Done,
            ) => Vec::new(),
            (Action::Status, Self::Status(uptime)) => {
                let status = match uptime {
                    Some(_) => "Connected",
                    None => "Disconnected",
                };
                vec![
                    ("NewConnectionStatus", status.to_owned()),
                    ("NewLastConnectionError", "ERROR_NONE".to_owned()),
                    ("NewUptime", uptime.unwrap_or(0).to_string()),
                ]
            }
            (Action::ExternalAddress, Self::ExternalAddress(address)) => vec![(
                "NewExternalIPAddress",
                address
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
            )],
            (
                Action::LinkProperties,
                Self::LinkProperties {
                    upstream,
                    downstream,
                },
            ) => vec![
                ("NewWANAccessType", "Ethernet".to_owned()),
                ("NewLayer1UpstreamMaxBitRate", upstream.to_string()),
                ("NewLayer1DownstreamMaxBitRate", downstream.to_string()),
                ("NewPhysicalLinkStatus", "Up".to_owned()),
            ],
            (Action::BytesSent, Self::Total(total)) => vec![("NewTotalBytesSent", wrapped(*total))],
            (Action::BytesReceived, Self::Total(total)) => {
                vec![("NewTotalBytesReceived", wrapped(*total))]
            }
            (Action::PacketsSent, Self::Total(total)) => {
                vec![("NewTotalPacketsSent", wrapped(*total))]
            }
            (Action::PacketsReceived, Self::Total(total)) => {
                vec![("NewTotalPacketsReceived", wrapped(*total))]
            }
            (Action::AddAny(_), Self::Reserved(port)) => {
                vec![("NewReservedPort", port.to_string())]
            }
            (Action::Entry(_), Self::Entry(mapping)) => of_mapping(mapping),
            (Action::Specific(_), Self::Specific(mapping)) => {
                of_mapping(mapping).split_off(of_key(&mapping.key()).len())
            }
            (Action::List(..), Self::List(mappings)) => vec![("NewPortListing", listing(mappings))],
            (Action::FirewallStatus, Self::FirewallStatus { enabled, pinholes }) => vec![
                ("FirewallEnabled", boolean(*enabled)),
                ("InboundPinholeAllowed", boolean(*pinholes)),
            ],
            (Action::OutboundTimeout(_), Self::OutboundTimeout(seconds)) => {
                vec![("OutboundPinholeTimeout", seconds.to_string())]
            }
            (Action::AddPinhole(_), Self::Pinhole { id }) => vec![("UniqueID", id.to_string())],
            (Action::PinholePackets { .. }, Self::Packets(packets)) => {
                vec![("PinholePackets", packets.to_string())]
            }
            (Action::PinholeWorks { .. }, Self::Works(works)) => {
                vec![("IsWorking", boolean(*works))]
            }
            (
                _,
                Self::Done
                | Self::Status(_)
                | Self::ExternalAddress(_)
                | Self::LinkProperties { .. }
                | Self::Total(_)
                | Self::Reserved(_)
                | Self::Entry(_)
                | Self::Specific(_)
                | Self::List(_)
                | Self::FirewallStatus { .. }
                | Self::OutboundTimeout(_)
                | Self::Pinhole { .. }
                | Self::Packets(_)
                | Self::Works(_),
            ) => return None,
        };
        Some(arguments)
    }

    /// Reads what a gateway answered to an action. An external address that is none is read as none.
    pub(crate) fn read(action: &Action, response: &Element) -> Result<Self, Fault> {
        let given = Given::of(response)?;
        Ok(match action {
            Action::Add(_)
            | Action::Delete(_)
            | Action::DeleteBoth { .. }
            | Action::DeleteRange(_)
            | Action::UpdatePinhole { .. }
            | Action::DeletePinhole { .. } => Self::Done,
            Action::Status => {
                let uptime = given.number("NewUptime").unwrap_or(0);
                let is_connected = given.text("NewConnectionStatus")? == "Connected";
                Self::Status(is_connected.then_some(uptime))
            }
            Action::ExternalAddress => {
                let address = given.text("NewExternalIPAddress")?.parse::<Ipv4Addr>().ok();
                Self::ExternalAddress(address.filter(|address| !address.is_unspecified()))
            }
            Action::LinkProperties => Self::LinkProperties {
                upstream: given.number("NewLayer1UpstreamMaxBitRate")?,
                downstream: given.number("NewLayer1DownstreamMaxBitRate")?,
            },
            Action::BytesSent => Self::Total(given.number("NewTotalBytesSent")?),
            Action::BytesReceived => Self::Total(given.number("NewTotalBytesReceived")?),
            Action::PacketsSent => Self::Total(given.number("NewTotalPacketsSent")?),
            Action::PacketsReceived => Self::Total(given.number("NewTotalPacketsReceived")?),
            Action::AddAny(_) => Self::Reserved(given.number("NewReservedPort")?),
            Action::Entry(_) => Self::Entry(given.mapping()?),
            Action::Specific(key) => Self::Specific(given.mapping_of(key.clone())?),
            Action::List(..) => Self::List(read_listing(given.text("NewPortListing")?)?),
            Action::FirewallStatus => Self::FirewallStatus {
                enabled: given.truth("FirewallEnabled")?,
                pinholes: given.truth("InboundPinholeAllowed")?,
            },
            Action::OutboundTimeout(_) => {
                Self::OutboundTimeout(given.number("OutboundPinholeTimeout")?)
            }
            Action::AddPinhole(_) => Self::Pinhole {
                id: given.number("UniqueID")?,
            },
            Action::PinholePackets { .. } => Self::Packets(given.number("PinholePackets")?),
            Action::PinholeWorks { .. } => Self::Works(given.truth("IsWorking")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::samples;

    #[test]
    fn arguments_are_those_of_the_documents() {
        for (service, action, answer) in samples() {
            let row = service.action(action.name()).unwrap();
            let names = |arguments: &[(&'static str, String)]| -> Vec<&str> {
                arguments.iter().map(|(name, _)| *name).collect()
            };
            let listed = |arguments: &[(&'static str, &'static str)]| -> Vec<&str> {
                arguments.iter().map(|(name, _)| *name).collect()
            };
            assert_eq!(names(&action.arguments()), listed(row.input), "{action:?}");
            let output = answer.arguments(&action).unwrap();
            assert_eq!(names(&output), listed(row.output), "{action:?}");
        }
    }
}
