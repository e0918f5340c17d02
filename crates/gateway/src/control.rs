//! What listeners work with: make a change, look at everything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_host::reconcile::Outlook;
use adit_model::change::{Change, Expected};
use adit_model::desired::derive;
use adit_model::facts::Facts;
use adit_model::foreign::Ruleset;
use adit_model::key::PublicKey;
use adit_model::problem::{self, Origin, Problem};
use adit_model::refusal::Refusal;
use adit_model::state::{Device, State};
use adit_model::uplink::{self, Uplink};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch};

use crate::answers::{Answers, Repeatable};
use crate::audit::Audit;
use crate::caller::Caller;
use crate::confirmation::Confirm;
use crate::events::Events;
use crate::metrics::{Metrics, Present};
use crate::names::Holding;
use crate::ports::Promises;
use crate::trouble::Troubles;
pub use crate::writer::Committed;
use crate::writer::{Order, Request, WriteError, seconds_since_1970};

/// How long the peers are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long ago the peers may have been asked for where that is good enough.
const LATELY: Duration = Duration::from_secs(3);

/// Until the key is known, which it is before anybody is listened to.
const NO_KEY: PublicKey = PublicKey::from_bytes([0; 32]);

/// A session that WireGuard no longer uses (REJECT_AFTER_TIME).
const SESSION: Duration = Duration::from_secs(180);

/// How long metrics that were made are good for.
const FRESH: Duration = Duration::from_secs(1);

/// Why a change is not in force.
#[derive(Clone, Debug)]
pub enum ChangeError {
    /// It was refused; nothing happened.
    Refused(Refusal),
    /// The caller's token is not for this; nothing happened.
    Forbidden,
    /// The disk did not take it; nothing happened.
    Store {
        /// What failed.
        message: String,
    },
    /// It is on disk, but this host's kernel does not have all of it yet; it is tried again.
    Apply {
        /// What the kernel did not take.
        problems: Vec<Problem>,
    },
    /// It was made before by another request of the same caller with the same key, or something else was.
    Repeated,
    /// The daemon is about to end.
    Stopping,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What was committed.
    pub state: Arc<State>,
    /// What this host is like.
    pub facts: Arc<Facts>,
    /// What others filter on it.
    pub foreign: Arc<Ruleset>,
    /// Its uplinks.
    pub uplinks: Vec<Uplink>,
    /// How the peers do.
    pub peers: Arc<BTreeMap<PublicKey, PeerStatus>>,
    /// Name of the tunnel interface.
    pub interface: String,
    /// What carries packets: `kernel`, or the name of a program.
    pub dataplane: &'static str,
    /// Whether the kernel has what the last revision wants.
    pub applied: bool,
    /// What the kernel, the disk and the listeners did not take; see [`Snapshot::all_problems`].
    pub problems: Vec<Problem>,
    /// Objects put back after someone else removed or changed them, by kind.
    pub healed: BTreeMap<&'static str, u64>,
    /// Tunnel MTU in bytes.
    pub mtu: u16,
    /// Why it is that.
    pub mtu_reason: String,
    /// The gateway's key.
    pub gateway_key: PublicKey,
    /// The API over TCP, if it is served.
    pub api: Option<ApiListener>,
    /// The host that the state was restored from.
    pub origin: Option<Origin>,
    /// When it was taken.
    pub now: SystemTime,
    /// Until when devices were told that their leases last.
    pub(crate) promises: Arc<Promises>,
    /// Which sockets of this host are the front's.
    pub(crate) holding: Holding,
}

/// How one peer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where its packets come from.
    pub endpoint: Option<SocketAddr>,
    /// Its last handshake.
    pub last_handshake: Option<SystemTime>,
    /// Bytes from it.
    pub received: u64,
    /// Bytes to it.
    pub sent: u64,
}

/// The API over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// SHA-256 of its certificate; none: not encrypted.
    pub fingerprint: Option<String>,
    /// What is wrong with the certificate that it should have instead.
    pub problem: Option<String>,
}

impl ApiListener {
    fn problem(&self) -> Option<Problem> {
        let message = self.problem.clone()?;
        Some(Problem {
            code: "certificate-not-renewed".to_owned(),
            object: format!("the API on {}", self.address),
            message: format!("the old certificate is still in use: {message}"),
            fix: "mend the files; they are looked at every ten seconds".to_owned(),
        })
    }
}

/// What the reconciling task last knew.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) dataplane: &'static str,
    /// The revision that the kernel has.
    pub(crate) revision: Option<u64>,
    /// What the kernel was led to.
    pub(crate) basis: Option<Basis>,
    /// The revisions of which it does not have all.
    pub(crate) failing: Vec<RangeInclusive<u64>>,
    /// What the kernel did not take.
    pub(crate) problems: Vec<Problem>,
    pub(crate) healed: BTreeMap<&'static str, u64>,
}

impl Progress {
    /// Whether the kernel has all that a revision changed.
    pub(crate) fn has(&self, revision: u64) -> bool {
        self.revision.is_some_and(|reached| reached >= revision)
            && !self
                .failing
                .iter()
                .any(|failing| failing.contains(&revision))
    }
}

/// What is derived from.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) state: Arc<State>,
    pub(crate) facts: Arc<Facts>,
}

impl Basis {
    /// Whether it is the very same, which two that are equal need not be.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state) && Arc::ptr_eq(&self.facts, &other.facts)
    }
}

/// Wants to know when the kernel has a revision.
pub(crate) struct Await {
    pub(crate) revision: u64,
    pub(crate) answer: oneshot::Sender<Vec<Problem>>,
}

pub(crate) type Peers = Arc<BTreeMap<PublicKey, PeerStatus>>;

/// Wants the peers as they are now.
pub(crate) type AskPeers = oneshot::Sender<BTreeMap<PublicKey, PeerStatus>>;

/// The daemon's inside, as listeners see it.
pub struct Control {
    /// Where state and key are.
    pub(crate) state_dir: PathBuf,
    /// The host that the state was restored from.
    pub(crate) origin: Option<Origin>,
    /// Ends the daemon, which begins anew.
    pub(crate) restart: Arc<Notify>,
    pub(crate) requests: mpsc::Sender<Order>,
    pub(crate) awaits: mpsc::Sender<Await>,
    pub(crate) peers: mpsc::Sender<AskPeers>,
    pub(crate) outlooks: mpsc::Sender<oneshot::Sender<Outlook>>,
    /// The peers as they were last asked for, and when.
    pub(crate) seen: watch::Sender<Option<(Instant, Peers)>>,
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
    pub(crate) foreign: watch::Receiver<Arc<Ruleset>>,
    /// Which sockets of this host are the front's.
    pub(crate) holding: Holding,
    pub(crate) progress: watch::Receiver<Progress>,
    /// What is wrong with the disk of the state.
    pub(crate) storage: watch::Receiver<Vec<Problem>>,
    pub(crate) interface: String,
    pub(crate) answers: Answers,
    pub(crate) api: watch::Receiver<Option<ApiListener>>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) troubles: Arc<Troubles>,
    pub(crate) promises: Arc<Promises>,
    /// The metrics as they were made last: looking at ten thousand peers is not for everyone who asks.
    pub(crate) exposition: AsyncMutex<Option<(Instant, Arc<str>)>>,
}

impl PeerStatus {
    /// Whether it has a session. A clock that was set back leaves handshakes in the future; they are recent ones.
    pub fn is_connected(&self, now: SystemTime) -> bool {
        self.last_handshake.is_some_and(|time| {
            now.duration_since(time).is_ok_and(|since| since < SESSION) || time > now
        })
    }
}

impl Snapshot {
    /// The same moment of everything else, with the state that a change made.
    pub(crate) fn after(self, committed: &Committed) -> Self {
        let state = Arc::clone(&committed.state);
        let (mtu, mtu_reason) = derive::mtu(&state, &self.facts);
        Self {
            uplinks: uplink::list(&state, &self.facts),
            mtu,
            mtu_reason,
            state,
            ..self
        }
    }

    /// The devices that have a session.
    pub fn connected(&self) -> impl Iterator<Item = (&Device, &PeerStatus)> {
        self.state.devices.values().filter_map(|device| {
            let peer = self.peers.get(&device.public_key)?;
            peer.is_connected(self.now).then_some((device, peer))
        })
    }

    /// All that is wrong: what did not succeed, and what is wrong with the state on this host. The latter is
    /// looked for among all objects.
    pub fn all_problems(&self) -> Vec<Problem> {
        let now = seconds_since_1970();
        let of_state = problem::of_state(&self.state, &self.facts, now);
        let of_foreign = problem::of_foreign(
            &self.state,
            &self.facts,
            now,
            &self.interface,
            &self.foreign,
        );
        let of_origin = self.origin.as_ref().map(|origin| {
            let is_connected = |key: &PublicKey| {
                let peer = self.peers.get(key);
                peer.is_some_and(|peer| peer.last_handshake.is_some())
            };
            problem::of_origin(&self.state, &self.facts, origin, is_connected)
        });
        let own = self.problems.iter().cloned();
        let told = own.chain(of_state).chain(of_foreign);
        told.chain(of_origin.into_iter().flatten()).collect()
    }
}

impl Control {
    /// Decides, commits, and waits until this host's kernel has it. Where the caller expects a version of an object, that
    /// is checked in the same moment.
    ///
    /// # Errors
    ///
    /// [`ChangeError`] says how far it got. A caller that goes away cancels nothing.
    pub async fn change(
        &self,
        change: Change,
        caller: Caller,
        expected: Option<Expected>,
    ) -> Result<Committed, ChangeError> {
        self.change_once(change, caller, expected, Confirm::Never, None)
            .await
    }

    /// [`Self::change`] that is not made again when the caller asks again.
    pub(crate) async fn change_once(
        &self,
        change: Change,
        caller: Caller,
        expected: Option<Expected>,
        confirm: Confirm,
        repeatable: Option<Repeatable>,
    ) -> Result<Committed, ChangeError> {
        let committed = self
            .commit(change, caller.clone(), expected, confirm, repeatable)
            .await?;
        tracing::info!(revision = committed.revision, edits = committed.edits.len(), %caller, "changed");
        self.applied(committed.revision).await?;
        Ok(committed)
    }

    /// [`Self::change`] of leases, by devices and by time. There are many, and the log has other things to tell. Where there was
    /// nothing to change nothing is waited for: what is there may be of any revision.
    pub(crate) async fn lease(&self, change: Change) -> Result<Committed, ChangeError> {
        let committed = self
            .commit(change, Caller::Gateway, None, Confirm::Never, None)
            .await?;
        tracing::debug!(
            revision = committed.revision,
            edits = committed.edits.len(),
            "leases changed"
        );
        if !committed.edits.is_empty() {
            self.applied(committed.revision).await?;
        }
        Ok(committed)
    }

    async fn commit(
        &self,
        change: Change,
        caller: Caller,
        expected: Option<Expected>,
        confirm: Confirm,
        repeatable: Option<Repeatable>,
    ) -> Result<Committed, ChangeError> {
        let (answer, committed) = oneshot::channel();
        let request = Request {
            change,
            expected,
            caller,
            confirm,
            repeatable,
            answer,
        };
        self.requests
            .send(Order::Change(Box::new(request)))
            .await
            .map_err(|_| ChangeError::Stopping)?;
        match committed.await.map_err(|_| ChangeError::Stopping)? {
            Ok(committed) => Ok(committed),
            Err(WriteError::Refused(refusal)) => Err(ChangeError::Refused(refusal)),
            Err(WriteError::Forbidden) => Err(ChangeError::Forbidden),
            Err(WriteError::Store(message)) => Err(ChangeError::Store { message }),
            Err(WriteError::Repeated) => Err(ChangeError::Repeated),
        }
    }

    /// Waits until this host's kernel has a revision.
    pub(crate) async fn applied(&self, revision: u64) -> Result<(), ChangeError> {
        if self.progress.borrow().has(revision) {
            return Ok(());
        }
        let (answer, applied) = oneshot::channel();
        self.awaits
            .send(Await { revision, answer })
            .await
            .map_err(|_| ChangeError::Stopping)?;
        let problems = applied.await.map_err(|_| ChangeError::Stopping)?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ChangeError::Apply { problems })
        }
    }

    /// What a look at the whole host would lead to now.
    pub(crate) async fn outlook(&self) -> Result<Outlook, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.outlooks
            .send(answer)
            .await
            .map_err(|_| ChangeError::Stopping)?;
        answered.await.map_err(|_| ChangeError::Stopping)
    }

    /// Everything, without asking the dataplane for its peers.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.snapshot_of(Arc::clone(&self.state.borrow()));
        let mut problems = self.troubles.list();
        problems.extend(snapshot.problems);
        problems.extend(self.storage.borrow().iter().cloned());
        problems.extend(snapshot.api.as_ref().and_then(ApiListener::problem));
        Snapshot {
            problems,
            ..snapshot
        }
    }

    /// A state with what was to be seen around it, and no problems but those of the kernel.
    pub(crate) fn snapshot_of(&self, state: Arc<State>) -> Snapshot {
        let facts = Arc::clone(&self.facts.borrow());
        let progress = self.progress.borrow().clone();
        let api = self.api.borrow().clone();
        let (mtu, mtu_reason) = derive::mtu(&state, &facts);
        Snapshot {
            uplinks: uplink::list(&state, &facts),
            peers: Arc::default(),
            interface: self.interface.clone(),
            dataplane: progress.dataplane,
            applied: progress.revision >= Some(state.revision) && progress.problems.is_empty(),
            problems: progress.problems,
            healed: progress.healed,
            mtu,
            mtu_reason,
            gateway_key: facts.gateway_key.unwrap_or(NO_KEY),
            api,
            origin: self.origin.clone(),
            now: SystemTime::now(),
            promises: Arc::clone(&self.promises),
            state,
            facts,
            foreign: Arc::clone(&self.foreign.borrow()),
            holding: self.holding.clone(),
        }
    }

    /// All metrics in Prometheus' text format, not older than a second.
    pub(crate) async fn metrics_text(&self) -> Arc<str> {
        let mut made = self.exposition.lock().await;
        if let Some((time, text)) = made.as_ref()
            && time.elapsed() < FRESH
        {
            return Arc::clone(text);
        }
        let present = Present {
            listeners: self.events.listeners(),
        };
        let text: Arc<str> = self.metrics.text(&self.refreshed().await, present).into();
        *made = Some((Instant::now(), Arc::clone(&text)));
        text
    }

    /// Everything, with the peers as they were seconds ago or are now: telling of one device, or of the next page of a
    /// list, must not ask for all of them again.
    pub async fn refreshed_lately(&self) -> Snapshot {
        let seen = self.seen.borrow().clone();
        match seen.filter(|(when, _)| when.elapsed() < LATELY) {
            Some((_, peers)) => Snapshot {
                peers,
                ..self.snapshot()
            },
            None => self.refreshed().await,
        }
    }

    /// Everything, with the peers as they are now.
    pub async fn refreshed(&self) -> Snapshot {
        let (answer, peers) = oneshot::channel();
        let ask = async {
            self.peers.send(answer).await.ok()?;
            peers.await.ok()
        };
        // A dataplane that hangs must not keep anybody from seeing that.
        let peers = tokio::time::timeout(PATIENCE, ask).await;
        let peers: Peers = peers.ok().flatten().unwrap_or_default().into();
        let seen = (Instant::now(), Arc::clone(&peers));
        self.seen.send_replace(Some(seen));
        Snapshot {
            peers,
            ..self.snapshot()
        }
    }
}
