//! Who keeps the ports in one family, and the search for somebody else: when this host has other ways out, or nobody answers.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use adit_agent::gateway::Candidate;
use adit_agent::holder::{Change, Holder};
use adit_agent::holdings::Place;
use tokio::time::{Instant, sleep_until};

use super::super::{PATIENCE, search};

/// The first pause before somebody else is looked for where nobody answers, or not the best; and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

type Search = Pin<Box<dyn Future<Output = Option<Result<Holder, String>>>>>;

/// One family.
pub(super) struct Family {
    candidates: Vec<Candidate>,
    holder: Option<Holder>,
    search: Option<Search>,
    /// Whether the candidates are others than those of which the holder was found.
    has_moved: bool,
    /// Whether what was held ran out.
    is_silent: bool,
    due: Option<Instant>,
    pause: Duration,
}

/// What happens in a family.
pub(super) enum News {
    /// To a mapping.
    Change(Place, Box<Change>),
    /// Somebody is to be asked in place of who was asked before.
    Found(Holder),
}

impl Family {
    /// With who was found among the candidates.
    pub(super) fn new(candidates: Vec<Candidate>, holder: Option<Holder>) -> Self {
        let mut family = Self {
            candidates,
            holder,
            search: None,
            has_moved: false,
            is_silent: false,
            due: None,
            pause: FIRST_PAUSE,
        };
        family.rest();
        family
    }

    /// Who is asked.
    pub(super) const fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// The same, to be told something.
    pub(super) const fn holder_mut(&mut self) -> Option<&mut Holder> {
        self.holder.as_mut()
    }

    /// Asks another from now on; who was asked comes back.
    pub(super) const fn replace(&mut self, holder: Holder) -> Option<Holder> {
        self.is_silent = false;
        self.holder.replace(holder)
    }

    /// These may be asked now.
    pub(super) fn consider(&mut self, candidates: Vec<Candidate>) {
        if candidates == self.candidates {
            return;
        }
        self.candidates = candidates;
        self.has_moved = true;
        self.pause = FIRST_PAUSE;
        self.look();
    }

    /// Waits for what happens next. Nothing is lost when the wait is given up.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let (holder, search, due) = (&mut self.holder, &mut self.search, self.due);
            let change = async {
                match holder {
                    Some(holder) => (holder.place(), holder.next_change().await),
                    None => pending().await,
                }
            };
            let found = async {
                match search {
                    Some(search) => search.await,
                    None => pending().await,
                }
            };
            let again = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                (place, change) = change => {
                    self.note(&change);
                    return News::Change(place, Box::new(change));
                }
                found = found => {
                    self.search = None;
                    let found = found.and_then(Result::ok);
                    let taken = found.filter(|found| self.is_to_be_taken(found.place()));
                    if let Some(holder) = &taken {
                        self.has_moved = false;
                        self.is_silent = false;
                        self.rest_after(Some(holder.place()));
                    } else {
                        self.rest();
                    }
                    if let Some(holder) = taken {
                        return News::Found(holder);
                    }
                }
                () = again => self.look(),
            }
        }
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::Held(_) => self.is_silent = false,
            Change::Lost(_) | Change::Absent(_) => {
                self.is_silent = true;
                if self.search.is_none() {
                    self.due.get_or_insert(Instant::now() + FIRST_PAUSE);
                }
            }
            Change::Failed(..) | Change::Released(..) | Change::Reset => {}
        }
    }

    fn look(&mut self) {
        self.due = None;
        self.search = (!self.candidates.is_empty()).then(|| {
            let search: Search = Box::pin(search(self.candidates.clone(), true, PATIENCE));
            search
        });
    }

    fn is_to_be_taken(&self, found: Place) -> bool {
        match self.holder.as_ref().map(Holder::place) {
            Some(before) if !self.is_silent => {
                is_preferred(&self.candidates, found, before, self.has_moved)
            }
            Some(_) | None => true,
        }
    }

    fn rest(&mut self) {
        self.rest_after(self.holder.as_ref().map(Holder::place));
    }

    /// Looks again some time later, unless the best is there.
    fn rest_after(&mut self, place: Option<Place>) {
        let rank = place.and_then(|place| self.rank(place));
        let is_best = rank == Some(0) && !self.is_silent && !self.has_moved;
        self.due = None;
        if is_best {
            self.pause = FIRST_PAUSE;
        } else if !self.candidates.is_empty() {
            self.due = Some(Instant::now() + self.pause);
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn rank(&self, place: Place) -> Option<usize> {
        rank(&self.candidates, place)
    }
}

/// Whether who was found is asked in place of who answers: a worse one is only where that is no way out any more.
fn is_preferred(candidates: &[Candidate], found: Place, before: Place, has_moved: bool) -> bool {
    let Some(before) = rank(candidates, before) else {
        return true;
    };
    rank(candidates, found).is_some_and(|found| {
        // What is there now may be another of the same address.
        found < before || (found == before && has_moved)
    })
}

/// Its place in the order of those that may be asked. UPnP is spoken on another port.
fn rank(candidates: &[Candidate], place: Place) -> Option<usize> {
    candidates.iter().position(|candidate| {
        candidate.server.ip() == place.gateway.ip() && candidate.local == place.local
    })
}

#[cfg(test)]
mod tests {
    use adit_agent::gateway::Kind;

    use super::*;

    fn place(gateway: &str, local: &str) -> Place {
        Place {
            gateway: gateway.parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    #[test]
    fn better_one_is_taken_and_a_worse_one_only_for_none() {
        let tunnel = place("10.59.0.1:5351", "10.59.0.2");
        let router = place("192.168.1.1:5351", "192.168.1.11");
        let by_upnp = place("192.168.1.1:1900", "192.168.1.11");
        let moved = place("192.168.1.1:5351", "192.168.1.13");
        let both = [tunnel, router].map(|place| Candidate {
            server: place.gateway,
            local: place.local,
            kind: Kind::Named,
        });
        let [_, at_home] = &both;
        let alone = std::slice::from_ref(at_home);
        for (candidates, found, before, has_moved, is_taken) in [
            (&both[..], tunnel, router, false, true),
            (&both[..], tunnel, by_upnp, true, true),
            (&both[..], router, tunnel, true, false),
            // The same as before; maybe not the same host.
            (&both[..], router, router, false, false),
            (&both[..], router, router, true, true),
            (&both[..], router, by_upnp, true, true),
            // No way out any more: of the tunnel, and of an address.
            (alone, router, tunnel, true, true),
            (alone, router, moved, true, true),
        ] {
            let answer = is_preferred(candidates, found, before, has_moved);
            assert_eq!(answer, is_taken, "{found:?} for {before:?}, {has_moved}");
        }
    }
}
