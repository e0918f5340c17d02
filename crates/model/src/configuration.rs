//! The text of a device's WireGuard configuration.

mod files;
mod inbound;
mod mikrotik;
mod network_manager;
mod networkd;
mod openwrt;
mod opnsense;
mod policy;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a device sends through its tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// Everything.
    Full,
    /// What is meant for the tunnel's subnet, and IPv6 where the tunnel brings global addresses.
    Split,
    /// Replies to what came in through it.
    Inbound,
}

/// What a configuration is written for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `wg-quick`, and every WireGuard app.
    #[default]
    WgQuick,
    /// `systemd-networkd`.
    Networkd,
    /// NetworkManager.
    NetworkManager,
    /// OpenWrt.
    Openwrt,
    /// MikroTik's RouterOS 7.
    Mikrotik,
    /// OPNsense.
    Opnsense,
}

/// A name that no format has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no configuration format `{name}`")]
pub struct FormatUnknown {
    name: String,
}

/// Everything that a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The device's name.
    pub name: String,
    pub private_key: PrivateKeySource,
    pub addresses: Vec<IpAddr>,
    /// The tunnel's subnet, at most one prefix of a family.
    pub subnet: Vec<IpNet>,
    /// The subnet's IPv6, or a delegated prefix, is global.
    pub has_global_prefix: bool,
    pub routing: Routing,
    pub delegations: Vec<IpNet>,
    pub dns: Vec<IpAddr>,
    pub mtu: u16,
    pub peer: PeerSection,
    /// 1–62, different for each tunnel of a host: the number of its routing table and its mark.
    pub slot: u8,
}

/// Where the device's private key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKeySource {
    Inline(String),
    /// A file on the device.
    File(String),
    Missing {
        /// What an administrator runs to have a new key made.
        rekey_command: String,
    },
}

/// The gateway, as the device sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSection {
    pub public_key: String,
    /// None for a device that came without.
    pub preshared_key: Option<String>,
    pub endpoint: String,
}

impl Configuration {
    /// The text in a format.
    pub fn text(&self, format: Format) -> String {
        match format {
            Format::WgQuick => self.wg_quick(),
            Format::Networkd => networkd::text(self),
            Format::NetworkManager => network_manager::text(self),
            Format::Openwrt => openwrt::text(self),
            Format::Mikrotik => mikrotik::text(self),
            Format::Opnsense => opnsense::text(self),
        }
    }

    /// The text for `wg-quick`, and with full and split routing for every WireGuard app.
    fn wg_quick(&self) -> String {
        let mut lines = vec![
            format!("# Adit: {}", one_line(&self.name)),
            "[Interface]".to_owned(),
        ];
        lines.extend(self.private_key.lines());

        let in_hooks = |address: &IpAddr| self.routing == Routing::Inbound && address.is_ipv6();
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .filter(|address| !in_hooks(address))
            .map(|address| IpNet::from(*address).to_string())
            .collect();
        if !addresses.is_empty() {
            lines.push(format!("Address = {}", addresses.join(", ")));
        }
        lines.push(format!("MTU = {}", self.mtu));
        match self.routing {
            Routing::Full if !self.dns.is_empty() => {
                let servers: Vec<String> = self.dns.iter().map(ToString::to_string).collect();
                lines.push(format!("DNS = {}", servers.join(", ")));
            }
            Routing::Full | Routing::Split => {}
            Routing::Inbound => lines.extend(inbound::lines(self)),
        }

        lines.extend([
            String::new(),
            "[Peer]".to_owned(),
            format!("PublicKey = {}", one_line(&self.peer.public_key)),
        ]);
        if let Some(key) = &self.peer.preshared_key {
            lines.push(format!("PresharedKey = {}", one_line(key)));
        }
        lines.extend([
            format!("Endpoint = {}", one_line(&self.peer.endpoint)),
            format!("AllowedIPs = {}", list(&self.allowed_ips(), ", ")),
            "PersistentKeepalive = 25".to_owned(),
        ]);
        lines.join("\n") + "\n"
    }

    /// What the device lets the gateway send, and sends to it.
    fn allowed_ips(&self) -> Vec<IpNet> {
        match self.routing {
            Routing::Full | Routing::Inbound => {
                vec![policy::everything(false), policy::everything(true)]
            }
            Routing::Split => {
                let subnets = self
                    .subnet
                    .iter()
                    .map(IpNet::trunc)
                    .filter(|net| is_ipv4(net) || is_unique_local(net));
                let mut allowed: Vec<IpNet> = subnets.collect();
                if self.has_global_prefix {
                    allowed.push(policy::everything(true));
                }
                allowed
            }
        }
    }
}

impl Format {
    /// All of them, for help and errors.
    pub const ALL: [Self; 6] = [
        Self::WgQuick,
        Self::Networkd,
        Self::NetworkManager,
        Self::Openwrt,
        Self::Mikrotik,
        Self::Opnsense,
    ];

    /// Its name on the command line and in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WgQuick => "wg-quick",
            Self::Networkd => "networkd",
            Self::NetworkManager => "networkmanager",
            Self::Openwrt => "openwrt",
            Self::Mikrotik => "mikrotik",
            Self::Opnsense => "opnsense",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatUnknown;

    fn from_str(text: &str) -> Result<Self, FormatUnknown> {
        let known = Self::ALL.into_iter().find(|format| format.name() == text);
        known.ok_or_else(|| FormatUnknown {
            name: text.chars().take(40).collect(),
        })
    }
}

impl PrivateKeySource {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Inline(key) => vec![format!("PrivateKey = {}", one_line(key))],
            Self::File(path) => vec![format!(
                "PostUp = wg set %i private-key {}",
                shell_word(path)
            )],
            Self::Missing { .. } => vec![format!("# PrivateKey = ({})", self.absence())],
        }
    }

    /// What stands in place of a key that is not known here.
    fn absence(&self) -> String {
        match self {
            Self::Inline(_) => String::new(),
            Self::File(path) => format!(
                "put the content of {} here and remove the #",
                one_line(path)
            ),
            Self::Missing { rekey_command } => format!(
                "put this device's private key here and remove the #; \"{}\" makes a new one",
                one_line(rekey_command)
            ),
        }
    }
}

/// The tunnel's MTU over an uplink, and the reason for people.
pub fn mtu(uplink_mtu: u16) -> (u16, String) {
    const OUTER: u16 = 80;
    const INTERNET: u16 = 1500;
    const IPV6_MINIMUM: u16 = 1280;

    let path = uplink_mtu.min(INTERNET);
    let room = path.saturating_sub(OUTER);
    let what = if uplink_mtu > INTERNET {
        format!("the uplink's MTU is {uplink_mtu}, but the Internet beyond it carries {INTERNET}")
    } else {
        format!("the uplink's MTU is {uplink_mtu}")
    };
    if room < IPV6_MINIMUM {
        let reason = format!(
            "{what}, which leaves {room} after {OUTER} for outer IPv6, UDP and WireGuard; IPv6 needs {IPV6_MINIMUM} inside, so full packets \
             are fragmented outside"
        );
        (IPV6_MINIMUM, reason)
    } else {
        (
            room,
            format!("{what}; {OUTER} of it are for outer IPv6 (40), UDP (8) and WireGuard (32)"),
        )
    }
}

/// Values in one line.
fn list<T: ToString>(values: &[T], separator: &str) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(separator)
}

/// A host and its port, taken apart.
fn host_and_port(endpoint: &str) -> (String, String) {
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, "51820"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (one_line(host), one_line(port))
}

/// One word for any shell.
fn quoted(text: &str) -> String {
    format!("'{}'", one_line(text).replace('\'', r"'\''"))
}

fn is_ipv4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}

fn is_unique_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.addr().is_unique_local(),
    }
}

/// A line break would let a value become a line of its own, such as a hook that runs as root.
fn one_line(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .collect()
}

/// One word for bash. `wg-quick` replaces `%i` and cuts at `#` before bash sees a quote, so those are escaped too.
fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=,:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    let escaped: String = text
        .bytes()
        .map(|byte| {
            if is_plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("\\x{byte:02x}")
            }
        })
        .collect();
    format!("$'{escaped}'")
}

#[cfg(test)]
mod tests;
