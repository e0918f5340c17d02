//! The sockets of both families, on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::errno::Errno;

use crate::socket::{Family, Socket, SocketError};

/// A port that is free for one family may be taken for the other.
const TRIES: usize = 16;

#[derive(Clone)]
pub(super) struct Sockets {
    pub(super) ipv4: Arc<Socket>,
    /// None where the host has no IPv6.
    pub(super) ipv6: Option<Arc<Socket>>,
    mark: u32,
}

impl Sockets {
    /// Port 0 is one that the system chooses.
    pub(super) fn bind(port: u16, mark: u32) -> Result<Self, SocketError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_bind(port, mark) {
                Err(error) if port == 0 && is_taken(&error) && tries < TRIES => {}
                outcome => return outcome,
            }
        }
    }

    fn try_bind(port: u16, mark: u32) -> Result<Self, SocketError> {
        let ipv4 = Socket::bind(Family::V4, port)?;
        let ipv6 = match Socket::bind(Family::V6, ipv4.port()) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) if is_unsupported(&error) => None,
            Err(error) => return Err(error),
        };
        let mut sockets = Self {
            ipv4: Arc::new(ipv4),
            ipv6,
            mark: 0,
        };
        if mark != 0 {
            sockets.set_mark(mark).map_err(|source| SocketError {
                operation: "mark",
                family: Family::V4,
                port,
                source,
            })?;
        }
        Ok(sockets)
    }

    pub(super) fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        self.ipv4.set_mark(mark)?;
        if let Some(socket) = &self.ipv6 {
            socket.set_mark(mark)?;
        }
        self.mark = mark;
        Ok(())
    }

    pub(super) const fn mark(&self) -> u32 {
        self.mark
    }

    pub(super) fn port(&self) -> u16 {
        self.ipv4.port()
    }

    pub(super) fn of(&self, address: SocketAddr) -> Option<Arc<Socket>> {
        match Family::of(address) {
            Family::V4 => Some(Arc::clone(&self.ipv4)),
            Family::V6 => self.ipv6.clone(),
        }
    }
}

fn is_taken(error: &SocketError) -> bool {
    error.source.kind() == io::ErrorKind::AddrInUse
}

fn is_unsupported(error: &SocketError) -> bool {
    let errno = error.source.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}
