//! wg-easy: `wg0.json` up to version 14, and the tables of its database from version 15 on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Address, ImportError, KEY, OTHER_FILE, Peer, Server, prefix, preshared_key, value};
use crate::timestamp::Timestamp;

/// Rows of the database, by table.
pub type Tables = BTreeMap<String, Vec<Value>>;

#[derive(Deserialize)]
struct Document {
    server: JsonServer,
    clients: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonServer {
    private_key: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonClient {
    name: String,
    address: String,
    public_key: String,
    #[serde(default)]
    pre_shared_key: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    expired_at: Option<String>,
}

const fn yes() -> bool {
    true
}

pub(super) fn read_json(document: &Value) -> Result<Server, ImportError> {
    let Document { server, clients } = fields("the document", document)?;
    let mut peers = Vec::new();
    for (id, client) in clients {
        let place = format!("clients.{id}");
        let client: JsonClient = fields(&place, &client)?;
        let address = format!("{place}.address");
        peers.push(Peer {
            name: Some(client.name),
            public_key: value(&client.public_key, &format!("{place}.publicKey"), KEY)?,
            preshared_key: preshared_key(&client.pre_shared_key, &format!("{place}.preSharedKey"))?,
            allowed_ips: vec![(prefix(&client.address, &address)?, address)],
            enabled: client.enabled,
            expires: moment(client.expired_at.as_deref(), &format!("{place}.expiredAt"))?,
            place,
        });
    }
    let place = "server.address";
    let net = match prefix(&server.address, &place)? {
        // The file has the address alone; wg-easy's networks are of this length.
        IpNet::V4(net) if net.prefix_len() == 32 => {
            IpNet::new(net.addr().into(), 24).unwrap_or(IpNet::V4(net))
        }
        net @ (IpNet::V4(_) | IpNet::V6(_)) => net,
    };
    Ok(Server {
        private_key: value(&server.private_key, &"server.privateKey", KEY)?,
        listen_port: None,
        mtu: None,
        endpoint: None,
        dns_servers: Vec::new(),
        addresses: vec![Address {
            net,
            name: None,
            place: place.to_owned(),
        }],
        peers,
        forwards: Vec::new(),
        notes: Vec::new(),
    })
}

#[derive(Deserialize)]
struct InterfaceRow {
    name: String,
    port: u16,
    private_key: String,
    ipv4_cidr: String,
    ipv6_cidr: String,
    mtu: u16,
}

#[derive(Deserialize)]
struct ClientRow {
    id: i64,
    name: String,
    ipv4_address: String,
    ipv6_address: String,
    public_key: String,
    #[serde(default)]
    pre_shared_key: Option<String>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    server_allowed_ips: Option<String>,
    enabled: i64,
}

#[derive(Deserialize)]
struct ConfigRow {
    #[serde(default)]
    host: String,
    port: u16,
    #[serde(default)]
    default_dns: String,
}

pub(super) fn read_tables(tables: &Tables) -> Result<Server, ImportError> {
    let rows = |name: &str| tables.get(name).map(Vec::as_slice).unwrap_or_default();
    let [interface] = rows("interfaces_table") else {
        let reason = "there is not one interface";
        return Err(ImportError::new("interfaces_table", reason, OTHER_FILE));
    };
    let interface: InterfaceRow = fields("interfaces_table", interface)?;
    let place = |field: &str| format!("interfaces_table {}, {field}", interface.name);
    let mut notes = Vec::new();
    let mut addresses = Vec::new();
    for (field, text) in [
        ("ipv4_cidr", &interface.ipv4_cidr),
        ("ipv6_cidr", &interface.ipv6_cidr),
    ] {
        let net = prefix(text, &place(field))?;
        // The table has the network; wg-easy itself is its first host.
        let first = match net.trunc() {
            IpNet::V4(net) => IpAddr::V4(crate::address::first_host(net)),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
        };
        addresses.push(Address {
            net: IpNet::new(first, net.prefix_len()).unwrap_or(net),
            name: None,
            place: place(field),
        });
    }
    let config = rows("user_configs_table").first();
    let config: Option<ConfigRow> = config
        .map(|config| fields("user_configs_table", config))
        .transpose()?;
    let (mut endpoint, mut dns_servers) = (None, Vec::new());
    if let Some(config) = config {
        endpoint = Some(config.host).filter(|host| !host.is_empty());
        let servers: Vec<String> = serde_json::from_str(&config.default_dns).unwrap_or_default();
        dns_servers = servers
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect();
        if config.port != interface.port {
            notes.push(format!(
                "devices connect to port {}, and wg-easy listens on {}: something in between translates, as a container's `-p` does. \
                 `--listen-port {}` takes the devices' port",
                config.port, interface.port, config.port
            ));
        }
    }
    let mut peers = Vec::new();
    for client in rows("clients_table") {
        peers.push(client_row(client)?);
    }
    Ok(Server {
        private_key: value(&interface.private_key, &place("private_key"), KEY)?,
        listen_port: Some(interface.port),
        mtu: Some(interface.mtu),
        endpoint,
        dns_servers,
        addresses,
        peers,
        forwards: Vec::new(),
        notes,
    })
}

fn client_row(row: &Value) -> Result<Peer, ImportError> {
    let client: ClientRow = fields("clients_table", row)?;
    let place = format!("clients_table {}", client.id);
    let field = |name: &str| format!("{place}, {name}");
    let mut allowed_ips = Vec::new();
    for (name, text) in [
        ("ipv4_address", &client.ipv4_address),
        ("ipv6_address", &client.ipv6_address),
    ] {
        allowed_ips.push((prefix(text, &field(name))?, field(name)));
    }
    let name = field("server_allowed_ips");
    let more = client.server_allowed_ips.as_deref().unwrap_or("[]");
    let more: Vec<String> = serde_json::from_str(more)
        .map_err(|_| ImportError::new(&name, "it is no list of prefixes", OTHER_FILE))?;
    for text in more {
        allowed_ips.push((prefix(&text, &name)?, name.clone()));
    }
    Ok(Peer {
        public_key: value(&client.public_key, &field("public_key"), KEY)?,
        preshared_key: preshared_key(
            client.pre_shared_key.as_deref().unwrap_or_default(),
            &field("pre_shared_key"),
        )?,
        name: Some(client.name),
        allowed_ips,
        enabled: client.enabled != 0,
        expires: moment(client.expires_at.as_deref(), &field("expires_at"))?,
        place,
    })
}

fn fields<T: DeserializeOwned>(place: &str, value: &Value) -> Result<T, ImportError> {
    T::deserialize(value).map_err(|error| ImportError::new(place, error.to_string(), OTHER_FILE))
}

/// A moment as JavaScript writes it; a date alone begins at midnight.
fn moment(text: Option<&str>, place: &str) -> Result<Option<u64>, ImportError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let time = time.split(['.', 'Z']).next().unwrap_or_default();
    let moment: Timestamp = value(
        &format!("{date}T{time}Z"),
        &place,
        "a moment such as 2027-01-31T00:00:00.000Z",
    )?;
    Ok(Some(moment.0))
}
