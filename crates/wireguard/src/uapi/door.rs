//! Requests and answers as texts, without a socket: for fuzz targets.

use super::answer::Secret;
use super::{Request, Setting, write_interface, write_peer};
use crate::clock::Now;
use crate::device::Device;

/// Does what a request asks for, as far as it can be understood, but for what sockets are needed for.
pub(crate) fn apply_text(device: &Device, text: &str) {
    let mut request = Request::default();
    for line in text.lines() {
        match request.read(line) {
            Ok(setting) => settle(device, setting),
            Err(_) => break,
        }
    }
    settle(device, request.finish());
}

/// All that is told of an interface and its peers that can be set, too; peers by their keys.
pub(crate) fn answer_text(device: &Device) -> Secret {
    let mut peers = device.peers();
    peers.sort_by_key(|peer| peer.public_key);
    let private_key = device.private_key();
    let mut text = write_interface(private_key.as_deref(), 0, 0);
    for peer in peers {
        for line in write_peer(&peer).lines() {
            let is_told = ["last_handshake_time", "tx_bytes", "rx_bytes"];
            if !is_told.iter().any(|key| line.starts_with(key)) {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

fn settle(device: &Device, setting: Option<Setting>) {
    match setting {
        Some(Setting::PrivateKey(key)) => device.set_private_key(&key),
        Some(Setting::RemovePeers) => device.remove_peers(),
        Some(Setting::Peer(change)) => device.change_peer(Now::read(), &change),
        Some(Setting::ListenPort(_) | Setting::Mark(_)) | None => {}
    }
}
