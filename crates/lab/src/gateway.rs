//! `adit gateway run` on the VPS of a lab, and its command line.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::host::Host;
use crate::names;
use crate::process::{Identity, Output};
use crate::wait::wait_until;

const HOST: &str = "vps";
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// The gateway of a lab. Dropping this leaves the daemon running; taking the lab down ends it.
#[derive(Debug)]
pub struct Gateway {
    binary: PathBuf,
    host: Host,
    interface: String,
    /// `NAME=VALUE`, for the daemon.
    environment: Vec<OsString>,
    arguments: Vec<OsString>,
    daemon: Option<Child>,
}

impl Gateway {
    /// Starts the daemon and waits until it says that what it wants is applied.
    pub fn start(&mut self) -> Result<()> {
        ensure!(
            !self.is_running()?,
            "{HOST}: the gateway is running already"
        );
        self.host.registry().record_interface(&self.interface)?;
        let mut command = vec![OsString::from("env")];
        command.extend(self.environment.iter().cloned());
        command.extend([
            self.binary.clone().into_os_string(),
            "gateway".into(),
            "run".into(),
        ]);
        command.extend(self.options());
        command.extend(self.arguments.iter().cloned());
        let child = self.host.start_daemon(command, &self.log_path())?;
        let daemon = self.daemon.insert(child);
        let mut ended = None;
        let (binary, runtime_dir) = (
            self.binary.clone(),
            self.host.registry().folder().join("run"),
        );
        let status: [&OsStr; 5] = [
            binary.as_os_str(),
            "--runtime-dir".as_ref(),
            runtime_dir.as_os_str(),
            "status".as_ref(),
            "--json".as_ref(),
        ];
        let host = self.host.clone();
        let answer = wait_until("the gateway is applied", START_LIMIT, || {
            ended = daemon.try_wait()?;
            if ended.is_some() {
                return Ok(true);
            }
            let output = host.exec(status)?;
            let status: Value = serde_json::from_str(&output.stdout)
                .with_context(|| format!("{HOST}: adit status --json: {:?}", output.stdout))?;
            ensure!(
                status["applied"] == Value::Bool(true),
                "adit status --json: {status}"
            );
            Ok(true)
        });
        let failure = match (answer, ended) {
            (Ok(()), None) => return Ok(()),
            (Ok(()), Some(status)) => anyhow::anyhow!("the gateway ended with {status}"),
            (Err(error), _) => error,
        };
        Err(failure.context(format!(
            "{HOST}: start the gateway; the end of its log is\n{}",
            self.log_end()
        )))
    }

    /// Sets a variable in the environment of the daemon, from its next start on.
    pub fn set_environment(&mut self, name: &str, value: &OsStr) {
        let mut variable = OsString::from(format!("{name}="));
        variable.push(value);
        self.environment.push(variable);
    }

    /// What is started from now on, and what the command line is.
    pub fn use_binary(&mut self, binary: &Path) -> Result<()> {
        self.binary = binary
            .canonicalize()
            .with_context(|| format!("find {}", binary.display()))?;
        Ok(())
    }

    /// More arguments of `adit gateway run`, from the next start on.
    pub fn run_with<S: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = S>) {
        self.arguments = arguments.into_iter().map(Into::into).collect();
    }

    /// Runs the command line on the VPS; anything but success is an error.
    pub fn adit<I, S>(&self, arguments: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.host.exec(self.command(arguments))
    }

    /// Runs the command line on the VPS; a refusal is an answer too.
    pub fn try_adit<I, S>(&self, arguments: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.host.try_exec(self.command(arguments))
    }

    /// [`Self::adit`] with `--json`, read.
    pub fn adit_json<I, S>(&self, arguments: I) -> Result<Value>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command(arguments);
        command.push("--json".into());
        let output = self.host.exec(&command)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{HOST}: {command:?} wrote no JSON: {:?}", output.stdout))
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn state_dir(&self) -> PathBuf {
        self.host.registry().folder().join("state")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.host.registry().folder().join("run")
    }

    pub fn log_path(&self) -> PathBuf {
        self.host.registry().folder().join("gateway.log")
    }

    pub fn log(&self) -> Result<String> {
        let path = self.log_path();
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a daemon of this lab runs, whoever started it.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.running()?.is_some())
    }

    /// The pid of the daemon that runs.
    pub fn process_id(&mut self) -> Result<Option<i32>> {
        Ok(self.running()?.map(|identity| identity.pid))
    }

    /// SIGTERM; an error when it has not ended within 15 s. The status is known to the process that started it only.
    pub fn terminate(&mut self) -> Result<Option<ExitStatus>> {
        self.end(Signal::SIGTERM)
    }

    /// SIGKILL: as a crash.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)?;
        Ok(())
    }

    /// `adit gateway teardown`
    pub fn teardown(&self) -> Result<Output> {
        let mut command = vec![
            self.binary.clone().into_os_string(),
            "gateway".into(),
            "teardown".into(),
        ];
        command.extend(self.options());
        self.host.exec(command)
    }

    pub(crate) fn new(host: Host, instance: &str, binary: &Path) -> Result<Self> {
        let binary = binary
            .canonicalize()
            .with_context(|| format!("find {}", binary.display()))?;
        let interface = names::wireguard_interface("ag", instance, host.name());
        Ok(Self {
            binary,
            host,
            interface,
            environment: Vec::new(),
            arguments: Vec::new(),
            daemon: None,
        })
    }

    fn options(&self) -> [OsString; 6] {
        [
            "--state-dir".into(),
            self.state_dir().into_os_string(),
            "--runtime-dir".into(),
            self.runtime_dir().into_os_string(),
            "--interface".into(),
            self.interface.clone().into(),
        ]
    }

    fn command<I, S>(&self, arguments: I) -> Vec<OsString>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = vec![
            self.binary.clone().into_os_string(),
            "--runtime-dir".into(),
            self.runtime_dir().into_os_string(),
        ];
        command.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        command
    }

    /// The daemon that runs: our child, or one that another process of the lab started.
    fn running(&mut self) -> Result<Option<Identity>> {
        if let Some(child) = &mut self.daemon {
            return match child
                .try_wait()
                .with_context(|| format!("{HOST}: wait for the gateway"))?
            {
                Some(_) => Ok(None),
                None => Ok(Identity::of(child.id().cast_signed())),
            };
        }
        let records = self.host.registry().processes()?;
        let daemon = records
            .into_iter()
            .find(|record| record.identity.is_alive() && record.command.contains(" gateway run "));
        Ok(daemon.map(|record| record.identity))
    }

    fn end(&mut self, signal: Signal) -> Result<Option<ExitStatus>> {
        let Some(identity) = self.running()? else {
            bail!("{HOST}: the gateway is not running")
        };
        identity.signal(signal)?;
        wait_until("the gateway ends", STOP_LIMIT, || Ok(!identity.is_alive())).with_context(
            || {
                format!(
                    "{HOST}: {signal} to the gateway; its log ends in\n{}",
                    self.log_end()
                )
            },
        )?;
        match &mut self.daemon {
            Some(child) => {
                Ok(Some(child.wait().with_context(|| {
                    format!("{HOST}: wait for the gateway")
                })?))
            }
            None => Ok(None),
        }
    }

    /// The last lines of the daemon's log.
    pub fn log_end(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
