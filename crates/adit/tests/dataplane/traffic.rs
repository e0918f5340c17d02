//! What is sent through a tunnel, with content that tells when it is not what was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use crate::network::Family;
use crate::peer::Peer;

/// A busy machine, and retransmissions where packets are lost on purpose.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// So many datagrams, and bytes of them, are on their way at the same time: less than any socket has room for.
const WINDOW: usize = 16;
const WINDOW_BYTES: usize = 24 << 10;

/// Bytes that follow from a seed and where they stand, with no short period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern(pub(crate) u64);

impl Pattern {
    pub(crate) fn fill(self, position: u64, bytes: &mut [u8]) {
        for (place, byte) in (position..).zip(bytes) {
            *byte = self.at(place);
        }
    }

    pub(crate) fn check(self, position: u64, bytes: &[u8]) -> Result<()> {
        let wrong = (position..)
            .zip(bytes)
            .find(|(place, byte)| self.at(*place) != **byte);
        ensure!(wrong.is_none(), "another byte than was sent: {wrong:?}");
        Ok(())
    }

    fn at(self, position: u64) -> u8 {
        let mixed = (position ^ self.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    }
}

/// Waits until the far end answers: the first packets of a tunnel may wait for a handshake that is sent again.
pub(crate) fn await_answer(from: &Peer, to: &Peer, family: Family, limit: Duration) -> Result<()> {
    let address = to.inner(family).to_string();
    wait_until(&format!("an answer of {address}"), limit, || {
        from.host.exec(["ping", "-c1", "-W1", &address])?;
        Ok(true)
    })
}

/// None of some pings may be lost.
pub(crate) fn ping(from: &Peer, to: &Peer, family: Family) -> Result<()> {
    let address = to.inner(family).to_string();
    from.host
        .exec(["ping", "-q", "-c20", "-i0.01", "-W5", &address])?;
    Ok(())
}

/// One connection, on which both ends send that much at the same time.
pub(crate) fn transfer(from: &Peer, to: &Peer, family: Family, bytes: u64) -> Result<()> {
    flows(from, to, family, 1, bytes)
}

/// Several connections at once, each with a content of its own.
pub(crate) fn flows(from: &Peer, to: &Peer, family: Family, count: u64, bytes: u64) -> Result<()> {
    let listener = to
        .host
        .enter(|| TcpListener::bind((to.inner(family), 0)))?
        .context("listen")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<()> {
            let mut threads = Vec::new();
            for _ in 0..count {
                let stream = accept(&listener)?;
                threads.push(scope.spawn(move || serve(stream, bytes)));
            }
            threads.into_iter().try_for_each(joined)
        });
        let clients: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || -> Result<()> {
                    let stream = from
                        .host
                        .enter(|| TcpStream::connect_timeout(&address, PATIENCE))?
                        .with_context(|| format!("connect to {address}"))?;
                    converse(stream, number, bytes)
                })
            })
            .collect();
        let clients: Result<()> = clients.into_iter().try_for_each(joined);
        // The server of a client that never came would wait for it.
        clients.with_context(|| format!("from {} to {address}", from.host.name()))?;
        joined(server)
    })
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let mut accepted = None;
    wait_until("a connection", PATIENCE, || {
        accepted = Some(listener.accept()?.0);
        Ok(true)
    })?;
    let stream = accepted.context("a connection")?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The client says its number first, so that each end knows what the other sends.
fn converse(mut stream: TcpStream, number: u64, bytes: u64) -> Result<()> {
    patient(&stream)?;
    stream.write_all(&number.to_be_bytes())?;
    exchange(stream, Pattern(2 * number), Pattern(2 * number + 1), bytes)
}

fn serve(mut stream: TcpStream, bytes: u64) -> Result<()> {
    patient(&stream)?;
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    let number = u64::from_be_bytes(number);
    exchange(stream, Pattern(2 * number + 1), Pattern(2 * number), bytes)
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

fn exchange(mut stream: TcpStream, ours: Pattern, theirs: Pattern, bytes: u64) -> Result<()> {
    let mut outgoing = stream.try_clone()?;
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> Result<()> {
            let mut block = vec![0; 1 << 16];
            let mut position = 0;
            while position < bytes {
                let length = block.len().min(usize::try_from(bytes - position)?);
                ours.fill(position, &mut block[..length]);
                outgoing
                    .write_all(&block[..length])
                    .with_context(|| format!("write at byte {position}"))?;
                position += length as u64;
            }
            Ok(outgoing.shutdown(Shutdown::Write)?)
        });
        let mut block = vec![0; 1 << 16];
        let mut position = 0;
        loop {
            let length = match stream.read(&mut block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome.with_context(|| format!("read at byte {position}"))?,
            };
            if length == 0 {
                break;
            }
            theirs.check(position, &block[..length])?;
            position += length as u64;
        }
        ensure!(position == bytes, "{position} bytes of {bytes} came");
        joined(writer)
    })
}

/// A datagram of every one of these sizes goes there and comes back; none may be missing, cut or changed.
pub(crate) fn echo_sizes(
    from: &Peer,
    to: &Peer,
    family: Family,
    sizes: impl IntoIterator<Item = usize>,
) -> Result<()> {
    let server = udp(&to.host, SocketAddr::new(to.inner(family), 0))?;
    let client = udp(&from.host, SocketAddr::new(from.inner(family), 0))?;
    client.connect(server.local_addr()?)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let sizes: Vec<usize> = sizes.into_iter().collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| echo(&server, &done));
        let outcome = windows(&sizes).try_for_each(|sizes| send_and_compare(&client, sizes));
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

fn windows(mut sizes: &[usize]) -> impl Iterator<Item = &[usize]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |size: &&usize| {
            bytes += **size;
            bytes <= WINDOW_BYTES
        };
        let length = sizes.iter().take(WINDOW).take_while(fits).count().max(1);
        let (window, rest) = sizes.split_at_checked(length)?;
        sizes = rest;
        Some(window)
    })
}

fn send_and_compare(client: &UdpSocket, sizes: &[usize]) -> Result<()> {
    let content = |size: usize| {
        let mut bytes = vec![0; size];
        Pattern(size as u64).fill(0, &mut bytes);
        bytes
    };
    let mut missing: Vec<usize> = sizes.to_vec();
    for size in sizes {
        client
            .send(&content(*size))
            .with_context(|| format!("send {size} bytes"))?;
    }
    let mut buffer = vec![0; 1 << 16];
    while !missing.is_empty() {
        let length = client
            .recv(&mut buffer)
            .with_context(|| format!("wait for datagrams of {missing:?} bytes"))?;
        let place = missing.iter().position(|size| *size == length);
        let place = place.with_context(|| {
            format!("a datagram of {length} bytes, while {missing:?} are missing")
        })?;
        missing.swap_remove(place);
        ensure!(
            buffer[..length] == content(length),
            "other bytes came back in a datagram of {length}"
        );
    }
    Ok(())
}

pub(crate) fn echo(server: &UdpSocket, done: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, source)) = server.recv_from(&mut buffer) {
            // An answer that is not taken is missed at the other end.
            let _ = server.send_to(&buffer[..length], source);
        }
    }
}

/// Returns from waiting now and then, and has room for what comes while its reader does not run.
pub(crate) fn udp(host: &Host, address: SocketAddr) -> Result<UdpSocket> {
    let socket = host
        .enter(|| UdpSocket::bind(address))?
        .with_context(|| format!("{}: UDP socket on {address}", host.name()))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
    Ok(socket)
}

/// Waits until a moment that was planned.
pub(crate) fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

pub(crate) fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().ok().context("a thread panicked")?
}
