//! Requests to the gateway, and what other gateways answer to ours.

#![no_main]

use adit_proto::igd::{Action, Answer, Connection, Identity, Location, RemoteGateway};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    request(bytes, bytes.len());
    request(bytes, 1);
    answer(bytes);
});

/// Takes a request in pieces; whatever it is, the connection comes to an end.
fn request(bytes: &[u8], piece: usize) {
    let identity = Identity {
        seed: [7; 16],
        name: "gateway".to_owned(),
        software: "0".to_owned(),
        boot: 1,
    };
    let mut connection = Connection::new(identity, ([10, 59, 0, 1], 5000).into());
    for piece in bytes.chunks(piece.max(1)) {
        connection.handle_input(piece);
    }
    connection.handle_end();
    if connection.poll_event().is_some() {
        connection.handle_outcome(Ok(Answer::Done));
    }
    while connection.poll_transmit().is_some() {}
    assert!(connection.is_finished());
}

fn answer(bytes: &[u8]) {
    let Some(location) = Location::parse("http://192.168.1.1:5000/root.xml") else {
        unreachable!("it is a location");
    };
    let mut exchange = location.describe();
    exchange.handle_input(bytes);
    exchange.handle_end();
    let document = match exchange.outcome() {
        Some(Ok(body)) => body,
        Some(Err(_)) | None => bytes,
    };
    let Ok(gateway) = RemoteGateway::from_description(&location, document) else {
        return;
    };
    for action in [Action::Status, Action::ExternalAddress, Action::Entry(0), Action::FirewallStatus] {
        if let Some(exchange) = gateway.call(&action) {
            assert_eq!(exchange.address().ip(), location.address.ip());
        }
        let _ = gateway.read(&action, bytes);
    }
}
