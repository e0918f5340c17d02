//! Datagrams with numbers, and what becomes of them: how often each arrives, and whether it is what was sent.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::network::Family;
use crate::peer::Peer;
use crate::traffic::{Pattern, sleep_until, udp};

/// Sends are bundled, because no clock wakes a thread so often.
const BEAT: Duration = Duration::from_millis(1);
const HEADER: usize = 8;

#[derive(Debug)]
pub(crate) struct Numbered {
    from: UdpSocket,
    to: SocketAddr,
    next: u64,
    tally: Arc<Mutex<Tally>>,
    ends: Arc<AtomicBool>,
    receiver: Option<JoinHandle<()>>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    /// The first that was not as it was sent.
    pub(crate) corrupt: Option<String>,
    seen: Vec<bool>,
}

impl Numbered {
    pub(crate) fn new(from: &Peer, to: &Peer, family: Family) -> Result<Self> {
        let on = udp(&to.host, SocketAddr::new(to.inner(family), 0))?;
        let to = on.local_addr()?;
        let from = udp(&from.host, SocketAddr::new(from.inner(family), 0))?;
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let ends = Arc::new(AtomicBool::new(false));
        let receiver = thread::spawn({
            let (tally, ends) = (tally.clone(), ends.clone());
            move || {
                let mut buffer = vec![0; 1 << 16];
                while !ends.load(Ordering::Relaxed) {
                    if let Ok(length) = on.recv(&mut buffer) {
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.count(&buffer[..length]);
                    }
                }
            }
        });
        Ok(Self {
            from,
            to,
            next: 0,
            tally,
            ends,
            receiver: Some(receiver),
        })
    }

    /// So many more, so many in a second.
    pub(crate) fn send(&mut self, count: u64, rate: u64) -> Result<()> {
        let start = Instant::now();
        for sent in 0..count {
            if sent % (rate / 1000).max(1) == 0 {
                let beat = u32::try_from(sent * 1000 / rate).context("a shorter time")?;
                sleep_until(start + BEAT * beat);
            }
            // What the kernel does not take is lost.
            let _ = self.from.send_to(&content(self.next), self.to);
            self.next += 1;
        }
        Ok(())
    }

    pub(crate) fn sent(&self) -> u64 {
        self.next
    }

    /// When nothing has come for a while.
    pub(crate) fn settled(&self) -> Tally {
        let now = || {
            let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.clone()
        };
        let mut tally = now();
        loop {
            thread::sleep(Duration::from_millis(700));
            let next = now();
            if next.delivered + next.duplicates == tally.delivered + tally.duplicates {
                return next;
            }
            tally = next;
        }
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

impl Tally {
    fn count(&mut self, datagram: &[u8]) {
        let number = datagram
            .first_chunk::<HEADER>()
            .map(|bytes| u64::from_be_bytes(*bytes));
        let Some(number) = number.filter(|number| content(*number) == datagram) else {
            let start = &datagram[..datagram.len().min(16)];
            self.corrupt.get_or_insert_with(|| {
                format!("{} bytes that begin with {start:02x?}", datagram.len())
            });
            return;
        };
        let Ok(place) = usize::try_from(number) else {
            return;
        };
        if self.seen.len() <= place {
            self.seen.resize(place + 1, false);
        }
        if std::mem::replace(&mut self.seen[place], true) {
            self.duplicates += 1;
        } else {
            self.delivered += 1;
        }
    }
}

/// Mostly small, so that a million are quick to send; every fiftieth fills a packet.
fn content(number: u64) -> Vec<u8> {
    let length = match usize::try_from(number % 50).unwrap_or_default() {
        0 => 1372,
        other => HEADER + 3 * other,
    };
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(length, 0);
    Pattern(number).fill(0, &mut bytes[HEADER..]);
    bytes
}
