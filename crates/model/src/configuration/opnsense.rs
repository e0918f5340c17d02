//! OPNsense: a script for its API, and what has to be clicked besides.

use std::net::IpAddr;

use ipnet::IpNet;

use super::files::INTERFACE;
use super::{
    Configuration, PrivateKeySource, Routing, host_and_port, is_ipv4, list, one_line, quoted,
};
use crate::address;

pub(super) fn text(configuration: &Configuration) -> String {
    let mut lines = head(configuration);
    lines.extend(calls(configuration));
    lines.push(String::new());
    lines.push("# The rest is done in the web interface:".to_owned());
    for (index, step) in steps(configuration).into_iter().enumerate() {
        lines.push(format!("# {}. {step}", index + 1));
    }
    lines.join("\n") + "\n"
}

fn head(configuration: &Configuration) -> Vec<String> {
    let mut lines = vec![
        format!("# Adit: {}", one_line(&configuration.name)),
        "# For a shell that reaches OPNsense (24.1 or later), with curl, jq and wg. The key and secret are those of an API key:".to_owned(),
        "# System > Access > Users.".to_owned(),
        "set -eu".to_owned(),
        ": \"${OPNSENSE:?its address, as in https://192.168.1.1}\" \"${KEY:?of the API key}\" \"${SECRET:?of the API key}\"".to_owned(),
        "call() { curl --fail --silent --show-error ${CURL_OPTIONS-} --user \"$KEY:$SECRET\" --json \"$2\" \"$OPNSENSE/api/wireguard/$1\"; }".to_owned(),
    ];
    match &configuration.private_key {
        PrivateKeySource::Inline(key) => lines.push(format!("private_key={}", quoted(key))),
        PrivateKeySource::File(path) => {
            lines.push(format!("private_key=$(cat {})", quoted(path)));
        }
        source @ PrivateKeySource::Missing { .. } => {
            lines.push(format!("# private_key= ({})", source.absence()));
            lines.push(": \"${private_key:?of this device}\"".to_owned());
        }
    }
    lines.push("public_key=$(printf '%s\\n' \"$private_key\" | wg pubkey)".to_owned());
    lines
}

fn calls(configuration: &Configuration) -> Vec<String> {
    let peer = &configuration.peer;
    let (host, port) = host_and_port(&peer.endpoint);
    let client = serde_json::json!({"client": {
        "enabled": "1",
        "name": "adit-gateway",
        "pubkey": one_line(&peer.public_key),
        "psk": one_line(peer.preshared_key.as_deref().unwrap_or_default()),
        "tunneladdress": list(&configuration.allowed_ips(), ","),
        "serveraddress": host,
        "serverport": port,
        "keepalive": "25",
    }});
    let addresses: Vec<IpNet> = configuration
        .addresses
        .iter()
        .map(|address| IpNet::from(*address))
        .collect();
    // Routes of its own would lead everything into the tunnel, its own packets too.
    let server = serde_json::json!({"server": {
        "enabled": "1",
        "name": INTERFACE,
        "mtu": configuration.mtu.to_string(),
        "tunneladdress": list(&addresses, ","),
        "disableroutes": "1",
    }});
    vec![
        format!(
            "peer=$(call client/addClient {} | jq --exit-status --raw-output .uuid)",
            quoted(&client.to_string())
        ),
        format!(
            "instance=$(jq --null-input --compact-output --arg private \"$private_key\" --arg public \"$public_key\" --arg peer \"$peer\" \\\n    \
             {})",
            quoted(&format!(
                "{server} | .server += {{privkey: $private, pubkey: $public, peers: $peer}}"
            ))
        ),
        "call server/addServer \"$instance\" | jq --exit-status .uuid".to_owned(),
        format!(
            "call general/set {}",
            quoted(r#"{"general":{"enabled":"1"}}"#)
        ),
        "call service/reconfigure '{}'".to_owned(),
    ]
}

fn steps(configuration: &Configuration) -> Vec<String> {
    let mut steps = vec![
        "Interfaces > Assignments: assign the new wg device as `adit`, enable it, prevent its removal; no address.".to_owned(),
    ];
    for (subnet, gateway) in gateways(configuration) {
        let family = if is_ipv4(&subnet) { "IPv4" } else { "IPv6" };
        steps.push(format!(
            "System > Gateways > Configuration: a far {family} gateway {gateway} on `adit`; System > Routes: {subnet} by it."
        ));
    }
    match configuration.routing {
        Routing::Full => steps.push(
            "Firewall > Rules > LAN: what shall take the tunnel passes with that gateway; the rest stays outside.".to_owned(),
        ),
        Routing::Split => steps.push(
            "Firewall > Rules > LAN: what comes from a prefix of the tunnel passes with that gateway.".to_owned(),
        ),
        Routing::Inbound => steps.push(
            "Firewall > Rules > adit: pass what shall come in. Its replies go back by `adit`, since the rule has `reply-to` by default."
                .to_owned(),
        ),
    }
    steps.push(
        "Firewall > NAT > Outbound (hybrid): on `adit`, translate IPv4 sources to its address, but for delegated prefixes."
            .to_owned(),
    );
    for prefix in &configuration.delegations {
        steps.push(if is_ipv4(prefix) {
            format!("Interfaces > LAN: an address of {prefix}, which is delegated; nothing translates it.")
        } else {
            format!(
                "Interfaces > LAN: a static IPv6 address of {prefix}, which is delegated; Services > Router Advertisements announces it."
            )
        });
        let nowhere = if is_ipv4(prefix) { "Null4" } else { "Null6" };
        steps.push(format!(
            "System > Routes: {prefix} by {nowhere}, so that what nobody has of it ends there."
        ));
    }
    if configuration.routing == Routing::Full && !configuration.dns.is_empty() {
        steps.push(format!(
            "System > Settings > General: DNS servers {}.",
            list(&configuration.dns, ", ")
        ));
    }
    steps
}

/// The subnet's prefixes, each with the gateway's address in it: OPNsense routes to addresses, not to interfaces.
fn gateways(configuration: &Configuration) -> Vec<(IpNet, IpAddr)> {
    let ipv4 = configuration.subnet.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(address::first_host(*net)),
        IpNet::V6(_) => None,
    });
    let gateway = |net: &IpNet| match net {
        IpNet::V4(_) => ipv4.map(IpAddr::V4),
        IpNet::V6(net) => ipv4.map(|ipv4| IpAddr::V6(address::host_ipv6(*net, ipv4))),
    };
    let subnets = configuration.subnet.iter();
    subnets
        .filter_map(|net| Some((net.trunc(), gateway(net)?)))
        .collect()
}
