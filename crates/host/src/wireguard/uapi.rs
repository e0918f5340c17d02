//! The UAPI socket of a userspace WireGuard: the cross-platform text protocol that `wg` speaks too.

#![warn(clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use adit_model::key::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::{
    GREETINGS_AT_ONCE, Greeting, KEEPALIVE, Observed, ObservedPeer, PATIENCE, PeerChange,
    SHORT_PATIENCE, WireGuardError, in_order,
};

/// Where every userspace implementation puts its socket.
const FOLDER: &str = "/var/run/wireguard";

/// A request above this size is sent in parts, so that no peer waits behind ten thousand others.
const REQUEST_BYTES: usize = 64 * 1024;

/// An interface that a process of its own carries.
#[derive(Debug)]
pub struct Userspace {
    interface: String,
    implementation: &'static str,
    /// It did not answer when it was last asked.
    is_silent: AtomicBool,
}

impl Userspace {
    pub(super) fn new(interface: &str, implementation: &'static str) -> Self {
        Self {
            interface: interface.to_owned(),
            implementation,
            is_silent: AtomicBool::new(false),
        }
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn implementation(&self) -> &'static str {
        self.implementation
    }

    pub(super) async fn observe(&self) -> Result<Observed, WireGuardError> {
        let mut reader = Reader::new(&self.interface);
        self.converse("observe", "get=1\n\n", |line| reader.read(line))
            .await?;
        Ok(reader.finish())
    }

    /// Sets nothing.
    pub(super) async fn probe(&self) -> Result<(), WireGuardError> {
        self.set("reach", String::from("set=1\n")).await
    }

    pub(super) async fn set_interface(
        &self,
        private_key: Option<&PrivateKey>,
        listen_port: Option<u16>,
    ) -> Result<(), WireGuardError> {
        let mut request = String::from("set=1\n");
        if let Some(key) = private_key {
            line(&mut request, "private_key", hexadecimal(key.as_bytes()));
        }
        if let Some(port) = listen_port {
            line(&mut request, "listen_port", port);
        }
        self.set("set key and port of", request).await
    }

    pub(super) async fn apply(&self, changes: &[PeerChange]) -> Result<(), WireGuardError> {
        for request in requests(changes) {
            self.set("change peers of", request).await?;
        }
        Ok(())
    }

    /// A keepalive that is switched on is due at once, and nothing more is wanted of it.
    pub(super) async fn greet(&self, greetings: &[Greeting]) -> Result<(), WireGuardError> {
        for batch in greetings.chunks(GREETINGS_AT_ONCE) {
            let mut located = String::from("set=1\n");
            let mut silenced = String::from("set=1\n");
            for greeting in batch {
                let key = hexadecimal(greeting.peer.as_bytes());
                line(&mut located, "public_key", &key);
                line(&mut located, "update_only", true);
                line(&mut located, "endpoint", greeting.endpoint);
                if greeting.is_active {
                    line(&mut located, "persistent_keepalive_interval", KEEPALIVE);
                    line(&mut silenced, "public_key", &key);
                    line(&mut silenced, "update_only", true);
                    line(&mut silenced, "persistent_keepalive_interval", 0);
                }
            }
            self.set("greet peers of", located).await?;
            self.set("greet peers of", silenced).await?;
        }
        Ok(())
    }

    async fn set(
        &self,
        operation: &'static str,
        mut request: String,
    ) -> Result<(), WireGuardError> {
        request.push('\n');
        self.converse(operation, &request, |_| Ok(())).await
    }

    /// One connection, one request; every line of the answer but its `errno` goes to `read`.
    async fn converse(
        &self,
        operation: &'static str,
        request: &str,
        read: impl FnMut(&str) -> Result<(), WireGuardError>,
    ) -> Result<(), WireGuardError> {
        let patience = match self.is_silent.load(Ordering::Relaxed) {
            true => SHORT_PATIENCE,
            false => PATIENCE,
        };
        let outcome = timeout(patience, self.exchange(operation, request, read)).await;
        self.is_silent.store(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Ok(result) => result,
            Err(_) => Err(WireGuardError::Timeout {
                operation,
                interface: self.interface.clone(),
            }),
        }
    }

    async fn exchange(
        &self,
        operation: &'static str,
        request: &str,
        mut read: impl FnMut(&str) -> Result<(), WireGuardError>,
    ) -> Result<(), WireGuardError> {
        let failed = |source| WireGuardError::Io {
            operation,
            interface: self.interface.clone(),
            source,
        };
        let mut stream = UnixStream::connect(path(&self.interface))
            .await
            .map_err(failed)?;
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut lines = BufReader::with_capacity(64 * 1024, stream);
        let mut text = String::new();
        loop {
            text.clear();
            if lines.read_line(&mut text).await.map_err(failed)? == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            let line = text.trim_end_matches('\n');
            let Some(number) = line.strip_prefix("errno=") else {
                if !line.is_empty() {
                    read(line)?;
                }
                continue;
            };
            return match number.parse::<i32>() {
                Ok(0) => Ok(()),
                Ok(errno) => Err(WireGuardError::Refused {
                    operation,
                    interface: self.interface.clone(),
                    errno: Errno::from_raw(errno.saturating_abs()),
                }),
                Err(_) => Err(WireGuardError::Malformed {
                    operation,
                    interface: self.interface.clone(),
                    answer: line.to_owned(),
                }),
            };
        }
    }
}

/// Whether a process listens on the socket of this name; the socket of a dead one is removed.
pub(super) async fn is_live(interface: &str) -> Result<bool, WireGuardError> {
    let failed = |source| WireGuardError::Io {
        operation: "look for",
        interface: interface.to_owned(),
        source,
    };
    let path = path(interface);
    match UnixStream::connect(&path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            match std::fs::remove_file(&path) {
                Ok(()) => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(failed(error)),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Waits until the process of a deleted interface has closed its socket.
pub(super) async fn wait_until_gone(interface: &str) -> Result<(), WireGuardError> {
    let deadline = Instant::now() + PATIENCE;
    while is_live(interface).await? {
        if Instant::now() > deadline {
            return Err(WireGuardError::Timeout {
                operation: "end the process of",
                interface: interface.to_owned(),
            });
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn path(interface: &str) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/{interface}.sock"))
}

fn requests(changes: &[PeerChange]) -> Vec<String> {
    let mut requests = Vec::new();
    let mut request = String::from("set=1\n");
    for change in in_order(changes) {
        if request.len() > REQUEST_BYTES {
            requests.push(std::mem::replace(&mut request, String::from("set=1\n")));
        }
        match change {
            PeerChange::Remove(key) => {
                line(&mut request, "public_key", hexadecimal(key.as_bytes()));
                line(&mut request, "remove", true);
            }
            PeerChange::Extend(key, peer) | PeerChange::Set(key, peer) => {
                let preshared_key = hexadecimal(peer.preshared_key.as_bytes());
                line(&mut request, "public_key", hexadecimal(key.as_bytes()));
                line(&mut request, "preshared_key", preshared_key);
                if matches!(change, PeerChange::Set(..)) {
                    line(&mut request, "replace_allowed_ips", true);
                }
                for prefix in &peer.allowed_ips {
                    line(&mut request, "allowed_ip", prefix);
                }
            }
        }
    }
    requests.push(request);
    requests
}

fn line(request: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = writeln!(request, "{name}={value}");
}

/// Takes the answer of `get=1` line by line.
pub(crate) struct Reader<'a> {
    interface: &'a str,
    observed: Observed,
    peer: Option<(PublicKey, ObservedPeer)>,
    handshake: Duration,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(interface: &'a str) -> Self {
        Self {
            interface,
            observed: Observed::default(),
            peer: None,
            handshake: Duration::ZERO,
        }
    }

    pub(crate) fn read(&mut self, line: &str) -> Result<(), WireGuardError> {
        self.take(line).ok_or_else(|| WireGuardError::Malformed {
            operation: "observe",
            interface: self.interface.to_owned(),
            // Only the name: the value may be a secret.
            answer: line.split('=').next().unwrap_or_default().to_owned(),
        })
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.split_once('=')?;
        if name == "public_key" {
            self.close_peer();
            let key = PublicKey::from_bytes(bytes(value)?);
            self.peer = Some((key, ObservedPeer::new()));
            return Some(());
        }
        let Some((_, peer)) = &mut self.peer else {
            match name {
                "private_key" => {
                    let key = PrivateKey::from_bytes(bytes(value)?);
                    self.observed.public_key = Some(key.public_key());
                }
                "listen_port" => self.observed.listen_port = value.parse().ok()?,
                _ => {}
            }
            return Some(());
        };
        match name {
            "preshared_key" => peer.peer.preshared_key = PresharedKey::from_bytes(bytes(value)?),
            "allowed_ip" => {
                let prefix: IpNet = value.parse().ok()?;
                peer.peer.allowed_ips.insert(prefix.trunc());
            }
            // An IPv6 link-local endpoint may come with a zone that SocketAddr cannot hold.
            "endpoint" => peer.endpoint = value.parse().ok(),
            "last_handshake_time_sec" => self.add(Duration::from_secs(value.parse().ok()?))?,
            "last_handshake_time_nsec" => self.add(Duration::from_nanos(value.parse().ok()?))?,
            "rx_bytes" => peer.received = value.parse().ok()?,
            "tx_bytes" => peer.sent = value.parse().ok()?,
            _ => {}
        }
        Some(())
    }

    fn add(&mut self, time: Duration) -> Option<()> {
        self.handshake = self.handshake.checked_add(time)?;
        Some(())
    }

    fn close_peer(&mut self) {
        let handshake = std::mem::take(&mut self.handshake);
        if let Some((key, mut peer)) = self.peer.take() {
            if !handshake.is_zero() {
                peer.last_handshake = SystemTime::UNIX_EPOCH.checked_add(handshake);
            }
            self.observed.peers.insert(key, peer);
        }
    }

    pub(crate) fn finish(mut self) -> Observed {
        self.close_peer();
        self.observed
    }
}

fn hexadecimal(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(64);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_two_peers_is_read_whole() {
        let private_key = [7; 32];
        let answer = format!(
            "private_key={}\nlisten_port=51820\nfwmark=9\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=192.0.2.1:4711\n\
             last_handshake_time_sec=12\nlast_handshake_time_nsec=500000000\ntx_bytes=3\nrx_bytes=4\n\
             persistent_keepalive_interval=0\nallowed_ip=10.0.0.2/32\nallowed_ip=2001:db8::2/128\n\
             public_key={}\npreshared_key={}\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n",
            hexadecimal(&private_key),
            hexadecimal(&[1; 32]),
            hexadecimal(&[2; 32]),
            hexadecimal(&[3; 32]),
            hexadecimal(&[0; 32]),
        );
        let mut reader = Reader::new("test");
        for line in answer.lines() {
            reader.read(line).unwrap();
        }
        let observed = reader.finish();
        let expected = PrivateKey::from_bytes(private_key).public_key();
        assert_eq!(observed.public_key, Some(expected));
        assert_eq!(observed.listen_port, 51820);
        let first = &observed.peers[&PublicKey::from_bytes([1; 32])];
        assert_eq!(first.peer.preshared_key, PresharedKey::from_bytes([2; 32]));
        assert_eq!(first.peer.allowed_ips.len(), 2);
        assert_eq!(first.endpoint, Some("192.0.2.1:4711".parse().unwrap()));
        assert_eq!((first.sent, first.received), (3, 4));
        let since = first.last_handshake.unwrap();
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::from_millis(12_500));
        let second = &observed.peers[&PublicKey::from_bytes([3; 32])];
        assert_eq!(second.last_handshake, None);
        assert!(second.peer.allowed_ips.is_empty());
    }

    #[test]
    fn a_bad_answer_is_refused_without_telling_its_value() {
        let mut reader = Reader::new("test");
        let error = reader.read("private_key=secret").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
