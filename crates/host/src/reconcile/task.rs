//! The task that keeps a host as desired: it takes new contents, and heals what others change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_model::desired::Desired;
use adit_model::facts::{Evidence, Facts};
use adit_model::foreign::Ruleset;
use adit_model::problem::Problem;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Outlook, Part, ReconcileError, Reconciler, Report};
use crate::facts;
use crate::firewall::{self, Police};
use crate::netlink::Netlink;
use crate::policing::{self, Policed};
use crate::watch::{self as events, Event};
use crate::wireguard;

/// Removing a proxy neighbour sends no event, and a link that goes down takes them along silently.
const NEIGHBOR_POLL: Duration = Duration::from_millis(500);

/// How often everything is looked at, whether or not there was an event.
const FULL_LOOK: Duration = Duration::from_secs(30);

/// Events come in bursts: they are acted upon when it is quiet for this long ...
const QUIET: Duration = Duration::from_millis(100);

/// ... or at the latest after this.
const PATIENCE: Duration = Duration::from_millis(400);

/// Failed steps are tried again after this, and then at doubled intervals ...
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// ... up to this one. When something changed on this host, its cause may be gone, and they are tried at once ...
const LAST_RETRY: Duration = Duration::from_secs(5);

/// ... but never for more than this part of the time.
const RETRY_SHARE: u32 = 4;

/// How often it is asked whether the dataplane answers.
const PROBE: Duration = Duration::from_secs(2);

/// The way to a running reconciler; when the last one is dropped it ends, and leaves everything in place.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    facts: watch::Receiver<Arc<Facts>>,
    status: watch::Receiver<Status>,
    policed: watch::Receiver<Option<Policed>>,
    foreign: watch::Receiver<Arc<Ruleset>>,
    look_for_facts: Arc<Occasion>,
}

/// When this host is looked at.
#[derive(Debug, Default)]
struct Occasion {
    wanted: Notify,
    /// What is found is told even if it is what was known.
    is_awaited: AtomicBool,
}

/// How the reconciler fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `kernel`, or the name of a program; none before there is an interface.
    pub dataplane: Option<&'static str>,
    /// What does not succeed at present.
    pub problems: BTreeSet<Problem>,
    /// How many objects were put right because others had changed them, by kind.
    pub healed: BTreeMap<&'static str, u64>,
    /// How long the last look at everything took; telling of it wakes nobody.
    pub last_look: Duration,
    /// How long the last change took; telling of it wakes nobody.
    pub last_apply: Duration,
}

/// When the connections end that this host itself had with ports that a change opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openings {
    /// Before the change is said to be in force.
    AtOnce,
    /// A tenth of a second later at the most, together with those of other changes; longer where ending them takes long.
    Together,
}

#[derive(Debug)]
enum Request {
    Apply(Arc<Desired>, Openings, oneshot::Sender<Report>),
    Observe(Observation),
    Outlook(oneshot::Sender<Outlook>),
}

type Observation = oneshot::Sender<Result<Option<wireguard::Observed>, wireguard::WireGuardError>>;

impl Handle {
    /// Makes the host hold this; answers when the kernel has it. None when the task has ended.
    pub async fn apply(&self, desired: Arc<Desired>, openings: Openings) -> Option<Report> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Apply(desired, openings, answer);
        self.requests.send(request).await.ok()?;
        answered.await.ok()
    }

    /// What a look at everything would lead to now; nothing is changed. None when the task has ended.
    pub async fn outlook(&self) -> Option<Outlook> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Outlook(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What the WireGuard interface holds now. None when there is no interface, or the task has ended.
    pub async fn wireguard(
        &self,
    ) -> Result<Option<wireguard::Observed>, wireguard::WireGuardError> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Observe(answer)).await.is_err() {
            return Ok(None);
        }
        answered.await.unwrap_or(Ok(None))
    }

    /// Looks at what this host is like. It is told as a change, even if nothing is another.
    pub fn look_for_facts(&self) {
        self.look_for_facts
            .is_awaited
            .store(true, Ordering::Release);
        self.look_for_facts.wanted.notify_one();
    }

    /// What this host is like; changes are told.
    pub fn facts(&self) -> watch::Receiver<Arc<Facts>> {
        self.facts.clone()
    }

    /// How it fares; changes are told.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether sources are held to a limit; changes are told.
    pub fn policed(&self) -> watch::Receiver<Option<Policed>> {
        self.policed.clone()
    }

    /// What others filter on this host; changes are told.
    pub fn foreign(&self) -> watch::Receiver<Arc<Ruleset>> {
        self.foreign.clone()
    }
}

/// Starts the task. Facts are there when this returns; nothing is changed before the first [`Handle::apply`].
pub async fn start(reconciler: Reconciler) -> Result<Handle, ReconcileError> {
    // Subscribed before the first look, so that nothing is missed after it.
    let events = events::watch()?;
    let table = reconciler.table.watch()?;
    let first = facts::observe(&reconciler.netlink, &reconciler.interface).await?;
    let (requests_sender, requests) = mpsc::channel(64);
    let (facts_sender, facts) = watch::channel(Arc::new(first));
    let (status_sender, status) = watch::channel(Status::default());
    let look_for_facts: Arc<Occasion> = Arc::default();
    let mut beside = JoinSet::new();
    beside.spawn(keep_facts(
        Netlink::open()?,
        reconciler.interface.clone(),
        Arc::clone(&look_for_facts),
        facts_sender,
    ));
    let (port_sender, port) = watch::channel(None);
    let (policed_sender, policed) = watch::channel(None);
    beside.spawn(policing::keep(
        Police::beside(&reconciler.table),
        port,
        policed_sender,
    ));
    let (foreign_sender, foreign) = watch::channel(Arc::default());
    beside.spawn(firewall::foreign::keep(foreign_sender));
    let task = Task {
        reconciler,
        requests,
        events: Some(events),
        table: Some(table),
        look_for_facts: Arc::clone(&look_for_facts),
        _beside: beside,
        status: status_sender,
        port: port_sender,
        touched: Touched::default(),
        retry: None,
        pause: FIRST_RETRY,
        looked: (Instant::now(), Duration::ZERO),
        asking: JoinSet::new(),
        is_silent: false,
        last_apply: Duration::ZERO,
        evidence: BTreeMap::new(),
    };
    tokio::spawn(task.run());
    Ok(Handle {
        requests: requests_sender,
        facts,
        status,
        policed,
        foreign,
        look_for_facts,
    })
}

struct Task {
    reconciler: Reconciler,
    requests: mpsc::Receiver<Request>,
    events: Option<mpsc::Receiver<Event>>,
    table: Option<firewall::Watch>,
    look_for_facts: Arc<Occasion>,
    /// Ends with this task.
    _beside: JoinSet<()>,
    status: watch::Sender<Status>,
    /// Where the tunnel listens.
    port: watch::Sender<Option<u16>>,
    touched: Touched,
    retry: Option<Instant>,
    pause: Duration,
    /// When it last looked at everything, and how long that took.
    looked: (Instant, Duration),
    /// Conversations with the dataplane that nothing waits for; one that hangs must not keep changes waiting.
    /// Each tells whether there was an answer.
    asking: JoinSet<bool>,
    is_silent: bool,
    last_apply: Duration,
    /// What packets had shown when it was last looked at.
    evidence: BTreeMap<Ipv6Addr, Evidence>,
}

/// Observes this host whenever it is asked to, beside the reconciling: looking through all processes for listeners may take
/// longer than a missing table may be missing.
async fn keep_facts(
    netlink: Netlink,
    interface: String,
    occasion: Arc<Occasion>,
    known: watch::Sender<Arc<Facts>>,
) {
    loop {
        occasion.wanted.notified().await;
        let is_awaited = occasion.is_awaited.swap(false, Ordering::AcqRel);
        match facts::observe(&netlink, &interface).await {
            Ok(facts) => {
                known.send_if_modified(|known| {
                    let is_news = **known != facts;
                    if is_news {
                        *known = Arc::new(facts);
                    }
                    is_news || is_awaited
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot observe this host");
                // The next look is told of instead.
                occasion.is_awaited.fetch_or(is_awaited, Ordering::AcqRel);
            }
        }
    }
}

/// What events have named since it was last looked at.
#[derive(Debug, Default)]
struct Touched {
    parts: BTreeSet<Part>,
    facts: bool,
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        let mut poll = interval(NEIGHBOR_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(FULL_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.touched.due();
            let retry = self.retry;
            let sweep = self.reconciler.sweeps.due().map(Instant::from_std);
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
                result = changed(&mut self.table) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "the firewall cannot be watched; it is looked at now and then");
                        self.table = None;
                    }
                    self.heal(&[Part::Firewall].into()).await;
                }
                event = next(&mut self.events) => match event {
                    Some(event) => self.note(event),
                    None => self.events = None,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let touched = std::mem::take(&mut self.touched);
                    self.heal(&touched.parts).await;
                    self.hasten();
                    if touched.facts {
                        self.look_for_facts.wanted.notify_one();
                    }
                }
                _ = poll.tick() => {
                    if self.reconciler.has_neighbor_drift().await {
                        self.heal(&[Part::Neighbors].into()).await;
                    }
                }
                _ = probe.tick() => {
                    self.probe();
                    self.look_at_evidence();
                }
                Some(answer) = self.asking.join_next() => {
                    self.hear(answer.unwrap_or(true));
                }
                () = sleep_until(sweep.unwrap_or_else(Instant::now)), if sweep.is_some() => {
                    self.sweep().await;
                }
                _ = look.tick() => {
                    self.look_at_everything().await;
                }
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    self.look_at_everything().await;
                }
            }
        }
    }

    /// Contents that wait together are applied as one: the last says it all.
    async fn take(&mut self, first: Request) {
        let mut latest = None;
        let mut is_patient = true;
        let mut answers = Vec::new();
        let mut request = Some(first);
        while let Some(current) = request {
            match current {
                Request::Apply(desired, openings, answer) => {
                    latest = Some(desired);
                    is_patient &= openings == Openings::Together;
                    answers.push(answer);
                }
                Request::Observe(answer) => self.observe(answer),
                Request::Outlook(answer) => {
                    let _ = answer.send(self.reconciler.outlook().await);
                }
            }
            request = self.requests.try_recv().ok();
        }
        let Some(desired) = latest else {
            return;
        };
        let began = Instant::now();
        self.reconciler.sweeps.set_patient(is_patient);
        let report = self.reconciler.change(&desired).await;
        self.reconciler.sweeps.set_patient(false);
        self.last_apply = began.elapsed();
        // The change may have removed the cause of a problem: that is to be seen soon.
        self.retry = None;
        self.pause = FIRST_RETRY;
        self.tell();
        for answer in answers {
            let _ = answer.send(report.clone());
        }
    }

    fn note(&mut self, event: Event) {
        let is_expected = match &event {
            Event::OwnRoutes(routes) => routes.iter().all(|route| self.reconciler.expects(route)),
            Event::Link
            | Event::Address
            | Event::Route
            | Event::OwnRoutesLost
            | Event::Rule
            | Event::Setting
            | Event::Lost => false,
        };
        if !is_expected {
            self.touched.note(event);
        }
    }

    async fn heal(&mut self, parts: &BTreeSet<Part>) {
        if !parts.is_empty() {
            self.reconciler.heal(parts).await;
            self.tell();
        }
    }

    /// Ends the connections that could wait.
    async fn sweep(&mut self) {
        if let Err(problem) = self.reconciler.sweep().await {
            self.reconciler.problems.insert(problem);
            self.tell();
        }
    }

    /// Looks at what the dataplane holds, beside everything else.
    fn observe(&mut self, answer: Observation) {
        let Some(dataplane) = self.reconciler.dataplane.clone() else {
            let _ = answer.send(Ok(None));
            return;
        };
        let heard = Arc::clone(&self.reconciler.heard);
        self.asking.spawn(async move {
            let observed = dataplane.observe().await;
            let is_answer = is_answer(&observed);
            if let Ok(observed) = &observed {
                heard.note(observed);
            }
            let _ = answer.send(observed.map(Some));
            is_answer
        });
    }

    fn probe(&mut self) {
        if let (Some(dataplane), true) = (&self.reconciler.dataplane, self.asking.is_empty()) {
            let dataplane = Arc::clone(dataplane);
            self.asking
                .spawn(async move { is_answer(&dataplane.probe().await) });
        }
    }

    /// Packets fill the sets without an event.
    fn look_at_evidence(&mut self) {
        if let Ok(evidence) = firewall::evidence::observe()
            && evidence != self.evidence
        {
            self.evidence = evidence;
            self.look_for_facts.wanted.notify_one();
        }
    }

    /// One that does not answer is told of; one that answers again gets soon what it missed.
    fn hear(&mut self, is_answer: bool) {
        if !is_answer {
            self.is_silent = true;
            self.reconciler.note_silence();
            self.tell();
        } else if std::mem::take(&mut self.is_silent) {
            self.hasten();
        }
    }

    /// Tries what failed before its time: something changed.
    fn hasten(&mut self) {
        if self.retry.is_some() {
            let (at, took) = self.looked;
            let soon = at + FIRST_RETRY.max(took * RETRY_SHARE);
            self.retry = self.retry.min(Some(soon));
        }
    }

    async fn look_at_everything(&mut self) {
        self.watch_again();
        let began = Instant::now();
        if let Some(known) = self.reconciler.latest.clone() {
            self.reconciler.reconcile(&known).await;
        }
        self.looked = (Instant::now(), began.elapsed());
        tracing::debug!(took = ?self.looked.1, "looked at everything");
        self.tell();
        self.look_for_facts.wanted.notify_one();
    }

    fn watch_again(&mut self) {
        if self.table.is_none() {
            self.table = self.reconciler.table.watch().ok();
        }
        if self.events.is_none() {
            self.events = events::watch().ok();
        }
    }

    /// Publishes how it fares, and plans the next attempt if something failed.
    fn tell(&mut self) {
        if self.reconciler.problems.is_empty() && !self.reconciler.is_surprised {
            self.retry = None;
            self.pause = FIRST_RETRY;
        } else if self.retry.is_none_or(|at| at <= Instant::now()) {
            let (_, took) = self.looked;
            self.retry = Some(Instant::now() + self.pause.max(took * RETRY_SHARE));
            self.pause = (self.pause * 2).min(LAST_RETRY);
        }
        let known = self.reconciler.known.as_ref();
        let port = known.and_then(|known| Some(known.wireguard.as_ref()?.listen_port));
        self.port
            .send_if_modified(|told| std::mem::replace(told, port) != port);
        let status = Status {
            dataplane: self.reconciler.dataplane(),
            problems: self.reconciler.problems.clone(),
            healed: self.reconciler.healed.clone(),
            last_look: self.looked.1,
            last_apply: self.last_apply,
        };
        self.status.send_if_modified(|known| {
            let timed = Status {
                last_look: known.last_look,
                last_apply: known.last_apply,
                ..status.clone()
            };
            let is_news = *known != timed;
            *known = status;
            is_news
        });
    }
}

impl Touched {
    fn note(&mut self, event: Event) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.last = Some(now);
        match event {
            Event::Link => {
                // A link that goes down takes routes, and silently proxy neighbours along.
                self.parts.extend([
                    Part::Link,
                    Part::Addresses,
                    Part::Routes,
                    Part::Neighbors,
                    Part::Sysctls,
                ]);
                self.facts = true;
            }
            Event::Address => {
                self.parts.extend([Part::Addresses]);
                self.facts = true;
            }
            Event::Route => {
                self.parts.extend([Part::Routes]);
                self.facts = true;
            }
            // Facts leave them out.
            Event::OwnRoutes(_) | Event::OwnRoutesLost => self.parts.extend([Part::Routes]),
            Event::Rule => self.parts.extend([Part::Rules]),
            Event::Setting => {
                self.parts.extend([Part::Sysctls]);
                self.facts = true;
            }
            Event::Lost => {
                self.parts.extend(Part::ALL);
                self.facts = true;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let (since, last) = self.since.zip(self.last)?;
        Some((last + QUIET).min(since + PATIENCE))
    }
}

/// A refusal is an answer, too.
fn is_answer<T>(outcome: &Result<T, wireguard::WireGuardError>) -> bool {
    !matches!(outcome, Err(wireguard::WireGuardError::Timeout { .. }))
}

async fn changed(table: &mut Option<firewall::Watch>) -> Result<(), firewall::FirewallError> {
    match table {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn next(events: &mut Option<mpsc::Receiver<Event>>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
