//! `adit log`: who changed what.

use std::time::Duration;

use adit_api::client::{Client, ClientError};
use adit_api::types::log::{Action, Log, LogEntry, LogObject, LogOrder, LogParameters, Verb, Who};
use clap::Args;
use serde_json::Value;

use super::Session;
use crate::expiry::Past;
use crate::output::{Failure, Output};

/// Entries that one request brings.
const PAGE: usize = 500;
/// How often it is looked for what is new.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `adit log`.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// How many entries [default: 50, or all since --since]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// Those about one object: device/NAME (with what leads to it), forward/ID, token/NAME, …
    #[arg(long, value_name = "KIND/NAME")]
    object: Option<String>,
    /// Those since then: 2h, 7d, or a time as in RFC 3339
    #[arg(long, value_name = "TIME|SPAN")]
    since: Option<Past>,
}

pub(super) async fn run(session: Session, arguments: LogArguments) -> Result<(), Failure> {
    let Session { client, output } = session;
    let usual = if arguments.since.is_some() {
        usize::MAX
    } else {
        50
    };
    let wanted = arguments.limit.unwrap_or(usual);
    let parameters = LogParameters {
        object: arguments.object,
        since: arguments.since.map(|since| since.0),
        ..LogParameters::default()
    };
    let mut log = newest(&client, &parameters, wanted).await?;
    if arguments.follow {
        return follow(&client, output, parameters, log).await;
    }
    if output.is_json() {
        return output.document(&log);
    }
    if log.entries.is_empty() {
        output.note("There is no such entry.");
        return Ok(());
    }
    // As in a journal, the last line is the newest.
    log.entries.reverse();
    for entry in &log.entries {
        if !output.line(&line(entry)) {
            break;
        }
    }
    Ok(())
}

/// The newest entries, the newest first.
async fn newest(
    client: &Client,
    parameters: &LogParameters,
    wanted: usize,
) -> Result<Log, ClientError> {
    let mut log = Log {
        entries: Vec::new(),
        next: None,
    };
    while log.entries.len() < wanted {
        let page = LogParameters {
            limit: Some((wanted - log.entries.len()).min(PAGE)),
            after: log.entries.last().map(|entry| entry.number),
            ..parameters.clone()
        };
        let page = client.log(&page).await?;
        log.entries.extend(page.entries);
        log.next = page.next;
        if log.next.is_none() {
            break;
        }
    }
    Ok(log)
}

async fn follow(
    client: &Client,
    output: Output,
    parameters: LogParameters,
    log: Log,
) -> Result<(), Failure> {
    let mut last = log.entries.first().map_or(0, |entry| entry.number);
    let mut entries = log.entries;
    entries.reverse();
    let mut is_away = false;
    loop {
        for entry in &entries {
            let text = if output.is_json() {
                serde_json::to_string(entry).map_err(|error| Failure::Failed(error.into()))?
            } else {
                line(entry)
            };
            if !output.line(&text) {
                return Ok(());
            }
            last = entry.number;
        }
        tokio::time::sleep(PAUSE).await;
        let page = LogParameters {
            limit: Some(PAGE),
            after: Some(last),
            order: LogOrder::Oldest,
            ..parameters.clone()
        };
        entries = match client.log(&page).await {
            Ok(log) => {
                is_away = false;
                log.entries
            }
            // A gateway that is started again goes on with its log.
            Err(error @ ClientError::Unreachable { .. }) => {
                if !is_away {
                    output.note(&format!("waiting: {error}"));
                }
                is_away = true;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
    }
}

fn line(entry: &LogEntry) -> String {
    let event = &entry.event;
    let mut parts: Vec<String> = event.objects.iter().map(object).collect();
    if event.more > 0 {
        parts.push(format!("and {} more", event.more));
    }
    let told = parts.join("; ");
    let what = match event.action {
        Action::Add | Action::Set | Action::Remove => told,
        Action::Import => format!("imported: {told}"),
        Action::Rekey => format!("rekeyed: {told}"),
        Action::Confirm => format!("confirmed {}", event.detail),
        Action::TakeBack => format!(
            "took back {}, which was not confirmed: {told}",
            event.detail
        ),
        Action::Apply => format!("applied a declaration: {told}"),
        Action::ShowConfiguration => format!("configuration with the preshared key: {told}"),
        Action::BackUp => "a backup of everything was made".to_owned(),
        Action::RefuseCredentials | Action::Damaged => event.detail.clone(),
        Action::Start => format!("the gateway started: {}", event.detail),
        Action::Stop => "the gateway stopped".to_owned(),
    };
    format!(
        "{}  revision {:<6} {:<12} {what}",
        entry.time,
        entry.revision,
        who(&event.who)
    )
}

fn who(who: &Who) -> String {
    match who {
        Who::User {
            name: Some(name), ..
        } => name.clone(),
        Who::User {
            uid: Some(uid),
            name: None,
        } => format!("uid {uid}"),
        Who::User {
            uid: None,
            name: None,
        } => "somebody".to_owned(),
        Who::Token { name, source, .. } => format!("token {name} from {source}"),
        Who::Nobody => "-".to_owned(),
        Who::Gateway => "gateway".to_owned(),
    }
}

/// `changed device nas: enabled true → false`
pub(super) fn object(object: &LogObject) -> String {
    let verb = match object.verb {
        Verb::Added => "added",
        Verb::Changed => "changed",
        Verb::Removed => "removed",
        Verb::Shown => "shown",
    };
    let name = match object.kind.as_str() {
        "settings" => "settings".to_owned(),
        kind if object.id == 0 => format!("{kind} {}", object.name),
        "forward" | "pinhole" | "lease" => {
            format!("{} {} ({})", object.kind, object.id, object.name)
        }
        kind => format!("{kind} {}", object.name),
    };
    let fields: Vec<String> = match object.verb {
        Verb::Changed => object
            .fields
            .iter()
            .map(|(name, field)| format!("{name} {} → {}", value(&field.from), value(&field.to)))
            .collect(),
        // Everything is new, gone or as it was.
        Verb::Added | Verb::Removed | Verb::Shown => Vec::new(),
    };
    if fields.is_empty() {
        format!("{verb} {name}")
    } else {
        format!("{verb} {name}: {}", fields.join(", "))
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(self::value).collect();
            items.join(",")
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
