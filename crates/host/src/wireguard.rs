//! WireGuard control: one interface, carried by the kernel module or by a userspace process with a UAPI socket.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use adit_model::desired::link::Link;
use adit_model::desired::wireguard::Peer;
use adit_model::key::{PresharedKey, PrivateKey, PublicKey};
use nix::errno::Errno;

use crate::link;
use crate::netlink::{Netlink, NetlinkError};

mod heard;
pub(crate) mod kernel;
mod process;
pub(crate) mod uapi;

pub use heard::Greeting;
pub(crate) use heard::Heard;
pub use kernel::Kernel;
pub use process::Program;
pub use uapi::Userspace;

/// How long one request to a dataplane may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of a userspace implementation whose process is not seen, or not known.
const UNKNOWN: &str = "userspace";

/// How long after it has not answered once.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the running kernel has WireGuard, as far as it was needed yet: a module may be loaded later.
pub fn is_in_kernel() -> bool {
    Path::new("/sys/module/wireguard").exists()
}

/// Peers that are greeted in one request.
const GREETINGS_AT_ONCE: usize = 200;

/// The keepalive that a greeting switches on, in seconds, and off again.
const KEEPALIVE: u16 = 25;

/// What carries the packets of the tunnel interface.
#[derive(Debug)]
pub enum Dataplane {
    /// The module of the running kernel, by generic netlink.
    Kernel(Kernel),
    /// A process of its own, by its UAPI socket.
    Userspace(Userspace),
}

/// Who starts a userspace WireGuard where the kernel has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Starter {
    /// This process starts that program, which outlives it.
    Own(Program),
    /// The service manager, as a unit of its own; it is adopted when it is there.
    #[default]
    Unit,
}

/// What a WireGuard interface holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The interface's own key; none before a private key is set.
    pub public_key: Option<PublicKey>,
    /// The UDP port it listens on; 0 before one is chosen.
    pub listen_port: u16,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, ObservedPeer>,
}

/// A peer as the dataplane tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPeer {
    /// What we configure.
    pub peer: Peer,
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes from the peer.
    pub received: u64,
    /// Bytes to the peer.
    pub sent: u64,
}

/// A change of one peer; no other peer notices it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// Adds the peer, or what it lacks of this; a session that it has goes on, and nothing that it has is away for
    /// even one packet. AllowedIPs beyond these stay.
    Extend(PublicKey, Peer),
    /// Adds the peer, or makes it exactly this; a session that it has goes on. The kernel and wireguard-go take its
    /// AllowedIPs away and give them again: a packet in between finds none.
    Set(PublicKey, Peer),
    /// Removes the peer and its session.
    Remove(PublicKey),
}

/// Why a WireGuard interface could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum WireGuardError {
    /// A system call failed on the way to the dataplane.
    #[error("cannot {operation} WireGuard interface {interface}: {source}")]
    Io {
        /// What was tried: a verb.
        operation: &'static str,
        /// Interface name.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// The dataplane answered with an error number.
    #[error("cannot {operation} WireGuard interface {interface}: {errno}")]
    Refused {
        /// What was tried: a verb.
        operation: &'static str,
        /// Interface name.
        interface: String,
        /// What the dataplane answered.
        errno: Errno,
    },
    /// The dataplane answered with something that is not of the protocol.
    #[error("cannot {operation} WireGuard interface {interface}: unexpected answer: {answer}")]
    Malformed {
        /// What was tried: a verb.
        operation: &'static str,
        /// Interface name.
        interface: String,
        /// What could not be understood.
        answer: String,
    },
    /// The dataplane did not answer in time.
    #[error(
        "cannot {operation} WireGuard interface {interface}: the process that carries it does not answer"
    )]
    Timeout {
        /// What was tried: a verb.
        operation: &'static str,
        /// Interface name.
        interface: String,
    },
    /// Neither the kernel nor a program can do WireGuard.
    #[error("this host has no WireGuard for interface {interface}")]
    Missing {
        /// Interface name.
        interface: String,
    },
    /// The kernel cannot do WireGuard, and the unit that shall has not brought the interface up.
    #[error("the unit adit-wireguard@{interface} has not brought up interface {interface}")]
    Awaited {
        /// Interface name.
        interface: String,
    },
    /// The userspace program ended instead of serving its socket.
    #[error("{program} did not bring up interface {interface}: {status}")]
    Start {
        /// Name of the program.
        program: String,
        /// Interface name.
        interface: String,
        /// How it ended.
        status: String,
    },
    /// The name's UAPI socket belongs to a process in another network namespace.
    #[error("another gateway uses interface {interface}")]
    Taken {
        /// Interface name.
        interface: String,
    },
    /// There is an interface of this name that is no WireGuard interface.
    #[error("interface {interface} exists already and is not a WireGuard interface")]
    Foreign {
        /// Interface name.
        interface: String,
    },
    /// The link itself could not be read or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl WireGuardError {
    /// The way out, for people.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "what carries packets in the kernel's place is gone: install Adit again, or a kernel with the wireguard module"
            }
            Self::Awaited { .. } => {
                "`adit gateway setup` enables it where the kernel has no WireGuard; `journalctl -u 'adit-wireguard@*'` tells what it said"
            }
            Self::Start { .. } => {
                "run it by hand with --foreground to see its message; it needs /dev/net/tun and CAP_NET_ADMIN"
            }
            Self::Taken { .. } | Self::Foreign { .. } => "choose another with --interface",
            Self::Refused { errno, .. } if *errno == Errno::EADDRINUSE => {
                "another program listens on that UDP port: choose another, or stop the program"
            }
            Self::Timeout { .. } => {
                "it hangs or is stopped (`pgrep -af wireguard` shows it): `kill -CONT` wakes it, after `kill -9` it is started again with every device"
            }
            Self::Refused { errno, .. } if *errno == Errno::EPERM => {
                "the daemon needs CAP_NET_ADMIN"
            }
            Self::Io { .. } | Self::Refused { .. } | Self::Malformed { .. } | Self::Netlink(_) => {
                "it is tried again; see the log of the dataplane if it stays"
            }
        }
    }

    /// Whether the interface is not there (any more).
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Refused { errno, .. } => *errno == Errno::ENODEV,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ),
            Self::Malformed { .. }
            | Self::Timeout { .. }
            | Self::Missing { .. }
            | Self::Awaited { .. }
            | Self::Start { .. }
            | Self::Taken { .. }
            | Self::Foreign { .. }
            | Self::Netlink(_) => false,
        }
    }
}

impl Dataplane {
    /// Finds what carries the interface `name` in this network namespace; none when there is no such interface.
    ///
    /// UAPI sockets share one folder across network namespaces: a live socket without the interface here is an error,
    /// a socket whose process is dead is removed.
    pub async fn open(netlink: &Netlink, name: &str) -> Result<Option<Self>, WireGuardError> {
        let exists = link::observe(netlink, name).await?.is_some();
        let live = uapi::is_live(name).await?;
        if live {
            let process = process::find(name);
            let elsewhere = process.as_ref().is_some_and(|process| !process.is_here);
            if !exists || elsewhere {
                return Err(WireGuardError::Taken {
                    interface: name.to_owned(),
                });
            }
            let implementation = process.map_or(UNKNOWN, |process| process.implementation);
            return Ok(Some(Self::Userspace(Userspace::new(name, implementation))));
        }
        if !exists {
            return Ok(None);
        }
        match Kernel::open(name).await? {
            Some(kernel) if kernel.is_wireguard().await? => Ok(Some(Self::Kernel(kernel))),
            Some(_) | None => Err(WireGuardError::Foreign {
                interface: name.to_owned(),
            }),
        }
    }

    /// Finds the interface, or makes it: in the kernel where that can be, else by a process that outlives this one.
    pub async fn ensure(
        netlink: &Netlink,
        wanted: &Link,
        starter: &Starter,
    ) -> Result<Self, WireGuardError> {
        if let Some(found) = Self::open(netlink, &wanted.name).await? {
            return Ok(found);
        }
        if link::create_wireguard(netlink, wanted).await? {
            let kernel = Kernel::open(&wanted.name).await?;
            return kernel
                .map(Self::Kernel)
                .ok_or_else(|| WireGuardError::Missing {
                    interface: wanted.name.clone(),
                });
        }
        match starter {
            Starter::Own(program) => Self::start_userspace(program, &wanted.name).await,
            Starter::Unit => Err(WireGuardError::Awaited {
                interface: wanted.name.clone(),
            }),
        }
    }

    /// Starts a userspace implementation, whether or not the kernel has one of its own.
    pub async fn start_userspace(
        program: &Program,
        interface: &str,
    ) -> Result<Self, WireGuardError> {
        process::start(program, interface).await?;
        let process = process::find(interface);
        let implementation = process.map_or(UNKNOWN, |process| process.implementation);
        let userspace = Userspace::new(interface, implementation);
        Ok(Self::Userspace(userspace))
    }

    /// The name that `status` shows: `kernel`, `adit`, `wireguard-go`, or `userspace` for another.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel",
            Self::Userspace(userspace) => userspace.implementation(),
        }
    }

    /// Everything that the interface holds.
    pub async fn observe(&self) -> Result<Observed, WireGuardError> {
        self.fault("observe")?;
        match self {
            Self::Kernel(kernel) => kernel.observe().await,
            Self::Userspace(userspace) => userspace.observe().await,
        }
    }

    /// Whether it answers at all, at next to no cost. The kernel does; a process may hang.
    pub async fn probe(&self) -> Result<(), WireGuardError> {
        match self {
            Self::Kernel(_) => Ok(()),
            Self::Userspace(userspace) => userspace.probe().await,
        }
    }

    /// Sets what is given and leaves the rest: giving the port that it has would close and open its sockets for nothing.
    pub async fn set_interface(
        &self,
        private_key: Option<&PrivateKey>,
        listen_port: Option<u16>,
    ) -> Result<(), WireGuardError> {
        if private_key.is_none() && listen_port.is_none() {
            return Ok(());
        }
        self.fault("set")?;
        match self {
            Self::Kernel(kernel) => kernel.set_interface(private_key, listen_port).await,
            Self::Userspace(userspace) => userspace.set_interface(private_key, listen_port).await,
        }
    }

    /// Applies changes in messages of bounded size, removals first: an AllowedIP belongs to whoever got it last,
    /// so it has to leave its old peer before it is given to the new one. After an error some may be applied.
    pub async fn apply(&self, changes: &[PeerChange]) -> Result<(), WireGuardError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.fault("change")?;
        match self {
            Self::Kernel(kernel) => kernel.apply(changes).await,
            Self::Userspace(userspace) => userspace.apply(changes).await,
        }
    }

    /// Tells where peers were last heard from, and begins a handshake with those that may have a session: by themselves
    /// they would notice after 15 s that nobody answers.
    pub async fn greet(&self, greetings: &[Greeting]) -> Result<(), WireGuardError> {
        match self {
            Self::Kernel(kernel) => kernel.greet(greetings).await,
            Self::Userspace(userspace) => userspace.greet(greetings).await,
        }
    }

    fn interface(&self) -> &str {
        match self {
            Self::Kernel(kernel) => kernel.interface(),
            Self::Userspace(userspace) => userspace.interface(),
        }
    }

    fn fault(&self, operation: &'static str) -> Result<(), WireGuardError> {
        adit_fault::point(format_args!("wireguard/{operation}")).map_err(|error| {
            WireGuardError::Refused {
                operation,
                interface: self.interface().to_owned(),
                errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            }
        })
    }

    /// Deletes the interface; a userspace process ends with it.
    pub async fn remove(&self, netlink: &Netlink) -> Result<(), WireGuardError> {
        match self {
            Self::Kernel(kernel) => Ok(link::remove(netlink, kernel.interface()).await?),
            Self::Userspace(userspace) => {
                process::stop_unit(userspace.interface()).await;
                link::remove(netlink, userspace.interface()).await?;
                uapi::wait_until_gone(userspace.interface()).await
            }
        }
    }
}

/// Removals first, then the rest, each in the given order.
fn in_order(changes: &[PeerChange]) -> impl Iterator<Item = &PeerChange> {
    let is_removal = |change: &&PeerChange| matches!(change, PeerChange::Remove(_));
    let removals = changes.iter().filter(is_removal);
    removals.chain(changes.iter().filter(move |change| !is_removal(change)))
}

impl ObservedPeer {
    fn new() -> Self {
        Self {
            peer: Peer {
                preshared_key: PresharedKey::from_bytes([0; 32]),
                allowed_ips: BTreeSet::new(),
            },
            endpoint: None,
            last_handshake: None,
            received: 0,
            sent: 0,
        }
    }
}
