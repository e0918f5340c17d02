//! MikroTik's RouterOS 7: commands for its terminal.

use ipnet::IpNet;

use super::files::INTERFACE;
use super::{Configuration, PrivateKeySource, Routing, host_and_port, is_ipv4, list, one_line};

pub(super) fn text(configuration: &Configuration) -> String {
    let mut lines = vec![
        format!("# Adit: {}", one_line(&configuration.name)),
        "# For the terminal of RouterOS 7; `bridge` is the router's own network, as in its default configuration.".to_owned(),
    ];
    lines.extend(interface(configuration));
    lines.extend(addresses(configuration));
    lines.extend(match configuration.routing {
        Routing::Full => outbound(configuration),
        Routing::Split => split(configuration),
        Routing::Inbound => inbound(configuration),
    });
    lines.extend(translation(configuration));
    lines.extend(delegations(configuration));
    lines.push("# What the gateway lets through ends at the router's own firewall until a rule there opens it too.".to_owned());
    for family in families(configuration) {
        lines.push(format!(
            "/{family} firewall filter add chain=input in-interface={INTERFACE} connection-state=new protocol={} action=accept comment=\"adit: ping\"",
            if family == "ip" { "icmp" } else { "icmpv6" }
        ));
        lines.push(format!(
            "/{family} firewall filter add chain=input in-interface={INTERFACE} connection-state=new action=drop comment=adit"
        ));
        lines.push(format!(
            "/{family} firewall filter add chain=forward in-interface={INTERFACE} connection-state=new connection-nat-state=!dstnat action=drop comment=adit"
        ));
    }
    lines.join("\n") + "\n"
}

/// A text for RouterOS, where `$`, `"` and `\` mean something inside quotes.
fn string(text: &str) -> String {
    let escaped: String = one_line(text)
        .chars()
        .map(|character| match character {
            '"' | '\\' | '$' | '?' => format!("\\{character}"),
            other => other.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

fn families(configuration: &Configuration) -> Vec<&'static str> {
    let has_ipv6 = configuration
        .addresses
        .iter()
        .any(|address| address.is_ipv6());
    if has_ipv6 {
        vec!["ip", "ipv6"]
    } else {
        vec!["ip"]
    }
}

fn interface(configuration: &Configuration) -> Vec<String> {
    let peer = &configuration.peer;
    let (host, port) = host_and_port(&peer.endpoint);
    let add = format!(
        "/interface wireguard add name={INTERFACE} mtu={}",
        configuration.mtu
    );
    let interface = match &configuration.private_key {
        PrivateKeySource::Inline(key) => vec![format!("{add} private-key={}", string(key))],
        PrivateKeySource::File(path) => vec![format!(
            "{add} private-key=[:pick [/file get {} contents] 0 44]",
            string(path.trim_start_matches('/'))
        )],
        source @ PrivateKeySource::Missing { .. } => {
            vec![
                format!("# private-key: {}", source.absence()),
                format!("# {add} private-key=\"\""),
            ]
        }
    };
    let preshared_key = peer.preshared_key.as_deref();
    let preshared_key = preshared_key.map(|key| format!(" preshared-key={}", string(key)));
    let peer = format!(
        "/interface wireguard peers add interface={INTERFACE} public-key={}{} endpoint-address={} endpoint-port={port} allowed-address={} \
         persistent-keepalive=25s",
        string(&peer.public_key),
        preshared_key.unwrap_or_default(),
        string(&host),
        list(&configuration.allowed_ips(), ","),
    );
    interface.into_iter().chain([peer]).collect()
}

fn addresses(configuration: &Configuration) -> Vec<String> {
    let mut lines = Vec::new();
    for address in &configuration.addresses {
        let net = IpNet::from(*address);
        lines.push(if address.is_ipv4() {
            format!("/ip address add address={net} interface={INTERFACE}")
        } else {
            format!("/ipv6 address add address={net} interface={INTERFACE} advertise=no")
        });
    }
    lines
}

fn route(destination: &IpNet, table: Option<&str>) -> String {
    let family = if is_ipv4(destination) { "ip" } else { "ipv6" };
    let table = table.map_or_else(String::new, |table| format!(" routing-table={table}"));
    format!("/{family} route add dst-address={destination} gateway={INTERFACE}{table}")
}

fn own_table(prefixes: &[IpNet]) -> Vec<String> {
    let mut lines = vec![format!("/routing table add name={INTERFACE} fib")];
    lines.extend(prefixes.iter().map(|prefix| route(prefix, Some(INTERFACE))));
    lines
}

fn subnets(configuration: &Configuration) -> impl Iterator<Item = String> {
    configuration
        .subnet
        .iter()
        .map(|subnet| route(&subnet.trunc(), None))
}

/// The network behind the router takes the tunnel; the router itself, and the tunnel's own packets, stay outside.
fn outbound(configuration: &Configuration) -> Vec<String> {
    let mut lines = vec![
        "# The network behind the router takes the tunnel; the router itself stays outside."
            .to_owned(),
    ];
    lines.extend(subnets(configuration));
    lines.extend(own_table(&default_routes(configuration)));
    lines.push("/routing rule add min-prefix=0 action=lookup table=main comment=adit".to_owned());
    lines.push(format!(
        "/routing rule add interface=bridge action=lookup table={INTERFACE} comment=adit"
    ));
    if !configuration.dns.is_empty() {
        lines.push(format!(
            "/ip dns set servers={}",
            list(&configuration.dns, ",")
        ));
    }
    lines
}

fn default_routes(configuration: &Configuration) -> Vec<IpNet> {
    let allowed = configuration.allowed_ips().into_iter();
    allowed.filter(|prefix| prefix.prefix_len() == 0).collect()
}

fn split(configuration: &Configuration) -> Vec<String> {
    let mut lines: Vec<String> = subnets(configuration).collect();
    let defaults = default_routes(configuration);
    if !defaults.is_empty() {
        lines.extend(own_table(&defaults));
        lines.push(
            "/routing rule add min-prefix=0 action=lookup table=main comment=adit".to_owned(),
        );
        for prefix in &configuration.delegations {
            if !is_ipv4(prefix) {
                lines.push(format!(
                    "/routing rule add src-address={prefix} action=lookup table={INTERFACE} comment=adit"
                ));
            }
        }
        for address in configuration
            .addresses
            .iter()
            .filter(|address| address.is_ipv6())
        {
            lines.push(format!(
                "/routing rule add src-address={address}/128 action=lookup table={INTERFACE} comment=adit"
            ));
        }
    }
    lines
}

/// Connections that come in through the tunnel are marked, and so are their replies.
fn inbound(configuration: &Configuration) -> Vec<String> {
    let mut lines = vec![
        "# Only what came in through the tunnel is answered through it. A strict rp-filter (/ip settings) would drop it.".to_owned(),
    ];
    lines.extend(subnets(configuration));
    lines.extend(own_table(&default_routes(configuration)));
    lines.push("/routing rule add min-prefix=0 action=lookup table=main comment=adit".to_owned());
    let own = configuration
        .addresses
        .iter()
        .map(|address| IpNet::from(*address));
    for source in own.chain(configuration.delegations.iter().copied()) {
        lines.push(format!(
            "/routing rule add src-address={source} action=lookup table={INTERFACE} comment=adit"
        ));
    }
    for family in families(configuration) {
        let mangle = format!("/{family} firewall mangle add");
        lines.push(format!("{mangle} chain=prerouting in-interface={INTERFACE} connection-state=new action=mark-connection new-connection-mark=adit passthrough=yes comment=adit"));
        lines.push(format!("{mangle} chain=prerouting in-interface=!{INTERFACE} connection-mark=adit action=mark-routing new-routing-mark={INTERFACE} passthrough=no comment=adit"));
        lines.push(format!("{mangle} chain=output connection-mark=adit action=mark-routing new-routing-mark={INTERFACE} passthrough=no comment=adit"));
        lines.push("# Connections on the fast track would pass the marks by.".to_owned());
        lines.push(format!("/{family} firewall filter set [find action=fasttrack-connection] connection-mark=no-mark"));
    }
    lines
}

/// The gateway takes packets from the device's own addresses and delegations alone.
fn translation(configuration: &Configuration) -> Vec<String> {
    let mut lines = Vec::new();
    let nat = format!("/ip firewall nat add chain=srcnat out-interface={INTERFACE}");
    for prefix in configuration.delegations.iter().filter(|net| is_ipv4(net)) {
        lines.push(format!(
            "{nat} src-address={prefix} action=accept comment=adit"
        ));
    }
    lines.push(format!("{nat} action=masquerade comment=adit"));
    lines
}

fn delegations(configuration: &Configuration) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, prefix) in configuration.delegations.iter().enumerate() {
        let family = if is_ipv4(prefix) { "ip" } else { "ipv6" };
        match prefix {
            IpNet::V4(_) => lines.push(format!(
                "# {prefix} is delegated: give the router an address of it on the network's own interface."
            )),
            IpNet::V6(net) if net.prefix_len() <= 64 => {
                lines.push(format!("/ipv6 pool add name=adit{index} prefix={prefix} prefix-length=64"));
                lines.push(format!(
                    "/ipv6 address add address=::1 from-pool=adit{index} interface=bridge advertise=yes"
                ));
            }
            IpNet::V6(_) => lines.push(format!(
                "# {prefix} is delegated, and too long for hosts that make addresses themselves: give them out with a DHCPv6 server."
            )),
        }
        lines.push("# What nobody there has ends here.".to_owned());
        lines.push(format!(
            "/{family} route add dst-address={prefix} blackhole distance=254 comment=adit"
        ));
    }
    lines
}
