//! The text of a device's WireGuard configuration.

mod inbound;

use std::net::IpAddr;

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
    pub preshared_key: String,
    pub endpoint: String,
}

impl Configuration {
    /// The text for `wg-quick`, and with full and split routing for every WireGuard app.
    pub fn wg_quick(&self) -> String {
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
            format!("PresharedKey = {}", one_line(&self.peer.preshared_key)),
            format!("Endpoint = {}", one_line(&self.peer.endpoint)),
            format!("AllowedIPs = {}", self.allowed_ips().join(", ")),
            "PersistentKeepalive = 25".to_owned(),
        ]);
        lines.join("\n") + "\n"
    }

    fn allowed_ips(&self) -> Vec<String> {
        match self.routing {
            Routing::Full | Routing::Inbound => vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
            Routing::Split => {
                let subnets = self
                    .subnet
                    .iter()
                    .map(IpNet::trunc)
                    .filter(|net| is_ipv4(net) || is_unique_local(net));
                let mut allowed: Vec<String> = subnets.map(|net| net.to_string()).collect();
                if self.has_global_prefix {
                    allowed.push("::/0".to_owned());
                }
                allowed
            }
        }
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
            Self::Missing { rekey_command } => vec![format!(
                "# PrivateKey = (put this device's private key here and remove the #; \"{}\" makes a new one)",
                one_line(rekey_command)
            )],
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
