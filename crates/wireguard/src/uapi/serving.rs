//! The socket on which the interface is configured.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use zeroize::Zeroizing;

use super::{Request, Setting, write_interface, write_peer};
use crate::clock::Now;
use crate::device::Device;
use crate::forward::Forwarding;
use crate::outgoing::Outgoing;

/// Where every userspace WireGuard has its socket; it is shared by all network namespaces.
const FOLDER: &str = "/var/run/wireguard";
/// A line is much shorter.
const LONGEST_LINE: usize = 4096;
const CONNECTIONS: usize = 64;
/// Who says nothing for so long makes room for others.
const PATIENCE: Duration = Duration::from_secs(30);
const STACK: usize = 256 * 1024;

/// The socket of one interface; its file goes with it.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Of the file: another process may have put its own in its place.
    inode: u64,
}

/// What a connection works on.
#[derive(Clone)]
pub(crate) struct Interface {
    pub(crate) device: Arc<Device>,
    pub(crate) forwarding: Arc<Forwarding>,
}

impl Server {
    /// Takes the socket of a name. The error kind is `AddrInUse` where a live process has it.
    pub(crate) fn claim(interface: &str) -> io::Result<Self> {
        let folder = Path::new(FOLDER);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
        let path = folder.join(format!("{interface}.sock"));
        match UnixStream::connect(&path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // `wg` removes sockets that nobody listens on, so this one gets its name when somebody does.
        let hidden = folder.join(format!(".{interface}.{}", process::id()));
        remove(&hidden)?;
        let listener = UnixListener::bind(&hidden)?;
        let inode = fs::symlink_metadata(&hidden)?.ino();
        let named = fs::hard_link(&hidden, &path);
        remove(&hidden)?;
        named.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::AddrInUse.into(),
            _ => error,
        })?;
        Ok(Self {
            listener,
            path,
            inode,
        })
    }

    /// Answers whoever comes, each in a thread of its own; comes back only when the socket fails.
    pub(crate) fn serve(&self, interface: &Interface) -> io::Error {
        let connections = Arc::new(AtomicUsize::new(0));
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_passing(&error) => {
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
                Err(error) => return error,
            };
            if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                connections.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let interface = interface.clone();
            let counted = Arc::clone(&connections);
            let spawned = thread::Builder::new()
                .name(String::from("uapi"))
                .stack_size(STACK)
                .spawn(move || {
                    // Who goes away in the middle is nobody's trouble.
                    let _ = converse(stream, &interface);
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
            if spawned.is_err() {
                connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes the file, if it is still this socket's.
    pub(crate) fn remove(&self) {
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Somebody else may have removed it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNABORTED
                | Errno::EINTR
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
        )
    )
}

fn converse(stream: UnixStream, interface: &Interface) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = Lines::new(stream);
    while let Some(operation) = lines.next()? {
        match operation {
            "get=1" => {
                // A blank line ends the request.
                if lines.next()?.is_some_and(|line| !line.is_empty()) {
                    lines.finish(Err(Errno::EPROTO))?;
                    return Ok(());
                }
                answer(&mut lines, interface)?;
                lines.finish(Ok(()))?;
            }
            "set=1" => {
                let outcome = set(&mut lines, interface)?;
                lines.finish(outcome)?;
                if outcome.is_err() {
                    // What is left of the request is not another one.
                    return Ok(());
                }
            }
            _ => {
                lines.finish(Err(Errno::EPROTO))?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(lines: &mut Lines, interface: &Interface) -> io::Result<()> {
    let Interface { device, forwarding } = interface;
    let private_key = device.private_key();
    let text = write_interface(private_key.as_deref(), forwarding.port(), forwarding.mark());
    lines.write(text.as_bytes())?;
    for peer in device.peers() {
        lines.write(write_peer(&peer).as_bytes())?;
    }
    Ok(())
}

/// The outer error is the connection's, the inner one the request's.
fn set(lines: &mut Lines, interface: &Interface) -> io::Result<Result<(), Errno>> {
    let mut request = Request::default();
    let mut outcome = Ok(());
    while let Some(line) = lines.next()? {
        if line.is_empty() {
            break;
        }
        match request.read(line) {
            Ok(None) => {}
            Ok(Some(setting)) => outcome = apply(setting, interface),
            Err(errno) => outcome = Err(errno),
        }
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok()
        && let Some(setting) = request.finish()
    {
        outcome = apply(setting, interface);
    }
    // A first keepalive is due at once.
    let mut outgoing = Outgoing::default();
    interface.device.handle_timeout(Now::read(), &mut outgoing);
    interface.forwarding.send(&mut outgoing);
    Ok(outcome)
}

fn apply(setting: Setting, interface: &Interface) -> Result<(), Errno> {
    let Interface { device, forwarding } = interface;
    match setting {
        Setting::PrivateKey(private_key) => device.set_private_key(&private_key),
        Setting::ListenPort(port) => {
            if port == 0 || port != forwarding.port() {
                forwarding
                    .bind(port)
                    .map_err(|error| errno(&error.source))?;
            }
        }
        Setting::Mark(mark) => forwarding.set_mark(mark).map_err(|error| errno(&error))?,
        Setting::RemovePeers => device.remove_peers(),
        Setting::Peer(change) => device.change_peer(Now::read(), &change),
    }
    Ok(())
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A connection line by line; what was read is overwritten, for there are keys in it.
struct Lines {
    stream: UnixStream,
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Zeroizing::new(vec![0; 2 * LONGEST_LINE]),
            start: 0,
            end: 0,
        }
    }

    /// The next line without its end; none at the end of the stream.
    fn next(&mut self) -> io::Result<Option<&str>> {
        let mut searched = self.start;
        let end = loop {
            let found = self.buffer[searched..self.end]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(position) = found {
                break searched + position;
            }
            searched = self.end;
            if self.end - self.start >= LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.end == self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                searched -= self.start;
                self.end -= self.start;
                self.start = 0;
            }
            let read = self.stream.read(&mut self.buffer[self.end..])?;
            if read == 0 {
                return Ok(None);
            }
            self.end += read;
        };
        let line = &self.buffer[self.start..end];
        self.start = end + 1;
        std::str::from_utf8(line)
            .map(Some)
            .map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.stream.write_all(text)
    }

    fn finish(&mut self, outcome: Result<(), Errno>) -> io::Result<()> {
        let number = outcome.map_or_else(|errno| -(errno as i32), |()| 0);
        self.write(format!("errno={number}\n\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(sent: &[u8]) -> (Lines, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(sent).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        (Lines::new(ours), theirs)
    }

    #[test]
    fn lines_are_cut_wherever_they_lie_in_the_buffer() {
        let expected: Vec<String> = (0..2000).map(|number| "x".repeat(number % 137)).collect();
        let (mut lines, _peer) = lines((expected.join("\n") + "\n").as_bytes());
        for line in &expected {
            assert_eq!(lines.next().unwrap(), Some(line.as_str()));
        }
        assert_eq!(lines.next().unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_not_waited_for() {
        let (mut longest, _peer) = lines(&[b'x'; LONGEST_LINE + 10]);
        assert!(longest.next().is_err());
        let (mut binary, _peer) = lines(b"\xff\xfe\n");
        assert!(binary.next().is_err());
    }

    #[test]
    fn errors_are_negative_numbers() {
        let (mut lines, mut peer) = lines(b"");
        lines.finish(Err(Errno::EADDRINUSE)).unwrap();
        lines.finish(Ok(())).unwrap();
        drop(lines);
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "errno=-98\n\nerrno=0\n\n");
    }
}
