//! What is asked: lines of `key=value`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::device::{AllowedIp, PeerChange};
use crate::handshake::Key;

/// What a line of a `set` request leads to.
pub(crate) enum Setting {
    PrivateKey(Zeroizing<Key>),
    ListenPort(u16),
    Mark(u32),
    RemovePeers,
    Peer(PeerChange),
}

/// Takes a `set` request line by line. Everything about one peer comes out at once, when the next peer begins or the request ends.
#[derive(Default)]
pub(crate) struct Request {
    peer: Option<PeerChange>,
}

impl Request {
    pub(crate) fn read(&mut self, line: &str) -> Result<Option<Setting>, Errno> {
        let (key, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
        if key == "public_key" {
            let next = PeerChange::new(*read_key(value)?);
            return Ok(self.peer.replace(next).map(Setting::Peer));
        }
        match &mut self.peer {
            Some(peer) => read_of_peer(peer, key, value).map(|()| None),
            None => read_of_interface(key, value).map(Some),
        }
    }

    pub(crate) fn finish(self) -> Option<Setting> {
        self.peer.map(Setting::Peer)
    }
}

fn read_of_interface(key: &str, value: &str) -> Result<Setting, Errno> {
    match key {
        "private_key" => read_key(value).map(Setting::PrivateKey),
        "listen_port" => number(value).map(Setting::ListenPort),
        "fwmark" => number(value).map(Setting::Mark),
        "replace_peers" => yes(value).map(|()| Setting::RemovePeers),
        _ => Err(Errno::EINVAL),
    }
}

fn read_of_peer(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => {
            yes(value)?;
            peer.remove = true;
        }
        "update_only" => {
            yes(value)?;
            peer.update_only = true;
        }
        "preshared_key" => peer.preshared_key = Some(read_key(value)?),
        "endpoint" => peer.endpoint = Some(read_endpoint(value).ok_or(Errno::EINVAL)?),
        "persistent_keepalive_interval" => peer.keepalive_interval = Some(number(value)?),
        "replace_allowed_ips" => {
            yes(value)?;
            peer.replace_allowed_ips = true;
            peer.allowed_ips.clear();
        }
        "allowed_ip" => {
            let allowed_ip = match value.strip_prefix('-') {
                Some(value) => AllowedIp::Remove(prefix(value)?),
                None => AllowedIp::Add(prefix(value)?),
            };
            peer.allowed_ips.push(allowed_ip);
        }
        "protocol_version" => {
            if value != "1" {
                return Err(Errno::EINVAL);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn yes(value: &str) -> Result<(), Errno> {
    if value == "true" {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    value.parse().map_err(|_| Errno::EINVAL)
}

fn prefix(value: &str) -> Result<IpNet, Errno> {
    number(value)
}

fn read_key(value: &str) -> Result<Zeroizing<Key>, Errno> {
    let digits: &[u8; 64] = value.as_bytes().try_into().map_err(|_| Errno::EINVAL)?;
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        let (high, low) = high.zip(low).ok_or(Errno::EINVAL)?;
        *byte = u8::try_from(high << 4 | low).map_err(|_| Errno::EINVAL)?;
    }
    Ok(key)
}

/// `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820`.
fn read_endpoint(value: &str) -> Option<SocketAddr> {
    if let Ok(address) = value.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
            .map(|canonical| with_scope(canonical, &address));
    }
    let (address, port) = value.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, scope) = address.split_once('%')?;
    let scope = match scope.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(scope).ok()?,
    };
    let address = address.parse().ok()?;
    Some(SocketAddrV6::new(address, port.parse().ok()?, 0, scope).into())
}

fn with_scope(canonical: SocketAddr, parsed: &SocketAddr) -> SocketAddr {
    match (canonical.ip(), parsed) {
        (IpAddr::V6(address), SocketAddr::V6(parsed)) => {
            SocketAddrV6::new(address, parsed.port(), 0, parsed.scope_id()).into()
        }
        (IpAddr::V4(_) | IpAddr::V6(_), SocketAddr::V4(_) | SocketAddr::V6(_)) => canonical,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "00ff10000000000000000000000000000000000000000000000000000000000a";

    fn read(lines: &[&str]) -> Result<Vec<Setting>, Errno> {
        let mut request = Request::default();
        let mut settings = Vec::new();
        for line in lines {
            settings.extend(request.read(line)?);
        }
        settings.extend(request.finish());
        Ok(settings)
    }

    #[test]
    fn a_whole_request_comes_out_peer_by_peer() {
        let private_key = format!("private_key={KEY}");
        let public_key = format!("public_key={KEY}");
        let preshared_key = format!("preshared_key={KEY}");
        let settings = read(&[
            &private_key,
            "listen_port=51820",
            "fwmark=4660",
            "replace_peers=true",
            &public_key,
            &preshared_key,
            "endpoint=[2001:db8::1]:9",
            "persistent_keepalive_interval=25",
            "allowed_ip=10.9.0.0/16",
            "replace_allowed_ips=true",
            "allowed_ip=10.0.0.0/24",
            "allowed_ip=-10.0.1.0/24",
            "allowed_ip=2001:db8::/32",
            "protocol_version=1",
            &public_key,
            "update_only=true",
            "endpoint=[::ffff:192.0.2.1]:9",
            "remove=true",
        ])
        .unwrap();
        let [
            Setting::PrivateKey(private_key),
            Setting::ListenPort(51820),
            Setting::Mark(4660),
            Setting::RemovePeers,
            Setting::Peer(first),
            Setting::Peer(second),
        ] = &settings[..]
        else {
            panic!("other settings");
        };
        assert_eq!(private_key[..3], [0, 255, 16]);
        assert_eq!(private_key[31], 10);
        assert_eq!(first.preshared_key.as_ref(), Some(private_key));
        assert_eq!(first.endpoint, Some("[2001:db8::1]:9".parse().unwrap()));
        assert_eq!(first.keepalive_interval, Some(25));
        assert!(first.replace_allowed_ips && !first.remove && !first.update_only);
        let expected = [
            AllowedIp::Add("10.0.0.0/24".parse().unwrap()),
            AllowedIp::Remove("10.0.1.0/24".parse().unwrap()),
            AllowedIp::Add("2001:db8::/32".parse().unwrap()),
        ];
        assert_eq!(first.allowed_ips, expected);
        assert!(second.remove && second.update_only && !second.replace_allowed_ips);
        assert_eq!(second.endpoint, Some("192.0.2.1:9".parse().unwrap()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let public_key = format!("public_key={KEY}");
        let longer = format!("private_key={KEY}0");
        let other_digits = format!("private_key={}", KEY.replace('f', "+"));
        for line in [
            "listen_port=65536",
            "listen_port=-1",
            "fwmark=0x10",
            "replace_peers=false",
            "private_key=",
            &longer,
            &other_digits,
            "public_key=é",
            "endpoint=192.0.2.1:9",
            "unknown=1",
        ] {
            assert_eq!(read(&[line]).err(), Some(Errno::EINVAL), "{line}");
        }
        for line in [
            "listen_port=1",
            "endpoint=192.0.2.1",
            "endpoint=[fe80::1%nowhere0]:9",
            "endpoint=gateway.example:9",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=10.0.0.0",
            "protocol_version=2",
            "persistent_keepalive_interval=off",
            "remove=1",
        ] {
            assert_eq!(
                read(&[&public_key, line]).err(),
                Some(Errno::EINVAL),
                "{line}"
            );
        }
        assert_eq!(read(&["listen_port"]).err(), Some(Errno::EPROTO));
    }

    #[test]
    fn a_link_local_endpoint_has_its_interface() {
        let endpoint = read_endpoint("[fe80::1%lo]:9").unwrap();
        let SocketAddr::V6(endpoint) = endpoint else {
            panic!("an IPv6 address");
        };
        assert_eq!(endpoint.scope_id(), 1);
        assert_eq!(read_endpoint("[fe80::1%1]:9"), Some(endpoint.into()));
        assert_eq!(read_endpoint(&endpoint.to_string()), Some(endpoint.into()));
    }

    proptest! {
        #[test]
        fn any_lines_are_survived(lines in proptest::collection::vec("[a-z_]{0,30}=?.{0,80}", 0..20)) {
            let mut request = Request::default();
            for line in &lines {
                let _ = request.read(line);
            }
        }
    }
}
