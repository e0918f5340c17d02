//! What is answered to `get`.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use crate::handshake::Key;
use crate::lock::Lock as _;
use crate::peer::Peer;

/// Text that is overwritten when it goes, and never moved while it grows: there are keys in it.
pub(crate) type Secret = Zeroizing<String>;

/// A key and its value.
const LINE: usize = 110;

pub(crate) fn write_interface(private_key: Option<&Key>, listen_port: u16, mark: u32) -> Secret {
    let mut text = Zeroizing::new(String::with_capacity(3 * LINE));
    if let Some(private_key) = private_key {
        write_key(&mut text, "private_key", private_key);
    }
    if listen_port != 0 {
        write(&mut text, "listen_port", listen_port);
    }
    if mark != 0 {
        write(&mut text, "fwmark", mark);
    }
    text
}

pub(crate) fn write_peer(peer: &Peer) -> Secret {
    // Of each lock no longer than it takes to copy: packets wait for them.
    let preshared_key = peer.handshake.hold().preshared_key.clone();
    let allowed_ips: Vec<_> = peer.allowed_ips.hold().iter().copied().collect();
    let mut text = Zeroizing::new(String::with_capacity((10 + allowed_ips.len()) * LINE));
    write_key(&mut text, "public_key", &peer.public_key);
    write_key(&mut text, "preshared_key", &preshared_key);
    write(&mut text, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint() {
        write(&mut text, "endpoint", endpoint.address);
    }
    let handshake = peer.last_handshake();
    write(&mut text, "last_handshake_time_sec", handshake.as_secs());
    let nanoseconds = handshake.subsec_nanos();
    write(&mut text, "last_handshake_time_nsec", nanoseconds);
    write(&mut text, "tx_bytes", peer.sent.load(Ordering::Relaxed));
    let received = peer.received.load(Ordering::Relaxed);
    write(&mut text, "rx_bytes", received);
    let interval = peer.timers.interval();
    write(&mut text, "persistent_keepalive_interval", interval);
    for prefix in allowed_ips {
        write(&mut text, "allowed_ip", prefix);
    }
    text
}

fn write(text: &mut String, key: &str, value: impl Display) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{key}={value}");
}

fn write_key(text: &mut String, name: &str, key: &Key) {
    let _ = write!(text, "{name}=");
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::endpoint::Endpoint;

    #[test]
    fn a_peer_is_told_with_all_that_it_has_and_its_text_never_moves() {
        let peer = Peer::new([0xab; 32]);
        peer.roam(Endpoint::new(SocketAddr::from(([192, 0, 2, 1], 9))));
        peer.count_received(3);
        peer.timers.set_interval(std::time::Duration::ZERO, 25);
        for number in 0..100_u8 {
            let address = std::net::Ipv6Addr::new(
                0x2001,
                0xdb8,
                0xffff,
                0xffff,
                0xffff,
                0xffff,
                0xffff,
                number.into(),
            );
            let prefix = ipnet::IpNet::new(address.into(), 128).unwrap();
            peer.allowed_ips.hold().insert(prefix);
        }
        let text = write_peer(&peer);
        assert!(text.len() <= (10 + 100) * LINE);
        let key = "ab".repeat(32);
        let zeroes = "00".repeat(32);
        let expected = format!(
            "public_key={key}\npreshared_key={zeroes}\nprotocol_version=1\nendpoint=192.0.2.1:9\nlast_handshake_time_sec=0\n\
             last_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=3\npersistent_keepalive_interval=25\n\
             allowed_ip=2001:db8:ffff:ffff:ffff:ffff:ffff:0/128\n"
        );
        assert!(text.starts_with(&expected), "{}", *text);
        assert!(text.ends_with("allowed_ip=2001:db8:ffff:ffff:ffff:ffff:ffff:63/128\n"));

        let interface = write_interface(Some(&[0; 32]), 51820, 7);
        assert_eq!(
            *interface,
            format!("private_key={zeroes}\nlisten_port=51820\nfwmark=7\n")
        );
        assert_eq!(*write_interface(None, 0, 0), "");
    }
}
