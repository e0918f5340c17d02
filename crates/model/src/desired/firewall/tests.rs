//! Goldens of the rendered table, and the property that a delta leads where it says.

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

use super::*;

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

/// One subnet with everything that a table can have, another with nothing.
fn small() -> Firewall {
    let public4: Ipv4Addr = "192.0.2.1".parse().unwrap();
    let device4: Ipv4Addr = "10.59.0.2".parse().unwrap();
    let device6: Ipv6Addr = "2001:db8:0:1::2".parse().unwrap();
    let http = Port {
        address: public4,
        protocol: Protocol::Tcp,
        port: 80,
    };
    let media = Endpoint {
        address: public4,
        protocol: Protocol::Udp,
        ports: range(5000, 5010),
    };
    let uplink = "eth0".to_owned();
    Firewall {
        interface: "adit0".to_owned(),
        uplinks: BTreeSet::from([uplink.clone()]),
        reply_marks: BTreeMap::new(),
        sources: Sources::default(),
        watched: ["2001:db8:0:1::/64".parse().unwrap()].into(),
        snat_ports: range(40000, 65535),
        clamp: Clamp {
            ipv4: 1380,
            ipv6: 1360,
        },
        connections: Connections {
            limit: 4096,
            delegations4: OrdSet::unit("192.168.7.0/24".parse().unwrap()),
            delegations6: OrdSet::unit("2001:db8:0:1:8000::/68".parse().unwrap()),
        },
        subnets: BTreeMap::from([
            (
                1,
                SubnetPolicy {
                    networks4: OrdSet::from(vec![
                        "10.59.0.0/24".parse().unwrap(),
                        "192.168.7.0/24".parse().unwrap(),
                    ]),
                    networks6: OrdSet::from(vec![
                        "2001:db8:0:1::/64".parse().unwrap(),
                        "2001:db8:0:1:8000::/68".parse().unwrap(),
                    ]),
                    peers_allowed: true,
                    host_access: true,
                    snat4: Some(SourceAddress {
                        uplink: uplink.clone(),
                        address: public4,
                    }),
                    snat6: None,
                },
            ),
            (
                2,
                SubnetPolicy {
                    networks4: OrdSet::from(vec!["10.60.0.0/24".parse().unwrap()]),
                    networks6: OrdSet::from(vec!["fd00:60::/64".parse().unwrap()]),
                    snat6: Some(SourceAddress {
                        uplink: uplink.clone(),
                        address: "2001:db8::1".parse().unwrap(),
                    }),
                    ..SubnetPolicy::default()
                },
            ),
        ]),
        own_prefixes6: OrdSet::from(vec!["2001:db8:0:1::/64".parse().unwrap()]),
        services: BTreeSet::from([(Protocol::Udp, 5351)]),
        translations4: Translations {
            forwards: OrdMap::from(vec![(http, (device4, 8080))]),
            forward_ranges: OrdMap::from(vec![(media, device4)]),
            keeps: OrdMap::from(vec![(
                Keep {
                    uplink: uplink.clone(),
                    device: Port {
                        address: device4,
                        port: 8080,
                        ..http
                    },
                },
                (public4, 80),
            )]),
            keep_ranges: OrdMap::from(vec![(
                Keep {
                    uplink,
                    device: Endpoint {
                        address: device4,
                        ..media
                    },
                },
                public4,
            )]),
            egresses: OrdMap::new(),
            hairpins: OrdMap::unit(device4, "10.59.0.1".parse().unwrap()),
        },
        translations6: Translations::default(),
        filters: OrdMap::new(),
        pinholes: [range(22, 22), range(6000, 6100), range(6050, 6200)]
            .map(|ports| Endpoint {
                address: device6,
                protocol: Protocol::Tcp,
                ports,
            })
            .into_iter()
            .collect(),
        open_addresses: OrdSet::unit("2001:db8:0:1::3".parse().unwrap()),
        names: BTreeSet::new(),
        advertised_names: BTreeMap::new(),
    }
}

/// Two uplinks, and a device that leaves by the second.
fn with_a_choice() -> Firewall {
    let small = small();
    let other: Ipv4Addr = "198.51.100.5".parse().unwrap();
    let device: Ipv4Addr = "10.59.0.2".parse().unwrap();
    Firewall {
        uplinks: BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]),
        reply_marks: BTreeMap::from([
            ("eth0".to_owned(), 0x0100_0000),
            ("eth1".to_owned(), 0x0200_0000),
        ]),
        sources: Sources {
            ipv4: BTreeMap::from([
                ("192.0.2.1".parse().unwrap(), "eth0".to_owned()),
                (other, "eth1".to_owned()),
            ]),
            ipv6: BTreeMap::new(),
        },
        translations4: Translations {
            egresses: OrdMap::from(vec![((device, 32), other)]),
            ..small.translations4.clone()
        },
        ..small
    }
}

#[test]
fn names_read_well() {
    let named = |port| Port {
        address: "192.0.2.1".parse::<IpAddr>().unwrap(),
        protocol: Protocol::Tcp,
        port,
    };
    let plain = small();
    let names = Firewall {
        names: [named(443)].into(),
        advertised_names: [(
            Port {
                address: "198.51.100.7".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: 443,
            },
            "192.0.2.1".parse().unwrap(),
        )]
        .into(),
        ..plain.clone()
    };
    let text = plain.render();
    let rendered = names.render();
    let new: Vec<&str> = (rendered.lines().map(str::trim))
        .filter(|line| !line.is_empty() && *line != "}" && !text.contains(line))
        .collect();
    insta::assert_snapshot!(new.join("\n"), @r#"
    set names4 { type ipv4_addr . inet_proto . inet_service; }
    set names6 { type ipv6_addr . inet_proto . inet_service; }
    map advertised_names4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
    chain to_front {
    ct mark set ct mark and 0xc0ffffff or 0x3f000000
    meta mark set meta mark and 0xc0ffffff or 0x3f000000
    chain back_to_front {
    type filter hook prerouting priority mangle + 1; policy accept;
    iifname "adit0" meta nfproto ipv4 tcp flags & (syn | ack) != syn socket transparent 1 goto to_front
    iifname "adit0" meta nfproto ipv4 meta l4proto udp ct direction reply socket transparent 1 goto to_front
    iifname "adit0" meta nfproto ipv6 tcp flags & (syn | ack) != syn socket transparent 1 goto to_front
    iifname "adit0" meta nfproto ipv6 meta l4proto udp ct direction reply socket transparent 1 goto to_front
    meta mark and 0x3f000000 == 0x3f000000 accept comment "connections of the front, tracked or not"
    meta nfproto ipv4 meta l4proto { tcp, udp } ip daddr . meta l4proto . th dport @names4 goto admit comment "names of devices"
    meta nfproto ipv6 meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @names6 goto admit comment "names of devices"
    iifname "adit0" meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @advertised_names4
    add element inet adit advertised_names4 { 198.51.100.7 . tcp . 443 : 192.0.2.1 . 443 }
    add element inet adit names4 { 192.0.2.1 . tcp . 443 }
    "#);
    // Another name's port is an element more.
    let more = Firewall {
        names: [named(443), named(8443)].into(),
        ..names.clone()
    };
    assert_eq!(Firewall::delta(&plain, &names), None);
    insta::assert_snapshot!(
        Firewall::delta(&names, &more).unwrap().render(),
        @"add element inet adit names4 { 192.0.2.1 . tcp . 8443 }"
    );
}

#[test]
fn a_choice_of_sources_reads_well() {
    let (small, choice) = (small().render(), with_a_choice().render());
    let new: Vec<&str> = (choice.lines().map(str::trim))
        .filter(|line| !line.is_empty() && *line != "}" && !small.contains(line))
        .collect();
    insta::assert_snapshot!(new.join("\n"), @r#"
    map egresses4 { type ipv4_addr : verdict; flags interval; }
    map exits4 { type ipv4_addr : verdict; flags interval; }
    chain egress_c0000201 {
    chain exit_c0000201 {
    ct mark set ct mark and 0xc0ffffff or 0x01000000
    chain egress_c6336405 {
    oifname "eth1" meta nfproto ipv4 meta l4proto { tcp, udp } snat ip to 198.51.100.5:40000-65535
    oifname "eth1" meta nfproto ipv4 snat ip to 198.51.100.5
    chain exit_c6336405 {
    ct mark set ct mark and 0xc0ffffff or 0x02000000
    chain remember_uplink {
    iifname "eth0" ct direction original ct mark set ct mark and 0xc0ffffff or 0x01000000
    iifname "eth1" ct direction original ct mark set ct mark and 0xc0ffffff or 0x02000000
    chain uplink_of_connection {
    iifname "adit0" meta nfproto ipv4 ct direction original ct state new ip saddr vmap @exits4
    iifname "adit0" ct mark and 0x3f000000 == 0x01000000 meta mark set meta mark and 0xc0ffffff or 0x01000000
    iifname "adit0" ct mark and 0x3f000000 == 0x02000000 meta mark set meta mark and 0xc0ffffff or 0x02000000
    jump remember_uplink comment "replies go back by the same uplink"
    oifname @uplinks meta nfproto ipv4 ip saddr vmap @egresses4 comment "devices that chose an address"
    oifname "eth0" meta nfproto ipv4 ip saddr @networks4 jump egress_c0000201
    oifname "eth1" meta nfproto ipv4 ip saddr @networks4 jump egress_c6336405
    add element inet adit egresses4 { 10.59.0.2 : jump egress_c6336405 }
    add element inet adit exits4 { 10.59.0.2 : jump exit_c6336405 }
    add element inet adit uplinks { "eth0", "eth1" }
    "#);
}

#[test]
fn small_table_reads_well() {
    insta::assert_snapshot!(small().render(), @r#"
    table inet adit {}
    delete table inet adit
    table inet adit {
        comment "Adit: packets from and to the tunnel adit0"

        set uplinks { type ifname; }
        set services { type inet_proto . inet_service; }
        set networks4 { type ipv4_addr; flags interval; }
        set networks6 { type ipv6_addr; flags interval; }
        set own_prefixes6 { type ipv6_addr; flags interval; }
        set host_networks4 { type ipv4_addr; flags interval; }
        set host_networks6 { type ipv6_addr; flags interval; }
        map peers4 { type ipv4_addr : verdict; flags interval; }
        map peers6 { type ipv6_addr : verdict; flags interval; }
        map snat4 { type ipv4_addr : verdict; flags interval; }
        map snat6 { type ipv6_addr : verdict; flags interval; }
        map delegations4 { type ipv4_addr : verdict; flags interval; }
        map delegations6 { type ipv6_addr : verdict; flags interval; }
        map forwards4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
        map forwards6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
        map forward_ranges4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
        map forward_ranges6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
        map keeps4 { type ifname . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
        map keeps6 { type ifname . ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
        map keep_ranges4 { type ifname . ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
        map keep_ranges6 { type ifname . ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
        map hairpins4 { type ipv4_addr . ipv4_addr : ipv4_addr; }
        map hairpins6 { type ipv6_addr . ipv6_addr : ipv6_addr; }
        set pinholes { type ipv6_addr . inet_proto . inet_service; }
        set pinhole_ranges { type ipv6_addr . inet_proto . inet_service; flags interval; }
        set open_addresses { type ipv6_addr; }
        set filtered4 { type ipv4_addr . inet_proto . inet_service; flags interval; }
        set filtered6 { type ipv6_addr . inet_proto . inet_service; flags interval; }
        set peers_of_ports4 { type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval; }
        set peers_of_ports6 { type ipv6_addr . inet_proto . inet_service . ipv6_addr; flags interval; }
        set peer_ports_of_ports4 { type ipv4_addr . inet_proto . inet_service . ipv4_addr . inet_service; flags interval; }
        set peer_ports_of_ports6 { type ipv6_addr . inet_proto . inet_service . ipv6_addr . inet_service; flags interval; }
        set outgoing4 { type ipv4_addr; size 65536; flags dynamic; }
        set outgoing6 { type ipv6_addr; size 65536; flags dynamic; }
        set incoming4 { type ipv4_addr; size 65536; flags dynamic; }
        set incoming6 { type ipv6_addr; size 65536; flags dynamic; }
        set subnet_1_networks4 { type ipv4_addr; flags interval; }
        set subnet_1_networks6 { type ipv6_addr; flags interval; }
        set subnet_2_networks4 { type ipv4_addr; flags interval; }
        set subnet_2_networks6 { type ipv6_addr; flags interval; }

        chain delegation4_24 {
            iifname "adit0" meta nfproto ipv4 add @outgoing4 { ip saddr & 255.255.255.0 ct count over 4096 } drop
            iifname != "adit0" meta nfproto ipv4 add @incoming4 { ip daddr & 255.255.255.0 ct count over 4096 } drop
        }

        chain delegation6_68 {
            iifname "adit0" meta nfproto ipv6 add @outgoing6 { ip6 saddr & ffff:ffff:ffff:ffff:f000:: ct count over 4096 } drop
            iifname != "adit0" meta nfproto ipv6 add @incoming6 { ip6 daddr & ffff:ffff:ffff:ffff:f000:: ct count over 4096 } drop
        }

        chain count {
            iifname "adit0" meta nfproto ipv4 ip saddr vmap @delegations4
            iifname "adit0" meta nfproto ipv6 ip6 saddr vmap @delegations6
            iifname "adit0" meta nfproto ipv4 add @outgoing4 { ip saddr ct count over 4096 } drop comment "what a device opened"
            iifname "adit0" meta nfproto ipv6 add @outgoing6 { ip6 saddr ct count over 4096 } drop
            iifname != "adit0" meta nfproto ipv4 ip daddr vmap @delegations4
            iifname != "adit0" meta nfproto ipv6 ip6 daddr vmap @delegations6
            iifname != "adit0" meta nfproto ipv4 add @incoming4 { ip daddr ct count over 4096 } drop comment "what others opened to it"
            iifname != "adit0" meta nfproto ipv6 add @incoming6 { ip6 daddr ct count over 4096 } drop
        }

        chain admit {
            ct state new ct status & confirmed == 0 jump count comment "one device does not fill the table of connections"
            accept
        }

        chain subnet_1 {
            meta nfproto ipv4 ip daddr @subnet_1_networks4 goto admit comment "to a device of the same subnet"
            meta nfproto ipv6 ip6 daddr @subnet_1_networks6 goto admit
        }

        chain snat_subnet_1 {
            oifname "eth0" meta nfproto ipv4 meta l4proto { tcp, udp } snat ip to 192.0.2.1:40000-65535
            oifname "eth0" meta nfproto ipv4 snat ip to 192.0.2.1
        }

        chain subnet_2 {
            meta nfproto ipv4 ip daddr @subnet_2_networks4 goto admit comment "to a device of the same subnet"
            meta nfproto ipv6 ip6 daddr @subnet_2_networks6 goto admit
        }

        chain snat_subnet_2 {
            oifname "eth0" meta nfproto ipv6 meta l4proto { tcp, udp } snat ip6 to [2001:db8::1]:40000-65535
            oifname "eth0" meta nfproto ipv6 snat ip6 to [2001:db8::1]
        }
        set asked6 { type ipv6_addr; size 1024; flags dynamic,timeout; timeout 1h; }
        set heard6 { type ipv6_addr; size 1024; flags dynamic,timeout; timeout 2h; }
        set spoke6 { type ipv6_addr; size 1024; flags dynamic,timeout; timeout 1h; }

        chain asked {
            @th,64,128 & 0xffffffffffffffff0000000000000000 == 0x20010db8000000010000000000000000 update @asked6 { @th,64,128 & 0xffffffffffffffff0000000000000000 }
        }

        chain heard {
            ip6 daddr 2001:db8:0:1::/64 update @heard6 { ip6 daddr & ffff:ffff:ffff:ffff:: } return
        }

        chain spoke {
            ip6 saddr 2001:db8:0:1::/64 add @spoke6 { ip6 saddr & ffff:ffff:ffff:ffff:: } return
        }

        chain forward {
            type filter hook forward priority filter; policy accept;
            iifname "adit0" jump from_tunnel
            oifname "adit0" goto to_tunnel
        }

        chain from_tunnel {
            oifname "adit0" return comment "decided in to_tunnel"
            meta nfproto ipv6 ip6 daddr @own_prefixes6 drop comment "no device has this address: keep it off the uplink's link"
            meta nfproto ipv4 ip daddr 169.254.0.0/16 drop comment "link-local is not forwarded (RFC 3927, 7), nor are the provider's services there"
            ct state established,related accept
            meta nfproto ipv4 ct state invalid drop comment "would leave untranslated"
            meta nfproto ipv6 ip6 saddr fc00::/7 ct state invalid drop
            meta nfproto ipv6 ip6 saddr != fc00::/7 tcp flags & (fin | syn | rst | ack) != syn ct state new jump resume
            oifname @uplinks meta nfproto ipv6 ct state new jump spoke
            oifname @uplinks goto admit
            meta nfproto ipv4 ip saddr @host_networks4 goto admit comment "subnets with host access"
            meta nfproto ipv6 ip6 saddr @host_networks6 goto admit
            drop comment "other networks of this host"
        }

        chain resume {
            meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinholes return comment "its pinhole is open: it goes on although it is not tracked"
            meta nfproto ipv6 ip6 saddr . meta l4proto . th sport @pinhole_ranges return
            meta nfproto ipv6 ip6 saddr @open_addresses return
            meta nfproto ipv6 meta l4proto tcp reject with tcp reset comment "a connection that was ended here does not begin again in the middle"
        }

        chain to_tunnel {
            meta nfproto ipv4 icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
            meta nfproto ipv6 icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept comment "RFC 4890, 4.3.1"
            iifname @uplinks meta nfproto ipv4 ip saddr @networks4 drop comment "our addresses do not come from outside (RFC 2827)"
            iifname @uplinks meta nfproto ipv6 ip6 saddr @networks6 drop
            ct state established,related accept
            ct state invalid drop
            ct status dnat goto admit comment "forwards"
            iifname != "adit0" meta nfproto ipv6 icmpv6 type echo-request goto admit comment "RFC 4890, 4.3.1"
            iifname "adit0" meta nfproto ipv4 ip saddr vmap @peers4
            iifname "adit0" meta nfproto ipv6 ip6 saddr vmap @peers6
            meta nfproto ipv6 meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @filtered6 goto filtered_pinhole
            meta nfproto ipv6 meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @pinholes goto admit
            meta nfproto ipv6 meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @pinhole_ranges goto admit
            meta nfproto ipv6 ip6 daddr @open_addresses goto admit comment "devices that opened their whole address"
            drop
        }

        chain input {
            type filter hook input priority filter; policy accept;
            iifname "adit0" goto to_gateway
        }

        chain to_gateway {
            ct state established,related accept
            meta nfproto ipv6 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, mld2-listener-report } drop comment "a tunnel has no neighbours"
            meta nfproto ipv4 icmp type redirect drop
            meta nfproto ipv4 icmp type echo-request goto admit
            meta nfproto ipv6 icmpv6 type echo-request goto admit
            fib daddr . iif type { local, multicast } meta l4proto { tcp, udp } meta l4proto . th dport @services goto admit comment "the gateway's own services, at its own addresses"
            meta nfproto ipv4 ip saddr @host_networks4 goto admit comment "subnets with host access"
            meta nfproto ipv6 ip6 saddr @host_networks6 goto admit
            drop
        }

        chain nat_in {
            type nat hook prerouting priority dstnat; policy accept;
            meta nfproto ipv4 meta l4proto { tcp, udp } ip daddr . meta l4proto . th dport @filtered4 goto filtered comment "open to some peers only"
            meta nfproto ipv6 meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @filtered6 goto filtered
            goto translate
        }

        chain translate {
            meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @forwards4
            meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @forward_ranges4
            meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @forwards6
            meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @forward_ranges6
        }

        chain filtered {
            meta nfproto ipv4 ip daddr . meta l4proto . th dport . ip saddr @peers_of_ports4 goto translate
            meta nfproto ipv4 ip daddr . meta l4proto . th dport . ip saddr . th sport @peer_ports_of_ports4 goto translate
            meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr @peers_of_ports6 goto translate
            meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr . th sport @peer_ports_of_ports6 goto translate
        }

        chain filtered_pinhole {
            meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr @peers_of_ports6 goto admit
            meta nfproto ipv6 ip6 daddr . meta l4proto . th dport . ip6 saddr . th sport @peer_ports_of_ports6 goto admit
            drop
        }

        chain nat_out {
            type nat hook postrouting priority srcnat; policy accept;
            oifname "adit0" meta nfproto ipv4 snat ip to ip saddr . ip daddr map @hairpins4 comment "a device that reaches itself by its public address"
            oifname "adit0" meta nfproto ipv6 snat ip6 to ip6 saddr . ip6 daddr map @hairpins6
            meta nfproto ipv4 meta l4proto { tcp, udp } snat ip to oifname . ip saddr . meta l4proto . th sport map @keeps4 comment "a forwarded port stays itself outwards"
            meta nfproto ipv4 meta l4proto { tcp, udp } snat ip to oifname . ip saddr . meta l4proto . th sport map @keep_ranges4
            meta nfproto ipv6 meta l4proto { tcp, udp } snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keeps6
            meta nfproto ipv6 meta l4proto { tcp, udp } snat ip6 to oifname . ip6 saddr . meta l4proto . th sport map @keep_ranges6
            oifname @uplinks meta nfproto ipv4 ip saddr vmap @snat4
            oifname @uplinks meta nfproto ipv6 ip6 saddr vmap @snat6
        }

        chain arriving {
            type filter hook prerouting priority mangle; policy accept;
            iifname "adit0" goto clamp
            iifname @uplinks meta nfproto ipv6 goto from_uplink6
        }

        chain from_uplink6 {
            meta nfproto ipv6 icmpv6 type nd-neighbor-solicit jump asked
            meta nfproto ipv6 ct state new,established ct status & assured == 0 jump heard
            meta nfproto ipv6 ip6 daddr @own_prefixes6 fib daddr type unreachable drop comment "whoever probes does not learn which addresses have a device"
        }

        chain leaving {
            type filter hook postrouting priority mangle; policy accept;
            oifname "adit0" goto clamp
        }

        chain clamp {
            meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > 1380 tcp option maxseg size set 1380
            meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > 1360 tcp option maxseg size set 1360
        }
    }
    add element inet adit delegations4 { 192.168.7.0/24 : goto delegation4_24 }
    add element inet adit delegations6 { 2001:db8:0:1:8000::/68 : goto delegation6_68 }
    add element inet adit forward_ranges4 { 192.0.2.1 . udp . 5000-5010 : 10.59.0.2 }
    add element inet adit forwards4 { 192.0.2.1 . tcp . 80 : 10.59.0.2 . 8080 }
    add element inet adit hairpins4 { 10.59.0.2 . 10.59.0.2 : 10.59.0.1 }
    add element inet adit host_networks4 { 10.59.0.0/24, 192.168.7.0/24 }
    add element inet adit host_networks6 { 2001:db8:0:1::/64 }
    add element inet adit keep_ranges4 { "eth0" . 10.59.0.2 . udp . 5000-5010 : 192.0.2.1 }
    add element inet adit keeps4 { "eth0" . 10.59.0.2 . tcp . 8080 : 192.0.2.1 . 80 }
    add element inet adit networks4 { 10.59.0.0/24, 10.60.0.0/24, 192.168.7.0/24 }
    add element inet adit networks6 { 2001:db8:0:1::/64, fd00:60::/64 }
    add element inet adit open_addresses { 2001:db8:0:1::3 }
    add element inet adit own_prefixes6 { 2001:db8:0:1::/64 }
    add element inet adit peers4 { 10.59.0.0/24 : jump subnet_1, 192.168.7.0/24 : jump subnet_1 }
    add element inet adit peers6 { 2001:db8:0:1::/64 : jump subnet_1 }
    add element inet adit pinhole_ranges { 2001:db8:0:1::2 . tcp . 6000-6200 }
    add element inet adit pinholes { 2001:db8:0:1::2 . tcp . 22 }
    add element inet adit services { udp . 5351 }
    add element inet adit snat4 { 10.59.0.0/24 : jump snat_subnet_1, 192.168.7.0/24 : jump snat_subnet_1 }
    add element inet adit snat6 { fd00:60::/64 : jump snat_subnet_2 }
    add element inet adit subnet_1_networks4 { 10.59.0.0/24, 192.168.7.0/24 }
    add element inet adit subnet_1_networks6 { 2001:db8:0:1::/64 }
    add element inet adit subnet_2_networks4 { 10.60.0.0/24 }
    add element inet adit subnet_2_networks6 { fd00:60::/64 }
    add element inet adit uplinks { "eth0" }
    "#);
}

#[test]
fn forward_that_moves_is_deleted_and_added() {
    let from = small();
    let mut to = small();
    let port = *to.translations4.forwards.keys().next().unwrap();
    to.translations4
        .forwards
        .insert(port, ("10.59.0.3".parse().unwrap(), 80));
    to.pinholes.remove_max();
    insta::assert_snapshot!(Firewall::delta(&from, &to).unwrap().render(), @r#"
    delete element inet adit forwards4 { 192.0.2.1 . tcp . 80 }
    delete element inet adit pinhole_ranges { 2001:db8:0:1::2 . tcp . 6000-6200 }
    add element inet adit forwards4 { 192.0.2.1 . tcp . 80 : 10.59.0.3 . 80 }
    add element inet adit pinhole_ranges { 2001:db8:0:1::2 . tcp . 6000-6100 }
    "#);

    let changed: Vec<String> = Firewall::changed_endpoints(&from, &to)
        .iter()
        .map(|endpoint| {
            format!(
                "{} {} {}",
                endpoint.address, endpoint.protocol, endpoint.ports
            )
        })
        .collect();
    assert_eq!(
        changed,
        ["192.0.2.1 tcp 80", "2001:db8:0:1::2 tcp 6050-6200"]
    );
}

#[test]
fn an_address_that_closes_takes_all_that_came_to_it_along() {
    let from = small();
    let mut to = small();
    to.open_addresses = OrdSet::unit("2001:db8:0:1::4".parse().unwrap());
    insta::assert_snapshot!(Firewall::delta(&from, &to).unwrap().render(), @r#"
    delete element inet adit open_addresses { 2001:db8:0:1::3 }
    add element inet adit open_addresses { 2001:db8:0:1::4 }
    "#);
    assert!(Firewall::changed_endpoints(&from, &to).is_empty());
    assert_eq!(
        Firewall::closed_addresses(&from, &to),
        ["2001:db8:0:1::3/128".parse().unwrap()].into()
    );
}

#[test]
fn another_source_address_is_no_delta() {
    let mut to = small();
    to.subnets.get_mut(&1).unwrap().snat4 = None;
    assert_eq!(Firewall::delta(&small(), &to), None);
    assert_eq!(Firewall::delta(&to, &to), Some(Delta::default()));
}

fn port() -> impl Strategy<Value = Port<Ipv4Addr>> {
    (0..3u8, any::<bool>(), 1..6u16).prop_map(|(host, tcp, port)| Port {
        address: Ipv4Addr::new(192, 0, 2, host),
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
        port,
    })
}

fn pinhole() -> impl Strategy<Value = Endpoint<Ipv6Addr>> {
    (0..2u16, 1..20u16, 0..10u16).prop_map(|(host, first, length)| Endpoint {
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host),
        protocol: Protocol::Tcp,
        ports: range(first, first + length),
    })
}

fn firewall() -> impl Strategy<Value = Firewall> {
    let networks = btree_set((0..8u8, 28..=32u8), 0..4).prop_map(|networks| {
        let network = |(host, length)| {
            Ipv4Net::new(Ipv4Addr::new(10, 59, 0, host), length)
                .unwrap()
                .trunc()
        };
        networks.into_iter().map(network).collect()
    });
    let forwards = btree_map(port(), (0..2u8, 1..3u16), 0..8).prop_map(|forwards| {
        let target = |(host, port)| (Ipv4Addr::new(10, 59, 0, host), port);
        forwards
            .into_iter()
            .map(|(from, to)| (from, target(to)))
            .collect()
    });
    let pinholes = btree_set(pinhole(), 0..6);
    let open = btree_set(0..3u16, 0..3).prop_map(|hosts| {
        let address = |host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host);
        hosts.into_iter().map(address).collect()
    });
    (networks, forwards, (pinholes, open), any::<[bool; 2]>()).prop_map(
        |(networks4, forwards, (pinholes, open_addresses), [peers, host])| {
            let mut firewall = small();
            let policy = firewall.subnets.get_mut(&1).unwrap();
            policy.networks4 = networks4;
            policy.peers_allowed = peers;
            policy.host_access = host;
            firewall.translations4.forwards = forwards;
            firewall.pinholes = pinholes.into();
            firewall.open_addresses = open_addresses;
            firewall
        },
    )
}

/// What the kernel would hold after the script: deleting what is not there and adding what is there is an error.
fn execute(script: &str, elements: &mut BTreeMap<(String, String), Option<String>>) {
    for line in script.lines() {
        let (verb, rest) = line.split_once(" element inet adit ").unwrap();
        let (set, list) = rest.split_once(" { ").unwrap();
        for element in list.strip_suffix(" }").unwrap().split(", ") {
            let (key, value) = match element.split_once(" : ") {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (element, None),
            };
            let key = (set.to_owned(), key.to_owned());
            match verb {
                "delete" => assert!(elements.remove(&key).is_some(), "{key:?} is not there"),
                "add" => assert_eq!(elements.insert(key, value), None),
                _ => panic!("{verb}"),
            }
        }
    }
}

fn flat(firewall: &Firewall) -> BTreeMap<(String, String), Option<String>> {
    let elements = firewall.elements();
    let pairs = elements.sets().flat_map(|(set, elements)| {
        let set = set.to_owned();
        elements
            .iter()
            .map(move |(key, value)| ((set.clone(), key.clone()), value.clone()))
    });
    pairs.collect()
}

proptest! {
    #[test]
    fn delta_leads_from_one_table_to_the_other(from in firewall(), to in firewall()) {
        let mut elements = flat(&from);
        execute(&Firewall::delta(&from, &to).unwrap().render(), &mut elements);
        prop_assert_eq!(&elements, &flat(&to));

        let mut elements = flat(&from);
        execute(&from.elements().delta(&to.elements()).render(), &mut elements);
        prop_assert_eq!(&elements, &flat(&to));
    }
}
