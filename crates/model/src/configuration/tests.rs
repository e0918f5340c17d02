//! Golden texts, and values that try to break out of their line.

use super::{Configuration, PeerSection, PrivateKeySource, Routing, mtu};

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
        delegations: Vec::new(),
        dns: vec!["10.59.0.1".parse().unwrap()],
        mtu: 1420,
        peer: PeerSection {
            public_key: "GATEWAYPUBLICKEY=".to_owned(),
            preshared_key: "PRESHAREDKEY=".to_owned(),
            endpoint: "198.51.100.1:51820".to_owned(),
        },
        slot: 1,
    }
}

#[test]
fn full_routing_with_the_key_in_the_text() {
    let text = configuration(
        Routing::Full,
        PrivateKeySource::Inline("PRIVATEKEY=".to_owned()),
    )
    .wg_quick();
    insta::assert_snapshot!(text, @"");
}
