//! Traffic that runs beside everything else: numbered datagrams that are answered, and a TCP transfer that is verified.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::socket::Conversation;

/// After the last datagram was sent, those on their way have this long.
const QUIET: Duration = Duration::from_millis(1500);

const BUFFER: usize = 4 << 20;

/// Numbered datagrams at a steady pace, each of which the far end sends back.
#[derive(Debug)]
pub(crate) struct Dialogue {
    pub(crate) name: String,
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    sender: JoinHandle<Pace>,
    far: JoinHandle<BTreeSet<u32>>,
    near: JoinHandle<BTreeSet<u32>>,
}

/// What became of a dialogue.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) sent: u32,
    /// Numbers that the far end never saw.
    pub(crate) lost_there: Vec<u32>,
    /// Numbers that the far end saw, and whose answer never came back.
    pub(crate) lost_back: Vec<u32>,
    /// The longest time by which the sender was late: how busy the machine was.
    pub(crate) latest: Duration,
    /// Datagrams that the sender's own kernel did not take.
    pub(crate) not_sent: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Pace {
    latest: Duration,
    refused: BTreeSet<u32>,
}

impl Dialogue {
    pub(crate) fn start(
        name: &str,
        from: UdpSocket,
        to: SocketAddr,
        on: UdpSocket,
        pace: Duration,
    ) -> Result<Self> {
        for socket in [&from, &on] {
            socket.set_read_timeout(Some(QUIET))?;
            // On a busy machine a reader may not run for a while.
            SockRef::from(socket).set_recv_buffer_size(BUFFER)?;
            SockRef::from(socket).set_send_buffer_size(BUFFER)?;
        }
        let ends = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU32::new(0));
        let back = from.try_clone()?;
        let sender = thread::spawn({
            let (ends, sent) = (ends.clone(), sent.clone());
            move || send_steadily(&from, to, pace, &ends, &sent)
        });
        let far = thread::spawn({
            let ends = ends.clone();
            move || receive_until(&on, &ends, true)
        });
        let near = thread::spawn({
            let ends = ends.clone();
            move || receive_until(&back, &ends, false)
        });
        Ok(Self {
            name: name.to_owned(),
            ends,
            sent,
            sender,
            far,
            near,
        })
    }

    /// The number that is sent next.
    pub(crate) fn position(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends no more; what is on its way may still arrive.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stop(self) -> Result<Account> {
        self.end();
        let pace = self.sender.join().ok().context("the sender panicked")?;
        let sent = self.sent.load(Ordering::Relaxed);
        let there = self.far.join().ok().context("the far end panicked")?;
        let back = self.near.join().ok().context("the near end panicked")?;
        let lost_there: Vec<u32> = (0..sent).filter(|number| !there.contains(number)).collect();
        let lost_back = there
            .iter()
            .filter(|number| !back.contains(number))
            .copied()
            .collect();
        Ok(Account {
            name: self.name,
            sent,
            lost_there,
            lost_back,
            latest: pace.latest,
            not_sent: pace.refused,
        })
    }
}

impl Account {
    pub(crate) fn lost(&self) -> usize {
        self.lost_there.len() + self.lost_back.len()
    }
}

fn send_steadily(
    from: &UdpSocket,
    to: SocketAddr,
    pace: Duration,
    ends: &AtomicBool,
    sent: &AtomicU32,
) -> Pace {
    let mut outcome = Pace::default();
    let start = Instant::now();
    let mut number: u32 = 0;
    while !ends.load(Ordering::Relaxed) {
        let due = start + pace * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        outcome.latest = outcome.latest.max(due.elapsed());
        if from.send_to(&number.to_be_bytes(), to).is_err() {
            outcome.refused.insert(number);
        }
        number += 1;
        sent.store(number, Ordering::Relaxed);
    }
    outcome
}

fn receive_until(on: &UdpSocket, ends: &AtomicBool, answers: bool) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    let mut buffer = [0; 64];
    loop {
        match on.recv_from(&mut buffer) {
            Ok((4, source)) => {
                let [a, b, c, d, ..] = buffer;
                seen.insert(u32::from_be_bytes([a, b, c, d]));
                if answers {
                    // An answer that is not taken is counted as lost at the other end.
                    let _ = on.send_to(&buffer[..4], source);
                }
            }
            Ok(_) => {}
            // It is over when nothing came for a while after the last one was sent.
            Err(_) if ends.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}

const BLOCK: usize = 2048;

/// A connection on which blocks go out at a steady pace, come back from the far end, and are compared.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) name: String,
    ends: Arc<AtomicBool>,
    writer: JoinHandle<Result<u64>>,
    far: JoinHandle<Result<u64>>,
    reader: JoinHandle<Result<Progress>>,
}

/// What a transfer did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    /// The longest time in which nothing came back.
    pub(crate) stall: Duration,
}

impl Transfer {
    pub(crate) fn start(name: &str, conversation: Conversation, pace: Duration) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let Conversation {
            client, mut server, ..
        } = conversation;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        let ends = Arc::new(AtomicBool::new(false));
        let mut outgoing = client.try_clone()?;
        let writer = thread::spawn({
            let ends = ends.clone();
            move || {
                let mut position = 0;
                while !ends.load(Ordering::Relaxed) {
                    outgoing
                        .write_all(&block_at(position))
                        .with_context(|| format!("write at byte {position}"))?;
                    position += BLOCK as u64;
                    thread::sleep(pace);
                }
                outgoing.shutdown(std::net::Shutdown::Write)?;
                Ok(position)
            }
        });
        let far = thread::spawn(move || {
            let mut buffer = [0; BLOCK];
            let mut position = 0;
            loop {
                let length = read_some(&mut server, &mut buffer)
                    .with_context(|| format!("the far end reads at byte {position}"))?;
                if length == 0 {
                    server.shutdown(std::net::Shutdown::Write)?;
                    return Ok(position);
                }
                check(&buffer[..length], position).context("at the far end")?;
                server
                    .write_all(&buffer[..length])
                    .with_context(|| format!("the far end answers at byte {position}"))?;
                position += length as u64;
            }
        });
        let reader = thread::spawn(move || verify(client));
        Ok(Self {
            name: name.to_owned(),
            ends,
            writer,
            far,
            reader,
        })
    }

    /// Ends the connection in good order; an error when it was cut, or other bytes came.
    pub(crate) fn stop(self) -> Result<Progress> {
        self.ends.store(true, Ordering::Relaxed);
        let written = self.writer.join().ok().context("the writer panicked")??;
        let arrived = self.far.join().ok().context("the far end panicked")??;
        let progress = self.reader.join().ok().context("the reader panicked")??;
        ensure!(
            written == arrived && arrived == progress.bytes,
            "{written} bytes were written, {arrived} arrived, {} came back",
            progress.bytes
        );
        Ok(progress)
    }
}

fn verify(mut client: TcpStream) -> Result<Progress> {
    let mut buffer = [0; BLOCK];
    let mut progress = Progress::default();
    let mut last = Instant::now();
    loop {
        let length = read_some(&mut client, &mut buffer)
            .with_context(|| format!("read at byte {}", progress.bytes))?;
        progress.stall = progress.stall.max(last.elapsed());
        last = Instant::now();
        if length == 0 {
            return Ok(progress);
        }
        check(&buffer[..length], progress.bytes).context("what came back")?;
        progress.bytes += length as u64;
    }
}

fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Bytes that follow from where they stand, with no short period.
fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn block_at(position: u64) -> Vec<u8> {
    (position..position + BLOCK as u64).map(byte_at).collect()
}

fn check(bytes: &[u8], position: u64) -> Result<()> {
    let wrong = (position..)
        .zip(bytes)
        .find(|(place, byte)| byte_at(*place) != **byte);
    ensure!(wrong.is_none(), "another byte than was sent: {wrong:?}");
    Ok(())
}
