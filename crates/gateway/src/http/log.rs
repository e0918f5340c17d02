//! The audit log.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::timestamp::Timestamp;
use adit_api::types::log::{Log, LogEntry, LogOrder, LogParameters};
use adit_store::LogQuery;
use axum::Json;
use axum::extract::State;

use super::answer::Failure;
use super::request::{Query, invalid};
use crate::audit::event_of;
use crate::control::Control;

/// Entries of a part that asks for no number.
const USUAL: usize = 100;
/// Entries of a part.
const LARGEST: usize = 500;

/// Who changed what, the newest first.
#[utoipa::path(
    get,
    path = "/log",
    operation_id = "show_log",
    tag = "gateway",
    params(LogParameters),
    responses((status = 200, description = "A part of the log", body = Log), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Query(parameters): Query<LogParameters>,
) -> Result<Json<Log>, Failure> {
    let limit = parameters.limit.unwrap_or(USUAL);
    if !(1..=LARGEST).contains(&limit) {
        return Err(invalid(format!("`limit`: it takes 1 to {LARGEST}")).into());
    }
    let query = LogQuery {
        oldest_first: parameters.order == LogOrder::Oldest,
        after: parameters.after,
        // One more tells whether there is more.
        limit: limit + 1,
        subject: subject(&parameters)?,
        since: parameters.since.map_or(0, |since| since.0),
    };
    let read = control.audit.read(query).await.ok_or_else(|| {
        Problem::new(
            503,
            "stopping",
            "the gateway is about to end",
            "start the gateway, and ask again",
        )
    })?;
    let mut entries = read.map_err(|message| {
        Problem::new(
            500,
            "store",
            format!("the log cannot be read: {message}"),
            "see to the disk of the state directory; the daemon's own log has the changes, too",
        )
    })?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let entries: Vec<LogEntry> = entries
        .into_iter()
        .map(|entry| LogEntry {
            number: entry.number,
            time: Timestamp(entry.time),
            revision: entry.revision,
            event: event_of(entry.body.as_deref()),
        })
        .collect();
    let last = entries.last().filter(|_| has_more);
    let next = last.map(|last| next(&parameters, limit, last.number));
    Ok(Json(Log { entries, next }))
}

fn subject(parameters: &LogParameters) -> Result<Option<String>, Failure> {
    let subject = match (&parameters.device, &parameters.object) {
        (None, None) => return Ok(None),
        (Some(device), None) => format!("device/{device}"),
        (None, Some(object)) => object.clone(),
        (Some(_), Some(_)) => {
            return Err(invalid("`object`: it cannot stand beside `device`").into());
        }
    };
    let is_subject = subject.split_once('/').is_some_and(|(kind, reference)| {
        !kind.is_empty() && !reference.is_empty() && !subject.chars().any(char::is_control)
    });
    if is_subject {
        Ok(Some(subject))
    } else {
        let detail = "`object`: it takes KIND/NAME or KIND/ID, such as `device/nas` or `forward/7`";
        Err(invalid(detail).into())
    }
}

/// What to ask for to go on.
fn next(parameters: &LogParameters, limit: usize, last: u64) -> String {
    let mut next = format!("{}/log?after={last}&limit={limit}", super::PREFIX);
    match parameters.order {
        LogOrder::Newest => {}
        LogOrder::Oldest => next.push_str("&order=oldest"),
    }
    let text = |name: &str, value: &Option<String>| match value {
        Some(value) => format!("&{name}={}", adit_api::client::escape(value)),
        None => String::new(),
    };
    next.push_str(&text("device", &parameters.device));
    next.push_str(&text("object", &parameters.object));
    next.push_str(&text(
        "since",
        &parameters.since.map(|since| since.to_string()),
    ));
    next
}
