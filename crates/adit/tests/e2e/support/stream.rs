//! Numbered datagrams at a steady pace, and which of them arrived.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// A stream that runs until it is stopped.
#[derive(Debug)]
pub(crate) struct Stream {
    ends: Arc<AtomicBool>,
    arrived: Arc<AtomicU32>,
    sender: JoinHandle<u32>,
    receiver: JoinHandle<BTreeSet<u32>>,
}

#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u32,
    pub(crate) lost: Vec<u32>,
}

impl Stream {
    /// Sends every `pace`; the receiver answers each datagram if it is told to.
    pub(crate) fn start(
        from: UdpSocket,
        to: SocketAddr,
        on: UdpSocket,
        pace: Duration,
        answers: bool,
    ) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU32::new(0));
        on.set_read_timeout(Some(Duration::from_millis(500)))?;
        let sender = thread::spawn({
            let ends = ends.clone();
            move || {
                let mut number: u32 = 0;
                let start = Instant::now();
                while !ends.load(Ordering::Relaxed) {
                    // A datagram that the local kernel refuses counts as lost.
                    let _ = from.send_to(&number.to_be_bytes(), to);
                    number += 1;
                    let due = start + pace * number;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                number
            }
        });
        let receiver = thread::spawn({
            let (ends, arrived) = (ends.clone(), arrived.clone());
            move || {
                let mut seen = BTreeSet::new();
                let mut buffer = [0; 64];
                loop {
                    match on.recv_from(&mut buffer) {
                        Ok((4, source)) => {
                            let [a, b, c, d, ..] = buffer;
                            seen.insert(u32::from_be_bytes([a, b, c, d]));
                            arrived.fetch_add(1, Ordering::Relaxed);
                            if answers {
                                let _ = on.send_to(b"answer", source);
                            }
                        }
                        Ok(_) => {}
                        // It is over when nothing came for a while after the last one was sent.
                        Err(_) if ends.load(Ordering::Relaxed) => return seen,
                        Err(_) => {}
                    }
                }
            }
        });
        Ok(Self {
            ends,
            arrived,
            sender,
            receiver,
        })
    }

    /// How many have arrived up to now.
    pub(crate) fn arrived(&self) -> u32 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) -> Result<Tally> {
        self.ends.store(true, Ordering::Relaxed);
        let sent = self.sender.join().ok().context("the sender panicked")?;
        let seen = self.receiver.join().ok().context("the receiver panicked")?;
        Ok(Tally {
            sent,
            lost: (0..sent).filter(|number| !seen.contains(number)).collect(),
        })
    }
}
