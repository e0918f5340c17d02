//! `/metrics`, on a listener of its own and on the administrator's socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use adit_api::problem::Problem;
use adit_model::problem;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::Failure;
use crate::control::Control;

/// The format's own media type.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The code of the problem that nobody can be listened to.
const TAKEN: &str = "metrics-listener";

/// How often a port that is in use is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Connections at a time; others wait until one ends.
const CONNECTIONS: usize = 8;
/// How long the head of a request may take, and all of a connection.
const HEAD: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(30);

/// All metrics; asked for by many they are made once a second.
pub(super) async fn show(State(control): State<Arc<Control>>) -> Response {
    let text = control.metrics_text().await;
    ([(CONTENT_TYPE, TEXT)], text.to_string()).into_response()
}

/// Counts what was answered.
pub(super) async fn count(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "PATCH" | "DELETE" | "HEAD") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", |path| path.as_str())
        .to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    control.metrics.requested(&method, &route, status);
    response
}

/// Answers on the metrics' own address until `stop` changes. A port that is in use is a problem, and is tried again.
pub(crate) async fn serve_metrics(
    address: SocketAddr,
    control: Weak<Control>,
    mut stop: watch::Receiver<bool>,
) {
    let work = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    if let Some(control) = control.upgrade() {
                        control.troubles.clear(TAKEN);
                    }
                    tracing::info!(%address, "metrics are served");
                    accept(&listener, &control).await;
                    return;
                }
                Err(error) => {
                    let Some(control) = control.upgrade() else {
                        return;
                    };
                    let trouble = taken(address, &error);
                    tracing::warn!(%address, %error, "metrics are not served");
                    control.troubles.set(trouble);
                }
            }
            sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = work => {}
        // An error says that the daemon is gone.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn taken(address: SocketAddr, error: &std::io::Error) -> problem::Problem {
    problem::Problem {
        code: TAKEN.to_owned(),
        object: format!("metrics on {address}"),
        message: format!("metrics are not served: {error}"),
        fix: format!(
            "see who listens there with `ss -ltnp sport = :{}`, or choose another address: `listen` below `[metrics]` in \
             /etc/adit/gateway.toml (`off` for none); it is tried again",
            address.port()
        ),
    }
}

async fn accept(listener: &TcpListener, control: &Weak<Control>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Ended with this function, whatever they wait for.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of file descriptors, mostly: others must get theirs back first.
            Err(_) => {
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(control) = control.upgrade() else {
            return;
        };
        let service = TowerToHyperService::new(router(control));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // Whoever breaks off has what it wanted.
            let _ = timeout(WHOLE, connection).await;
            drop(place);
        });
    }
}

fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/metrics", get(show))
        .fallback(only_metrics)
        .method_not_allowed_fallback(only_metrics)
        .layer(from_fn(check_host))
        .with_state(control)
}

async fn only_metrics() -> Failure {
    Problem::new(
        404,
        "no-such-path",
        "there is nothing here but GET /metrics",
        "the rest is on the administrator's socket: `adit status`",
    )
    .into()
}

/// A page of somebody else's, whose name leads here, is a browser's doing and none of ours.
async fn check_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok());
    if host.is_some_and(is_own) {
        return next.run(request).await;
    }
    let problem = Problem::new(
        403,
        "foreign-host",
        "the request is for another host",
        "ask by address, such as http://127.0.0.1:9586/metrics",
    );
    Failure::from(problem).into_response()
}

/// An address cannot be made to lead elsewhere, as a name can.
fn is_own(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused() {
        for own in [
            "127.0.0.1:9586",
            "localhost",
            "[::1]:9586",
            "10.0.0.1",
            "LOCALHOST:1",
        ] {
            assert!(is_own(own), "{own}");
        }
        for foreign in [
            "evil.example:9586",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
