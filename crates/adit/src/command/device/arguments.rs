//! What `adit device` takes.

use adit_model::configuration::{Format, Routing};
use adit_model::state::DeviceKind;
use clap::{Args, Subcommand, ValueEnum};

use crate::command::{Condition, Enabling};
use crate::expiry::Expiry;

/// What `adit device` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Add a device, and show its configuration
    Add(Box<AddArguments>),
    /// List the devices
    List,
    /// Show one device
    Show {
        /// Its name or id
        name: String,
    },
    /// Change a device
    Set(Box<SetArguments>),
    /// Remove a device with its forwards, pinholes and delegations
    Remove(RemoveArguments),
    /// Give a device another key, and show its configuration
    Rekey(RekeyArguments),
    /// Show the configuration of a device, without its private key
    Config(ConfigArguments),
}

/// Arguments of `adit device add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// A name for it
    pub(super) name: String,
    /// Its subnet; may be left out while there is one
    #[arg(long, value_name = "NAME")]
    pub(super) subnet: Option<String>,
    /// What it may do by itself [default: client]
    #[arg(long, value_enum)]
    pub(super) kind: Option<KindName>,
    /// What it sends through the tunnel [default: inbound for a server, full for a client]
    #[arg(long, value_enum)]
    pub(super) routing: Option<RoutingName>,
    /// Its IPv4 address in the tunnel; the lowest free one unless said
    #[arg(long, value_name = "ADDR")]
    pub(super) ipv4: Option<String>,
    /// Its WireGuard public key, if it has one; else a pair is made and the private key shown once
    #[arg(long, value_name = "KEY")]
    pub(super) public_key: Option<String>,
    /// The address or the uplink that its translated traffic leaves by, if not as its subnet's
    #[arg(long, value_name = "ADDR|IFACE")]
    pub(super) egress: Option<String>,
    /// A prefix for the network behind it: an IPv6 length such as 64, or a prefix; repeatable
    #[arg(long, value_name = "LEN|PREFIX")]
    pub(super) delegate: Vec<String>,
    /// When it may no longer connect: 30d, 12h, or a time as in RFC 3339
    #[arg(long, value_name = "TIME|SPAN")]
    pub(super) expires: Option<Expiry>,
    /// The file on the device that holds its private key
    #[arg(long, value_name = "PATH", requires = "public_key")]
    pub(super) key_file: Option<String>,
    /// Draw the configuration as a QR code as well
    #[arg(long)]
    pub(super) qr: bool,
}

/// Arguments of `adit device set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its name or id
    pub(super) reference: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// What it may do by itself
    #[arg(long, value_enum)]
    pub(super) kind: Option<KindName>,
    /// What it sends through the tunnel
    #[arg(long, value_enum)]
    pub(super) routing: Option<RoutingName>,
    /// Its IPv4 address in the tunnel
    #[arg(long, value_name = "ADDR")]
    pub(super) ipv4: Option<String>,
    /// The address or the uplink that its translated traffic leaves by, or `none`: as its subnet's
    #[arg(long, value_name = "ADDR|IFACE|none")]
    pub(super) egress: Option<String>,
    #[command(flatten)]
    pub(super) enabling: Enabling,
    /// When it may no longer connect: 30d, 12h, a time as in RFC 3339, or `none`
    #[arg(long, value_name = "TIME|SPAN|none")]
    pub(super) expires: Option<Expiry>,
    /// A further prefix for the network behind it; repeatable
    #[arg(long, value_name = "LEN|PREFIX")]
    pub(super) delegate: Vec<String>,
    /// A prefix to take back; repeatable
    #[arg(long, value_name = "PREFIX")]
    pub(super) revoke: Vec<String>,
    /// Whether it may open ports by itself (PCP, NAT-PMP, UPnP); a new kind sets this and what follows back
    #[arg(long, value_enum)]
    pub(super) auto_ports: Option<Switch>,
    /// How many ports it may have open by itself
    #[arg(long, value_name = "N")]
    pub(super) lease_quota: Option<u32>,
    /// How many of its requests for ports are answered each second
    #[arg(long, value_name = "N")]
    pub(super) request_rate: Option<u32>,
    /// Public ports that it may have by itself, such as 1024-65535; repeatable
    #[arg(long, value_name = "FIRST-LAST")]
    pub(super) auto_port_range: Vec<String>,
    /// Whether it may open ports for other devices of its subnet
    #[arg(long, value_enum)]
    pub(super) third_party: Option<Switch>,
    /// Whether it may open its own IPv6 address whole: all ports, or all protocols, at once
    #[arg(long, value_enum)]
    pub(super) all_ports: Option<Switch>,
    #[command(flatten)]
    pub(super) condition: Condition,
}

/// Arguments of `adit device remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Its name or id
    pub(super) name: String,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) condition: Condition,
}

/// Arguments of `adit device rekey`.
#[derive(Debug, Args)]
pub(crate) struct RekeyArguments {
    /// Its name or id
    pub(super) name: String,
    /// Its new WireGuard public key; else a pair is made and the private key shown once
    #[arg(long, value_name = "KEY")]
    pub(super) public_key: Option<String>,
    /// The file on the device that holds its private key
    #[arg(long, value_name = "PATH", requires = "public_key")]
    pub(super) key_file: Option<String>,
    /// Draw the configuration as a QR code as well
    #[arg(long)]
    pub(super) qr: bool,
    #[command(flatten)]
    pub(super) condition: Condition,
}

/// Arguments of `adit device config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// Its name or id
    pub(super) name: String,
    /// Who is to read it
    #[arg(long, value_enum, default_value = "wg-quick")]
    pub(super) format: FormatName,
    /// The file on the device that holds its private key
    #[arg(long, value_name = "PATH")]
    pub(super) key_file: Option<String>,
    /// Draw it as a QR code instead
    #[arg(long)]
    pub(super) qr: bool,
}

/// A format of configurations.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FormatName {
    /// One file, for wg-quick and the WireGuard apps
    WgQuick,
    /// Files of systemd-networkd; each begins with its path
    Networkd,
    /// A connection of NetworkManager; each file begins with its path
    Networkmanager,
    /// A script for the shell of an OpenWrt router
    Openwrt,
    /// Commands for the terminal of RouterOS 7
    Mikrotik,
    /// A script for the API of OPNsense, and what to do there besides
    Opnsense,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::WgQuick => Self::WgQuick,
            FormatName::Networkd => Self::Networkd,
            FormatName::Networkmanager => Self::NetworkManager,
            FormatName::Openwrt => Self::Openwrt,
            FormatName::Mikrotik => Self::Mikrotik,
            FormatName::Opnsense => Self::Opnsense,
        }
    }
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindName {
    /// May open ports and publish names
    Server,
    /// May not
    Client,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoutingName {
    /// Everything
    Full,
    /// What is meant for the tunnel's networks
    Split,
    /// Replies to what came in through it
    Inbound,
}

impl From<KindName> for DeviceKind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Server => Self::Server,
            KindName::Client => Self::Client,
        }
    }
}

impl From<RoutingName> for Routing {
    fn from(name: RoutingName) -> Self {
        match name {
            RoutingName::Full => Self::Full,
            RoutingName::Split => Self::Split,
            RoutingName::Inbound => Self::Inbound,
        }
    }
}
