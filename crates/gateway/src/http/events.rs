//! The stream of events (server-sent events, WHATWG HTML section 9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_api::problem::Problem;
use adit_api::types::event::{EditEvent, Edits, Event, Mark, Problems};
use adit_api::types::status::StatusProblem;
use adit_model::edit::{Edit, Key, Object};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::poll_fn;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

use super::answer::Failure;
use super::request::invalid;
use super::view;
use crate::control::{Control, Snapshot};
use crate::events::{Commit, Item, LISTENERS, NotNow, Subscription};

/// How long a listener may take no event.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events on their way to one listener.
const UNDERWAY: usize = 16;
/// How often something is sent when nothing happens, so that both ends notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Edits that are told one by one; after more a listener looks at everything again.
const EDITS: usize = 1000;

/// What happens, as it happens: `start`, `reset`, `edits`, `traffic` and `problems`. The id of an event is the revision;
/// with the last one in `Last-Event-ID` a listener goes on where it was.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "listen",
    tag = "gateway",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen")),
    responses(
        (status = 200, description = "Server-sent events; the data of each is this", body = Event, content_type = "text/event-stream"),
        Failure
    )
)]
pub(super) async fn listen(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Failure> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let number = text.parse().map_err(|_| {
                invalid("`Last-Event-ID`: it takes the id of an event, which is a number")
            })?;
            Some(number)
        }
    };
    let problems = control.snapshot().all_problems();
    let subscription = control.events.subscribe(last, problems).map_err(refuse)?;
    let (sender, mut receiver) = mpsc::channel(UNDERWAY);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = feed(&control, subscription, sender) => {}
            () = closed.closed() => {}
        }
    });
    let stream = poll_fn(move |context| receiver.poll_recv(context));
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

fn refuse(reason: NotNow) -> Failure {
    let problem = match reason {
        NotNow::Full => Problem::new(
            503,
            "too-many-listeners",
            format!("{LISTENERS} listen to the events already"),
            "end one of them, or ask for `/api/v1/log` now and then",
        ),
        NotNow::Stopping => Problem::new(
            503,
            "stopping",
            "the gateway is about to end",
            "start the gateway, and listen again",
        ),
    };
    problem.into()
}

/// Feeds one listener until it goes, is too slow, or the daemon ends.
async fn feed(
    control: &Control,
    subscription: Subscription,
    sender: mpsc::Sender<Result<sse::Event, Infallible>>,
) {
    let Subscription {
        first,
        missed,
        problems,
        mut items,
        mut stop,
        place: _place,
    } = subscription;
    let work = async {
        if let Some(first) = first {
            send(&sender, of_event(&first)).await?;
        }
        for commit in missed {
            send(&sender, of_commit(control, &commit)).await?;
        }
        if !problems.is_empty() {
            let problems = Problems {
                appeared: problems.iter().map(StatusProblem::from).collect(),
                cleared: Vec::new(),
            };
            send(&sender, of_event(&Event::Problems(problems))).await?;
        }
        loop {
            let event = match items.recv().await {
                Ok(Item::Commit(commit)) => of_commit(control, &commit),
                Ok(Item::Event(event)) => of_event(&event),
                // It may come back with the id that it has.
                Err(broadcast::error::RecvError::Lagged(_)) => return None,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            send(&sender, event).await?;
        }
    };
    let _: Option<()> = tokio::select! {
        ended = work => ended,
        // An error says that the daemon is gone.
        _ = stop.wait_for(|stop| *stop) => None,
    };
}

async fn send(
    sender: &mpsc::Sender<Result<sse::Event, Infallible>>,
    event: sse::Event,
) -> Option<()> {
    timeout(PATIENCE, sender.send(Ok(event))).await.ok()?.ok()
}

fn of_event(event: &Event) -> sse::Event {
    with_head(event, &text_of(event))
}

fn of_commit(control: &Control, commit: &Commit) -> sse::Event {
    let text = commit
        .text
        .get_or_init(|| text_of(&told(control, commit)).into());
    let name = if commit.edits.len() > EDITS {
        "reset"
    } else {
        "edits"
    };
    sse::Event::default()
        .id(commit.revision.to_string())
        .event(name)
        .data(text)
}

fn with_head(event: &Event, text: &str) -> sse::Event {
    let told = sse::Event::default().event(event.name()).data(text);
    match event.revision() {
        Some(revision) => told.id(revision.to_string()),
        None => told,
    }
}

fn text_of(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

fn told(control: &Control, commit: &Commit) -> Event {
    let revision = commit.revision;
    if commit.edits.len() > EDITS {
        return Event::Reset(Mark { revision });
    }
    let snapshot = control.snapshot_of(Arc::clone(&commit.state));
    let edits = commit
        .edits
        .iter()
        .filter_map(|edit| edit_event(&snapshot, edit))
        .collect();
    Event::Edits(Edits { revision, edits })
}

/// None for what is shown as a part of others only.
fn edit_event(snapshot: &Snapshot, edit: &Edit) -> Option<EditEvent> {
    let object = match edit {
        // Its port is only kept for a while.
        Edit::Set(Object::Lease(lease)) if !lease.is_open() => None,
        Edit::Set(object) => Some(shown(snapshot, object)?),
        Edit::Remove(_) => None,
    };
    let key = edit.key();
    match key {
        Key::Delegation(_) | Key::Sequence | Key::Confirmation => None,
        Key::Uplink(_)
        | Key::Subnet(_)
        | Key::Device(_)
        | Key::Forward(_)
        | Key::Pinhole(_)
        | Key::Lease(_)
        | Key::Token(_)
        | Key::Settings => Some(EditEvent {
            kind: key.kind().to_owned(),
            id: key.id(),
            object,
        }),
    }
}

fn shown(snapshot: &Snapshot, object: &Object) -> Option<Value> {
    let value = match object {
        Object::Uplink(said) => {
            let mut uplinks = snapshot.uplinks.iter();
            let uplink = uplinks.find(|uplink| uplink.name == said.name)?;
            serde_json::to_value(view::uplink(snapshot, uplink))
        }
        Object::Subnet(subnet) => serde_json::to_value(view::subnet(snapshot, subnet)),
        Object::Device(device) => serde_json::to_value(view::device(snapshot, device)),
        Object::Forward(forward) => serde_json::to_value(view::forward(snapshot, forward)),
        Object::Pinhole(pinhole) => serde_json::to_value(view::pinhole(snapshot, pinhole)),
        Object::Lease(lease) => serde_json::to_value(view::lease(snapshot, lease)),
        Object::Token(token) => serde_json::to_value(view::token(snapshot, token)),
        Object::Settings(_) => serde_json::to_value(view::settings(snapshot)),
        Object::Delegation(_) | Object::Sequence(_) | Object::Confirmation(_) => return None,
    };
    value.ok()
}
