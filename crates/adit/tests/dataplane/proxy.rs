//! A bad line between two ends: loses, doubles and delays datagrams, and remembers them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use crate::network::{Family, Network, outer};
use crate::peer::Peer;
use crate::random::Random;
use crate::traffic::sleep_until;

/// When nothing comes for so long, what is held back goes on its way.
const IDLE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impairment {
    /// Of a thousand datagrams.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    /// How many others may overtake one that is late.
    pub(crate) distance: u64,
}

/// On the router, in front of one end. The other end takes it for the first.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    back: UdpSocket,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    is_recording: Arc<AtomicBool>,
    withholds: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One direction.
struct Line {
    impairment: Impairment,
    random: Random,
    passed: u64,
    /// By what must have passed before.
    held: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Proxy {
    /// Between the first host and `behind`, over IPv4.
    pub(crate) fn start(network: &Network, behind: &Peer, impairment: Impairment) -> Result<Self> {
        let router = network.router()?;
        let bind = |number: u16| -> Result<UdpSocket> {
            let address = SocketAddr::new(outer(number, Family::V4), 0);
            let socket = router.enter(|| UdpSocket::bind(address))?;
            let socket = socket.with_context(|| format!("bind {address}"))?;
            SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
            socket.set_read_timeout(Some(IDLE))?;
            Ok(socket)
        };
        let front = bind(101)?;
        let back = bind(100 + behind.number)?;
        back.connect(behind.endpoint(Family::V4))?;
        let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let recorded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let is_recording = Arc::new(AtomicBool::new(true));
        let withholds = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(AtomicBool::new(false));
        let address = front.local_addr()?;

        let there = thread::spawn({
            let (front, back) = (front.try_clone()?, back.try_clone()?);
            let (client, ends) = (client.clone(), ends.clone());
            let (recorded, is_recording) = (recorded.clone(), is_recording.clone());
            let withholds = withholds.clone();
            let mut line = Line::new(impairment, 1);
            move || {
                let receive = |buffer: &mut [u8]| {
                    let (length, source) = front.recv_from(buffer).ok()?;
                    *lock(&client) = Some(source);
                    Some(length)
                };
                let send = |bytes: &[u8]| {
                    if is_recording.load(Ordering::Relaxed) {
                        lock(&recorded).push(bytes.to_owned());
                    }
                    if !withholds.load(Ordering::Relaxed) {
                        // What the kernel does not take is lost, as by any line.
                        let _ = back.send(bytes);
                    }
                };
                line.run(&ends, receive, send);
            }
        });
        let again = thread::spawn({
            let (back, ends) = (back.try_clone()?, ends.clone());
            let mut line = Line::new(impairment, 2);
            move || {
                let receive = |buffer: &mut [u8]| back.recv(buffer).ok();
                let send = |bytes: &[u8]| {
                    if let Some(client) = *lock(&client) {
                        let _ = front.send_to(bytes, client);
                    }
                };
                line.run(&ends, receive, send);
            }
        });
        Ok(Self {
            address,
            back,
            recorded,
            is_recording,
            withholds,
            ends,
            threads: vec![there, again],
        })
    }

    /// Remembers what goes to the end behind it, and does not pass it on.
    pub(crate) fn withhold(&self, withholds: bool) {
        self.withholds.store(withholds, Ordering::Relaxed);
    }

    pub(crate) fn take_recorded(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.recorded))
    }

    /// From now on what passes is not remembered.
    pub(crate) fn stop_recording(&self) {
        self.is_recording.store(false, Ordering::Relaxed);
    }

    /// Sends everything that was remembered once more, handshakes included.
    pub(crate) fn replay(&self) -> Result<usize> {
        const BATCH: usize = 10;
        ensure!(
            !self.is_recording.load(Ordering::Relaxed),
            "a replay would be remembered, too"
        );
        let recorded = lock(&self.recorded);
        let start = Instant::now();
        for (number, batch) in (0..).zip(recorded.chunks(BATCH)) {
            sleep_until(start + Duration::from_micros(500) * number);
            for datagram in batch {
                self.back.send(datagram).context("replay")?;
            }
        }
        Ok(recorded.len())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Line {
    fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: Random(seed),
            passed: 0,
            held: BTreeMap::new(),
        }
    }

    fn run(
        &mut self,
        ends: &AtomicBool,
        mut receive: impl FnMut(&mut [u8]) -> Option<usize>,
        mut send: impl FnMut(&[u8]),
    ) {
        let mut buffer = vec![0; 1 << 16];
        while !ends.load(Ordering::Relaxed) {
            match receive(&mut buffer) {
                Some(length) => self.pass(&buffer[..length], &mut send),
                None => self.release(u64::MAX, &mut send),
            }
        }
    }

    fn pass(&mut self, datagram: &[u8], send: &mut impl FnMut(&[u8])) {
        self.passed += 1;
        if !self.random.per_mille(self.impairment.lost) {
            let copies = 1 + u64::from(self.random.per_mille(self.impairment.doubled));
            for _ in 0..copies {
                if self.random.per_mille(self.impairment.late) {
                    let due = self.passed + 1 + self.random.below(self.impairment.distance);
                    self.held.entry(due).or_default().push(datagram.to_owned());
                } else {
                    send(datagram);
                }
            }
        }
        self.release(self.passed, send);
    }

    fn release(&mut self, passed: u64, send: &mut impl FnMut(&[u8])) {
        while let Some(first) = self
            .held
            .first_entry()
            .filter(|first| *first.key() <= passed)
        {
            for datagram in first.remove() {
                send(&datagram);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
