//! `adit portmap watch`: ports that are kept until the command ends.

use std::time::SystemTime;

use adit_agent::holder::{Change, Holder, Wanted};
use adit_agent::holdings::{Holding, Holdings};
use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Asking;
use super::view::{View, describe, warn};
use super::{farewell, open, stored};
use crate::output::{Failure, Output};

/// Ends when it is told to, or nobody reads any more; then everything is given back.
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
        holdings,
        held: Vec::new(),
    };
    loop {
        let changes = holders.iter_mut().map(|holder| {
            Box::pin(async move {
                let gateway = holder.gateway().ip().to_string();
                (gateway, holder.next_change().await)
            })
        });
        let next = futures_util::future::select_all(changes);
        let (gateway, change) = tokio::select! {
            (outcome, _, _) = next => outcome,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        if !watch.take(&gateway, change)? {
            break;
        }
    }
    give_back(&mut holders, &watch).await
}

async fn give_back(holders: &mut [Holder], watch: &Watch<'_>) -> Result<(), Failure> {
    for holder in holders.iter_mut() {
        holder.release_all();
    }
    for holder in holders {
        farewell(holder).await;
    }
    let now = SystemTime::now();
    for holding in &watch.held {
        watch.holdings.remove(holding, now).map_err(stored)?;
    }
    Ok(())
}

struct Watch<'a> {
    output: Output,
    holdings: &'a Holdings,
    held: Vec<Holding>,
}

impl Watch<'_> {
    /// Tells a change, and writes it down; whether somebody reads.
    fn take(&mut self, gateway: &str, change: Change) -> Result<bool, Failure> {
        let now = SystemTime::now();
        Ok(match change {
            Change::Held(holding) => {
                let holding = Holding {
                    watcher: Some(std::process::id()),
                    ..holding
                };
                let before = self.held.iter().find(|other| other.is_same(&holding));
                let is_news = before.is_none_or(|before| {
                    before.external != holding.external || before.ports != holding.ports
                });
                self.holdings.put(holding.clone(), now).map_err(stored)?;
                self.held.retain(|other| !other.is_same(&holding));
                self.held.push(holding.clone());
                if !is_news {
                    return Ok(true);
                }
                warn(self.output, &holding);
                let document = json!({"event": "held", "mapping": View::new(&holding, now)});
                self.tell(document, describe(&holding, now))
            }
            Change::Failed(wanted, reason, rest) => {
                self.forget(&wanted, now)?;
                let seconds = rest.as_secs();
                let text = format!("{}: {reason}; asked again in {seconds} s", name(&wanted));
                let reason = reason.to_string();
                let document = json!({"event": "failed", "port": wanted.first, "protocol": wanted.protocol, "reason": reason});
                self.tell(document, text)
            }
            Change::Lost(wanted) => {
                self.forget(&wanted, now)?;
                let text = format!("{}: lost, because {gateway} does not answer", name(&wanted));
                let document =
                    json!({"event": "lost", "port": wanted.first, "protocol": wanted.protocol});
                self.tell(document, text)
            }
            Change::Released(..) => true,
            Change::Reset => {
                let text = format!("{gateway} began anew: everything is asked for again");
                self.tell(json!({"event": "reset", "gateway": gateway}), text)
            }
            Change::Absent(rest) => {
                let seconds = rest.as_secs();
                let text = format!("{gateway} does not answer; asked again in {seconds} s");
                self.tell(json!({"event": "absent", "gateway": gateway}), text)
            }
        })
    }

    fn forget(&mut self, wanted: &Wanted, now: SystemTime) -> Result<(), Failure> {
        let is_it = |holding: &Holding| {
            holding.port == wanted.first.get() && holding.protocol == wanted.protocol
        };
        for holding in self.held.iter().filter(|holding| is_it(holding)) {
            self.holdings.remove(holding, now).map_err(stored)?;
        }
        self.held.retain(|holding| !is_it(holding));
        Ok(())
    }

    fn tell(&self, document: Value, text: String) -> bool {
        if self.output.is_json() {
            self.output.line(&document.to_string())
        } else {
            self.output.line(&text)
        }
    }
}

/// `8080/tcp`
fn name(wanted: &Wanted) -> String {
    format!("{}/{}", wanted.first, wanted.protocol)
}
