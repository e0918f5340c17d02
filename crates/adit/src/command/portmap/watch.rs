//! `adit portmap watch`: ports that are kept until the command ends.

use std::time::SystemTime;

use adit_agent::holder::{Change, Holder, Reason, Wanted};
use adit_agent::holdings::{Holdings, Place};
use adit_agent::keeper::Keeper;
use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Asking;
use super::view::{View, describe, warn};
use super::{farewell, open, problem, refused, stored};
use crate::output::{Failure, Output};

/// Ends when it is told to, nobody reads any more, or nothing can even be asked for; then everything is given back.
pub(super) async fn run(
    output: Output,
    holdings: &Holdings,
    asking: &Asking,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).context("await signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("await signals")?;
    let (mut holders, problems) = tokio::select! {
        opened = open(holdings, asking) => opened?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    for problem in &problems {
        output.note(problem);
    }
    let mut watch = Watch {
        output,
        keeper: Keeper::new(holdings.clone()),
        problems: Vec::new(),
        reasons: Vec::new(),
    };
    loop {
        let changes = holders.iter_mut().map(|holder| {
            Box::pin(async move {
                let place = holder.place();
                (place, holder.next_change().await)
            })
        });
        let next = futures_util::future::select_all(changes);
        let (place, change) = tokio::select! {
            (outcome, _, _) = next => outcome,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        if !watch.take(place, change)? {
            break;
        }
        if holders.iter().all(Holder::is_hopeless) {
            return Err(refused(&watch.problems, &watch.reasons));
        }
    }
    give_back(&mut holders, &mut watch).await
}

async fn give_back(holders: &mut [Holder], watch: &mut Watch) -> Result<(), Failure> {
    for holder in holders.iter_mut() {
        holder.release_all();
    }
    for holder in holders {
        farewell(holder).await;
    }
    watch.keeper.forget_all(SystemTime::now()).map_err(stored)
}

struct Watch {
    output: Output,
    keeper: Keeper,
    /// What cannot even be asked for, and why.
    problems: Vec<String>,
    reasons: Vec<Reason>,
}

impl Watch {
    /// Tells a change, and writes it down; whether somebody reads.
    fn take(&mut self, place: Place, change: Change) -> Result<bool, Failure> {
        let now = SystemTime::now();
        let output = self.output;
        let gateway = place.gateway.ip();
        Ok(match change {
            Change::Held(holding) => {
                let Some(holding) = self.keeper.put(holding, now).map_err(stored)? else {
                    return Ok(true);
                };
                warn(output, holding);
                let document = json!({"event": "held", "mapping": View::new(holding, now)});
                tell(output, &document, &describe(holding, now))
            }
            Change::Failed(wanted, reason, rest) => {
                self.keeper.forget(place, &wanted, now).map_err(stored)?;
                let again = rest.map(|rest| format!("; asked again in {} s", rest.as_secs()));
                let again = again.unwrap_or_default();
                let text = format!("{}: {reason}{again}", name(&wanted));
                let document = json!({"event": "failed", "port": wanted.first, "protocol": wanted.protocol, "reason": reason.to_string()});
                if rest.is_none() {
                    self.problems.push(problem(gateway, &wanted, &reason));
                    self.reasons.push(reason);
                }
                tell(output, &document, &text)
            }
            Change::Lost(wanted) => {
                self.keeper.forget(place, &wanted, now).map_err(stored)?;
                let text = format!(
                    "{}: lost, {gateway} did not renew it in time",
                    name(&wanted)
                );
                let document =
                    json!({"event": "lost", "port": wanted.first, "protocol": wanted.protocol});
                tell(output, &document, &text)
            }
            Change::Released(..) => true,
            Change::Reset => {
                let text = format!("{gateway} began anew: everything is asked for again");
                tell(
                    output,
                    &json!({"event": "reset", "gateway": gateway}),
                    &text,
                )
            }
            Change::Absent(rest) => {
                let seconds = rest.as_secs();
                let text = format!("{gateway} does not answer; asked again in {seconds} s");
                tell(
                    output,
                    &json!({"event": "absent", "gateway": gateway}),
                    &text,
                )
            }
        })
    }
}

/// Whether somebody reads.
fn tell(output: Output, document: &Value, text: &str) -> bool {
    if output.is_json() {
        output.line(&document.to_string())
    } else {
        output.line(text)
    }
}

/// `8080/tcp`
fn name(wanted: &Wanted) -> String {
    format!("{}/{}", wanted.first, wanted.protocol)
}
