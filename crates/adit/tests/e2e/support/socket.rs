//! Ordinary sockets inside the namespaces of a lab, every wait bounded.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(4);

/// Both ends of a TCP connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    /// The client, as the server sees it.
    pub(crate) seen: SocketAddr,
}

pub(crate) fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

pub(crate) fn udp(host: &Host, address: SocketAddr) -> Result<UdpSocket> {
    let name = || format!("{}: UDP socket on {address}", host.name());
    let socket = bind(&name(), || Ok(host.enter(|| UdpSocket::bind(address))??))?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// A socket of a protocol that has no ports: the one for experiments (RFC 3692 section 2.1).
pub(crate) fn raw(host: &Host, address: IpAddr) -> Result<UdpSocket> {
    const EXPERIMENT: i32 = 253;
    let address = at(address, 0);
    let socket = host.enter(|| -> std::io::Result<UdpSocket> {
        let protocol = Some(EXPERIMENT.into());
        let socket = Socket::new(Domain::for_address(address), Type::RAW, protocol)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    })??;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

pub(crate) fn send(from: &UdpSocket, to: SocketAddr, text: &str) -> Result<()> {
    from.send_to(text.as_bytes(), to)
        .with_context(|| format!("send {text:?} to {to}"))?;
    Ok(())
}

/// The next datagram, with what it is seen to come from.
pub(crate) fn receive(on: &UdpSocket, text: &str) -> Result<SocketAddr> {
    let mut buffer = [0; 2048];
    let (length, source) = on
        .recv_from(&mut buffer)
        .with_context(|| format!("wait for {text:?} on {:?}", on.local_addr()))?;
    let got = String::from_utf8_lossy(&buffer[..length]);
    ensure!(
        got == text,
        "{got:?} from {source} where {text:?} was awaited"
    );
    Ok(source)
}

/// There and back; returns the source that the server saw.
pub(crate) fn exchange(
    client: &UdpSocket,
    to: SocketAddr,
    server: &UdpSocket,
    text: &str,
) -> Result<SocketAddr> {
    send(client, to, text)?;
    let source = receive(server, text).with_context(|| format!("sent to {to}"))?;
    let answer = format!("answer to {text}");
    send(server, source, &answer)?;
    let from = receive(client, &answer).with_context(|| format!("the answer from {to}"))?;
    ensure!(from == to, "sent to {to}, and the answer comes from {from}");
    Ok(source)
}

pub(crate) fn listen(host: &Host, address: SocketAddr) -> Result<TcpListener> {
    let name = format!("{}: listen on {address}", host.name());
    let listener = bind(&name, || Ok(host.enter(|| TcpListener::bind(address))??))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A child that another test is about to start still holds the socket that was just closed here.
fn bind<T>(name: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let mut bound = None;
    wait_until(name, Duration::from_secs(2), || {
        bound = Some(attempt()?);
        Ok(true)
    })?;
    bound.with_context(|| name.to_owned())
}

pub(crate) fn connect(
    host: &Host,
    from: Option<SocketAddr>,
    to: SocketAddr,
    limit: Duration,
) -> Result<TcpStream> {
    let stream = host
        .enter(|| -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(from) = from {
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())?;
            }
            socket.connect_timeout(&to.into(), limit)?;
            Ok(socket.into())
        })?
        .with_context(|| format!("{}: connect to {to}", host.name()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let mut accepted = None;
    let what = format!("a connection to {:?}", listener.local_addr());
    wait_until(&what, LIMIT, || {
        accepted = Some(listener.accept()?);
        Ok(true)
    })?;
    let (stream, seen) = accepted.context(what)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok((stream, seen))
}

/// Connects, and says something in both directions.
pub(crate) fn converse(
    host: &Host,
    from: Option<SocketAddr>,
    to: SocketAddr,
    listener: &TcpListener,
) -> Result<Conversation> {
    let client = connect(host, from, to, LIMIT)?;
    let (server, seen) = accept(listener)?;
    let mut conversation = Conversation {
        client,
        server,
        seen,
    };
    conversation
        .talk()
        .with_context(|| format!("{} with {to}", host.name()))?;
    Ok(conversation)
}

impl Conversation {
    pub(crate) fn talk(&mut self) -> Result<()> {
        pass(&mut self.client, &mut self.server).context("client to server")?;
        pass(&mut self.server, &mut self.client).context("server to client")
    }

    /// As [`Self::talk`], the server first.
    pub(crate) fn talk_backwards(&mut self) -> Result<()> {
        pass(&mut self.server, &mut self.client).context("server to client")?;
        pass(&mut self.client, &mut self.server).context("client to server")
    }

    /// The server speaks on, heard or not, as one that does not know that the connection was ended.
    pub(crate) fn insist(&mut self) {
        // An error says that the connection is ended already.
        let _ = self.server.write_all(b"some words");
    }

    /// Whether what the client says still arrives; if it does not, the connection is not good for anything after.
    pub(crate) fn is_cut(&mut self) -> Result<bool> {
        self.server
            .set_read_timeout(Some(Duration::from_millis(1500)))?;
        let arrived = pass(&mut self.client, &mut self.server);
        self.server.set_read_timeout(Some(LIMIT))?;
        Ok(arrived.is_err())
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    const WORDS: &[u8] = b"some words";
    let mut buffer = [0; WORDS.len()];
    from.write_all(WORDS)?;
    to.read_exact(&mut buffer)?;
    ensure!(buffer == WORDS, "other words arrived: {buffer:?}");
    Ok(())
}
