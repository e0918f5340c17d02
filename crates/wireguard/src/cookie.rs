//! MACs of handshake messages, cookies, and who may make us compute a handshake while many want to.

mod limiter;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::handshake::Key;
use crate::message::{self, CookieReply, MACS_LEN};
pub(crate) use limiter::Limiter;

/// After this time a secret is replaced, and a cookie of it worth nothing.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// A cookie is not used in the seconds in which its maker may replace the secret while the message travels.
const COOKIE_LIFETIME: Duration = Duration::from_secs(115);

type Mac = [u8; 16];

/// Keys that follow from the public key of whom a message is for.
#[derive(Clone)]
pub(crate) struct AddresseeKeys {
    first_mac: Key,
    cookie: Key,
}

impl AddresseeKeys {
    pub(crate) fn new(public_key: &Key) -> Self {
        Self {
            first_mac: hash(b"mac1----", public_key),
            cookie: hash(b"cookie--", public_key),
        }
    }
}

/// Checks the MACs of messages for us, and makes cookies.
pub(crate) struct Checker {
    keys: AddresseeKeys,
    secret: Zeroizing<Key>,
    secret_since: Option<Duration>,
}

impl Checker {
    pub(crate) fn new(public_key: &Key) -> Self {
        Self {
            keys: AddresseeKeys::new(public_key),
            secret: Zeroizing::new([0; 32]),
            secret_since: None,
        }
    }

    /// Whether its sender knows our public key.
    pub(crate) fn has_first_mac(&self, message: &[u8]) -> bool {
        let Some((covered, macs)) = message.split_last_chunk::<MACS_LEN>() else {
            return false;
        };
        let expected = mac(&self.keys.first_mac, &[covered]);
        expected.ct_eq(&macs[..16]).into()
    }

    /// Whether its sender has a cookie of ours, so receives what we send to where the message seems to come from.
    pub(crate) fn has_cookie(&mut self, now: Duration, message: &[u8], source: SocketAddr) -> bool {
        let Some((covered, second)) = message.split_last_chunk::<16>() else {
            return false;
        };
        let Some(cookie) = self.cookie(now, source) else {
            return false;
        };
        mac(&cookie, &[covered]).ct_eq(second).into()
    }

    /// The answer to a message that came without cookie.
    pub(crate) fn reply(
        &mut self,
        now: Duration,
        message: &[u8],
        sender: u32,
        source: SocketAddr,
    ) -> Option<CookieReply> {
        let (_, macs) = message.split_last_chunk::<MACS_LEN>()?;
        let cookie = self.cookie(now, source)?;
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = [0; 32];
        let (room, tag_room) = sealed.split_at_mut(16);
        room.copy_from_slice(&cookie);
        let tag = XChaCha20Poly1305::new(&self.keys.cookie.into())
            .encrypt_in_place_detached(&nonce.into(), &macs[..16], room)
            .ok()?;
        tag_room.copy_from_slice(&tag);
        Some(message::cookie_reply(sender, &nonce, &sealed))
    }

    fn cookie(&mut self, now: Duration, source: SocketAddr) -> Option<Mac> {
        let is_old = self
            .secret_since
            .is_none_or(|since| now.saturating_sub(since) >= SECRET_LIFETIME);
        if is_old {
            getrandom::fill(self.secret.as_mut_slice()).ok()?;
            self.secret_since = Some(now);
        }
        let port = source.port().to_be_bytes();
        Some(match source.ip() {
            IpAddr::V4(address) => mac(self.secret.as_slice(), &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(self.secret.as_slice(), &[&address.octets(), &port]),
        })
    }
}

/// Puts MACs on messages for one peer, and keeps its cookie.
pub(crate) struct Stamper {
    keys: AddresseeKeys,
    cookie: Option<(Zeroizing<Mac>, Duration)>,
    /// Of the last message: a cookie reply is bound to it.
    last_mac: Option<Mac>,
}

impl Stamper {
    pub(crate) fn new(public_key: &Key) -> Self {
        Self {
            keys: AddresseeKeys::new(public_key),
            cookie: None,
            last_mac: None,
        }
    }

    pub(crate) fn stamp(&mut self, now: Duration, message: &mut [u8]) {
        let Some((covered, macs)) = message.split_last_chunk_mut::<MACS_LEN>() else {
            return;
        };
        let first = mac(&self.keys.first_mac, &[covered]);
        self.last_mac = Some(first);
        let second = match &self.cookie {
            Some((cookie, since)) if now.saturating_sub(*since) < COOKIE_LIFETIME => {
                mac(cookie.as_slice(), &[covered, &first])
            }
            _ => [0; 16],
        };
        macs[..16].copy_from_slice(&first);
        macs[16..].copy_from_slice(&second);
    }

    /// Takes a cookie; false if it does not belong to the last message. One reply per message counts.
    pub(crate) fn take(&mut self, now: Duration, reply: &CookieReply) -> bool {
        let Some(last_mac) = self.last_mac else {
            return false;
        };
        let Some((nonce, sealed)) = reply[8..].split_first_chunk::<24>() else {
            return false;
        };
        let Some((cookie, tag)) = sealed.split_first_chunk::<16>() else {
            return false;
        };
        let mut cookie = Zeroizing::new(*cookie);
        let opened = XChaCha20Poly1305::new(&self.keys.cookie.into()).decrypt_in_place_detached(
            nonce.into(),
            &last_mac,
            cookie.as_mut_slice(),
            Tag::from_slice(tag),
        );
        if opened.is_err() {
            return false;
        }
        self.cookie = Some((cookie, now));
        self.last_mac = None;
        true
    }
}

fn hash(label: &[u8; 8], public_key: &Key) -> Key {
    let mut hash = Blake2s256::default();
    hash.update(label);
    hash.update(public_key);
    hash.finalize_fixed().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    // Keys are 16 or 32 bytes; up to 32 are allowed.
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else {
        return [0; 16];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    #[test]
    fn a_cookie_proves_an_address_for_a_while() {
        let key = [1; 32];
        let mut checker = Checker::new(&key);
        let mut stamper = Stamper::new(&key);
        let start = Duration::from_secs(1000);
        let mut message = message::initiation(5, &[7; 108]);
        assert!(!checker.has_first_mac(&message));
        stamper.stamp(start, &mut message);
        assert!(checker.has_first_mac(&message));
        assert!(!checker.has_cookie(start, &message, SOURCE));

        let reply = checker.reply(start, &message, 5, SOURCE).unwrap();
        let mut forged = reply;
        forged[40] ^= 1;
        assert!(!stamper.take(start, &forged));
        assert!(stamper.take(start, &reply));
        assert!(!stamper.take(start, &reply), "one reply per message");

        stamper.stamp(start, &mut message);
        assert!(checker.has_first_mac(&message));
        assert!(checker.has_cookie(start, &message, SOURCE));
        let other_port = SocketAddr::new(SOURCE.ip(), 10);
        assert!(!checker.has_cookie(start, &message, other_port));
        let later = start + SECRET_LIFETIME;
        assert!(!checker.has_cookie(later, &message, SOURCE));
        stamper.stamp(start + COOKIE_LIFETIME, &mut message);
        assert_eq!(message[132..], [0; 16]);
    }

    #[test]
    fn a_message_for_another_key_is_told_apart() {
        let checker = Checker::new(&[1; 32]);
        let mut message = message::initiation(5, &[7; 108]);
        Stamper::new(&[2; 32]).stamp(Duration::ZERO, &mut message);
        assert!(!checker.has_first_mac(&message));
        assert!(!checker.has_first_mac(&message[..20]));
    }
}
