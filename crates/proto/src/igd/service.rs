//! The services: their names, paths, actions and variables, from which documents are written.

use Kind::{Boolean, Text, Ui2, Ui4};

/// Version 1 or 2 of the gateway device, and of WANIPConnection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    One,
    Two,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// A service that a gateway device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Layer3Forwarding,
    WanCommonInterfaceConfig,
    WanIpConnection(Version),
    WanIpv6FirewallControl,
}

impl Service {
    /// What a device of a version has.
    pub(crate) fn of(version: Version) -> &'static [Self] {
        match version {
            Version::One => &[
                Self::Layer3Forwarding,
                Self::WanCommonInterfaceConfig,
                Self::WanIpConnection(Version::One),
            ],
            Version::Two => &[
                Self::Layer3Forwarding,
                Self::WanCommonInterfaceConfig,
                Self::WanIpConnection(Version::Two),
                Self::WanIpv6FirewallControl,
            ],
        }
    }

    /// The word for it in paths and types.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Layer3Forwarding => "Layer3Forwarding",
            Self::WanCommonInterfaceConfig => "WANCommonInterfaceConfig",
            Self::WanIpConnection(_) => "WANIPConnection",
            Self::WanIpv6FirewallControl => "WANIPv6FirewallControl",
        }
    }

    fn version(self) -> Version {
        match self {
            Self::Layer3Forwarding
            | Self::WanCommonInterfaceConfig
            | Self::WanIpv6FirewallControl => Version::One,
            Self::WanIpConnection(version) => version,
        }
    }

    /// The type, with its version.
    pub fn urn(self) -> String {
        format!(
            "urn:schemas-upnp-org:service:{}:{}",
            self.word(),
            self.version().number()
        )
    }

    pub(crate) fn from_urn(urn: &str) -> Option<Self> {
        let (word, version) = urn
            .strip_prefix("urn:schemas-upnp-org:service:")?
            .split_once(':')?;
        [
            Self::Layer3Forwarding,
            Self::WanCommonInterfaceConfig,
            Self::WanIpConnection(Version::One),
            Self::WanIpConnection(Version::Two),
            Self::WanIpv6FirewallControl,
        ]
        .into_iter()
        .find(|service| service.word() == word && version.parse() == Ok(service.version().number()))
    }

    /// Its identifier inside a device.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Layer3Forwarding => "urn:upnp-org:serviceId:L3Forwarding1",
            Self::WanCommonInterfaceConfig => "urn:upnp-org:serviceId:WANCommonIFC1",
            Self::WanIpConnection(_) => "urn:upnp-org:serviceId:WANIPConn1",
            Self::WanIpv6FirewallControl => "urn:upnp-org:serviceId:WANIPv6Firewall1",
        }
    }

    pub(crate) fn actions(self) -> impl Iterator<Item = &'static ActionRow> {
        let (rows, more): (&[ActionRow], &[ActionRow]) = match self {
            Self::Layer3Forwarding => (LAYER_3_FORWARDING, &[]),
            Self::WanCommonInterfaceConfig => (COMMON_INTERFACE, &[]),
            Self::WanIpConnection(Version::One) => (CONNECTION, &[]),
            Self::WanIpConnection(Version::Two) => (CONNECTION, CONNECTION_2),
            Self::WanIpv6FirewallControl => (FIREWALL, &[]),
        };
        rows.iter().chain(more)
    }

    pub(crate) fn action(self, name: &str) -> Option<&'static ActionRow> {
        self.actions().find(|action| action.name == name)
    }

    pub(crate) fn variables(self) -> impl Iterator<Item = &'static Variable> {
        let (rows, more): (&[Variable], &[Variable]) = match self {
            Self::Layer3Forwarding => (LAYER_3_FORWARDING_VARIABLES, &[]),
            Self::WanCommonInterfaceConfig => (COMMON_INTERFACE_VARIABLES, &[]),
            Self::WanIpConnection(Version::One) => (CONNECTION_VARIABLES, &[]),
            Self::WanIpConnection(Version::Two) => (CONNECTION_VARIABLES, CONNECTION_2_VARIABLES),
            Self::WanIpv6FirewallControl => (FIREWALL_VARIABLES, &[]),
        };
        rows.iter().chain(more)
    }
}

/// An action: its arguments in order, each with the variable that gives its type.
#[derive(Debug)]
pub(crate) struct ActionRow {
    pub(crate) name: &'static str,
    pub(crate) input: &'static [(&'static str, &'static str)],
    pub(crate) output: &'static [(&'static str, &'static str)],
}

#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What it may be; anything of its type if empty.
    pub(crate) values: &'static [&'static str],
    pub(crate) range: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Boolean,
    Ui2,
    Ui4,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Text => "string",
            Boolean => "boolean",
            Ui2 => "ui2",
            Ui4 => "ui4",
        }
    }
}

const fn action(
    name: &'static str,
    input: &'static [(&'static str, &'static str)],
    output: &'static [(&'static str, &'static str)],
) -> ActionRow {
    ActionRow {
        name,
        input,
        output,
    }
}

const fn variable(name: &'static str, kind: Kind) -> Variable {
    Variable {
        name,
        kind,
        values: &[],
        range: None,
    }
}

const fn choice(name: &'static str, values: &'static [&'static str]) -> Variable {
    Variable {
        name,
        kind: Text,
        values,
        range: None,
    }
}

const fn ranged(name: &'static str, kind: Kind, least: u32, most: u32) -> Variable {
    Variable {
        name,
        kind,
        values: &[],
        range: Some((least, most)),
    }
}

const LAYER_3_FORWARDING: &[ActionRow] = &[
    action(
        "SetDefaultConnectionService",
        &[("NewDefaultConnectionService", "DefaultConnectionService")],
        &[],
    ),
    action(
        "GetDefaultConnectionService",
        &[],
        &[("NewDefaultConnectionService", "DefaultConnectionService")],
    ),
];

const LAYER_3_FORWARDING_VARIABLES: &[Variable] = &[variable("DefaultConnectionService", Text)];

const COMMON_INTERFACE: &[ActionRow] = &[
    action(
        "GetCommonLinkProperties",
        &[],
        &[
            ("NewWANAccessType", "WANAccessType"),
            ("NewLayer1UpstreamMaxBitRate", "Layer1UpstreamMaxBitRate"),
            (
                "NewLayer1DownstreamMaxBitRate",
                "Layer1DownstreamMaxBitRate",
            ),
            ("NewPhysicalLinkStatus", "PhysicalLinkStatus"),
        ],
    ),
    action(
        "GetTotalBytesSent",
        &[],
        &[("NewTotalBytesSent", "TotalBytesSent")],
    ),
    action(
        "GetTotalBytesReceived",
        &[],
        &[("NewTotalBytesReceived", "TotalBytesReceived")],
    ),
    action(
        "GetTotalPacketsSent",
        &[],
        &[("NewTotalPacketsSent", "TotalPacketsSent")],
    ),
    action(
        "GetTotalPacketsReceived",
        &[],
        &[("NewTotalPacketsReceived", "TotalPacketsReceived")],
    ),
];

const COMMON_INTERFACE_VARIABLES: &[Variable] = &[
    choice("WANAccessType", &["DSL", "POTS", "Cable", "Ethernet"]),
    variable("Layer1UpstreamMaxBitRate", Ui4),
    variable("Layer1DownstreamMaxBitRate", Ui4),
    choice("PhysicalLinkStatus", &["Up", "Down"]),
    variable("TotalBytesSent", Ui4),
    variable("TotalBytesReceived", Ui4),
    variable("TotalPacketsSent", Ui4),
    variable("TotalPacketsReceived", Ui4),
];

/// What names a mapping.
const KEY: &[(&str, &str)] = &[
    ("NewRemoteHost", "RemoteHost"),
    ("NewExternalPort", "ExternalPort"),
    ("NewProtocol", "PortMappingProtocol"),
];

const MAPPING: &[(&str, &str)] = &[
    ("NewRemoteHost", "RemoteHost"),
    ("NewExternalPort", "ExternalPort"),
    ("NewProtocol", "PortMappingProtocol"),
    ("NewInternalPort", "InternalPort"),
    ("NewInternalClient", "InternalClient"),
    ("NewEnabled", "PortMappingEnabled"),
    ("NewPortMappingDescription", "PortMappingDescription"),
    ("NewLeaseDuration", "PortMappingLeaseDuration"),
];

const CONNECTION: &[ActionRow] = &[
    action(
        "SetConnectionType",
        &[("NewConnectionType", "ConnectionType")],
        &[],
    ),
    action(
        "GetConnectionTypeInfo",
        &[],
        &[
            ("NewConnectionType", "ConnectionType"),
            ("NewPossibleConnectionTypes", "PossibleConnectionTypes"),
        ],
    ),
    action("RequestConnection", &[], &[]),
    action("ForceTermination", &[], &[]),
    action(
        "GetStatusInfo",
        &[],
        &[
            ("NewConnectionStatus", "ConnectionStatus"),
            ("NewLastConnectionError", "LastConnectionError"),
            ("NewUptime", "Uptime"),
        ],
    ),
    action(
        "GetNATRSIPStatus",
        &[],
        &[
            ("NewRSIPAvailable", "RSIPAvailable"),
            ("NewNATEnabled", "NATEnabled"),
        ],
    ),
    action(
        "GetGenericPortMappingEntry",
        &[("NewPortMappingIndex", "PortMappingNumberOfEntries")],
        MAPPING,
    ),
    action(
        "GetSpecificPortMappingEntry",
        KEY,
        &[
            ("NewInternalPort", "InternalPort"),
            ("NewInternalClient", "InternalClient"),
            ("NewEnabled", "PortMappingEnabled"),
            ("NewPortMappingDescription", "PortMappingDescription"),
            ("NewLeaseDuration", "PortMappingLeaseDuration"),
        ],
    ),
    action("AddPortMapping", MAPPING, &[]),
    action("DeletePortMapping", KEY, &[]),
    action(
        "GetExternalIPAddress",
        &[],
        &[("NewExternalIPAddress", "ExternalIPAddress")],
    ),
];

const CONNECTION_2: &[ActionRow] = &[
    action(
        "DeletePortMappingRange",
        &[
            ("NewStartPort", "ExternalPort"),
            ("NewEndPort", "ExternalPort"),
            ("NewProtocol", "PortMappingProtocol"),
            ("NewManage", "A_ARG_TYPE_Manage"),
        ],
        &[],
    ),
    action(
        "GetListOfPortMappings",
        &[
            ("NewStartPort", "ExternalPort"),
            ("NewEndPort", "ExternalPort"),
            ("NewProtocol", "PortMappingProtocol"),
            ("NewManage", "A_ARG_TYPE_Manage"),
            ("NewNumberOfPorts", "PortMappingNumberOfEntries"),
        ],
        &[("NewPortListing", "A_ARG_TYPE_PortListing")],
    ),
    action(
        "AddAnyPortMapping",
        MAPPING,
        &[("NewReservedPort", "ExternalPort")],
    ),
];

const CONNECTION_VARIABLES: &[Variable] = &[
    choice(
        "ConnectionType",
        &["Unconfigured", "IP_Routed", "IP_Bridged"],
    ),
    choice(
        "PossibleConnectionTypes",
        &["Unconfigured", "IP_Routed", "IP_Bridged"],
    ),
    choice(
        "ConnectionStatus",
        &[
            "Unconfigured",
            "Connecting",
            "Connected",
            "PendingDisconnect",
            "Disconnecting",
            "Disconnected",
        ],
    ),
    variable("Uptime", Ui4),
    choice("LastConnectionError", &["ERROR_NONE", "ERROR_UNKNOWN"]),
    variable("RSIPAvailable", Boolean),
    variable("NATEnabled", Boolean),
    variable("ExternalIPAddress", Text),
    variable("PortMappingNumberOfEntries", Ui2),
    variable("PortMappingEnabled", Boolean),
    variable("PortMappingLeaseDuration", Ui4),
    variable("RemoteHost", Text),
    variable("ExternalPort", Ui2),
    variable("InternalPort", Ui2),
    choice("PortMappingProtocol", &["TCP", "UDP"]),
    variable("InternalClient", Text),
    variable("PortMappingDescription", Text),
];

const CONNECTION_2_VARIABLES: &[Variable] = &[
    variable("SystemUpdateID", Ui4),
    variable("A_ARG_TYPE_Manage", Boolean),
    variable("A_ARG_TYPE_PortListing", Text),
];

const FLOW: &[(&str, &str)] = &[
    ("RemoteHost", "A_ARG_TYPE_IPv6Address"),
    ("RemotePort", "A_ARG_TYPE_Port"),
    ("InternalClient", "A_ARG_TYPE_IPv6Address"),
    ("InternalPort", "A_ARG_TYPE_Port"),
    ("Protocol", "A_ARG_TYPE_Protocol"),
];

const FIREWALL: &[ActionRow] = &[
    action(
        "GetFirewallStatus",
        &[],
        &[
            ("FirewallEnabled", "FirewallEnabled"),
            ("InboundPinholeAllowed", "InboundPinholeAllowed"),
        ],
    ),
    action(
        "GetOutboundPinholeTimeout",
        FLOW,
        &[(
            "OutboundPinholeTimeout",
            "A_ARG_TYPE_OutboundPinholeTimeout",
        )],
    ),
    action(
        "AddPinhole",
        &[
            ("RemoteHost", "A_ARG_TYPE_IPv6Address"),
            ("RemotePort", "A_ARG_TYPE_Port"),
            ("InternalClient", "A_ARG_TYPE_IPv6Address"),
            ("InternalPort", "A_ARG_TYPE_Port"),
            ("Protocol", "A_ARG_TYPE_Protocol"),
            ("LeaseTime", "A_ARG_TYPE_LeaseTime"),
        ],
        &[("UniqueID", "A_ARG_TYPE_UniqueID")],
    ),
    action(
        "UpdatePinhole",
        &[
            ("UniqueID", "A_ARG_TYPE_UniqueID"),
            ("NewLeaseTime", "A_ARG_TYPE_LeaseTime"),
        ],
        &[],
    ),
    action("DeletePinhole", &[("UniqueID", "A_ARG_TYPE_UniqueID")], &[]),
    action(
        "GetPinholePackets",
        &[("UniqueID", "A_ARG_TYPE_UniqueID")],
        &[("PinholePackets", "A_ARG_TYPE_PinholePackets")],
    ),
    action(
        "CheckPinholeWorking",
        &[("UniqueID", "A_ARG_TYPE_UniqueID")],
        &[("IsWorking", "A_ARG_TYPE_Boolean")],
    ),
];

const FIREWALL_VARIABLES: &[Variable] = &[
    variable("FirewallEnabled", Boolean),
    variable("InboundPinholeAllowed", Boolean),
    variable("A_ARG_TYPE_OutboundPinholeTimeout", Ui4),
    variable("A_ARG_TYPE_IPv6Address", Text),
    variable("A_ARG_TYPE_Port", Ui2),
    variable("A_ARG_TYPE_Protocol", Ui2),
    ranged("A_ARG_TYPE_LeaseTime", Ui4, 1, 86_400),
    variable("A_ARG_TYPE_UniqueID", Ui2),
    variable("A_ARG_TYPE_PinholePackets", Ui4),
    variable("A_ARG_TYPE_Boolean", Boolean),
];

#[cfg(test)]
mod tests {
    use super::{Service, Version};

    #[test]
    fn every_argument_has_its_variable() {
        for service in Version::ALL.into_iter().flat_map(Service::of) {
            for action in service.actions() {
                for (argument, variable) in action.input.iter().chain(action.output) {
                    assert!(
                        service.variables().any(|row| row.name == *variable),
                        "{service:?} {} {argument}",
                        action.name
                    );
                }
            }
            assert_eq!(Service::from_urn(&service.urn()), Some(*service));
        }
        assert_eq!(
            Service::from_urn("urn:schemas-upnp-org:service:WANIPConnection:3"),
            None
        );
        assert_eq!(
            Service::from_urn("urn:schemas-upnp-org:service:WANPPPConnection:1"),
            None
        );
    }
}
