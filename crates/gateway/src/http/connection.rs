//! Connections to the administrator's socket, within bounds of number, size and time.

use std::sync::Arc;
use std::time::Duration;

use adit_api::problem::Problem;
use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use super::answer::Failure;
use crate::caller::Caller;

/// Of those that come further the kernel keeps some waiting.
const CONNECTIONS: usize = 512;
/// For the head of a request, and for a connection that is kept open for the next one.
const SLOWEST_HEAD: Duration = Duration::from_secs(10);
/// What can be answered with a reason; a head beyond [`LARGEST_READ`] gets a bare 431.
const LARGEST_TARGET: usize = 4 << 10;
const LARGEST_HEADERS: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
const LARGEST_READ: usize = 64 << 10;
/// After a failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers on the administrator's socket until `stop` changes, then finishes what it has begun.
pub(crate) async fn serve(listener: UnixListener, router: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((listener.accept().await, place))
        };
        let (accepted, place) = tokio::select! {
            // A sender that is gone stops it as well.
            _ = stop.changed() => break,
            accepted = accepted => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the administrator's socket");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let caller = caller(&stream);
        let service = router.clone().map_request(move |mut request: Request<_>| {
            let extensions = request.extensions_mut();
            extensions.insert(caller.clone());
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SLOWEST_HEAD)
            .max_buf_size(LARGEST_READ)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Whoever broke off knows.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Refuses requests whose head is larger than any of ours.
pub(super) async fn check_head(request: Request, next: Next) -> Result<Response, Failure> {
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    if target > LARGEST_TARGET {
        let detail = format!("the target of the request is longer than {LARGEST_TARGET} bytes");
        let hint = "ask for less at a time, and send what is long in the body";
        return Err(Problem::new(414, "target-too-long", detail, hint).into());
    }
    let headers = request.headers();
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if headers.len() > MOST_HEADERS || size > LARGEST_HEADERS {
        let detail = format!(
            "the request has more than {MOST_HEADERS} headers or {LARGEST_HEADERS} bytes of them"
        );
        let hint = "leave out headers that a gateway has no use for, such as cookies";
        return Err(Problem::new(431, "headers-too-large", detail, hint).into());
    }
    Ok(next.run(request).await)
}

fn caller(stream: &UnixStream) -> Caller {
    let credentials = stream.peer_cred().ok();
    Caller::User {
        uid: credentials.map(|credentials| credentials.uid()),
    }
}
