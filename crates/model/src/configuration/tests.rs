//! Golden texts, and values that try to break out of their line.

use super::{Configuration, Format, PeerSection, PrivateKeySource, Routing, mtu};

fn configuration(routing: Routing, private_key: PrivateKeySource) -> Configuration {
    Configuration {
        name: "nas".to_owned(),
        private_key,
        addresses: vec![
            "10.59.0.5".parse().unwrap(),
            "2001:db8:59::5".parse().unwrap(),
        ],
        subnet: vec![
            "10.59.0.0/24".parse().unwrap(),
            "2001:db8:59::/64".parse().unwrap(),
        ],
        has_global_prefix: true,
        routing,
        delegations: vec!["2001:db8:59:d::/64".parse().unwrap()],
        dns: vec!["10.59.0.1".parse().unwrap()],
        mtu: 1420,
        peer: PeerSection {
            public_key: "GATEWAYKEY=".to_owned(),
            preshared_key: Some("PRESHAREDKEY=".to_owned()),
            endpoint: "198.51.100.1:51820".to_owned(),
        },
        slot: 1,
    }
}

#[test]
fn full_routing_with_the_key_in_the_text() {
    let private_key = PrivateKeySource::Inline("PRIVATEKEY=".to_owned());
    insta::assert_snapshot!(configuration(Routing::Full, private_key).text(Format::WgQuick), @"
    # Adit: nas
    [Interface]
    PrivateKey = PRIVATEKEY=
    Address = 10.59.0.5/32, 2001:db8:59::5/128
    MTU = 1420
    DNS = 10.59.0.1

    [Peer]
    PublicKey = GATEWAYKEY=
    PresharedKey = PRESHAREDKEY=
    Endpoint = 198.51.100.1:51820
    AllowedIPs = 0.0.0.0/0, ::/0
    PersistentKeepalive = 25
    ");
}

#[test]
fn split_routing_without_the_key() {
    let private_key = PrivateKeySource::Missing {
        rekey_command: "adit device rekey nas".to_owned(),
    };
    insta::assert_snapshot!(configuration(Routing::Split, private_key).text(Format::WgQuick), @r#"
    # Adit: nas
    [Interface]
    # PrivateKey = (put this device's private key here and remove the #; "adit device rekey nas" makes a new one)
    Address = 10.59.0.5/32, 2001:db8:59::5/128
    MTU = 1420

    [Peer]
    PublicKey = GATEWAYKEY=
    PresharedKey = PRESHAREDKEY=
    Endpoint = 198.51.100.1:51820
    AllowedIPs = 10.59.0.0/24, ::/0
    PersistentKeepalive = 25
    "#);
}

#[test]
fn split_routing_names_a_local_ipv6_subnet_alone() {
    let mut split = configuration(Routing::Split, PrivateKeySource::Inline(String::new()));
    split.subnet[1] = "fd59::/64".parse().unwrap();
    split.has_global_prefix = false;
    assert!(
        split
            .text(Format::WgQuick)
            .contains("\nAllowedIPs = 10.59.0.0/24, fd59::/64\n")
    );
}

#[test]
fn inbound_routing_with_the_key_in_a_file() {
    let private_key = PrivateKeySource::File("/etc/wireguard/nas.key".to_owned());
    insta::assert_snapshot!(configuration(Routing::Inbound, private_key).text(Format::WgQuick), @"
    # Adit: nas
    [Interface]
    PostUp = wg set %i private-key /etc/wireguard/nas.key
    Address = 10.59.0.5/32
    MTU = 1420
    # Only what came in through the tunnel is answered through it; this host's own traffic stays where it was.
    Table = off
    # An interrupted start may have left rules behind.
    PreUp = for f in -4 -6; do while ip $f rule del table 4201 protocol 173 || ip $f rule del priority 4201 protocol 173; do :; done; done 2>/dev/null; nft delete table inet adit-%i 2>/dev/null || true
    # The priority is after other programs' marks and before address translation.
    PostUp = nft add table inet adit-%i
    PostUp = nft add chain inet adit-%i prerouting '{ type filter hook prerouting priority -140; }'
    PostUp = nft add chain inet adit-%i output '{ type route hook output priority -140; }'
    # A connection that comes in through the tunnel is remembered.
    PostUp = nft add rule inet adit-%i prerouting iifname %i ct direction original ct mark set ct mark and 0xc0ffffff or 0x01000000
    # Its replies are marked: those of containers, whose address is translated only after routing, and of this host.
    PostUp = nft add rule inet adit-%i prerouting iifname != %i ct direction reply ct mark and 0x3f000000 == 0x01000000 meta mark set meta mark and 0xc0ffffff or 0x01000000
    PostUp = nft add rule inet adit-%i output ct direction reply ct mark and 0x3f000000 == 0x01000000 meta mark set meta mark and 0xc0ffffff or 0x01000000
    # A strict rp_filter (only IPv4 has one) must ask with the mark where a reply would go; in IPv6 no other program's mark may stay.
    PostUp = nft add rule inet adit-%i prerouting meta nfproto ipv4 iifname %i meta mark set meta mark and 0xc0ffffff or 0x01000000
    PostUp = nft add rule inet adit-%i prerouting meta nfproto ipv6 iifname %i meta mark set meta mark and 0xc0ffffff
    PostUp = sysctl -q net/ipv4/conf/%i/src_valid_mark=1 || true
    # The subnet is behind the tunnel; a table of its own leads everything into it.
    PostUp = ip -4 route add 10.59.0.0/24 dev %i protocol 173; ip -4 route add default dev %i table 4201 protocol 173
    # Replies use that table; so does what we send from the tunnel's address, except to networks that this host is part of.
    PostUp = for rule in '4200 from 10.59.0.5 fwmark 0x01000000/0x3f000000 table 4201' '4201 fwmark 0x01000000/0x3f000000 table main suppress_prefixlength 0' '4201 fwmark 0x01000000/0x3f000000 table 4201' '4201 from 10.59.0.5 table main suppress_prefixlength 0' '4201 from 10.59.0.5 table 4201' '4201 oif %i table 4201'; do ip -4 rule add protocol 173 priority $rule; done
    # The same for IPv6. Its address is not above, because wg-quick would fail where IPv6 is off.
    PostUp = if grep -qs 0 /proc/sys/net/ipv6/conf/%i/disable_ipv6; then ip -6 address add 2001:db8:59::5/128 dev %i; ip -6 route add 2001:db8:59::/64 dev %i protocol 173; ip -6 route add default dev %i table 4201 protocol 173; fi
    PostUp = if grep -qs 0 /proc/sys/net/ipv6/conf/%i/disable_ipv6; then for rule in '4200 fwmark 0x01000000/0x3f000000 table 4201' '4201 from 2001:db8:59::5 table main suppress_prefixlength 0' '4201 from 2001:db8:59::5 table 4201' '4201 from 2001:db8:59:d::/64 table main suppress_prefixlength 0' '4201 from 2001:db8:59:d::/64 table 4201' '4201 oif %i table 4201'; do ip -6 rule add protocol 173 priority $rule; done; fi
    # Addresses, routes and src_valid_mark disappear with the interface.
    PreDown = for f in -4 -6; do while ip $f rule del table 4201 protocol 173 || ip $f rule del priority 4201 protocol 173; do :; done; done 2>/dev/null; nft delete table inet adit-%i 2>/dev/null || true

    [Peer]
    PublicKey = GATEWAYKEY=
    PresharedKey = PRESHAREDKEY=
    Endpoint = 198.51.100.1:51820
    AllowedIPs = 0.0.0.0/0, ::/0
    PersistentKeepalive = 25
    ");
}

#[test]
fn slots_share_neither_table_nor_mark() {
    let mut last = configuration(Routing::Inbound, PrivateKeySource::Inline(String::new()));
    last.slot = 62;
    let text = last.text(Format::WgQuick);
    assert!(
        text.contains("'4200 from 10.59.0.5 fwmark 0x3e000000/0x3f000000 table 4262'"),
        "{text}"
    );
    assert!(
        !text.contains("4201") && !text.contains("0x01000000"),
        "{text}"
    );
}

#[test]
fn a_value_stays_in_its_line_and_a_path_in_its_word() {
    let break_out = "x\r\nPostUp = reboot #".to_owned();
    let path = "/keys/a b'; reboot #\n%i".to_owned();
    let mut hostile = configuration(Routing::Full, PrivateKeySource::File(path));
    hostile.name = break_out.clone();
    hostile.peer = PeerSection {
        public_key: break_out.clone(),
        preshared_key: Some(break_out.clone()),
        endpoint: break_out,
    };
    let text = hostile.text(Format::WgQuick);
    let hooks: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("Post"))
        .collect();
    assert_eq!(
        hooks,
        [r"PostUp = wg set %i private-key $'/keys/a\x20b\x27\x3b\x20reboot\x20\x23\x0a\x25i'"]
    );
    assert!(!text.contains('\r'));
}

#[test]
fn the_mtu_leaves_room_outside_and_keeps_ipv6_inside() {
    let value = |uplink| mtu(uplink).0;
    assert_eq!([1500, 1492, 1360].map(value), [1420, 1412, 1280]);
    let (least, reason) = mtu(1300);
    assert_eq!(least, 1280);
    assert!(
        reason.contains("leaves 1220") && reason.contains("fragmented"),
        "{reason}"
    );
    let (jumbo, reason) = mtu(9001);
    assert_eq!(jumbo, 1420);
    assert!(
        reason.contains("9001") && reason.contains("1500"),
        "{reason}"
    );
}

/// A server with a network of both families behind it, and a laptop.
#[test]
fn every_other_format_of_a_server_and_of_a_client() {
    for format in Format::ALL {
        if format == Format::WgQuick {
            continue;
        }
        let key = PrivateKeySource::File("/etc/adit.key".to_owned());
        let mut server = configuration(Routing::Inbound, key);
        server.delegations.push("192.168.7.0/24".parse().unwrap());
        insta::assert_snapshot!(format!("{format}-inbound"), server.text(format));

        let key = PrivateKeySource::Inline("PRIVATEKEY=".to_owned());
        let mut client = configuration(Routing::Full, key);
        client.delegations.clear();
        client.peer.endpoint = "[2001:db8::1]:51820".to_owned();
        insta::assert_snapshot!(format!("{format}-full"), client.text(format));
    }
}

#[test]
fn split_routing_leads_nothing_but_its_own_into_the_tunnel() {
    for format in Format::ALL {
        let key = PrivateKeySource::Missing {
            rekey_command: "adit device rekey nas".to_owned(),
        };
        let text = configuration(Routing::Split, key).text(format);
        assert!(!text.contains("0.0.0.0/0"), "{format}: {text}");
        assert!(
            text.contains("10.59.0.0/24") && text.contains("adit device rekey nas"),
            "{format}: {text}"
        );
    }
}

#[test]
fn a_value_stays_in_its_place_in_every_format() {
    for format in Format::ALL {
        let break_out = "x'\r\n[Peer]\nPostUp=reboot\n\"; reboot; $(reboot) #".to_owned();
        let mut hostile = configuration(
            Routing::Full,
            PrivateKeySource::File(format!("/{break_out}")),
        );
        hostile.name = break_out.clone();
        hostile.peer.public_key = break_out.clone();
        hostile.peer.preshared_key = Some(break_out);
        let text = hostile.text(format);
        let lines = text.lines().count();
        let friendly = configuration(Routing::Full, PrivateKeySource::File("/x".to_owned()));
        assert_eq!(
            lines,
            friendly.text(format).lines().count(),
            "{format}: {text}"
        );
        assert!(!text.contains('\r'));
    }
}

#[test]
fn a_device_without_a_preshared_key_gets_none_in_any_format() {
    for format in Format::ALL {
        let mut plain = configuration(Routing::Full, PrivateKeySource::Inline("K=".to_owned()));
        plain.peer.preshared_key = None;
        let text = plain.text(format).to_ascii_lowercase();
        assert!(
            !text.contains("preshared") && !text.contains("psk\":\"p"),
            "{format}: {text}"
        );
    }
}
