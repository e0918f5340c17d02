//! The interface: where packets of this host go into the tunnel and come out of it.

mod control;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Type};

use crate::coalesce::{Coalescer, Group, MOST_SEGMENTS, Offers};
use crate::header::Transport;
use crate::vnet;

/// What a buffer has to hold, so that no packet is cut off.
pub(crate) const LONGEST_PACKET: usize = 65_535;

const DEVICE: &str = "/dev/net/tun";

/// A TUN device that takes and gives superpackets, as far as the kernel does.
#[derive(Debug)]
pub(crate) struct Tun {
    device: File,
    name: String,
    tcp: Offload,
    udp: Offload,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Packets that the kernel took, each of a superpacket counted.
    pub taken: usize,
    /// Those that it did not, say because the interface is down.
    pub refused: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error(
        "`{name}` is no name for an interface: use 1 to 15 letters, digits, `-`, `_`, `=`, `+` or `.`"
    )]
    Name { name: String },
    #[error(
        "cannot open {DEVICE}, which the interface {name} needs: {source}; load the module `tun`, or give the container this device"
    )]
    Absent { name: String, source: io::Error },
    #[error(
        "cannot make the interface {name}: another program has it, or it is of another kind; stop that program, or choose another name"
    )]
    Taken { name: String },
    #[error("cannot {operation} the interface {name}: {source}; it needs root or CAP_NET_ADMIN")]
    Setup {
        operation: &'static str,
        name: String,
        source: io::Error,
    },
}

/// Whether superpackets of one kind are written. The kernel may say that it takes them, and then not do so.
#[derive(Debug)]
struct Offload {
    is_on: AtomicBool,
    is_proven: AtomicBool,
}

impl Tun {
    /// Makes the interface, which is there as long as this value is, unless others made it persistent.
    pub(crate) fn open(name: &str) -> Result<Self, TunError> {
        if !is_name(name) {
            return Err(TunError::Name {
                name: name.to_owned(),
            });
        }
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| TunError::Absent {
                name: name.to_owned(),
                source,
            })?;
        let failed = |operation| {
            move |source| TunError::Setup {
                operation,
                name: name.to_owned(),
                source,
            }
        };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let flags =
            i16::try_from(flags).map_err(|error| failed("make")(io::Error::other(error)))?;
        control::attach(device.as_fd(), name, flags).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EBUSY | libc::EINVAL) => TunError::Taken {
                    name: name.to_owned(),
                },
                _ => failed("make")(source),
            }
        })?;
        control::set_header_length(device.as_fd(), vnet::LENGTH).map_err(failed("set up"))?;
        let offers = offer(device.as_fd());
        Ok(Self {
            device,
            name: name.to_owned(),
            tcp: Offload::new(offers.tcp),
            udp: Offload::new(offers.udp),
        })
    }

    /// What may be joined before it is written.
    #[must_use]
    pub(crate) fn offers(&self) -> Offers {
        Offers {
            tcp: self.tcp.is_on.load(Ordering::Relaxed),
            udp: self.udp.is_on.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn mtu(&self) -> io::Result<u32> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        control::mtu(socket.as_fd(), &self.name)
    }

    pub(crate) fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        control::set_mtu(socket.as_fd(), &self.name, mtu)
    }

    /// Reads what the host sends into the tunnel: a packet, or a superpacket to be cut, at the beginning of the buffer, and its length.
    /// None when there is nothing now. The buffer must have `LONGEST_PACKET` bytes.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(vnet::Header, usize)>> {
        if buffer.len() < LONGEST_PACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            let mut header = [0; vnet::LENGTH];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            let read = match (&self.device).read_vectored(&mut parts) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let length = read
                .checked_sub(vnet::LENGTH)
                .filter(|length| *length <= buffer.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            // The kernel hands over nothing that was not offered; if it did, nobody could tell what the packet is.
            if let Ok(header) = vnet::Header::decode(&header) {
                return Ok(Some((header, length)));
            }
        }
    }

    /// Hands a batch of packets to the host, joined as `coalescer` found them to go together.
    pub(crate) fn write(&self, packets: &[impl AsRef<[u8]>], coalescer: &Coalescer) -> Written {
        let mut written = Written::default();
        for group in coalescer.groups() {
            if self.write_joined(packets, coalescer, group) {
                written.taken += group.len();
                continue;
            }
            for packet in coalescer.members(group).filter_map(|at| packets.get(at)) {
                match self.write_packet(packet.as_ref()) {
                    Ok(()) => written.taken += 1,
                    Err(_) => written.refused += 1,
                }
            }
        }
        written
    }

    /// Hands one packet to the host. The kernel checks its checksum.
    pub(crate) fn write_packet(&self, packet: &[u8]) -> io::Result<()> {
        let header = vnet::Header::default().encode();
        self.write_parts(&[IoSlice::new(&header), IoSlice::new(packet)])
    }

    /// False when the packets have to be written one by one.
    fn write_joined(
        &self,
        packets: &[impl AsRef<[u8]>],
        coalescer: &Coalescer,
        group: &Group,
    ) -> bool {
        let mut members = coalescer.members(group).filter_map(|at| packets.get(at));
        let Some(first) = members.next().map(AsRef::as_ref) else {
            return false;
        };
        let Some((superheader, transport)) = group.superheader(first).zip(group.transport()) else {
            return false;
        };
        let offload = match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        };
        let header = superheader.vnet.encode();
        let headers = superheader.bytes();
        let mut parts = [IoSlice::new(&[]); MOST_SEGMENTS + 2];
        let payloads = std::iter::once(first)
            .chain(members.map(AsRef::as_ref))
            .filter_map(|packet| packet.get(headers.len()..));
        let mut count = 0;
        for (part, bytes) in parts
            .iter_mut()
            .zip([&header[..], headers].into_iter().chain(payloads))
        {
            *part = IoSlice::new(bytes);
            count += 1;
        }
        let result = self.write_parts(parts.get(..count).unwrap_or_default());
        offload.learn(&result);
        result.is_ok()
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match (&self.device).write_vectored(parts) {
                // The kernel takes a packet whole.
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Offload {
    fn new(is_on: bool) -> Self {
        Self {
            is_on: AtomicBool::new(is_on),
            is_proven: AtomicBool::new(false),
        }
    }

    /// What was taken once is known to work, so that later nobody can send what turns it off.
    fn learn(&self, result: &io::Result<()>) {
        match result {
            Ok(()) => self.is_proven.store(true, Ordering::Relaxed),
            Err(error) => {
                let is_unsupported = matches!(
                    error.raw_os_error(),
                    Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EMSGSIZE)
                );
                if is_unsupported && !self.is_proven.load(Ordering::Relaxed) {
                    self.is_on.store(false, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Asks for all offloads, then for those that older kernels have: UDP came with Linux 6.2.
fn offer(device: BorrowedFd<'_>) -> Offers {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    if control::set_offloads(device, tcp | udp).is_ok() {
        Offers {
            tcp: true,
            udp: true,
        }
    } else {
        // Without any of them packets come whole and finished.
        Offers {
            tcp: control::set_offloads(device, tcp).is_ok(),
            udp: false,
        }
    }
}

/// What the kernel takes for a name, but for `%`, from which it would make another.
fn is_name(name: &str) -> bool {
    let is_length = (1..=control::LONGEST_NAME).contains(&name.len());
    let is_of_letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_=+.".contains(&byte));
    is_length && is_of_letters && name != "." && name != ".."
}
