//! Between what was committed and the kernel: derives what is desired whenever state, facts or the clock change, and
//! tells those who wait when the kernel has their revision.

mod outcomes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_host::reconcile::{Handle, Openings, Outlook};
use adit_model::desired::derive::{Derivation, Inputs};
use adit_model::desired::names::Names;
use adit_model::facts::Facts;
use adit_model::key::{PrivateKey, PublicKey};
use adit_model::problem::Problem;
use adit_model::state::State;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::outcomes::Outcomes;
use crate::control::{AskPeers, Await, Basis, PeerStatus, Progress};
use crate::fleeting::Fleeting;
use crate::metrics::Metrics;
use crate::names;
use crate::writer::seconds_since_1970;

/// The wall clock can be set: an expiry is looked for at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(crate) struct Bridge {
    pub(crate) handle: Handle,
    pub(crate) interface: String,
    /// Another one comes with the state of the change that took it over.
    pub(crate) private_key: watch::Receiver<PrivateKey>,
    /// The public one of the last.
    pub(crate) public_key: Option<(PrivateKey, PublicKey)>,
    /// Those that are on disk.
    pub(crate) state: watch::Receiver<Arc<State>>,
    /// Facts with the gateway's key in them, for decisions.
    pub(crate) facts: watch::Sender<Arc<Facts>>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) awaits: mpsc::Receiver<Await>,
    pub(crate) peers: mpsc::Receiver<AskPeers>,
    pub(crate) outlooks: mpsc::Receiver<oneshot::Sender<Outlook>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outcomes: Outcomes,
    /// The state that was applied last.
    pub(crate) applied: Option<Arc<State>>,
    /// What was derived last.
    pub(crate) derivation: Option<Derivation>,
    pub(crate) front: names::Handle,
    pub(crate) holding: names::Holding,
    /// What the front was asked for last.
    pub(crate) names: Option<Names>,
    pub(crate) fleeting: Fleeting,
}

impl Bridge {
    /// Works until every listener is gone.
    pub(crate) async fn run(mut self) {
        let mut host_facts = self.handle.facts();
        let mut status = self.handle.status();
        let mut front = self.front.problems();
        self.take_facts(&host_facts.borrow_and_update().clone());
        self.apply().await;
        loop {
            let sleep = self.until_next_expiry();
            let settling = self.until_settled();
            tokio::select! {
                changed = self.state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.apply().await;
                }
                changed = host_facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let facts = host_facts.borrow_and_update().clone();
                    self.take_facts(&facts);
                    self.apply().await;
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_status();
                }
                changed = front.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_status();
                }
                request = self.awaits.recv() => {
                    let Some(request) = request else { return };
                    self.answer(request).await;
                }
                request = self.peers.recv() => {
                    let Some(answer) = request else { return };
                    self.tell_peers(answer);
                }
                request = self.outlooks.recv() => {
                    let Some(answer) = request else { return };
                    self.tell_outlook(answer);
                }
                () = tokio::time::sleep(sleep) => {
                    self.apply().await;
                }
                () = tokio::time::sleep(settling) => {
                    // Sockets that went sent no event. What is looked at here alone would not be told when it goes again.
                    self.handle.look_for_facts();
                }
            }
        }
    }

    /// Leads the kernel to the present state. What was committed meanwhile is part of it.
    async fn apply(&mut self) {
        let state = Arc::clone(&self.state.borrow_and_update());
        let private_key = *self.private_key.borrow();
        let gateway_key = Some(self.public_key(private_key));
        if self.facts.borrow().gateway_key != gateway_key {
            self.facts
                .send_modify(|facts| Arc::make_mut(facts).gateway_key = gateway_key);
        }
        let facts = Arc::clone(&self.facts.borrow());
        let inputs = Inputs {
            state: &state,
            facts: &facts,
            interface: &self.interface,
            private_key: &private_key,
            now: seconds_since_1970(),
        };
        let desired = match &mut self.derivation {
            Some(derivation) => derivation.update(&inputs),
            none @ None => none.insert(Derivation::new(&inputs)).desired(),
        };
        let started = Instant::now();
        let desired = Arc::clone(desired);
        let openings = match &self.applied {
            Some(applied) if differs_in_leases_alone(applied, &state) => Openings::Together,
            Some(_) | None => Openings::AtOnce,
        };
        let applying = self.handle.apply(Arc::clone(&desired), openings);
        let Some(mut report) = applying.await else {
            return;
        };
        self.applied = Some(Arc::clone(&state));
        adit_fault::passing("bridge/applied");
        // The front takes connections when the kernel lets them in and their replies back.
        if self
            .names
            .as_ref()
            .is_none_or(|told| told.differs(&desired.names))
        {
            let problems = self.front.apply(desired.names.clone()).await;
            report.problems.extend(problems);
            self.names = Some(desired.names.clone());
        }
        self.metrics.applied(started.elapsed());
        self.outcomes.add(state.revision, report.problems);
        self.tell(Some((state.revision, Basis { state, facts })));
    }

    /// Calculated once for each.
    fn public_key(&mut self, private: PrivateKey) -> PublicKey {
        match self.public_key {
            Some((of, public)) if of == private => public,
            _ => {
                let public = private.public_key();
                self.public_key = Some((private, public));
                public
            }
        }
    }

    async fn answer(&mut self, request: Await) {
        let reached = self.progress.borrow().revision;
        if reached.is_none_or(|reached| reached < request.revision) {
            self.apply().await;
        }
        let problems = self.outcomes.problems(request.revision);
        // The caller may have gone away; the change stays.
        let _ = request.answer.send(problems);
    }

    fn take_facts(&mut self, facts: &Facts) {
        let private_key = *self.private_key.borrow();
        let mut facts = Facts {
            listeners: self.fleeting.sift(&facts.listeners, Instant::now()),
            gateway_key: Some(self.public_key(private_key)),
            ..facts.clone()
        };
        self.holding.name(&mut facts);
        self.facts.send_replace(Arc::new(facts));
    }

    fn take_status(&mut self) {
        self.tell(None);
    }

    /// Tells at once what was reached and what is wrong: who looks at the one has to see the other.
    fn tell(&mut self, reached: Option<(u64, Basis)>) {
        let status = self.handle.status().borrow().clone();
        let mut problems: Vec<Problem> = status.problems.into_iter().collect();
        problems.extend(self.front.problems().borrow().iter().cloned());
        self.outcomes.settle(&problems);
        let failing = self.outcomes.failing();
        self.progress.send_modify(|progress| {
            if let Some((revision, basis)) = reached {
                progress.revision = Some(revision);
                progress.basis = Some(basis);
            }
            progress.failing = failing;
            progress.dataplane = status.dataplane.unwrap_or("none");
            progress.problems = problems;
            progress.healed = status.healed;
        });
    }

    /// Asking may take a while with many peers, and must not keep changes waiting.
    fn tell_peers(&self, mut answer: oneshot::Sender<BTreeMap<PublicKey, PeerStatus>>) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let observed = tokio::select! {
                observed = handle.wireguard() => observed,
                () = answer.closed() => return,
            };
            let observed = match observed {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the peers");
                    None
                }
            };
            let peers = observed.map(|observed| observed.peers).unwrap_or_default();
            let peers = peers
                .into_iter()
                .map(|(key, peer)| {
                    let status = PeerStatus {
                        endpoint: peer.endpoint,
                        last_handshake: peer.last_handshake,
                        received: peer.received,
                        sent: peer.sent,
                    };
                    (key, status)
                })
                .collect();
            let _ = answer.send(peers);
        });
    }

    fn tell_outlook(&self, answer: oneshot::Sender<Outlook>) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            if let Some(outlook) = handle.outlook().await {
                let _ = answer.send(outlook);
            }
        });
    }

    /// Until sockets that came lately have been there for long enough to count.
    fn until_settled(&self) -> Duration {
        let now = Instant::now();
        let due = self.fleeting.due(now);
        due.map_or(LONGEST_SLEEP, |due| due - now)
            .min(LONGEST_SLEEP)
    }

    fn until_next_expiry(&self) -> Duration {
        let now = seconds_since_1970();
        let next = self.state.borrow().next_expiry(now);
        next.map_or(LONGEST_SLEEP, |next| Duration::from_secs(next - now))
            .min(LONGEST_SLEEP)
    }
}

/// Whether nothing changed but what devices asked for themselves.
fn differs_in_leases_alone(before: &State, after: &State) -> bool {
    before.forwards.difference(&after.forwards).next().is_none()
        && before.devices.difference(&after.devices).next().is_none()
        && before.subnets == after.subnets
        && before.uplinks == after.uplinks
        && before.settings == after.settings
}
