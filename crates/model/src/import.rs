//! What another WireGuard server's configuration says, read so that its devices need no new one.
//!
//! Every kind of file becomes a [`Server`], and that an [`Import`]: what the gateway takes over in one change.

mod addresses;
mod names;
mod start_tunnel;
mod wg_easy;
mod wg_quick;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::protocol::Protocol;
use crate::state::DeviceKind;

pub use self::wg_easy::Tables;

/// Another server's configuration, as the gateway takes it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The server's key, which becomes the gateway's.
    #[schema(value_type = String)]
    pub private_key: PrivateKey,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// The tunnel's MTU; none: it follows from the uplinks.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// What devices connect to, where that is known.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Resolvers that `full` devices are told.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns_servers: Vec<IpAddr>,
    /// The tunnel's networks.
    pub subnets: Vec<ImportedSubnet>,
    /// The peers.
    pub devices: Vec<ImportedDevice>,
    /// Public ports that lead to devices.
    #[serde(default)]
    pub forwards: Vec<ImportedForward>,
}

/// A network of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedSubnet {
    /// Its name here.
    pub name: String,
    /// Its IPv4 network.
    #[schema(value_type = String, example = "10.8.0.0/24")]
    pub ipv4: Ipv4Net,
    /// Its IPv6 prefix.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Net>,
    /// Where it stands in the file.
    pub place: String,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedDevice {
    /// Its name here.
    pub name: String,
    /// The name of its subnet.
    pub subnet: String,
    /// Its IPv4 address there; none: it had none, and gets a free one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// What it may do by itself.
    #[serde(default)]
    pub kind: DeviceKind,
    /// Its key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// The key shared with it; none: there is none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub preshared_key: Option<PresharedKey>,
    /// Whether it may connect.
    pub enabled: bool,
    /// Seconds since 1970 after which it may not.
    #[serde(default)]
    pub expires: Option<u64>,
    /// Prefixes and further addresses that are routed to it.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub delegations: Vec<IpNet>,
    /// Where it stands in the file.
    pub place: String,
}

/// A public port that leads to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedForward {
    /// The public address; none: that of the device's uplink.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The public port.
    pub port: u16,
    /// Its protocols; none: all.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub protocols: BTreeSet<Protocol>,
    /// The name of the device.
    pub device: String,
    /// The port there.
    pub target_port: u16,
    /// Free text.
    #[serde(default)]
    pub label: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// Where it stands in the file.
    pub place: String,
}

/// What the file does not say itself.
#[derive(Clone, Debug, Default)]
pub struct Hints<'a> {
    /// The name of the subnet; of the second and further ones it is the beginning.
    pub subnet: &'a str,
    /// The UDP port of WireGuard, over what the file says.
    pub listen_port: Option<u16>,
    /// PiVPN's `clients.txt`, which has the names of keys.
    pub clients: Option<&'a str>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the gateway takes over.
    pub import: Import,
    /// What it does not take over, or takes over differently, for people.
    pub notes: Vec<String>,
}

/// Why a file is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ImportError {
    /// The line or the path in the document, and the field.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
    /// The way out.
    pub hint: String,
}

/// Reads a text of any kind: a `wg-quick` configuration, PiVPN's included, `wg0.json` of wg-easy, or a dump of
/// StartTunnel's database.
///
/// # Errors
///
/// [`ImportError`] names the place in the text.
pub fn read(text: &str, hints: &Hints<'_>) -> Result<Reading, ImportError> {
    let server = if text.trim_start().starts_with('{') {
        let document: serde_json::Value = serde_json::from_str(text).map_err(|error| {
            let place = format!("line {} column {}", error.line(), error.column());
            let error = error.to_string();
            let reason = error.split(" at line ").next().unwrap_or_default();
            ImportError::new(place, format!("it is no JSON: {reason}"), OTHER_FILE)
        })?;
        let content = document.get("value").unwrap_or(&document);
        if content.get("wg").is_some() {
            start_tunnel::read(content)?
        } else {
            wg_easy::read_json(&document)?
        }
    } else {
        wg_quick::read(text, hints.clients)?
    };
    addresses::settle(server, hints)
}

/// Reads the tables of wg-easy's database (version 15).
///
/// # Errors
///
/// [`ImportError`] names the table and the field.
pub fn read_tables(tables: &Tables, hints: &Hints<'_>) -> Result<Reading, ImportError> {
    addresses::settle(wg_easy::read_tables(tables)?, hints)
}

const OTHER_FILE: &str = "it takes the server's wg0.conf, wg0.json or wg-easy.db of wg-easy, or what `start-tunnel db dump --format json` writes";

/// A server as a file tells of it.
#[derive(Debug)]
struct Server {
    private_key: PrivateKey,
    listen_port: Option<u16>,
    mtu: Option<u16>,
    endpoint: Option<String>,
    dns_servers: Vec<IpAddr>,
    addresses: Vec<Address>,
    peers: Vec<Peer>,
    forwards: Vec<Forward>,
    notes: Vec<String>,
}

/// An address of the server in the tunnel, with the length of its network.
#[derive(Debug)]
struct Address {
    net: IpNet,
    /// The name of the network, if it has one.
    name: Option<String>,
    place: String,
}

#[derive(Debug)]
struct Peer {
    name: Option<String>,
    public_key: PublicKey,
    preshared_key: Option<PresharedKey>,
    allowed_ips: Vec<(IpNet, String)>,
    enabled: bool,
    expires: Option<u64>,
    place: String,
}

#[derive(Debug)]
struct Forward {
    source: SocketAddrV4,
    target: SocketAddrV4,
    label: String,
    enabled: bool,
    place: String,
}

impl ImportError {
    fn new(place: impl fmt::Display, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            place: place.to_string(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }
}

/// Reads a value of a field; what is secret is not repeated.
fn value<T: std::str::FromStr>(
    text: &str,
    place: &impl fmt::Display,
    takes: &str,
) -> Result<T, ImportError> {
    text.trim().parse().map_err(|_| {
        ImportError::new(
            place,
            format!("it is not {takes}"),
            "mend the file, and read it again",
        )
    })
}

const KEY: &str = "a WireGuard key: 44 characters that end in `=`";

/// An address, or a prefix.
fn prefix(text: &str, place: &impl fmt::Display) -> Result<IpNet, ImportError> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        ImportError::new(
            place,
            format!("`{shown}` is neither an address nor a prefix"),
            "mend the file, and read it again",
        )
    })
}

/// A preshared key; one of zeros is none.
fn preshared_key(
    text: &str,
    place: &impl fmt::Display,
) -> Result<Option<PresharedKey>, ImportError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let key: PresharedKey = value(text, place, KEY)?;
    Ok(Some(key).filter(|key| !key.is_none()))
}

#[cfg(test)]
mod tests;
