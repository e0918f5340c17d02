//! Files as other programs write them, and as they should not be.

use super::{Hints, Import, read};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8=";

/// The public key of a number.
fn key(number: u8) -> String {
    crate::key::PublicKey::from_bytes([number; 32]).to_base64()
}

fn reading(text: &str) -> super::Reading {
    let hints = Hints {
        subnet: "wg0",
        ..Hints::default()
    };
    read(text, &hints).unwrap_or_else(|error| panic!("{error}"))
}

fn import(text: &str) -> Import {
    reading(text).import
}

fn told(import: &Import) -> Vec<String> {
    let device = |device: &super::ImportedDevice| {
        let ipv4 = device.ipv4.map(|ipv4| ipv4.to_string()).unwrap_or_default();
        let more: Vec<String> = device.delegations.iter().map(ToString::to_string).collect();
        let off = if device.enabled { "" } else { " off" };
        format!("{} {ipv4} [{}]{off}", device.name, more.join(" "))
    };
    import.devices.iter().map(device).collect()
}

#[test]
fn a_plain_server_with_a_site_behind_it() {
    let text = format!(
        "[Interface]\nAddress = 10.8.0.1/24, fd42:42:42::1/64\nListenPort = 51825\nPrivateKey = {KEY}\nMTU=1400\n\
         PostUp = iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE\n\n\
         # laptop\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.8.0.2/32,fd42:42:42::2/128\n\n\
         [peer] # the office\npublickey={}\nallowedips = 10.8.0.16\nAllowedIPs = 192.168.7.0/24\nPersistentKeepalive = 25\n",
        key(2),
        key(9),
        key(3)
    );
    let reading = reading(&text);
    let import = &reading.import;
    assert_eq!((import.listen_port, import.mtu), (51825, Some(1400)));
    assert_eq!(import.private_key.to_base64(), KEY);
    assert_eq!(import.subnets[0].name, "wg0");
    // The addresses that the peers have follow from a prefix of this length.
    assert_eq!(
        import.subnets[0].ipv6.unwrap().to_string(),
        "fd42:42:42::/120"
    );
    assert_eq!(
        told(import),
        [
            "laptop 10.8.0.2 []",
            "the-office 10.8.0.16 [192.168.7.0/24]"
        ]
    );
    assert_eq!(import.devices[0].preshared_key.unwrap().to_base64(), key(9));
    assert_eq!(import.devices[1].preshared_key, None);
    assert!(
        reading.notes.iter().any(|note| note.contains("MASQUERADE")),
        "{:?}",
        reading.notes
    );
}

#[test]
fn ipv6_addresses_that_follow_from_no_prefix_are_delegated() {
    // Decimal numbers read as hexadecimal ones: .10 has ::10, which is sixteen.
    let text = format!(
        "[Interface]\nAddress = 10.66.66.1/24,fd42:42:42::1/64\nListenPort = 1\nPrivateKey = {KEY}\n\
         ### Client anna\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.66.66.2/32,fd42:42:42::2/128\n\
         ### Client bert\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.66.66.10/32,fd42:42:42::10/128\n",
        key(2),
        key(3)
    );
    let import = import(&text);
    assert_eq!(
        import.subnets[0].ipv6.unwrap().to_string(),
        "fd42:42:42::/64"
    );
    assert_eq!(
        told(&import),
        [
            "anna 10.66.66.2 [fd42:42:42::2/128]",
            "bert 10.66.66.10 [fd42:42:42::10/128]"
        ]
    );
}

#[test]
fn pivpn_with_a_client_that_is_switched_off() {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nAddress = 10.6.0.1/24,fd11:5ee:bad:c0de::a06:1/64\nMTU = 1420\nListenPort = 51820\n\
         ### begin anna ###\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.6.0.2/32,fd11:5ee:bad:c0de::a06:2/128\n### end anna ###\n\
         #[disabled] ### begin bert ###\n#[disabled] [Peer]\n#[disabled] PublicKey = {}\n#[disabled] PresharedKey = {}\n\
         #[disabled] AllowedIPs = 10.6.0.3/32,fd11:5ee:bad:c0de::a06:3/128\n#[disabled] ### end bert ###\n",
        key(2),
        key(9),
        key(3),
        key(8)
    );
    let hints = Hints {
        subnet: "wg0",
        listen_port: None,
        clients: Some(&format!("annas-phone {} 1700000000 168165378\n", key(2))),
    };
    let import = read(&text, &hints).unwrap().import;
    assert_eq!(
        import.subnets[0].ipv6.unwrap().to_string(),
        "fd11:5ee:bad:c0de::/64"
    );
    assert_eq!(
        told(&import),
        ["annas-phone 10.6.0.2 []", "bert 10.6.0.3 [] off"]
    );
}

#[test]
fn wg_easy_up_to_version_14() {
    let text = serde_json::json!({
        "server": {"privateKey": KEY, "publicKey": "x", "address": "10.8.0.1"},
        "clients": {
            "6b7c": {"id": "6b7c", "name": "Anna's phone", "address": "10.8.0.2", "privateKey": KEY, "publicKey": key(2),
                     "preSharedKey": key(9), "createdAt": "2024-01-01T00:00:00.000Z", "enabled": true, "expiredAt": "2030-05-01T00:00:00.000Z"},
            "77aa": {"name": "tv", "address": "10.8.0.3", "publicKey": key(3), "preSharedKey": "", "enabled": false},
        },
    });
    let import = import(&text.to_string());
    assert_eq!(import.subnets[0].ipv4.to_string(), "10.8.0.0/24");
    assert_eq!(import.listen_port, 51820);
    assert_eq!(
        told(&import),
        ["Anna-s-phone 10.8.0.2 []", "tv 10.8.0.3 [] off"]
    );
    assert_eq!(import.devices[0].expires, Some(1_903_824_000));
}

#[test]
fn wg_easy_from_version_15_on() {
    let tables = serde_json::json!({
        "interfaces_table": [{"name": "wg0", "device": "eth0", "port": 51820, "private_key": KEY, "public_key": "x",
            "ipv4_cidr": "10.8.0.0/24", "ipv6_cidr": "fdcc:ad94:bacf:61a4::cafe:0/112", "mtu": 1420, "enabled": 1}],
        "user_configs_table": [{"id": "wg0", "host": "vpn.example.com", "port": 51821,
            "default_dns": "[\"1.1.1.1\",\"2606:4700:4700::1111\"]", "default_mtu": 1420}],
        "clients_table": [{"id": 1, "name": "anna", "ipv4_address": "10.8.0.2", "ipv6_address": "fdcc:ad94:bacf:61a4::cafe:2",
            "private_key": KEY, "public_key": key(2), "pre_shared_key": key(9), "expires_at": null,
            "server_allowed_ips": "[\"192.168.9.0/24\"]", "enabled": 1}],
    });
    let tables = serde_json::from_value(tables).unwrap();
    let hints = Hints {
        subnet: "wg-easy",
        ..Hints::default()
    };
    let reading = super::read_tables(&tables, &hints).unwrap();
    let import = reading.import;
    assert_eq!(
        import.subnets[0].ipv6.unwrap().to_string(),
        "fdcc:ad94:bacf:61a4::cafe:0/112"
    );
    assert_eq!(told(&import), ["anna 10.8.0.2 [192.168.9.0/24]"]);
    assert_eq!(import.endpoint.as_deref(), Some("vpn.example.com"));
    assert_eq!(import.dns_servers.len(), 2);
    assert!(
        reading.notes[0].contains("--listen-port 51821"),
        "{:?}",
        reading.notes
    );
}

#[test]
fn start_tunnel_with_its_forwards() {
    let text = serde_json::json!({"id": 7, "value": {
        "wg": {"port": 51820, "key": KEY, "subnets": {
            "10.59.0.1/24": {"name": "Default Subnet", "clients": {
                "10.59.0.2": {"name": "server", "key": KEY, "psk": key(9)},
            }},
            "10.59.7.1/24": {"name": "guests", "clients": {}, "dns": {"type": "default"}},
        }},
        "portForwards": {
            "203.0.113.2:443": {"target": "10.59.0.2:8443", "label": "web", "enabled": true, "kind": "dnat"},
            "203.0.113.2:80": "10.59.0.2:80",
        },
    }});
    let import = import(&text.to_string());
    let names: Vec<&str> = import
        .subnets
        .iter()
        .map(|subnet| subnet.name.as_str())
        .collect();
    assert_eq!(names, ["Default-Subnet", "guests"]);
    assert_eq!(told(&import), ["server 10.59.0.2 []"]);
    assert_eq!(
        import.devices[0].public_key.to_base64(),
        "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8="
    );
    let ports: Vec<(u16, u16)> = import
        .forwards
        .iter()
        .map(|forward| (forward.port, forward.target_port))
        .collect();
    assert_eq!(ports, [(443, 8443), (80, 80)]);
}

#[test]
fn errors_name_the_line_and_the_field() {
    let interface = format!("[Interface]\nPrivateKey = {KEY}\nAddress = 10.8.0.1/24\n");
    let peer = |number, allowed: &str| {
        format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = {allowed}\n",
            key(number)
        )
    };
    for (text, place, reason) in [
        ("hello".to_owned(), "line 1", "neither"),
        (
            "{\n \"server\": 3".to_owned(),
            "line 2 column 12",
            "no JSON",
        ),
        ("{\"server\": {}}".to_owned(), "the document", "privateKey"),
        (interface.replace(KEY, "abc"), "line 2, PrivateKey", "key"),
        (
            interface.replace("PrivateKey", "PostUp = wg set %i private-key"),
            "line 2, PostUp",
            "PrivateKey",
        ),
        (
            interface.replace("/24", "/32"),
            "line 3, Address",
            "no network",
        ),
        (format!("{interface}Jc = 3\n"), "line 4, Jc", "no such key"),
        (
            format!("{interface}[Peer]\nPublicKey = {KEY}X\n"),
            "line 5, PublicKey",
            "key",
        ),
        (
            format!("{interface}[Peer]\nAllowedIPs = 10.8.0.2/32\n"),
            "line 4, [Peer]",
            "PublicKey",
        ),
        (
            format!("{interface}{}", peer(2, "10.8.0.300/32")),
            "line 6, AllowedIPs",
            "10.8.0.300",
        ),
        (
            format!("{interface}{}", peer(2, "0.0.0.0/0")),
            "line 6, AllowedIPs",
            "everything",
        ),
        (
            format!("{interface}{}", peer(2, "10.8.0.0/24")),
            "line 6, AllowedIPs",
            "no single address",
        ),
        (
            format!("{interface}{}", peer(2, "10.8.0.2, 10.8.0.3")),
            "line 6, AllowedIPs",
            "10.8.0.2 already",
        ),
        (
            format!("{interface}{}{}", peer(2, "10.8.0.2"), peer(2, "10.8.0.3")),
            "line 7, [Peer]",
            "also that of line 4",
        ),
        (
            format!("{interface}{}{}", peer(2, "10.8.0.2"), peer(3, "10.8.0.2")),
            "line 9, AllowedIPs",
            "also among",
        ),
    ] {
        let error = read(&text, &Hints::default()).unwrap_err();
        assert_eq!(error.place, place, "{text}: {error}");
        assert!(error.reason.contains(reason), "{text}: {error}");
        assert!(!error.to_string().contains(KEY), "{error}");
    }
}
