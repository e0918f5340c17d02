//! Sockets of this host that take connections or datagrams: as the kernel tells them, or from `/proc` where it cannot.

#![warn(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use adit_model::facts::Listener;
use adit_model::protocol::Protocol;

pub(crate) mod diagnosis;

use self::diagnosis::Diagnosis;

/// Listening TCP sockets and unconnected UDP sockets in the network namespace of the calling thread, those on
/// loopback left out. A socket on `::` usually takes IPv4, too; whether it does cannot be seen here.
///
/// Process names are found by looking through the descriptors of all processes, as far as we may see them. That takes
/// long where there are many: it is not done when all sockets are among those that are `known`.
pub fn observe(known: &BTreeSet<Listener>) -> io::Result<BTreeSet<Listener>> {
    let sockets = sockets(&mut Diagnosis::default(), &Protocol::ALL.into())?;
    let recognized: Option<BTreeSet<Listener>> = recognize(&sockets, known).collect();
    if let Some(listeners) = recognized {
        return Ok(listeners);
    }
    let inodes = sockets.iter().map(|socket| socket.inode).collect();
    let processes = processes_of(inodes);
    Ok(sockets
        .iter()
        .map(|socket| socket.of_process(processes.get(&socket.inode).cloned()))
        .collect())
}

/// Looks for sockets again and again.
#[derive(Debug, Default)]
pub struct Observer(Diagnosis);

impl Observer {
    /// [`observe`] of some protocols, without looking for processes: those that are not among the `known` have no name.
    pub fn observe(
        &mut self,
        protocols: &BTreeSet<Protocol>,
        known: &BTreeSet<Listener>,
    ) -> io::Result<BTreeSet<Listener>> {
        let sockets = sockets(&mut self.0, protocols)?;
        let recognized = recognize(&sockets, known);
        Ok(recognized
            .zip(&sockets)
            .map(|(listener, socket)| listener.unwrap_or_else(|| socket.of_process(None)))
            .collect())
    }
}

fn sockets(diagnosis: &mut Diagnosis, protocols: &BTreeSet<Protocol>) -> io::Result<Vec<Socket>> {
    // Its modules may be missing.
    diagnosis.sockets(protocols).or_else(|_| listed())
}

/// For each socket the listener that is known of it.
fn recognize(
    sockets: &[Socket],
    known: &BTreeSet<Listener>,
) -> impl Iterator<Item = Option<Listener>> {
    let known: BTreeMap<_, _> = known
        .iter()
        .map(|listener| {
            let Listener {
                protocol,
                address,
                port,
                ..
            } = *listener;
            ((protocol, address, port), listener)
        })
        .collect();
    sockets.iter().map(move |socket| {
        let listener = known.get(&(socket.protocol, socket.address, socket.port));
        listener.map(|listener| Listener::clone(listener))
    })
}

/// The sockets that `/proc` lists.
fn listed() -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (table, protocol, state) in TABLES {
        match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) => sockets.extend(
                text.lines()
                    .skip(1)
                    .filter_map(|line| socket_of(line, protocol, state)),
            ),
            // A kernel without IPv6 has half of the tables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// States of net/tcp_states.h: TCP_LISTEN, and TCP_CLOSE, which is what an unconnected UDP socket shows.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, LISTENING),
    ("tcp6", Protocol::Tcp, LISTENING),
    ("udp", Protocol::Udp, UNCONNECTED),
    ("udp6", Protocol::Udp, UNCONNECTED),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Socket {
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    /// Zero for sockets of the kernel.
    inode: u64,
}

impl Socket {
    fn of_process(&self, process: Option<String>) -> Listener {
        Listener {
            protocol: self.protocol,
            address: self.address,
            port: self.port,
            process,
        }
    }
}

/// Whether others reach it.
fn is_open(socket: &Socket) -> bool {
    !socket.address.is_loopback() && socket.port != 0
}

/// A line of a table: number, local address, remote address, state, queues, timer, retransmissions, user, timeout,
/// inode.
pub(crate) fn socket_of(line: &str, protocol: Protocol, wanted: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let address = address_of(address)?.to_canonical();
    let port = u16::from_str_radix(port, 16).ok()?;
    let socket = Socket {
        protocol,
        address,
        port,
        inode,
    };
    (state == wanted && is_open(&socket)).then_some(socket)
}

/// The kernel prints addresses as words of the host's byte order.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |part: &str| Some(u32::from_str_radix(part, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(text)?)),
        32 => {
            let mut octets = [0; 16];
            for (place, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(text.get(place * 8..place * 8 + 8)?)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Names of the processes that hold sockets, by inode. Processes come and go while we look, so nothing here is an
/// error.
fn processes_of(mut inodes: BTreeSet<u64>) -> BTreeMap<u64, String> {
    inodes.remove(&0);
    let mut names = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return names;
    };
    for process in processes.flatten() {
        if inodes.is_empty() {
            break;
        }
        let numeric = process
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit());
        if !numeric {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Some(inode) = inode_of(&descriptor.path()).filter(|inode| inodes.contains(inode))
            else {
                continue;
            };
            if let Ok(name) = fs::read_to_string(process.path().join("comm")) {
                names.insert(inode, printable(name.trim_end()));
                inodes.remove(&inode);
            }
        }
    }
    names
}

/// A process chooses its name, and this is shown on an administrator's terminal.
fn printable(name: &str) -> String {
    name.replace(char::is_control, "?")
}

fn inode_of(descriptor: &std::path::Path) -> Option<u64> {
    let target = fs::read_link(descriptor).ok()?;
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, protocol: Protocol, state: &str) -> Option<(String, u16, u64)> {
        let socket = socket_of(line, protocol, state)?;
        Some((socket.address.to_string(), socket.port, socket.inode))
    }

    #[test]
    fn the_kernel_and_proc_tell_of_the_same_sockets() {
        use std::net::{TcpListener, TcpStream, UdpSocket};
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let tcp6 = TcpListener::bind("[::]:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let udp6 = UdpSocket::bind("[::]:0").unwrap();
        let local = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("0.0.0.0:0").unwrap();
        connected.connect(local.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(("127.0.0.1", tcp.local_addr().unwrap().port())).unwrap();
        let ports = [
            tcp.local_addr(),
            tcp6.local_addr(),
            udp.local_addr(),
            udp6.local_addr(),
            local.local_addr(),
            connected.local_addr(),
            client.local_addr(),
        ]
        .map(|address| address.unwrap().port());
        // Others open sockets meanwhile.
        let ours = |sockets: Vec<Socket>| -> BTreeSet<Socket> {
            let ours = |socket: &Socket| ports.contains(&socket.port);
            sockets.into_iter().filter(ours).collect()
        };
        let told = ours(Diagnosis::default().sockets(&Protocol::ALL.into()).unwrap());
        assert_eq!(told, ours(listed().unwrap()));
        let (listening, rest) = ports.split_at(4);
        for port in listening {
            assert!(told.iter().any(|socket| socket.port == *port), "{told:?}");
        }
        let of = |socket: &&Socket| rest.contains(&socket.port);
        let strangers = told
            .iter()
            .filter(of)
            .filter(|it| !listening.contains(&it.port));
        assert_eq!(strangers.count(), 0, "{told:?}");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_the_kernel_are_read() {
        let listening = "   0: 0A4433CB:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2468 1 0 100 0 0 10 0";
        assert_eq!(
            read(listening, Protocol::Tcp, LISTENING),
            Some(("203.51.68.10".into(), 22, 2468))
        );
        let mapped = "  1: 0000000000000000FFFF00000A4433CB:01BB 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0 0";
        assert_eq!(
            read(mapped, Protocol::Udp, UNCONNECTED),
            Some(("203.51.68.10".into(), 443, 77))
        );
        let documentation = mapped.replace(
            "0000000000000000FFFF00000A4433CB",
            "B80D0120000000000000000001000000",
        );
        assert_eq!(
            read(&documentation, Protocol::Udp, UNCONNECTED),
            Some(("2001:db8::1".into(), 443, 77))
        );
        // Connected, and listening on loopback.
        assert_eq!(
            read(&mapped.replace(" 07 ", " 01 "), Protocol::Udp, UNCONNECTED),
            None
        );
        assert_eq!(
            read(
                &listening.replace("0A4433CB", "0100007F"),
                Protocol::Tcp,
                LISTENING
            ),
            None
        );
    }
}
