//! Sealed packets: the keys of one session, its counters and its window.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

use crate::erased::Erased;
use crate::lock::Lock as _;
use crate::message::{self, HEADER_LEN, TAG_LEN};
use crate::replay::Window;

pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// `REJECT_AFTER_TIME` without the time that keepalive and handshake may take.
const LAST_REKEY_TIME: Duration = Duration::from_secs(165);
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A plain packet in a buffer, with room for the header before it and for padding and tag behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Where the room for the header begins.
    pub(crate) start: usize,
    /// The length of the packet.
    pub(crate) len: usize,
}

impl Slot {
    /// The bytes of the datagram that this becomes.
    pub(crate) const fn sealed_len(self, mtu: usize) -> usize {
        sealed_len(self.len, mtu)
    }
}

/// The length of the datagram for a packet. Padding hides the packet's exact length, but never makes it longer than the MTU: the
/// datagram of a full packet would be fragmented.
pub(crate) const fn sealed_len(len: usize, mtu: usize) -> usize {
    HEADER_LEN + padded(len, mtu) + TAG_LEN
}

const fn padded(len: usize, mtu: usize) -> usize {
    let padded = len.next_multiple_of(16);
    if padded <= mtu {
        padded
    } else if len <= mtu {
        mtu
    } else {
        len
    }
}

/// Both keys of a handshake's outcome.
pub(crate) struct Keys {
    pub(crate) send: Zeroizing<[u8; 32]>,
    pub(crate) receive: Zeroizing<[u8; 32]>,
}

/// A pair of keys with what limits their use.
pub(crate) struct Session {
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
    /// Whether we began the handshake: then we begin the next one, too.
    pub(crate) is_initiator: bool,
    pub(crate) created: Duration,
    send: Erased<LessSafeKey>,
    receive: Erased<LessSafeKey>,
    next_counter: AtomicU64,
    window: Mutex<Window>,
    /// Whether the other side has proven that it has the keys.
    is_confirmed: AtomicBool,
    was_renewed: AtomicBool,
}

impl Session {
    /// None when the keys are not keys, which `ring` alone could tell.
    pub(crate) fn new(
        local_index: u32,
        remote_index: u32,
        is_initiator: bool,
        created: Duration,
        keys: &Keys,
    ) -> Option<Self> {
        Some(Self {
            local_index,
            remote_index,
            is_initiator,
            created,
            send: key(&keys.send)?,
            receive: key(&keys.receive)?,
            next_counter: AtomicU64::new(0),
            window: Mutex::new(Window::new()),
            is_confirmed: AtomicBool::new(is_initiator),
            was_renewed: AtomicBool::new(false),
        })
    }

    /// Whether nothing may be sealed or opened with it any more.
    pub(crate) fn is_expired(&self, monotonic: Duration) -> bool {
        monotonic.saturating_sub(self.created) >= REJECT_AFTER_TIME
    }

    /// Whether it is time for the next handshake, seen from who sends.
    pub(crate) fn wants_rekey(&self, monotonic: Duration) -> bool {
        self.next_counter.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
            || (self.is_initiator && monotonic.saturating_sub(self.created) >= REKEY_AFTER_TIME)
    }

    /// The first of a number of counters that nobody else will use.
    pub(crate) fn reserve(&self, number: usize) -> Option<u64> {
        let number = number as u64;
        // A counter used twice would give the key away, so it must not run around even when many threads come at its end.
        self.next_counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counter| {
                counter
                    .checked_add(number)
                    .filter(|next| *next <= REJECT_AFTER_MESSAGES)
            })
            .ok()
    }

    /// Makes a datagram of a slot, in place. False if the buffer has not the room that the slot claims.
    #[inline]
    pub(crate) fn seal(&self, buffer: &mut [u8], slot: Slot, mtu: usize, counter: u64) -> bool {
        let Some((header, room)) = buffer
            .get_mut(slot.start..)
            .and_then(|room| room.split_first_chunk_mut::<HEADER_LEN>())
        else {
            return false;
        };
        let padded = padded(slot.len, mtu);
        let Some((packet, room)) = room.split_at_mut_checked(padded) else {
            return false;
        };
        let Some(tag_room) = room.first_chunk_mut::<TAG_LEN>() else {
            return false;
        };
        packet[slot.len..].fill(0);
        let sealed = self
            .send
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet);
        let Ok(tag) = sealed else {
            return false;
        };
        message::write_header(header, self.remote_index, counter);
        tag_room.copy_from_slice(tag.as_ref());
        true
    }

    /// Opens a transport message in place: what it carried, padding included.
    pub(crate) fn open<'a>(&self, datagram: &'a mut [u8], counter: u64) -> Option<&'a mut [u8]> {
        if counter >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let (_, sealed) = datagram.split_first_chunk_mut::<HEADER_LEN>()?;
        let (packet, tag) = sealed.split_last_chunk_mut::<TAG_LEN>()?;
        self.receive
            .open_in_place_separate_tag(nonce(counter), Aad::empty(), Tag::from(*tag), packet, 0..)
            .ok()
    }

    /// The other side has the keys: it has sealed something with them. True the first time.
    pub(crate) fn confirm(&self) -> bool {
        !self.is_confirmed.load(Ordering::Relaxed)
            && !self.is_confirmed.swap(true, Ordering::Relaxed)
    }

    /// Whether it ends so soon that one who only receives has to begin the next handshake. True once.
    pub(crate) fn wants_last_rekey(&self, monotonic: Duration) -> bool {
        self.is_initiator
            && monotonic.saturating_sub(self.created) >= LAST_REKEY_TIME
            && !self.was_renewed.swap(true, Ordering::Relaxed)
    }

    /// Remembers the counter of an authenticated packet; false if it came before.
    pub(crate) fn accept(&self, counter: u64) -> bool {
        self.window.hold().accept(counter)
    }
}

fn key(bytes: &[u8; 32]) -> Option<Erased<LessSafeKey>> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).ok()?;
    Some(Erased::new(LessSafeKey::new(key)))
}

#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Session, Session) {
        let keys = |send, receive| Keys {
            send: Zeroizing::new([send; 32]),
            receive: Zeroizing::new([receive; 32]),
        };
        let ours = Session::new(1, 2, true, Duration::ZERO, &keys(3, 4)).unwrap();
        let theirs = Session::new(2, 1, false, Duration::ZERO, &keys(4, 3)).unwrap();
        (ours, theirs)
    }

    #[test]
    fn slots_one_behind_the_other_become_datagrams_that_open() {
        let (ours, theirs) = pair();
        let packets: [&[u8]; 3] = [&[7; 100], &[8; 1420], b""];
        let mut buffer = Vec::new();
        let mut slots = Vec::new();
        for packet in packets {
            let slot = Slot {
                start: buffer.len(),
                len: packet.len(),
            };
            buffer.resize(buffer.len() + slot.sealed_len(1420), 0xff);
            buffer[slot.start + HEADER_LEN..][..packet.len()].copy_from_slice(packet);
            slots.push(slot);
        }
        for (counter, slot) in slots.iter().enumerate() {
            assert!(ours.seal(&mut buffer, *slot, 1420, counter as u64));
        }
        for (counter, (packet, slot)) in packets.iter().zip(&slots).enumerate() {
            let datagram = &mut buffer[slot.start..][..slot.sealed_len(1420)];
            let mut forged = datagram.to_vec();
            forged[HEADER_LEN] ^= 1;
            assert!(theirs.open(&mut forged, counter as u64).is_none());
            let opened = theirs.open(datagram, counter as u64).unwrap();
            assert_eq!(&opened[..packet.len()], *packet);
            assert!(opened[packet.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn padding_ends_at_the_mtu() {
        assert_eq!(sealed_len(0, 1420), 32);
        assert_eq!(sealed_len(1, 1420), 48);
        assert_eq!(sealed_len(1408, 1420), 1440);
        assert_eq!(sealed_len(1409, 1420), 1452);
        assert_eq!(sealed_len(1420, 1420), 1452);
        assert_eq!(sealed_len(1430, 1420), 1462);
    }

    #[test]
    fn a_slot_without_its_room_is_refused() {
        let (ours, _) = pair();
        let slot = Slot { start: 0, len: 100 };
        let needed = slot.sealed_len(1420);
        assert!(!ours.seal(&mut vec![0; needed - 1], slot, 1420, 0));
        assert!(ours.seal(&mut vec![0; needed], slot, 1420, 0));
    }

    #[test]
    fn counters_end_before_they_run_around() {
        let (ours, theirs) = pair();
        assert_eq!(ours.reserve(3), Some(0));
        assert_eq!(ours.reserve(1), Some(3));
        assert!(!theirs.wants_rekey(REJECT_AFTER_TIME));
        assert!(ours.wants_rekey(REKEY_AFTER_TIME));
        theirs
            .next_counter
            .store(REKEY_AFTER_MESSAGES, Ordering::Relaxed);
        assert!(theirs.wants_rekey(Duration::ZERO));
        theirs
            .next_counter
            .store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
        assert_eq!(theirs.reserve(2), None);
        assert_eq!(theirs.reserve(1), Some(REJECT_AFTER_MESSAGES - 1));
        assert_eq!(theirs.reserve(1), None);
        theirs.next_counter.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(theirs.reserve(1), None);
        assert!(theirs.open(&mut [0; 32], REJECT_AFTER_MESSAGES).is_none());
    }
}
