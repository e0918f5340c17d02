//! Servers of devices, and visitors who ask for them by names: programs that know nothing of Adit.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use adit_lab::{Host, Process};
use anyhow::{Context as _, Result, ensure};

use super::LIMIT;
use crate::support::World;

const SERVER: &str = include_str!("../support/web.py");
const QUIC: &str = include_str!("../../front/quic.py");

/// A certificate and its key; nobody looks whose it is.
pub(crate) struct Identity(pub(super) PathBuf);

impl Identity {
    pub(crate) fn make(world: &World) -> Result<Self> {
        let folder = world.lab.folder();
        let internet = world.host("internet")?;
        let (certificate, key) = (folder.join("web.pem"), folder.join("web.key"));
        let words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=web -out";
        let mut command: Vec<&str> = words.split(' ').collect();
        command.extend([path(&certificate)?, "-keyout", path(&key)?]);
        let names = "subjectAltName=DNS:quic.example.org,DNS:elsewhere.test";
        command.extend(["-addext", names]);
        internet.exec(command)?;
        Ok(Self(folder))
    }

    pub(crate) fn serve(&self, host: &Host, name: &str, port: u16, kind: &str) -> Result<Process> {
        let (certificate, key) = (self.0.join("web.pem"), self.0.join("web.key"));
        let port = port.to_string();
        let mut server = host.spawn([
            "python3",
            "-c",
            SERVER,
            name,
            &port,
            kind,
            path(&certificate)?,
            path(&key)?,
        ])?;
        server.wait_for_output("listening", LIMIT)?;
        Ok(server)
    }
}

/// The Python with the QUIC of others, as `scripts/install-peers` makes it, and the program that speaks it.
pub(super) fn quic(arguments: &[&str]) -> Result<Vec<String>> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/quic/bin/python3");
    ensure!(
        python.exists(),
        "there is no aioquic: `scripts/install-peers` installs it"
    );
    let words = [path(&python)?, "-c", QUIC].into_iter();
    let words = words.chain(arguments.iter().copied());
    Ok(words.map(str::to_owned).collect())
}

pub(super) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path in letters")
}

/// What `curl` says of a URL whose host leads to an address of the gateway; `NAME ADDRESS PORT` if the server is ours.
pub(crate) fn ask(host: &Host, url: &str, address: IpAddr) -> Result<String> {
    let (scheme, rest) = url.split_once("://").context("a scheme")?;
    let name = rest.split(['/', ':']).next().unwrap_or(rest);
    let port = match rest.split_once(':') {
        Some((_, port)) => port.split('/').next().unwrap_or(port),
        None if scheme == "https" => "443",
        None => "80",
    };
    let shown = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let resolve = format!("{name}:{port}:{shown}");
    let output = host.try_exec([
        "curl",
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "8",
        "--write-out",
        "%{http_code} %{redirect_url}",
        "--resolve",
        &resolve,
        url,
    ])?;
    ensure!(output.status.success(), "{url} at {address}: {output}");
    Ok(output.stdout)
}

/// Who answers, and whom it sees.
pub(super) fn who(host: &Host, url: &str, address: IpAddr) -> Result<(String, IpAddr)> {
    let text = ask(host, url, address)?;
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    let seen = words.next().unwrap_or_default();
    let seen = seen.parse().with_context(|| text.clone())?;
    Ok((name, seen))
}

pub(crate) fn expect(
    host: &Host,
    url: &str,
    address: IpAddr,
    server: &str,
    seen: IpAddr,
) -> Result<()> {
    let (name, source) = who(host, url, address)?;
    ensure!(
        (name.as_str(), source) == (server, seen),
        "{url} at {address}: answered by {name}, which sees {source}; it should be {server}, which sees {seen}"
    );
    Ok(())
}
