//! How the daemon starts and stops, and how everything is withdrawn.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_api::types::log::Action;
use adit_host::reconcile::{self, ReconcileError, Reconciler};
use adit_model::facts::Facts;
use adit_store::{Downgraded, LogQuery, Recovered, Recovery, Store};
use anyhow::{Context, anyhow, bail};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::access::Access;
use crate::answers::Answers;
use crate::audit::{self, Audit};
use crate::backup;
use crate::bridge::{Bridge, Outcomes};
use crate::claim::Claim;
use crate::confirmation;
use crate::control::{Control, Progress};
use crate::events::{Events, watch_network};
use crate::fleeting::Fleeting;
use crate::http;
use crate::keeper::{self, Keeper};
use crate::key;
use crate::metrics::Metrics;
use crate::names::Front;
use crate::options::{RunOptions, Settled, check_interface};
use crate::owner::Owner;
use crate::policing;
use crate::ports::{PortControl, forget_epoch};
use crate::writer::{Writer, restore};

/// Name of the socket in the runtime directory.
const SOCKET: &str = "adit.sock";

/// Name of the record of changed settings in the state directory, and in the runtime directory while the first cannot
/// be written.
const SYSCTL_RECORD: &str = "sysctls.json";

/// Name of the record of the tunnel interface's name in the state directory.
const INTERFACE_RECORD: &str = "interface";

/// How often the audit log tells of refused credentials.
const REFUSED_INTERVAL: Duration = Duration::from_secs(60);

/// How long answers may still take after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the gateway in the foreground until SIGTERM or SIGINT; tunnel, routes and firewall stay in place then.
///
/// # Errors
///
/// What keeps it from starting, with the way out. The kernel is as it was then.
pub async fn run(options: RunOptions) -> anyhow::Result<Ending> {
    let options = options.settle()?;
    Owner::check(&options.state_dir)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let _claim = Claim::take().await?;
    forbid_core_dumps()?;
    backup::finish(&options.state_dir)?;
    let origin = backup::origin(&options.state_dir);
    let (store, mut loaded) = Store::open(&options.state_dir).context("cannot open the state")?;
    if let Some(trouble) = store.health().trouble() {
        tracing::error!("{trouble}. Changes are refused until it can be written; packets flow");
    }
    for restoration in adit_store::restorations(&options.state_dir) {
        let kept = restoration.kept.display();
        tracing::error!("{}; the damaged files are {kept}*", restoration.message);
    }
    let answers = Answers::new(std::mem::take(&mut loaded.answers));
    let state = restore(loaded).with_context(|| {
        format!(
            "the state in {} cannot be read; nothing was changed",
            options.state_dir.display()
        )
    })?;
    let private_key = key::load_or_create(
        &options.state_dir,
        state.revision == 0,
        state.settings.gateway_key,
    )?;
    let (key_sender, key_receiver) = watch::channel(private_key);
    let listener = listen(&options.runtime_dir)?;
    withdraw_renamed(&options).await?;
    let front = Front::of(&options.runtime_dir, &options.starter);
    let reconciler = reconciler(&options.interface, &options.state_dir, &options.runtime_dir)?
        .with_starter(options.starter);
    let handle = reconcile::start(reconciler)
        .await
        .context("cannot observe this host")?;

    let prepared = match options.listen.clone() {
        Some(listen) => {
            let facts = handle.facts().borrow().clone();
            let (access, told) = Access::prepare(listen, &options.state_dir, &facts)?;
            (Some(access), Some(told))
        }
        None => (None, None),
    };
    let (access, told) = prepared;
    let (api_sender, api_receiver) = watch::channel(told);

    let restored = Arc::new(state.clone());
    let (leading_sender, leading_receiver) = watch::channel(Arc::clone(&restored));
    let (state_sender, state_receiver) = watch::channel(restored);
    let holding = front.holding().await;
    let mut first_facts = Facts {
        gateway_key: Some(private_key.public_key()),
        ..Facts::clone(&handle.facts().borrow())
    };
    holding.name(&mut first_facts);
    let (facts_sender, facts_receiver) = watch::channel(Arc::new(first_facts));
    let progress = Progress {
        dataplane: "none",
        revision: None,
        basis: None,
        failing: Vec::new(),
        problems: Vec::new(),
        healed: BTreeMap::new(),
    };
    let (progress_sender, progress_receiver) = watch::channel(progress);
    let (orders_sender, orders_receiver) = mpsc::channel(1024);
    let (awaits_sender, awaits_receiver) = mpsc::channel(1024);
    let (peers_sender, peers_receiver) = mpsc::channel(64);
    let (outlooks_sender, outlooks_receiver) = mpsc::channel(8);

    let (storage_sender, storage_receiver) = watch::channel(Vec::new());
    let keeper = Keeper {
        directory: options.state_dir.clone(),
        health: store.health(),
        state: state_receiver.clone(),
        problems: storage_sender,
    };
    let keeper = tokio::spawn(keeper.run());
    let audit = Arc::new(Audit::new(orders_sender.clone()));
    let events = Arc::new(Events::new(state.revision));
    let metrics = Arc::new(Metrics::new());
    let start = start_detail(&store, &options.interface);
    let inherited = state.confirmation.as_ref().map(|it| it.revision);
    let writer = Writer {
        store,
        state,
        events: Arc::clone(&events),
        metrics: Arc::clone(&metrics),
        facts: facts_receiver.clone(),
        observer: adit_host::listener::Observer::default(),
        leading: leading_sender,
        published: state_sender,
        answers: answers.clone(),
        directory: options.state_dir.clone(),
        private_key: key_sender,
        holding: holding.clone(),
    };
    let writer = std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || writer.run(orders_receiver))
        .context("cannot start the writer")?;
    let (front_handle, front_keeper) = front.keep();
    let policed = handle.policed();
    let foreign = handle.foreign();
    let bridge = Bridge {
        handle,
        interface: options.interface.clone(),
        private_key: key_receiver,
        public_key: None,
        state: leading_receiver,
        facts: facts_sender,
        progress: progress_sender,
        awaits: awaits_receiver,
        peers: peers_receiver,
        outlooks: outlooks_receiver,
        metrics: Arc::clone(&metrics),
        outcomes: Outcomes::default(),
        applied: None,
        derivation: None,
        front: front_handle,
        holding: holding.clone(),
        names: None,
        fleeting: Fleeting::default(),
    };
    let front_keeper = tokio::spawn(front_keeper);
    let bridge = tokio::spawn(bridge.run());
    let restart = Arc::new(Notify::new());
    let control = Arc::new(Control {
        state_dir: options.state_dir.clone(),
        origin,
        restart: Arc::clone(&restart),
        requests: orders_sender,
        awaits: awaits_sender,
        peers: peers_sender,
        outlooks: outlooks_sender,
        seen: watch::Sender::default(),
        state: state_receiver,
        facts: facts_receiver,
        foreign,
        holding,
        progress: progress_receiver,
        storage: storage_receiver,
        interface: options.interface.clone(),
        answers,
        api: api_receiver,
        audit: Arc::clone(&audit),
        events: Arc::clone(&events),
        metrics,
        troubles: Arc::default(),
        promises: Arc::default(),
        exposition: AsyncMutex::default(),
    });
    audit.started(start).await;
    let (stop_sender, stop) = watch::channel(false);
    let remote = match access {
        Some(access) => {
            let listener = access.listener(Arc::clone(&control), stop.clone(), api_sender);
            let thread = std::thread::Builder::new().name("api".to_owned());
            Some(
                thread
                    .spawn(move || listener.run())
                    .context("start the API")?,
            )
        }
        None => None,
    };
    let mut beside = JoinSet::new();
    beside.spawn(keeper::record(
        control.state.clone(),
        control.requests.clone(),
    ));
    beside.spawn(watch_network(Arc::downgrade(&control), Arc::clone(&events)));
    beside.spawn(tell_refused(Arc::clone(&audit)));
    let ports = PortControl::new(&control, &options.state_dir);
    beside.spawn(ports.run());
    beside.spawn(policing::tell(Arc::downgrade(&control), policed));
    beside.spawn(confirmation::watch(
        Arc::downgrade(&control),
        control.state.clone(),
        inherited,
    ));
    if let Some(address) = options.metrics {
        let control = Arc::downgrade(&control);
        beside.spawn(http::serve_metrics(address, control, stop.clone()));
    }
    let server = tokio::spawn(http::serve(listener, http::router(control), stop));
    tracing::info!(interface = options.interface, socket = %options.runtime_dir.join(SOCKET).display(), "the gateway runs");

    let ending = tokio::select! {
        _ = terminate.recv() => Ending::Stopped,
        _ = interrupt.recv() => Ending::Stopped,
        () = restart.notified() => Ending::Restart,
    };
    tracing::info!("stopping; tunnel, routes and firewall stay in place");
    stop_sender.send_replace(true);
    remove_socket(&options.runtime_dir);
    events.close();
    beside.shutdown().await;
    let finish = async {
        let _ = server.await;
        if let Some(remote) = remote {
            let _ = tokio::task::spawn_blocking(move || remote.join()).await;
        }
        audit.tell_refused().await;
        audit.stopped().await;
        drop(audit);
        // The last listener is gone, so the writer has nothing more to take and ends after what it has.
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        let _ = keeper.await;
        let _ = bridge.await;
        let _ = front_keeper.await;
        // Nobody would lift it.
        if let Err(error) = adit_host::policing::withdraw().await {
            tracing::warn!(%error, "a limit of sources stays");
        }
    };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("some answers were not waited for");
    }
    Ok(ending)
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Stopped,
    /// It has to begin anew, with another state.
    Restart,
}

async fn tell_refused(audit: Arc<Audit>) {
    loop {
        tokio::time::sleep(REFUSED_INTERVAL).await;
        audit.tell_refused().await;
    }
}

/// What is to be said of a start: after a crash the log tells of no end.
fn start_detail(store: &Store, interface: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let last = LogQuery {
        limit: 1,
        ..LogQuery::default()
    };
    let last = store.log(&last).unwrap_or_default();
    let ended = last
        .first()
        .is_none_or(|entry| audit::event_of(entry.body.as_deref()).action == Action::Stop);
    let crash = if ended {
        ""
    } else {
        "; the last run ended without a word (it crashed or was killed)"
    };
    format!("version {version} on {interface}{crash}")
}

/// Withdraws everything from this host and restores what was; works with the daemon stopped, and a second time.
///
/// # Errors
///
/// When the daemon runs, or something of ours cannot be withdrawn.
pub async fn teardown(options: RunOptions) -> anyhow::Result<()> {
    let Settled {
        state_dir,
        runtime_dir,
        interface,
        listen: _,
        metrics: _,
        starter,
    } = options.settle()?;
    if UnixStream::connect(runtime_dir.join(SOCKET)).is_ok() {
        bail!(
            "the gateway runs, and would put everything back: stop it first (`systemctl stop adit-gateway`, or SIGTERM to it)"
        );
    }
    let _claim = Claim::take().await?;
    if !state_dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state_dir)
            .with_context(|| format!("cannot make {}", state_dir.display()))?;
    }
    let _owner = Owner::act(&state_dir);
    let recorded = recorded_interface(&state_dir)?;
    if let Some(other) = recorded.filter(|recorded| *recorded != interface) {
        withdraw(&other, &state_dir, &runtime_dir).await?;
    }
    withdraw(&interface, &state_dir, &runtime_dir).await?;
    let front = Front::of(&runtime_dir, &starter);
    front.stop().await.context("cannot end the front")?;
    remove_if_there(&state_dir.join(INTERFACE_RECORD))?;
    remove_socket(&runtime_dir);
    Ok(())
}

/// Puts the best copy there is, or nothing at all, in the place of a state that cannot be trusted; none when nothing is
/// wrong with it. Works with the daemon stopped.
///
/// # Errors
///
/// When the daemon runs, when there is nothing to take, or when the disk refuses.
pub fn recover(options: RunOptions, recovery: Recovery) -> anyhow::Result<Option<Recovered>> {
    let directory = options.settle()?.state_dir;
    let _owner = Owner::act(&directory);
    // First, so that no crash keeps devices from being told; who is told for nothing asks once more.
    forget_epoch(&directory)
        .with_context(|| format!("cannot forget the epoch in {}", directory.display()))?;
    adit_store::recover(&directory, recovery)
        .with_context(|| format!("cannot recover the state in {}", directory.display()))
}

/// Leads the database back to an older schema, for an older version; works with the daemon stopped.
///
/// # Errors
///
/// When the daemon runs, when a change awaits its confirmation, when there is no such schema, or when the disk refuses.
pub async fn downgrade(options: RunOptions, schema: i64) -> anyhow::Result<Downgraded> {
    let directory = options.settle()?.state_dir;
    let _claim = Claim::take().await?;
    let _owner = Owner::act(&directory);
    let failed = || format!("cannot lead the state in {} back", directory.display());
    let (store, loaded) = Store::open(&directory).with_context(failed)?;
    let state = restore(loaded).with_context(failed)?;
    drop(store);
    if state.confirmation.is_some() {
        bail!(
            "a change awaits its confirmation, which older versions do not know: start the gateway, which takes it back, or \
             `adit confirm` it, and stop it again"
        );
    }
    adit_store::downgrade(&directory, schema).with_context(failed)
}

/// An interface bears no mark but its name: under a new one the daemon would not find what it left under the old one.
async fn withdraw_renamed(options: &Settled) -> anyhow::Result<()> {
    let recorded = recorded_interface(&options.state_dir)?;
    if recorded.as_ref() == Some(&options.interface) {
        return Ok(());
    }
    if let Some(other) = recorded {
        tracing::info!(
            from = other,
            to = options.interface,
            "the tunnel interface has another name now"
        );
        withdraw(&other, &options.state_dir, &options.runtime_dir).await?;
    }
    let path = options.state_dir.join(INTERFACE_RECORD);
    adit_fault::passing("interface/record");
    match fs::write(&path, format!("{}\n", options.interface)) {
        Ok(()) => Ok(()),
        // A disk that takes nothing keeps no packet from flowing; the next start writes it.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            tracing::warn!(%error, path = %path.display(), "the interface's name is not on record");
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn recorded_interface(state_dir: &Path) -> anyhow::Result<Option<String>> {
    let path = state_dir.join(INTERFACE_RECORD);
    match fs::read_to_string(&path) {
        // A name that a crash cut short names no interface that we made.
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| check_interface(name).is_ok())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

async fn withdraw(interface: &str, state_dir: &Path, runtime_dir: &Path) -> anyhow::Result<()> {
    let reconciler = reconciler(interface, state_dir, runtime_dir);
    let report = reconciler?.teardown().await;
    adit_host::policing::withdraw().await?;
    for kept in &report.kept {
        tracing::warn!(setting = kept.path, "left as it is: {}", kept.reason);
    }
    if let Some(problem) = report.problems.first() {
        let count = report.problems.len();
        bail!(
            "{count} things could not be withdrawn; the first: {}: {} ({})",
            problem.object,
            problem.message,
            problem.fix
        );
    }
    Ok(())
}

fn reconciler(interface: &str, state_dir: &Path, runtime_dir: &Path) -> anyhow::Result<Reconciler> {
    Reconciler::open(interface, &state_dir.join(SYSCTL_RECORD))
        .and_then(|reconciler| reconciler.with_spare_record(&runtime_dir.join(SYSCTL_RECORD)))
        .map_err(|error| match error {
            ReconcileError::Sysctl(error) => anyhow!(
                "{error}. It remembers the settings that Adit changed. Move it away to go on: they stay as they are \
                 then, also when everything is withdrawn"
            ),
            error @ (ReconcileError::Netlink(_)
            | ReconcileError::Firewall(_)
            | ReconcileError::Facts(_)) => error.into(),
        })
}

/// Keys and tokens are in the memory of this process: no crash writes them to a disk, and no other user looks at them.
fn forbid_core_dumps() -> anyhow::Result<()> {
    set_dumpable(false).context("cannot forbid core dumps (PR_SET_DUMPABLE)")?;
    // Processes that it starts inherit this, and carry keys too.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core dumps (RLIMIT_CORE)")
}

/// The administrator's socket: owner and group only.
fn listen(directory: &Path) -> anyhow::Result<UnixListener> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .with_context(|| format!("cannot make the runtime directory {}", directory.display()))?;
    let path = directory.join(SOCKET);
    if UnixStream::connect(&path).is_ok() {
        bail!(
            "another gateway listens on {}; use another --runtime-dir",
            path.display()
        );
    }
    remove_socket(directory);
    // Bound under another name and renamed when its mode is right, so that nobody else gets in between.
    let hidden = directory.join("adit.sock.new");
    remove_if_there(&hidden)?;
    let listener = UnixListener::bind(&hidden)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    adit_fault::passing("socket/bound");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o660))
        .and_then(|()| fs::rename(&hidden, &path))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

fn remove_socket(directory: &Path) {
    let path = directory.join(SOCKET);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
    }
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
