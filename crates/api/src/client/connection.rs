//! One request on one connection, within bounds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::stream::{Connection, EventStream};
use super::{Client, ClientError, Target, trust};
use crate::problem::Problem;

/// For the whole of a request: a change waits for the disk and the kernel.
const LIMIT: Duration = Duration::from_secs(60);
/// Far more than the largest page.
const LARGEST_ANSWER: usize = 64 << 20;

const CONFIRM_WITHIN: HeaderName = HeaderName::from_static("confirm-within");
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("client-address");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(super) async fn request(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Vec<u8>, ClientError> {
    let request = build(client, method, path, body)?;
    within_limit(client, async {
        let (response, _connection) = send(client, request).await?;
        read(client, response).await
    })
    .await
}

/// Asks for a stream of events, and leaves the connection open.
pub(super) async fn listen(
    client: &Client,
    path: &str,
    last: Option<u64>,
) -> Result<EventStream, ClientError> {
    let mut request = build(client, Method::GET, path, None)?;
    if let Some(last) = last {
        request.headers_mut().insert(LAST_EVENT_ID, last.into());
    }
    within_limit(client, async {
        let (response, connection) = send(client, request).await?;
        if response.status().is_success() {
            return Ok(EventStream::new(response.into_body(), connection));
        }
        let answer = read(client, response).await?;
        Err(client.protocol(format!(
            "{} bytes where there should be events",
            answer.len()
        )))
    })
    .await
}

async fn within_limit<T>(
    client: &Client,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(LIMIT, work).await.map_err(|_| {
        let why = format!("no answer within {} s", LIMIT.as_secs());
        unreachable(client, why)
    })?
}

async fn send(
    client: &Client,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Connection), ClientError> {
    match &client.target {
        Target::Unix(socket) => {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| unreachable(client, error.to_string()))?;
            exchange(client, stream, request).await
        }
        Target::Tcp {
            host, port, tls, ..
        } => {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(|error| unreachable(client, error.to_string()))?;
            let Some(tls) = tls else {
                return exchange(client, stream, request).await;
            };
            let stream = tls
                .connector
                .connect(tls.name.clone(), stream)
                .await
                .map_err(|error| untrusted(client, host, &error))?;
            exchange(client, stream, request).await
        }
    }
}

async fn exchange<S>(
    client: &Client,
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Connection), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(client, error.to_string()))?;
    let connection = Connection::new(tokio::spawn(async move {
        // What breaks it breaks the answer, too.
        let _ = connection.await;
    }));
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(client, format!("it broke off: {error}")))?;
    Ok((response, connection))
}

/// The body of a success, or why it is none.
async fn read(client: &Client, response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
    let status = response.status();
    let awaits = response.headers().get(CONFIRM_WITHIN);
    let awaits = awaits.and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(seconds) = awaits {
        client.awaits.store(seconds, Ordering::Relaxed);
    }
    let body = Limited::new(response.into_body(), LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| client.protocol(format!("the answer broke off: {error}")))?
        .to_bytes();
    if status.is_success() {
        return Ok(body.to_vec());
    }
    Err(refused(client, status, &body))
}

fn refused(client: &Client, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Problem(Box::new(problem)),
        Err(_) => client.protocol(format!("it says {status} without a reason")),
    }
}

fn build(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let host = match &client.target {
        Target::Unix(_) => "localhost",
        Target::Tcp { authority, .. } => authority,
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host);
    if let Some(token) = &client.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.0));
    }
    if let Some(version) = client.version {
        request = request.header(IF_MATCH, format!("\"{version}\""));
    }
    if let Some(confirm) = &client.confirm {
        request = request.header(CONFIRM_WITHIN, confirm);
    }
    if let Some(address) = client.address {
        request = request.header(CLIENT_ADDRESS, address.to_string());
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| client.protocol(error.to_string()))
}

fn untrusted(client: &Client, host: &str, error: &std::io::Error) -> ClientError {
    let (why, hint) = trust::explain(error, host);
    ClientError::Untrusted {
        what: client.target.to_string(),
        why,
        hint,
    }
}

fn unreachable(client: &Client, why: String) -> ClientError {
    ClientError::Unreachable {
        what: client.target.to_string(),
        why,
    }
}
