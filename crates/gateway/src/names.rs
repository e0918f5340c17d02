//! The front: starts or adopts it, tells it which names lead where, and tells of what is wrong with it.

mod holding;
mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_front::{Change, Client, ClientError, Listener, Mode, Route, SOCKET_NAME, Status, Table};
use adit_host::wireguard::{Program, Starter};
use adit_model::desired::names::Names;
use adit_model::problem::Problem;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

pub(crate) use self::holding::{Counts, Holding};

/// How long a front may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at: a front that was started anew has no table.
const LOOK: Duration = Duration::from_secs(1);

/// Which front, and how it is started.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    socket: PathBuf,
    starter: Starter,
    holding: Holding,
}

/// Hands over what the front shall do.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    orders: mpsc::Sender<Order>,
    problems: watch::Receiver<Vec<Problem>>,
}

struct Order {
    names: Names,
    answer: oneshot::Sender<Vec<Problem>>,
}

impl Handle {
    /// Returns when the front does it, with what is wrong.
    pub(crate) async fn apply(&self, names: Names) -> Vec<Problem> {
        let (answer, done) = oneshot::channel();
        if self.orders.send(Order { names, answer }).await.is_err() {
            return Vec::new();
        }
        done.await.unwrap_or_default()
    }

    /// What is wrong now.
    pub(crate) fn problems(&self) -> watch::Receiver<Vec<Problem>> {
        self.problems.clone()
    }
}

impl Front {
    /// The front of the gateway with this runtime directory; a process of this daemon's if it starts the userspace WireGuard,
    /// too.
    pub(crate) fn of(runtime_dir: &Path, starter: &Starter) -> Self {
        let starter = match starter {
            Starter::Own(program) => Starter::Own(Program {
                path: program.path.clone(),
                arguments: vec!["front".to_owned()],
            }),
            Starter::Unit => Starter::Unit,
        };
        Self {
            socket: runtime_dir.join(SOCKET_NAME),
            starter,
            holding: Holding::default(),
        }
    }

    /// Which sockets are the front's; that of an earlier run of the daemon is asked.
    pub(crate) async fn holding(&self) -> Holding {
        // Without an answer nothing is known.
        let _ = self.status().await;
        self.holding.clone()
    }

    /// Keeps the front as it is told, until the handle is gone; the front goes on then.
    pub(crate) fn keep(self) -> (Handle, impl Future<Output = ()>) {
        let (orders, receiver) = mpsc::channel(1);
        let (sender, problems) = watch::channel(Vec::new());
        let keeper = Keeper {
            front: self,
            names: Names::default(),
            table: Table::default(),
            is_told: false,
            is_current: false,
            problems: sender,
        };
        (Handle { orders, problems }, keeper.run(receiver))
    }

    /// Ends the front, with its connections.
    ///
    /// # Errors
    ///
    /// When one is there that does not end.
    pub(crate) async fn stop(&self) -> Result<(), ClientError> {
        let stopped = self.ask(|client| client.stop()).await;
        match stopped {
            Err(ClientError::Unreachable { .. }) | Ok(()) => Ok(()),
            Err(error @ (ClientError::Refused { .. } | ClientError::Unexpected { .. })) => {
                Err(error)
            }
        }
    }

    /// Puts a table in force; where there is no front it is started, if that is ours to do.
    async fn set(&self, table: &Table) -> Result<Status, Trouble> {
        let first = self.tell(table).await;
        let (Err(ClientError::Unreachable { .. }), Starter::Own(program)) = (&first, &self.starter)
        else {
            return first.map_err(Trouble::Client);
        };
        self.start(program).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.tell(table).await {
                Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome.map_err(Trouble::Client),
            }
        }
    }

    async fn tell(&self, table: &Table) -> Result<Status, ClientError> {
        self.holding.expect(table);
        let table = table.clone();
        let status = self.ask(move |client| client.set(&table)).await?;
        self.holding.take(&status);
        Ok(status)
    }

    async fn change(&self, change: Change) -> Result<Status, ClientError> {
        let status = self.ask(move |client| client.change(&change)).await?;
        self.holding.take(&status);
        Ok(status)
    }

    async fn status(&self) -> Result<Status, ClientError> {
        let status = self.ask(Client::status).await;
        match &status {
            Ok(status) => self.holding.take(status),
            Err(_) => self.holding.forget_counts(),
        }
        status
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let socket = self.socket.clone();
        let asked = spawn_blocking(move || question(&mut Client::connect(&socket)?));
        let silent = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        match asked.await {
            Ok(answer) => answer,
            Err(error) => Err(silent(io::Error::other(error))),
        }
    }

    /// The program goes to the background by itself, and its launcher ends when the socket answers.
    async fn start(&self, program: &Program) -> Result<(), Trouble> {
        tracing::info!(socket = %self.socket.display(), "starting the front");
        adit_fault::passing("front/start");
        let mut launcher = Command::new(&program.path)
            .args(&program.arguments)
            .arg(&self.socket)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Trouble::Start)?;
        let status = timeout(PATIENCE, launcher.wait()).await;
        adit_fault::passing("front/start/done");
        let failed = |reason: String| Trouble::Start(io::Error::other(reason));
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(format!("it ended with {status}"))),
            Ok(Err(error)) => Err(Trouble::Start(error)),
            Err(_) => Err(failed("it takes too long".to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot start the front: {0}")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Client(ClientError),
}

struct Keeper {
    front: Front,
    names: Names,
    /// What the front was told last.
    table: Table,
    /// Whether there may be a front that has to hear of what is gone.
    is_told: bool,
    /// Whether the front that was found was looked at for its version.
    is_current: bool,
    problems: watch::Sender<Vec<Problem>>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some(Order { names, answer }) = order else {
                        return;
                    };
                    self.take(names).await;
                    // The caller may have gone away.
                    let _ = answer.send(self.problems.borrow().clone());
                }
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn take(&mut self, names: Names) {
        let before = std::mem::replace(&mut self.names, names);
        if self.is_changed(&before).await {
            return;
        }
        let listeners = table::listeners(&self.names);
        if self.is_told && self.table.listeners == listeners && self.problems.borrow().is_empty() {
            return;
        }
        self.table = Table {
            revision: next_revision(self.table.revision),
            listeners,
            ..Table::default()
        };
        self.push().await;
    }

    /// Tells the front what has changed; whether that is done, and the whole table need not be told.
    async fn is_changed(&mut self, before: &Names) -> bool {
        let is_in_force = self.is_told && !before.is_empty() && self.problems.borrow().is_empty();
        if !is_in_force || self.names.is_empty() {
            return false;
        }
        let Some(listeners) = table::changes(before, &self.names) else {
            return false;
        };
        if listeners.is_empty() {
            return true;
        }
        let change = Change {
            from: self.table.revision,
            revision: next_revision(self.table.revision),
            listeners,
        };
        // A front that began anew, or is of another version, refuses it.
        let Ok(status) = self.front.change(change.clone()).await else {
            return false;
        };
        if self.table.change(&change).is_err() {
            return false;
        }
        let problems = self.of_status(&status);
        self.tell(problems);
        true
    }

    async fn push(&mut self) {
        if self.names.is_empty() {
            self.withdraw().await;
            return;
        }
        let mut outcome = self.front.set(&self.table).await;
        if self.succeed(&outcome).await {
            outcome = self.front.set(&self.table).await;
        }
        self.is_told = true;
        let problems = match outcome {
            Ok(status) => self.of_status(&status),
            Err(trouble) => vec![self.of_trouble(&trouble)],
        };
        self.tell(problems);
    }

    /// Lets a front of this version take over from another that an earlier daemon has left, which ends with its last
    /// connection. Once: the program on the disk may be of a newer version still.
    async fn succeed(&mut self, outcome: &Result<Status, Trouble>) -> bool {
        let is_other = match outcome {
            Ok(status) => status.version != env!("CARGO_PKG_VERSION"),
            Err(Trouble::Client(ClientError::Unexpected { .. })) => true,
            Err(_) => return false,
        };
        let (true, false, Starter::Own(program)) = (is_other, self.is_current, &self.front.starter)
        else {
            self.is_current = true;
            return false;
        };
        self.is_current = true;
        match self.front.start(program).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the front stays of another version");
                false
            }
        }
    }

    /// Without names there is nothing to carry. Who has no names never had a front, unless an earlier run of the daemon left
    /// one.
    async fn withdraw(&mut self) {
        let outcome = match &self.front.starter {
            Starter::Own(_) => self.front.stop().await,
            Starter::Unit => self.front.tell(&self.table).await.map(drop),
        };
        self.is_told = true;
        self.front.holding.forget_counts();
        let problems = match outcome {
            Ok(()) | Err(ClientError::Unreachable { .. }) => Vec::new(),
            Err(error @ (ClientError::Refused { .. } | ClientError::Unexpected { .. })) => {
                vec![self.of_trouble(&Trouble::Client(error))]
            }
        };
        self.tell(problems);
    }

    /// Whether the front is there and has the table.
    async fn look(&mut self) {
        if !self.is_told || self.names.is_empty() {
            return;
        }
        match self.front.status().await {
            Ok(status) if status.revision == self.table.revision => {
                let problems = self.of_status(&status);
                self.tell(problems);
            }
            Ok(_) | Err(_) => {
                tracing::warn!(
                    "the front was lost, or began anew: it is told again what leads where"
                );
                self.push().await;
            }
        }
    }

    fn tell(&self, problems: Vec<Problem>) {
        self.problems.send_if_modified(|known| {
            let is_news = *known != problems;
            if is_news {
                for problem in &problems {
                    tracing::warn!(object = problem.object, "{}", problem.message);
                }
                *known = problems;
            }
            is_news
        });
    }

    /// A listener that could not be opened. That one which only leads on to HTTPS is no promise to anybody.
    fn of_status(&self, status: &Status) -> Vec<Problem> {
        let failed = status.listeners.iter().filter_map(|listener| {
            let reason = listener.problem.as_ref()?;
            let is_same = |it: &&Listener| {
                (it.address, it.service) == (listener.address, listener.service)
            };
            let wanted = self.table.listeners.iter().find(is_same)?;
            if table::only_redirects(wanted) {
                return None;
            }
            let (address, service) = (listener.address, listener.service);
            let (protocol, flag) = if service.is_tcp() { ("tcp", "t") } else { ("udp", "u") };
            Some(Problem {
                code: "front-listener-failed".to_owned(),
                object: format!("listener {address}/{protocol}"),
                message: format!(
                    "connections for {} names do not come in: {reason}",
                    wanted.names.len()
                ),
                fix: format!(
                    "`ss -ln{flag}p 'sport = :{0}'` shows who has port {0}; it is tried again every second",
                    address.port()
                ),
            })
        });
        failed.chain(self.of_rights(status)).collect()
    }

    /// A front without the right to show devices who comes.
    fn of_rights(&self, status: &Status) -> Option<Problem> {
        let reason = status.transparency.as_ref()?;
        let routes = self.table.listeners.iter().flat_map(Listener::routes);
        let mut targets = routes.filter_map(Route::device);
        let is_needed = targets.any(|target| target.mode == Mode::Transparent);
        let fix = match self.front.starter {
            Starter::Unit => {
                "`systemctl cat adit-front` should show `AmbientCapabilities=CAP_NET_RAW`: where another file takes it away, remove that, then \
                 `systemctl restart adit-front`"
                    .to_owned()
            }
            Starter::Own(_) => format!(
                "start the gateway with CAP_NET_RAW or CAP_NET_ADMIN, and end process {}, which begins anew then",
                status.pid
            ),
        };
        is_needed.then(|| Problem {
            code: "front-rights-missing".to_owned(),
            object: "front".to_owned(),
            message: format!(
                "connections by names fail, as the front may not show devices the visitor's address: {reason}"
            ),
            fix,
        })
    }

    fn of_trouble(&self, trouble: &Trouble) -> Problem {
        let fix = match (&self.front.starter, trouble) {
            (_, Trouble::Client(ClientError::Refused { .. })) => {
                "the log of the front says more".to_owned()
            }
            (_, Trouble::Client(ClientError::Unexpected { .. })) => {
                "it is of another version: start it anew, which ends its connections".to_owned()
            }
            (Starter::Unit, _) => {
                "`systemctl enable --now adit-front`, and `journalctl -u adit-front` if it does not stay".to_owned()
            }
            (Starter::Own(_), _) => format!(
                "`adit front {}` says what keeps it from starting",
                self.front.socket.display()
            ),
        };
        Problem {
            code: "front-failed".to_owned(),
            object: "front".to_owned(),
            message: format!("connections by TLS names are not led to devices: {trouble}"),
            fix,
        }
    }
}

/// Greater than any before it, those of earlier runs of the daemon included, unless the clock was set back; and never 0, which
/// is that of a front without a table.
fn next_revision(last: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = now.map_or(1, |elapsed| {
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    });
    micros.max(last.saturating_add(1))
}
