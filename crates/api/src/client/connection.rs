//! One request on one connection, within bounds.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Client, ClientError, Target, trust};
use crate::problem::Problem;

/// For the whole of a request: a change waits for the disk and the kernel.
const LIMIT: Duration = Duration::from_secs(60);
/// Far more than the largest page.
const LARGEST_ANSWER: usize = 64 << 20;

pub(super) async fn request(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Vec<u8>, ClientError> {
    let work = async {
        match &client.target {
            Target::Unix(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(|error| unreachable(client, error.to_string()))?;
                exchange(client, stream, method, path, body).await
            }
            Target::Tcp {
                host, port, tls, ..
            } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(|error| unreachable(client, error.to_string()))?;
                let Some(tls) = tls else {
                    return exchange(client, stream, method, path, body).await;
                };
                let stream = tls
                    .connector
                    .connect(tls.name.clone(), stream)
                    .await
                    .map_err(|error| untrusted(client, host, &error))?;
                exchange(client, stream, method, path, body).await
            }
        }
    };
    timeout(LIMIT, work).await.map_err(|_| {
        let why = format!("no answer within {} s", LIMIT.as_secs());
        unreachable(client, why)
    })?
}

async fn exchange<S>(
    client: &Client,
    stream: S,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Vec<u8>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(client, error.to_string()))?;
    let connection = tokio::spawn(connection);
    let request = build(client, method, path, body)?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(client, format!("it broke off: {error}")))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| client.protocol(format!("the answer broke off: {error}")))?;
        Ok((head.status, body.to_bytes()))
    }
    .await;
    connection.abort();
    let (status, body) = answer?;
    if status.is_success() {
        return Ok(body.to_vec());
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) => Err(client.protocol(format!("it says {status} without a reason"))),
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
