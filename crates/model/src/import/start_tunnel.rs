//! A dump of StartTunnel's database.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Address, Forward, ImportError, KEY, OTHER_FILE, Peer, Server, prefix, preshared_key, value,
};
use crate::key::PrivateKey;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Database {
    wg: WireGuard,
    #[serde(default)]
    port_forwards: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct WireGuard {
    port: u16,
    key: String,
    subnets: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Subnet {
    name: String,
    clients: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Client {
    name: String,
    key: String,
    #[serde(default)]
    psk: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortForward {
    Target(SocketAddrV4),
    Entry {
        target: SocketAddrV4,
        #[serde(default)]
        label: Option<String>,
        #[serde(default = "yes")]
        enabled: bool,
    },
}

const fn yes() -> bool {
    true
}

pub(super) fn read(document: &Value) -> Result<Server, ImportError> {
    let database: Database = fields("the document", document)?;
    let mut addresses = Vec::new();
    let mut peers = Vec::new();
    for (net, subnet) in &database.wg.subnets {
        let place = format!("wg.subnets.{net}");
        let subnet: Subnet = fields(&place, subnet)?;
        addresses.push(Address {
            net: prefix(net, &place)?,
            name: Some(subnet.name),
            place: place.clone(),
        });
        for (address, client) in &subnet.clients {
            let place = format!("{place}.clients.{address}");
            let client: Client = fields(&place, client)?;
            let address: Ipv4Addr = value(address, &place, "an IPv4 address")?;
            let key: PrivateKey = value(&client.key, &format!("{place}.key"), KEY)?;
            peers.push(Peer {
                name: Some(client.name),
                public_key: key.public_key(),
                preshared_key: preshared_key(&client.psk, &format!("{place}.psk"))?,
                allowed_ips: vec![(IpNet::from(std::net::IpAddr::V4(address)), place.clone())],
                enabled: true,
                expires: None,
                place,
            });
        }
    }
    let mut forwards = Vec::new();
    for (source, forward) in &database.port_forwards {
        let place = format!("portForwards.{source}");
        let (target, label, enabled) = match fields(&place, forward)? {
            PortForward::Target(target) => (target, None, true),
            PortForward::Entry {
                target,
                label,
                enabled,
            } => (target, label, enabled),
        };
        forwards.push(Forward {
            source: value(source, &place, "an IPv4 address with a port")?,
            target,
            label: label.unwrap_or_default(),
            enabled,
            place,
        });
    }
    Ok(Server {
        private_key: value(&database.wg.key, &"wg.key", KEY)?,
        listen_port: Some(database.wg.port),
        mtu: None,
        endpoint: None,
        dns_servers: Vec::new(),
        addresses,
        peers,
        forwards,
        notes: vec!["devices of different subnets no longer reach each other, but for forwards and pinholes".to_owned()],
    })
}

fn fields<T: DeserializeOwned>(place: &str, value: &Value) -> Result<T, ImportError> {
    T::deserialize(value).map_err(|error| ImportError::new(place, error.to_string(), OTHER_FILE))
}
