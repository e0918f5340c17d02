//! The audit log: who did what. What tells of a change is committed with it, so that neither is there without the other.

mod description;
mod refused;

use std::fs;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use adit_api::types::log::{Action, LogEvent, LogObject, Verb, Who};
use adit_model::state::Device;
use adit_store::{Entry, LogQuery};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

pub(crate) use self::description::{action_of, all_changes, of_change};
use self::refused::Refused;
use crate::caller::{Bearer, Caller};
use crate::writer::Order;

/// Who is behind the numbers of users; name services beyond it may hang.
const USERS: &str = "/etc/passwd";

/// An entry to be.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) subjects: Vec<String>,
    pub(crate) event: LogEvent,
}

/// Where everybody writes to the log and reads it.
pub(crate) struct Audit {
    orders: mpsc::Sender<Order>,
    refused: Mutex<Refused>,
    /// Reading keeps the writer busy: changes wait for one reader at the most.
    reading: AsyncMutex<()>,
}

impl Audit {
    pub(crate) fn new(orders: mpsc::Sender<Order>) -> Self {
        Self {
            orders,
            refused: Mutex::default(),
            reading: AsyncMutex::new(()),
        }
    }

    /// A configuration with a preshared key is about to be shown.
    pub(crate) async fn configuration_shown(&self, caller: &Caller, device: &Device) {
        let object = LogObject {
            kind: "device".to_owned(),
            id: device.id.0,
            name: device.name.clone(),
            verb: Verb::Shown,
            fields: Default::default(),
        };
        let subjects = vec![
            format!("device/{}", device.id),
            format!("device/{}", device.name),
        ];
        let event = LogEvent {
            objects: vec![object],
            ..event(who(caller), Action::ShowConfiguration, String::new())
        };
        tracing::info!(device = %device.name, %caller, "configuration shown");
        self.write(Note { subjects, event }).await;
    }

    /// Everything is about to be shown for a backup.
    pub(crate) async fn backed_up(&self, caller: &Caller) {
        tracing::info!(%caller, "the state is backed up");
        self.write(Note {
            subjects: Vec::new(),
            event: event(who(caller), Action::BackUp, String::new()),
        })
        .await;
    }

    /// Somebody came without good credentials.
    pub(crate) fn credentials_refused(&self, source: IpAddr) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.count(source);
    }

    /// Writes down who was refused since the last time, in one entry.
    pub(crate) async fn tell_refused(&self) {
        let told = {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *refused).tell()
        };
        if let Some(detail) = told {
            tracing::warn!("{detail}");
            self.write(Note {
                subjects: Vec::new(),
                event: event(Who::Nobody, Action::RefuseCredentials, detail),
            })
            .await;
        }
    }

    pub(crate) async fn started(&self, detail: String) {
        self.write(of_gateway(Action::Start, detail)).await;
    }

    pub(crate) async fn stopped(&self) {
        self.write(of_gateway(Action::Stop, String::new())).await;
    }

    /// A part of the log; none when the daemon is about to end.
    pub(crate) async fn read(&self, query: LogQuery) -> Option<Result<Vec<Entry>, String>> {
        let _turn = self.reading.lock().await;
        let (answer, entries) = oneshot::channel();
        let order = Order::Read(query, answer);
        self.orders.send(order).await.ok()?;
        entries.await.ok()
    }

    /// Answers when it is durable, or cannot be: then the daemon's log has it alone.
    async fn write(&self, note: Note) {
        let (answer, written) = oneshot::channel();
        if self.orders.send(Order::Note(note, answer)).await.is_ok() {
            let _ = written.await;
        }
    }
}

/// The event of an entry; none where the row is not what was written.
pub(crate) fn event_of(body: Option<&str>) -> LogEvent {
    body.and_then(|body| serde_json::from_str(body).ok())
        .unwrap_or_else(|| {
            let detail = "what is stored of this entry is not what was written";
            event(Who::Nobody, Action::Damaged, detail.to_owned())
        })
}

fn of_gateway(action: Action, detail: String) -> Note {
    Note {
        subjects: Vec::new(),
        event: event(Who::Gateway, action, detail),
    }
}

const fn event(who: Who, action: Action, detail: String) -> LogEvent {
    LogEvent {
        who,
        action,
        objects: Vec::new(),
        more: 0,
        detail,
    }
}

fn who(caller: &Caller) -> Who {
    match caller {
        Caller::User { uid } => Who::User {
            uid: *uid,
            name: uid.and_then(user_name),
        },
        Caller::Gateway => Who::Gateway,
        Caller::Token(Bearer {
            id, name, source, ..
        }) => Who::Token {
            id: id.0,
            name: name.clone(),
            source: source.to_string(),
        },
    }
}

fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string(USERS).ok()?;
    let uid = uid.to_string();
    let line = users
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().map(str::to_owned)
}
