//! A device's configuration, made of a snapshot.

use std::net::{IpAddr, Ipv6Addr};

use adit_api::problem::Problem;
use adit_model::address;
use adit_model::configuration::{
    Configuration, Format, FormatUnknown, PeerSection, PrivateKeySource,
};
use adit_model::state::Device;
use adit_model::uplink;
use ipnet::IpNet;

use super::answer::Failure;
use super::answer::vanished;
use super::request::invalid;
use crate::control::Snapshot;

/// Never resolves (RFC 6761 section 6.4): stands where no address of the gateway is known.
const NO_HOST: &str = "gateway.invalid";
/// Routing tables and mark values of inbound tunnels on a device.
const SLOTS: u64 = 62;

/// The complete text in a format.
pub(super) fn text(
    snapshot: &Snapshot,
    device: &Device,
    private_key: PrivateKeySource,
    format: Format,
) -> Result<String, Failure> {
    let state = &snapshot.state;
    let subnet = state
        .subnets
        .get(&device.subnet)
        .ok_or_else(|| vanished("subnet"))?;
    let ipv6 = subnet.ipv6_of(device.ipv4).map(IpAddr::V6);
    let delegations: Vec<IpNet> = state
        .delegations_of(device.id)
        .map(|delegation| delegation.prefix)
        .collect();
    let has_global_delegation = delegations.iter().any(|prefix| match prefix {
        IpNet::V4(_) => false,
        IpNet::V6(prefix) => !address::is_unique_local(prefix.network()),
    });
    let host = endpoint_host(snapshot, device).unwrap_or_else(|| NO_HOST.to_owned());
    let configuration = Configuration {
        name: device.name.clone(),
        private_key,
        addresses: [Some(IpAddr::V4(device.ipv4)), ipv6]
            .into_iter()
            .flatten()
            .collect(),
        subnet: [Some(IpNet::V4(subnet.ipv4)), subnet.ipv6.map(IpNet::V6)]
            .into_iter()
            .flatten()
            .collect(),
        has_global_prefix: subnet.global_ipv6().is_some() || has_global_delegation,
        routing: device.routing,
        delegations,
        dns: state.settings.dns_servers.clone(),
        mtu: snapshot.mtu,
        peer: PeerSection {
            public_key: snapshot.gateway_key.to_base64(),
            preshared_key: Some(device.preshared_key)
                .filter(|key| !key.is_none())
                .map(|key| key.to_base64()),
            endpoint: endpoint(&host, state.settings.listen_port),
        },
        slot: slot(snapshot.gateway_key.as_bytes(), device.id.0),
    };
    Ok(configuration.text(format))
}

/// What the device connects to, if anything is known.
pub(super) fn endpoint_host(snapshot: &Snapshot, device: &Device) -> Option<String> {
    let subnet = snapshot.state.subnets.get(&device.subnet)?;
    uplink::endpoint_of(&snapshot.uplinks, &snapshot.facts, subnet)?.endpoint_host()
}

/// Where the device keeps its private key, if it was said.
pub(super) fn key_source(
    device: &Device,
    key_file: Option<String>,
) -> Result<PrivateKeySource, Failure> {
    let Some(path) = key_file else {
        return Ok(PrivateKeySource::Missing {
            rekey_command: format!("adit device rekey {}", device.name),
        });
    };
    check_key_file(&path)?;
    Ok(PrivateKeySource::File(path))
}

/// A path that means the same file wherever `wg-quick` is started.
pub(super) fn check_key_file(path: &str) -> Result<(), Failure> {
    if path.starts_with('/') && path.len() <= 1000 && !path.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = "`key_file`: it takes the absolute path of a file on the device, such as /etc/wireguard/adit.key";
    Err(invalid(detail).into())
}

/// The format that was asked for.
pub(super) fn format(name: Option<&str>) -> Result<Format, Failure> {
    let Some(name) = name else {
        return Ok(Format::default());
    };
    name.parse().map_err(|unknown: FormatUnknown| {
        let names = Format::ALL.map(|format| format!("`{format}`"));
        let hint = format!("it is one of {}", names.join(", "));
        Problem::new(422, "format-unknown", unknown.to_string(), hint).into()
    })
}

fn endpoint(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The same for a device at all times, and rarely that of another gateway's tunnel on the same host.
fn slot(gateway_key: &[u8; 32], device: u64) -> u8 {
    let key = gateway_key
        .iter()
        .fold(0, |sum: u64, byte| (sum * 256 + u64::from(*byte)) % SLOTS);
    u8::try_from(1 + (key + device) % SLOTS).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_its_port_apart_from_its_address() {
        assert_eq!(endpoint("2001:db8::1", 51820), "[2001:db8::1]:51820");
        assert_eq!(endpoint("198.51.100.7", 1), "198.51.100.7:1");
        assert_eq!(endpoint("gw.example.com", 51820), "gw.example.com:51820");
    }

    #[test]
    fn slots_stay_in_their_range_and_differ_between_neighbours() {
        for key in [[0; 32], [255; 32]] {
            let slots: std::collections::BTreeSet<u8> =
                (0..SLOTS).map(|id| slot(&key, u64::MAX / 2 + id)).collect();
            assert_eq!(slots, (1..=62).collect());
        }
    }
}
