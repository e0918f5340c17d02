//! Prepares the API over TCP, as the configuration wants it: the socket, the certificate, and who may come in.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use adit_model::facts::Facts;
use anyhow::Context as _;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::certificate::{self, Files, Identity};
use crate::control::{ApiListener, Control};
use crate::http::{Listener, Tls, remote_router};
use crate::options::Listen;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// A socket that is bound, and how what comes there is encrypted.
pub(crate) struct Access {
    socket: TcpListener,
    tls: Option<Tls>,
    names: Vec<String>,
}

impl Access {
    /// Binds the socket and reads the certificate; makes one where there has to be one.
    pub(crate) fn prepare(
        listen: Listen,
        state_dir: &Path,
        facts: &Facts,
    ) -> anyhow::Result<(Self, ApiListener)> {
        let Listen {
            address,
            files,
            names,
        } = listen;
        let tls = match files {
            Some(files) => Some(encryption(files)?),
            None if address.ip().to_canonical().is_loopback() => None,
            None => {
                let wanted = subjects(address, &names, facts);
                let own = certificate::load_or_create(state_dir, &wanted).map_err(Into::into);
                let tls = own.and_then(encryption);
                Some(tls.context(
                    "the certificate that this gateway made for its API cannot be used; remove api-certificate.pem and api-key.pem from the \
                     state directory to have others made",
                )?)
            }
        };
        let socket = bind(address).with_context(|| {
            format!("cannot listen on {address} for the API (`--listen`, or `listen` in the [api] part of the configuration)")
        })?;
        let address = socket.local_addr().context("ask for the API's address")?;
        let fingerprint = tls.as_ref().map(|tls| tls.identity.fingerprint());
        for name in tls.iter().flat_map(|tls| tls.identity.lacks(&names)) {
            tracing::warn!(
                name,
                "the API's certificate is not for this name: clients refuse it, unless they are given the certificate itself"
            );
        }
        tracing::info!(%address, fingerprint, "the API is served over TCP");
        let told = ApiListener {
            address,
            fingerprint,
            problem: None,
        };
        let access = Self { socket, tls, names };
        Ok((access, told))
    }

    /// What serves it.
    pub(crate) fn listener(
        self,
        control: Arc<Control>,
        stop: watch::Receiver<bool>,
        told: watch::Sender<Option<ApiListener>>,
    ) -> Listener {
        let state = control.state.clone();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Listener {
            socket: self.socket,
            tls: self.tls,
            router: remote_router(control, self.names, scheme),
            state,
            stop,
            told,
        }
    }
}

fn encryption(files: Files) -> anyhow::Result<Tls> {
    let provider = Arc::new(ring::default_provider());
    let identity = Arc::new(Identity::load(files, Arc::clone(&provider))?);
    let resolver: Arc<Identity> = Arc::clone(&identity);
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose versions of TLS")?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls {
        identity,
        acceptor: TlsAcceptor::from(Arc::new(settings)),
    })
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // The address may come after the daemon, at boot.
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(!address.ip().is_unspecified())?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What a certificate of our own is for.
fn subjects(address: SocketAddr, names: &[String], facts: &Facts) -> BTreeSet<String> {
    let mut subjects: BTreeSet<String> = names.iter().cloned().collect();
    subjects.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    if address.ip().is_unspecified() {
        let addresses = facts.addresses.iter().map(|fact| fact.address.addr());
        subjects.extend(addresses.map(|address| address.to_string()));
    } else {
        subjects.insert(address.ip().to_canonical().to_string());
    }
    subjects
}
