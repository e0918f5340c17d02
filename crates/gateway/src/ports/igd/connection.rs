//! Connections of devices: one request each, within a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_proto::igd::{Connection, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connections::Place;
use super::{Asking, Desk, action, seen};

/// How long a request may take to come in, and an answer to go out.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is still read after the answer: closing a socket with unread bytes would take the answer back.
const REST: usize = 64 * 1024;
const REST_TIME: Duration = Duration::from_secs(1);

/// Accepts connections on one address.
pub(super) async fn accept(listener: TcpListener, desk: Desk) {
    // They end with this task.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection for UPnP was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = source.ip().to_canonical();
        let Some(asking) = desk.asking(source) else {
            continue;
        };
        let Some(place) = desk.connections.open(asking.device) else {
            continue;
        };
        open.spawn(serve(stream, source, asking, place, desk.clone()));
    }
}

async fn serve(mut stream: TcpStream, source: IpAddr, asking: Asking, place: Place, desk: Desk) {
    // Counts until the end.
    let _place = place;
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let mut connection = Connection::new(desk.identity.clone(), local);
    if !matches!(
        timeout(PATIENCE, receive(&mut stream, &mut connection)).await,
        Ok(Ok(()))
    ) {
        return;
    }
    if let Some(event) = connection.poll_event() {
        let Some(control) = desk.ports.control.upgrade() else {
            return;
        };
        match event {
            Event::Call(request) => {
                let client = action::Client {
                    device: asking.device,
                    source,
                    since: desk.started,
                };
                let outcome = action::perform(&desk.ports, &control, &client, request).await;
                connection.handle_outcome(outcome);
            }
            Event::Seen(seen) => {
                let address = seen::tell(&control, asking.device, source, seen).await;
                connection.handle_seen(address);
            }
        }
    }
    let _ = timeout(PATIENCE, finish(&mut stream, &mut connection)).await;
}

/// Takes bytes until there is a request or an answer to what is none.
async fn receive(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        if connection.is_decided() {
            return Ok(());
        }
        if let Some(bytes) = connection.poll_transmit() {
            stream.write_all(&bytes).await?;
        }
        match stream.read(&mut buffer).await? {
            0 => connection.handle_end(),
            length => connection.handle_input(buffer.get(..length).unwrap_or_default()),
        }
    }
}

async fn finish(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
    while let Some(bytes) = connection.poll_transmit() {
        stream.write_all(&bytes).await?;
    }
    stream.shutdown().await?;
    let rest = async {
        let mut buffer = [0; 4096];
        let mut left = REST;
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => left = left.saturating_sub(length),
            }
        }
    };
    let _ = timeout(REST_TIME, rest).await;
    Ok(())
}
