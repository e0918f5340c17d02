//! The kernel's WireGuard by generic netlink.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use adit_model::desired::wireguard::Peer;
use adit_model::key::{PresharedKey, PrivateKey, PublicKey};
use futures_util::{Stream, StreamExt};
use ipnet::IpNet;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::SocketAddr;
use netlink_proto::sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use tokio::time::timeout;

use super::{
    GREETINGS_AT_ONCE, Greeting, KEEPALIVE, Observed, ObservedPeer, PATIENCE, PeerChange,
    WireGuardError, in_order,
};

/// A message stays below this; the kernel takes more, but an attribute's length is 16 bits.
const MESSAGE_BYTES: usize = 16 * 1024;

/// AllowedIPs of one peer in one message; more of them follow in further messages of the same peer.
const PREFIXES_AT_ONCE: usize = 256;

/// A dump that the kernel interrupted is done again this often.
const DUMP_TRIES: usize = 5;

/// `NLM_F_DUMP_INTR`: the interface changed while it was dumped.
const DUMP_INTERRUPTED: u16 = 0x10;

/// An interface of the kernel's own WireGuard.
#[derive(Debug)]
pub struct Kernel {
    interface: String,
    family: u16,
    handle: ConnectionHandle<GenlMessage<WireguardMessage>>,
}

impl Kernel {
    /// Connects; none when this kernel has no WireGuard (loaded).
    pub(super) async fn open(interface: &str) -> Result<Option<Self>, WireGuardError> {
        let failed = |source| WireGuardError::Io {
            operation: "reach",
            interface: interface.to_owned(),
            source,
        };
        let (connection, handle, _) =
            netlink_proto::new_connection(NETLINK_GENERIC).map_err(failed)?;
        tokio::spawn(connection);
        let Some(family) = family(interface).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            interface: interface.to_owned(),
            family,
            handle,
        }))
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the interface of this name is one of WireGuard.
    pub(super) async fn is_wireguard(&self) -> Result<bool, WireGuardError> {
        match self.observe().await {
            Ok(_) => Ok(true),
            Err(WireGuardError::Refused {
                errno: Errno::EOPNOTSUPP | Errno::ENODEV,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn observe(&self) -> Result<Observed, WireGuardError> {
        let request = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfName(self.interface.clone())],
        };
        let mut interrupted = 0;
        loop {
            let answers = self.request("observe", NLM_F_DUMP, request.clone()).await?;
            if !answers.interrupted {
                return Ok(observed(answers.messages));
            }
            interrupted += 1;
            if interrupted == DUMP_TRIES {
                return Err(self.refused("observe", Errno::EINTR));
            }
        }
    }

    pub(super) async fn set_interface(
        &self,
        private_key: Option<&PrivateKey>,
        listen_port: Option<u16>,
    ) -> Result<(), WireGuardError> {
        let mut attributes = vec![WireguardAttribute::IfName(self.interface.clone())];
        if let Some(key) = private_key {
            attributes.push(WireguardAttribute::PrivateKey(*key.as_bytes()));
        }
        if let Some(port) = listen_port {
            attributes.push(WireguardAttribute::ListenPort(port));
        }
        let message = WireguardMessage {
            cmd: WireguardCmd::SetDevice,
            attributes,
        };
        self.request("set key and port of", NLM_F_ACK, message)
            .await
            .map(drop)
    }

    pub(super) async fn apply(&self, changes: &[PeerChange]) -> Result<(), WireGuardError> {
        for message in messages(&self.interface, changes) {
            self.request("change peers of", NLM_F_ACK, message).await?;
        }
        Ok(())
    }

    /// A keepalive that is switched on is due at once, and nothing more is wanted of it.
    pub(super) async fn greet(&self, greetings: &[Greeting]) -> Result<(), WireGuardError> {
        let about = |greeting: &Greeting, attributes: &[WireguardPeerAttribute]| {
            let mut all = vec![
                WireguardPeerAttribute::PublicKey(*greeting.peer.as_bytes()),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
            ];
            all.extend_from_slice(attributes);
            WireguardPeer(all)
        };
        for batch in greetings.chunks(GREETINGS_AT_ONCE) {
            let located = batch.iter().map(|greeting| {
                let interval = if greeting.is_active { KEEPALIVE } else { 0 };
                let attributes = [
                    WireguardPeerAttribute::Endpoint(greeting.endpoint),
                    WireguardPeerAttribute::PersistentKeepalive(interval),
                ];
                about(greeting, &attributes)
            });
            let silenced = batch
                .iter()
                .map(|greeting| about(greeting, &[WireguardPeerAttribute::PersistentKeepalive(0)]));
            for peers in [located.collect(), silenced.collect()] {
                let message = set_peers(&self.interface, peers);
                self.request("greet peers of", NLM_F_ACK, message).await?;
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        operation: &'static str,
        flags: u16,
        message: WireguardMessage,
    ) -> Result<Answers<WireguardMessage>, WireGuardError> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        exchange(&self.handle, &self.interface, operation, flags, message).await
    }

    fn refused(&self, operation: &'static str, errno: Errno) -> WireGuardError {
        WireGuardError::Refused {
            operation,
            interface: self.interface.clone(),
            errno,
        }
    }
}

struct Answers<T> {
    messages: Vec<T>,
    interrupted: bool,
}

/// The number under which this kernel knows the `wireguard` family.
async fn family(interface: &str) -> Result<Option<u16>, WireGuardError> {
    let (connection, handle, _) =
        netlink_proto::new_connection(NETLINK_GENERIC).map_err(|source| WireGuardError::Io {
            operation: "reach",
            interface: interface.to_owned(),
            source,
        })?;
    tokio::spawn(connection);
    let message = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    });
    let operation = "look up the family of";
    match exchange(&handle, interface, operation, NLM_F_ACK, message).await {
        Ok(answers) => Ok(answers
            .messages
            .into_iter()
            .flat_map(|message| message.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(number) => Some(number),
                _ => None,
            })),
        Err(WireGuardError::Refused {
            errno: Errno::ENOENT,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn exchange<T>(
    handle: &ConnectionHandle<GenlMessage<T>>,
    interface: &str,
    operation: &'static str,
    flags: u16,
    message: GenlMessage<T>,
) -> Result<Answers<T>, WireGuardError>
where
    T: std::fmt::Debug + netlink_packet_generic::GenlFamily + Emitable,
{
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let stream = handle
        .request(request, SocketAddr::new(0, 0))
        .map_err(|error| WireGuardError::Io {
            operation,
            interface: interface.to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
    timeout(PATIENCE, collect(stream))
        .await
        .map_err(|_| WireGuardError::Timeout {
            operation,
            interface: interface.to_owned(),
        })?
        .map_err(|errno| WireGuardError::Refused {
            operation,
            interface: interface.to_owned(),
            errno,
        })
}

async fn collect<T>(
    stream: impl Stream<Item = NetlinkMessage<GenlMessage<T>>>,
) -> Result<Answers<T>, Errno>
where
    T: std::fmt::Debug,
{
    let mut stream = std::pin::pin!(stream);
    let mut answers = Answers {
        messages: Vec::new(),
        interrupted: false,
    };
    while let Some(message) = stream.next().await {
        answers.interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answers.messages.push(inner.into_parts().1),
            NetlinkPayload::Error(error) => {
                if let Some(code) = error.code {
                    return Err(Errno::from_raw(code.get().saturating_abs()));
                }
            }
            NetlinkPayload::Overrun(_) => answers.interrupted = true,
            _ => {}
        }
    }
    Ok(answers)
}

/// Puts the parts of a dump together: a peer whose AllowedIPs did not fit goes on in the next message.
pub(crate) fn observed(messages: Vec<WireguardMessage>) -> Observed {
    let mut observed = Observed::default();
    for attribute in messages.into_iter().flat_map(|message| message.attributes) {
        match attribute {
            WireguardAttribute::PublicKey(key) if key != [0; 32] => {
                observed.public_key = Some(PublicKey::from_bytes(key));
            }
            WireguardAttribute::ListenPort(port) => observed.listen_port = port,
            WireguardAttribute::Peers(peers) => {
                for peer in peers {
                    merge(&mut observed.peers, peer);
                }
            }
            _ => {}
        }
    }
    observed
}

fn merge(peers: &mut BTreeMap<PublicKey, ObservedPeer>, attributes: WireguardPeer) {
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
        _ => None,
    });
    let Some(key) = key else {
        return;
    };
    let peer = peers.entry(key).or_insert_with(ObservedPeer::new);
    for attribute in attributes.0 {
        match attribute {
            WireguardPeerAttribute::PresharedKey(key) => {
                peer.peer.preshared_key = PresharedKey::from_bytes(key);
            }
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(endpoint),
            WireguardPeerAttribute::LastHandshake(time) => {
                let seconds = u64::try_from(time.seconds).unwrap_or(0);
                let nanoseconds = u64::try_from(time.nano_seconds).unwrap_or(0);
                let since = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
                if !since.is_zero() {
                    peer.last_handshake = SystemTime::UNIX_EPOCH.checked_add(since);
                }
            }
            WireguardPeerAttribute::RxBytes(bytes) => peer.received = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent = bytes,
            WireguardPeerAttribute::AllowedIps(prefixes) => {
                let prefixes = prefixes.iter().filter_map(|prefix| read_prefix(prefix));
                peer.peer.allowed_ips.extend(prefixes);
            }
            _ => {}
        }
    }
}

fn read_prefix(attributes: &[WireguardAllowedIpAttr]) -> Option<IpNet> {
    let mut address = None;
    let mut length = None;
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(value) => address = Some(*value),
            WireguardAllowedIpAttr::Cidr(value) => length = Some(*value),
            _ => {}
        }
    }
    Some(IpNet::new(address?, length?).ok()?.trunc())
}

fn messages(interface: &str, changes: &[PeerChange]) -> Vec<WireguardMessage> {
    let mut messages = Vec::new();
    let mut peers = Vec::new();
    let mut size = 0;
    for peer in in_order(changes).flat_map(peers_of) {
        let bytes = std::slice::from_ref(&peer).buffer_len();
        if !peers.is_empty() && size + bytes > MESSAGE_BYTES {
            messages.push(set_peers(interface, std::mem::take(&mut peers)));
            size = 0;
        }
        size += bytes;
        peers.push(peer);
    }
    messages.push(set_peers(interface, peers));
    messages
}

fn set_peers(interface: &str, peers: Vec<WireguardPeer>) -> WireguardMessage {
    WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: vec![
            WireguardAttribute::IfName(interface.to_owned()),
            WireguardAttribute::Peers(peers),
        ],
    }
}

/// One change as peer attributes: several where the AllowedIPs are many, of which only the first replaces.
fn peers_of(change: &PeerChange) -> Vec<WireguardPeer> {
    match change {
        PeerChange::Remove(key) => vec![WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key.as_bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])],
        PeerChange::Extend(key, peer) => peer_parts(key, peer, &[]),
        PeerChange::Set(key, peer) => {
            let replaces = WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps);
            peer_parts(key, peer, &[replaces])
        }
    }
}

fn peer_parts(
    key: &PublicKey,
    peer: &Peer,
    flags: &[WireguardPeerAttribute],
) -> Vec<WireguardPeer> {
    let prefixes: Vec<_> = peer.allowed_ips.iter().map(write_prefix).collect();
    let mut chunks = prefixes.chunks(PREFIXES_AT_ONCE);
    let first = chunks.next().unwrap_or_default();
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(*key.as_bytes()),
        WireguardPeerAttribute::PresharedKey(*peer.preshared_key.as_bytes()),
    ];
    attributes.extend_from_slice(flags);
    attributes.push(WireguardPeerAttribute::AllowedIps(first.to_vec()));
    let mut parts = vec![WireguardPeer(attributes)];
    parts.extend(chunks.map(|chunk| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key.as_bytes()),
            WireguardPeerAttribute::AllowedIps(chunk.to_vec()),
        ])
    }));
    parts
}

fn write_prefix(prefix: &IpNet) -> WireguardAllowedIp {
    let family = match prefix {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(prefix.addr()),
        WireguardAllowedIpAttr::Cidr(prefix.prefix_len()),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv6Addr;

    use netlink_packet_core::ParseableParametrized;
    use netlink_packet_generic::{GenlFamily, GenlHeader};

    use super::*;

    fn decoded(messages: &[WireguardMessage]) -> Vec<WireguardMessage> {
        messages
            .iter()
            .map(|message| {
                let mut bytes = vec![0; message.buffer_len()];
                message.emit(&mut bytes);
                assert!(bytes.len() < 2 * MESSAGE_BYTES);
                let header = GenlHeader {
                    cmd: message.command(),
                    version: message.version(),
                };
                WireguardMessage::parse_with_param(&bytes, header).unwrap()
            })
            .collect()
    }

    #[test]
    fn peers_of_any_size_survive_encoding_and_a_dump_in_several_messages() {
        let large: BTreeSet<IpNet> = (0..3000u16)
            .map(|number| {
                let address = Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0);
                IpNet::new(address.into(), 48).unwrap()
            })
            .collect();
        let mut changes = Vec::new();
        let mut expected = BTreeMap::new();
        for number in 0..200u8 {
            let key = PublicKey::from_bytes([number + 1; 32]);
            let allowed_ips = if number == 100 {
                large.clone()
            } else {
                [format!("10.0.0.{number}/32").parse().unwrap()].into()
            };
            let peer = Peer {
                preshared_key: PresharedKey::from_bytes([number; 32]),
                allowed_ips,
            };
            changes.push(PeerChange::Set(key, peer.clone()));
            expected.insert(key, peer);
        }
        let messages = messages("test0", &changes);
        assert!(messages.len() > 5);
        let observed = observed(decoded(&messages));
        let got: BTreeMap<_, _> = observed
            .peers
            .into_iter()
            .map(|(key, peer)| (key, peer.peer))
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn only_the_first_part_of_a_peer_replaces_and_removals_come_first() {
        let prefixes = (0..=255u8).map(|number| format!("10.0.{number}.0/24").parse().unwrap());
        let more = ["10.1.0.0/24".parse().unwrap()];
        let peer = Peer {
            preshared_key: PresharedKey::from_bytes([1; 32]),
            allowed_ips: prefixes.chain(more).collect(),
        };
        let changes = [
            PeerChange::Set(PublicKey::from_bytes([1; 32]), peer.clone()),
            PeerChange::Extend(PublicKey::from_bytes([3; 32]), peer),
            PeerChange::Remove(PublicKey::from_bytes([2; 32])),
        ];
        let flags: Vec<_> = messages("test0", &changes)
            .into_iter()
            .flat_map(|message| message.attributes)
            .filter_map(|attribute| match attribute {
                WireguardAttribute::Peers(peers) => Some(peers),
                _ => None,
            })
            .flatten()
            .map(|peer| {
                peer.0.iter().find_map(|attribute| match attribute {
                    WireguardPeerAttribute::Flags(flags) => Some(*flags),
                    _ => None,
                })
            })
            .collect();
        assert_eq!(
            flags,
            [
                Some(WireguardPeerFlags::RemoveMe),
                Some(WireguardPeerFlags::ReplaceAllowedIps),
                None,
                None,
                None,
            ]
        );
    }
}
