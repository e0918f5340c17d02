//! `adit portmap watch`: ports that are kept until the command ends.

mod family;

use std::future::pending;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

use adit_agent::holder::{Change, Holder, Reason, Wanted};
use adit_agent::holdings::{Holdings, Place};
use adit_agent::keeper::Keeper;
use adit_host::watch::{Event, watch};
use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use self::family::{Family, News};
use super::arguments::Asking;
use super::view::{View, describe, warn};
use super::{ask, farewell, open, problem, reachable, refused, stored};
use crate::output::{Failure, Output};

/// Routes and addresses change together, so they are looked at when they have come to rest.
const REST: Duration = Duration::from_secs(2);

/// They are looked at so often where the kernel does not tell of changes.
const BLIND: Duration = Duration::from_secs(30);

/// Ends when it is told to, nobody reads any more, or nothing can even be asked for; then everything is given back.
pub(super) async fn run(
    output: Output,
    holdings: &Holdings,
    asking: &Asking,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).context("await signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("await signals")?;
    let mut ways = Ways::new();
    let (ipv4, ipv6) = reachable(asking)?;
    let (holders, problems) = tokio::select! {
        opened = open(holdings, asking) => opened?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    for problem in &problems {
        output.note(problem);
    }
    let (mut holders4, mut holders6): (Vec<_>, Vec<_>) = holders
        .into_iter()
        .partition(|holder| holder.gateway().is_ipv4());
    let mut ipv4 = Family::new(ipv4, holders4.pop());
    let mut ipv6 = Family::new(ipv6, holders6.pop());
    let mut watch = Watch {
        output,
        keeper: Keeper::new(holdings.clone()),
        problems: Vec::new(),
        reasons: Vec::new(),
    };
    loop {
        let (news, family) = tokio::select! {
            news = ipv4.next() => (news, &mut ipv4),
            news = ipv6.next() => (news, &mut ipv6),
            () = ways.change() => {
                // Where there is no way to the gateway now, there may be one later.
                let (candidates4, candidates6) = reachable(asking).unwrap_or_default();
                ipv4.consider(candidates4);
                ipv6.consider(candidates6);
                continue;
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        let is_read = match news {
            News::Change(place, change) => watch.take(place, *change)?,
            News::Found(mut holder) => {
                ask(&mut holder, holdings, asking)?;
                let place = holder.place();
                let before = family.replace(holder);
                watch.go_over(before, place).await?
            }
        };
        if !is_read {
            break;
        }
        let mut holders = [&ipv4, &ipv6].into_iter().filter_map(|it| it.holder());
        if holders.all(Holder::is_hopeless) {
            return Err(refused(&watch.problems, &watch.reasons));
        }
    }
    let holders = [&mut ipv4, &mut ipv6].into_iter();
    give_back(holders.filter_map(Family::holder_mut).collect(), &mut watch).await
}

async fn give_back(mut holders: Vec<&mut Holder>, watch: &mut Watch) -> Result<(), Failure> {
    for holder in &mut holders {
        holder.release_all();
    }
    for holder in holders {
        farewell(holder).await;
    }
    watch.keeper.forget_all(SystemTime::now()).map_err(stored)
}

/// The ways out of this host.
struct Ways {
    events: Option<Receiver<Event>>,
    due: Option<Instant>,
}

impl Ways {
    fn new() -> Self {
        let events = watch()
            .inspect_err(|error| tracing::debug!(%error, "changes are not told"))
            .ok();
        Self { events, due: None }
    }

    /// Waits until they may have changed. Nothing is lost when the wait is given up.
    async fn change(&mut self) {
        loop {
            let due = match (&self.events, self.due) {
                (Some(_), due) => due,
                (None, due) => Some(*self.due.insert(due.unwrap_or(Instant::now() + BLIND))),
            };
            let events = &mut self.events;
            let event = async {
                match events {
                    Some(events) => events.recv().await,
                    None => pending().await,
                }
            };
            let rest = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = event => match event {
                    Some(_) => {
                        self.due.get_or_insert(Instant::now() + REST);
                    }
                    None => self.events = None,
                },
                () = rest => {
                    self.due = None;
                    return;
                }
            }
        }
    }
}

struct Watch {
    output: Output,
    keeper: Keeper,
    /// What cannot even be asked for, and why.
    problems: Vec<String>,
    reasons: Vec<Reason>,
}

impl Watch {
    /// Another is asked from now on; whether somebody reads.
    async fn go_over(&mut self, before: Option<Holder>, place: Place) -> Result<bool, Failure> {
        let mut left = None;
        if let Some(mut before) = before.filter(|before| before.place() != place) {
            let place = before.place();
            // From an address that is gone nobody can be told.
            let gone = if UdpSocket::bind((place.local, 0)).is_ok() {
                before.release_all();
                farewell(&mut before).await
            } else {
                Vec::new()
            };
            let now = SystemTime::now();
            self.keeper.leave(place, &gone, now).map_err(stored)?;
            left = Some(place.gateway.ip());
        }
        let gateway = place.gateway.ip();
        let document =
            json!({"event": "gateway", "gateway": gateway, "local": place.local, "before": left});
        let text = format!("{gateway} is asked from now on (from {})", place.local);
        Ok(tell(self.output, &document, &text))
    }

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
