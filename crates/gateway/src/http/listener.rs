//! The API over TCP: on a thread of its own, so that a flood there takes nothing from the administrator's socket.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_model::state::{State, TokenId};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::admission::{Connections, Ticket};
use super::guard::Connection;
use crate::certificate::{CertificateError, Identity};
use crate::control::ApiListener;
use crate::writer::seconds_since_1970;

/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the head of a request, and between two requests on one connection.
const HEAD: Duration = Duration::from_secs(10);
/// For a client to take something of what it asked for.
const TAKING: Duration = Duration::from_secs(20);
/// All headers of a request together, in bytes, and their number.
const LARGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// How long answers may still take after the daemon was told to end.
const GRACE: Duration = Duration::from_secs(3);
/// How often the certificate's files are looked at.
const RENEWAL: Duration = Duration::from_secs(10);
/// The wall clock can be set: an expiry is looked for at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the listener works with.
pub(crate) struct Listener {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) tls: Option<Tls>,
    pub(crate) router: Router,
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Tells others how it does.
    pub(crate) told: watch::Sender<Option<ApiListener>>,
}

/// How connections are encrypted.
pub(crate) struct Tls {
    pub(crate) identity: Arc<Identity>,
    pub(crate) acceptor: TlsAcceptor,
}

/// What all connections share.
struct Shared {
    acceptor: Option<TlsAcceptor>,
    router: Router,
    state: watch::Receiver<Arc<State>>,
    stop: watch::Receiver<bool>,
}

impl Listener {
    /// Serves until it is told to stop, then finishes what it has begun.
    pub(crate) fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let served = runtime.and_then(|runtime| runtime.block_on(self.serve()));
        if let Err(error) = served {
            tracing::error!(%error, "the API is no longer served over TCP");
        }
    }

    async fn serve(self) -> io::Result<()> {
        let listener = TcpListener::from_std(self.socket)?;
        let mut stop = self.stop.clone();
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        let shared = Arc::new(Shared {
            acceptor,
            router: self.router,
            state: self.state,
            stop: self.stop,
        });
        let connections = Arc::new(Connections::default());
        let mut tasks = JoinSet::new();
        let renewal = async {
            match self.tls {
                Some(tls) => renew(&tls.identity, &self.told).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(renewal);
        loop {
            tokio::select! {
                // A sender that is gone stops it as well.
                _ = stop.changed() => break,
                () = &mut renewal => {}
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        if let Some(ticket) = connections.admit(from.ip()) {
                            tasks.spawn(attend(Arc::clone(&shared), stream, from.ip(), ticket));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection to the API");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let finish = async { while tasks.join_next().await.is_some() {} };
        // What has not ended by then is cut with the runtime.
        let _ = timeout(GRACE, finish).await;
        Ok(())
    }
}

/// Takes up renewed files for as long as it is polled.
async fn renew(identity: &Identity, told: &watch::Sender<Option<ApiListener>>) {
    let mut seen = identity.stamp();
    loop {
        sleep(RENEWAL).await;
        let stamp = identity.stamp();
        if stamp == seen {
            continue;
        }
        seen = stamp;
        let result = identity.renew();
        tell(identity, result.as_ref().err(), told);
    }
}

fn tell(
    identity: &Identity,
    error: Option<&CertificateError>,
    told: &watch::Sender<Option<ApiListener>>,
) {
    let fingerprint = identity.fingerprint();
    match error {
        Some(error) => {
            tracing::error!(%error, fingerprint, "the renewed certificate is not good; the old one stays in use");
        }
        None => tracing::info!(fingerprint, "the API has another certificate now"),
    }
    told.send_if_modified(|told| {
        let Some(told) = told else { return false };
        told.fingerprint = Some(fingerprint);
        told.problem = error.map(ToString::to_string);
        true
    });
}

/// One connection, from its handshake to its end.
async fn attend(shared: Arc<Shared>, stream: TcpStream, source: IpAddr, mut ticket: Ticket) {
    let Ok(local) = stream.local_addr().map(|address: SocketAddr| address.ip()) else {
        return;
    };
    // Without it, small answers may wait for acknowledgements; with an error they are just later.
    let _ = stream.set_nodelay(true);
    let connection = Connection {
        source: source.to_canonical(),
        local,
        holder: Arc::clone(&ticket.holder),
    };
    let holder = ticket.holder.subscribe();
    let ended = revoked(shared.state.clone(), holder);
    let mut patient = TimeoutStream::new(stream);
    patient.set_write_timeout(Some(TAKING));
    let patient = Box::pin(patient);
    let work = async {
        let result = match &shared.acceptor {
            Some(acceptor) => {
                let deadline = Instant::now() + HANDSHAKE;
                match timeout_at(deadline, acceptor.accept(patient)).await {
                    Ok(Ok(stream)) => converse(&shared, stream, connection).await,
                    Ok(Err(error)) => {
                        tracing::debug!(%source, %error, "no TLS");
                        return;
                    }
                    Err(_) => return,
                }
            }
            None => converse(&shared, patient, connection).await,
        };
        if let Err(error) = result {
            tracing::debug!(%source, %error, "a connection broke off");
        }
    };
    tokio::select! {
        () = work => {}
        () = ended => tracing::debug!(%source, "a connection was cut: its token is void"),
        _ = &mut ticket.evicted => tracing::debug!(%source, "a connection without a token gave way"),
    }
}

async fn converse<S>(shared: &Shared, stream: S, connection: Connection) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        let router = shared.router.clone();
        async move {
            let answer: Result<_, Infallible> = router.oneshot(request).await;
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut stop = shared.stop.clone();
    tokio::select! {
        result = serving.as_mut() => return result,
        // A sender that is gone stops it as well.
        _ = stop.changed() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// Ends when the token that was used last is removed or expires, so that no stream of events outlives it.
async fn revoked(
    mut state: watch::Receiver<Arc<State>>,
    mut holder: watch::Receiver<Option<TokenId>>,
) {
    loop {
        let held = *holder.borrow_and_update();
        let mut left = LONGEST_SLEEP;
        if let Some(id) = held {
            let state = state.borrow_and_update();
            let now = seconds_since_1970();
            let Some(token) = state.tokens.get(&id).filter(|token| !token.is_void(now)) else {
                return;
            };
            if let Some(expires) = token.expires {
                left = left.min(Duration::from_secs(expires.saturating_sub(now)));
            }
        }
        let changed = tokio::select! {
            changed = state.changed(), if held.is_some() => changed,
            changed = holder.changed() => changed,
            () = sleep(left) => Ok(()),
        };
        // The daemon ends, and the connection with it.
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}
