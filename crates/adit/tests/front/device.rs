//! What devices serve: real TLS servers with certificates, and plain sockets for what no real server does.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use adit_lab::{Host, Process};
use anyhow::{Result, ensure};

use crate::network::{FAMILIES, Family, LIMIT, Network, Place, file};

/// What a server of a device is asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Serving {
    pub(crate) is_tls: bool,
    pub(crate) is_behind_proxy: bool,
}

pub(crate) const TLS: Serving = Serving {
    is_tls: true,
    is_behind_proxy: false,
};

/// What a server saw of a request, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) server: String,
    pub(crate) client: SocketAddr,
    pub(crate) path: String,
}

impl Network {
    /// A certificate for some names, which clients trust as an authority; its path and that of its key.
    pub(crate) fn certificate(&self, names: &[&str]) -> Result<[String; 2]> {
        let folder = self.gateway.folder()?;
        let stem = names.first().copied().unwrap_or("none").replace('*', "any");
        let [certificate, key] = ["pem", "key"].map(|ending| {
            folder
                .join(format!("{stem}.{ending}"))
                .to_string_lossy()
                .into_owned()
        });
        let listed: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let listed = format!("subjectAltName={}", listed.join(","));
        self.gateway.exec([
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            &listed,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])?;
        Ok([certificate, key])
    }

    /// A web server in both families, which calls itself `name`.
    pub(crate) fn serve(
        &self,
        place: Place,
        port: u16,
        name: &str,
        serving: Serving,
        certificate: &[String; 2],
    ) -> Result<Vec<Process>> {
        let script = file("server.py").to_string_lossy().into_owned();
        let mut processes = Vec::new();
        for family in FAMILIES {
            let address = place.address(family).to_string();
            let port = port.to_string();
            let mut words = vec!["python3", &script, name, &address, &port];
            if serving.is_tls {
                words.extend(["--tls", &certificate[0], &certificate[1]]);
            }
            if serving.is_behind_proxy {
                words.push("--proxy");
            }
            let mut process = self.host(place).spawn(words)?;
            process.wait_for_output("listening", LIMIT)?;
            processes.push(process);
        }
        Ok(processes)
    }

    /// `curl` of a name at the front, from a host; what the server says it saw.
    pub(crate) fn fetch(
        &self,
        from: &Host,
        family: Family,
        url: &str,
        certificate: &[String; 2],
    ) -> Result<Seen> {
        let output = self.curl(from, family, url, certificate, &["--fail"])?;
        let words: Vec<&str> = output.split_whitespace().collect();
        let [server, address, port, path] = words[..] else {
            anyhow::bail!("{url}: {output:?}");
        };
        Ok(Seen {
            server: server.to_owned(),
            client: SocketAddr::new(address.parse()?, port.parse()?),
            path: path.to_owned(),
        })
    }

    pub(crate) fn curl(
        &self,
        from: &Host,
        family: Family,
        url: &str,
        certificate: &[String; 2],
        options: &[&str],
    ) -> Result<String> {
        let address = match Place::Front.address(family) {
            address if address.is_ipv6() => format!("[{address}]"),
            address => address.to_string(),
        };
        let to = format!("::{address}:");
        let mut words = vec![
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "15",
            "--connect-to",
            &to,
            "--cacert",
            &certificate[0],
            url,
        ];
        words.extend(options);
        Ok(from.exec(words)?.stdout)
    }
}

/// A socket of a device that takes what comes; each connection is handed to the test.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) connections: Receiver<(TcpStream, SocketAddr)>,
    _thread: JoinHandle<()>,
}

impl Plain {
    pub(crate) fn listen(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.enter(|| TcpListener::bind(address))??;
        let (sender, connections) = mpsc::channel();
        let thread = thread::spawn(move || {
            while let Ok(connection) = listener.accept() {
                if sender.send(connection).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            connections,
            _thread: thread,
        })
    }

    pub(crate) fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        let (stream, address) = self.connections.recv_timeout(LIMIT)?;
        patient(&stream)?;
        Ok((stream, address))
    }
}

/// A connection from a host that gives up after a while.
pub(crate) fn connect(host: &Host, address: SocketAddr) -> Result<TcpStream> {
    let stream = host.enter(|| TcpStream::connect_timeout(&address, LIMIT))??;
    patient(&stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(())
}

/// The bytes of a ClientHello that names a host: those that `openssl s_client` sends, with so many more of protocols.
pub(crate) fn hello(host: &Host, name: &str, more: usize) -> Result<Vec<u8>> {
    let listener = host.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?.to_string();
    let mut words = vec![
        "openssl",
        "s_client",
        "-connect",
        &address,
        "-servername",
        name,
    ];
    let protocols = vec!["x".repeat(200); more.div_ceil(200)].join(",");
    if more > 0 {
        words.extend(["-alpn", &protocols]);
    }
    let mut process = host.spawn(words)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    ensure!(header[0] == 22, "{header:?}");
    let mut body = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut body)?;
    process.stop()?;
    Ok([&header[..], &body].concat())
}

/// Sends bytes both ways and compares what arrives; both connections stay open.
pub(crate) fn exchange(one: &TcpStream, other: &TcpStream) -> Result<()> {
    for (mut from, mut to) in [(one, other), (other, one)] {
        let sent: [u8; 8] = std::process::id()
            .to_be_bytes()
            .repeat(2)
            .try_into()
            .unwrap_or_default();
        from.write_all(&sent)?;
        let mut received = [0; 8];
        to.read_exact(&mut received)?;
        ensure!(sent == received, "{sent:?} became {received:?}");
    }
    Ok(())
}

/// Whether the other end has closed, and not reset, and sent nothing more.
pub(crate) fn ensure_closed(stream: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{rest:?}");
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}
