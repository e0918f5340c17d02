//! `adit events`: what happens, as it happens.

use std::time::{Duration, SystemTime};

use adit_api::client::ClientError;
use adit_api::timestamp::Timestamp;
use adit_api::types::event::{DeviceTraffic, EditEvent, Event};
use adit_api::types::status::StatusProblem;

use super::Session;
use super::device::view::{ago, bytes};
use crate::output::{Failure, or_dash};

/// Before it is tried to listen again.
const PAUSE: Duration = Duration::from_secs(1);

/// Ends when nobody reads any more; a gateway that is started again is listened to again.
pub(super) async fn run(session: Session) -> Result<(), Failure> {
    let Session { client, output } = session;
    let mut last = None;
    let mut stream = client.events(last).await?;
    loop {
        while let Some(received) = stream.next().await {
            last = received.event.revision().or(last);
            let lines = if output.is_json() {
                vec![received.text]
            } else {
                lines(&received.event)
            };
            for line in lines {
                if !output.line(&line) {
                    return Ok(());
                }
            }
        }
        output.note("waiting: the gateway ended the stream");
        stream = loop {
            tokio::time::sleep(PAUSE).await;
            match client.events(last).await {
                Ok(stream) => break stream,
                Err(ClientError::Unreachable { .. }) => {}
                // It is about to end, or too many listen.
                Err(ClientError::Problem(problem)) if problem.status == 503 => {}
                Err(error) => return Err(error.into()),
            }
        };
    }
}

fn lines(event: &Event) -> Vec<String> {
    let now = Timestamp::from(SystemTime::now());
    let lines = match event {
        Event::Start(mark) => vec![format!("revision {}: listening", mark.revision)],
        Event::Reset(mark) => vec![format!(
            "revision {}: what was changed before it is not told; `adit log` tells it",
            mark.revision
        )],
        Event::Edits(edits) => {
            let edit = |edit| format!("revision {}: {}", edits.revision, describe(edit));
            edits.edits.iter().map(edit).collect()
        }
        Event::Traffic(traffic) => traffic.devices.iter().map(device).collect(),
        Event::Problems(problems) => {
            let appeared = problems.appeared.iter();
            let cleared = problems.cleared.iter();
            let appeared =
                appeared.map(|it| format!("{} (fix: {})", problem("problem", it), it.fix));
            let cleared = cleared.map(|it| problem("no longer", it));
            appeared.chain(cleared).collect()
        }
    };
    lines
        .into_iter()
        .map(|line| format!("{now}  {line}"))
        .collect()
}

fn describe(edit: &EditEvent) -> String {
    let Some(object) = &edit.object else {
        return format!("{} {} is gone", edit.kind, edit.id);
    };
    let name = object.get("name").or_else(|| object.get("device"));
    match name.and_then(|name| name.as_str()) {
        Some(name) => format!("{} {} ({name}) is set", edit.kind, edit.id),
        None => format!("{} is set", edit.kind),
    }
}

fn device(device: &DeviceTraffic) -> String {
    let state = if device.connected {
        "connected"
    } else {
        "not connected"
    };
    format!(
        "device {}: {state}, from {}, handshake {}, received {}, sent {}",
        device.name,
        or_dash(device.endpoint),
        or_dash(device.last_handshake.map(ago)),
        bytes(device.received_bytes),
        bytes(device.sent_bytes)
    )
}

fn problem(what: &str, problem: &StatusProblem) -> String {
    format!(
        "{what}: {}: {} ({})",
        problem.object, problem.message, problem.code
    )
}
