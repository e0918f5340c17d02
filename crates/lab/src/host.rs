//! One host of a lab: run commands in its namespace, keep processes there, or step into it with a thread.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{panic, thread};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::names;
use crate::process::{self, Output, Process};
use crate::registry::{self, Registry};

const EXEC_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: String,
    registry: Registry,
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `ip netns exec NAMESPACE …`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A folder for files of this host, which goes with the lab.
    pub fn folder(&self) -> Result<PathBuf> {
        self.registry.host_folder(&self.name)
    }

    /// Runs a command; anything but success is an error that shows host, command, status and what it wrote.
    pub fn exec<I, S>(&self, command: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.exec_with_input(command, "")
    }

    /// [`Self::exec`] with a text as standard input.
    pub fn exec_with_input<I, S>(&self, command: I, input: &str) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let words = words(command);
        process::run_successfully(
            &mut self.command(&words),
            &self.describe(&words),
            input,
            EXEC_LIMIT,
        )
    }

    /// Runs a command whose failure is an answer too.
    pub fn try_exec<I, S>(&self, command: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let words = words(command);
        process::run(
            &mut self.command(&words),
            &self.describe(&words),
            "",
            EXEC_LIMIT,
        )
    }

    /// Starts a command in the background, with its output in files.
    pub fn spawn<I, S>(&self, command: I) -> Result<Process>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let words = words(command);
        let program = words.first().map(PathBuf::from).unwrap_or_default();
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        let folder = self.folder()?;
        let mut files = tempfile::Builder::new();
        files.prefix(program.as_ref()).disable_cleanup(true);
        let name = || self.describe(&words);
        let stdout = files
            .suffix(".stdout")
            .tempfile_in(&folder)
            .with_context(name)?;
        let stderr = files
            .suffix(".stderr")
            .tempfile_in(&folder)
            .with_context(name)?;
        let child = self
            .command(&words)
            .stdin(Stdio::null())
            .stdout(stdout.reopen().with_context(name)?)
            .stderr(stderr.reopen().with_context(name)?)
            .spawn()
            .with_context(name)?;
        let process = Process::new(
            child,
            name(),
            stdout.path().to_owned(),
            stderr.path().to_owned(),
        );
        self.registry
            .record_process(process.id(), &self.name, &name())?;
        Ok(process)
    }

    /// A command that is run in the namespace, for whoever needs more than [`Self::exec`] and [`Self::spawn`] do.
    ///
    /// `ip netns exec` replaces itself by the command, so the pid is the command's; it also brings the right `/sys`.
    pub fn command<I, S>(&self, command: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", &self.namespace]).args(command);
        ip
    }

    /// Runs a closure on a thread of its own that is in the namespace: sockets that it opens belong there, and so do
    /// processes and threads that it starts. `/proc/net` there is that of the process; read `/proc/thread-self/net`.
    pub fn enter<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        let path = registry::namespace_path(&self.namespace);
        let name = || format!("{}: enter {}", self.name, path.display());
        let namespace = File::open(&path).with_context(name)?;
        thread::scope(|scope| {
            let thread =
                scope.spawn(|| setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| work()));
            match thread.join() {
                Ok(result) => result.with_context(name),
                Err(panic) => panic::resume_unwind(panic),
            }
        })
    }

    pub(crate) fn new(registry: &Registry, instance: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: names::namespace(instance, name),
            registry: registry.clone(),
        }
    }

    /// Starts a daemon that outlives this process, in a session of its own, with one log file.
    pub fn start_daemon<I, S>(&self, command: I, log: &Path) -> Result<Child>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let words = words(command);
        let name = || self.describe(&words);
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        // A child that leads no process group is what setsid(1) replaces instead of forking: the pid stays.
        let mut command = self.command(["setsid"]);
        command.args(&words).stdin(Stdio::null());
        command
            .stdout(file.try_clone().with_context(name)?)
            .stderr(file);
        let mut child = command.spawn().with_context(name)?;
        if let Err(error) = self
            .registry
            .record_process(child.id(), &self.name, &name())
        {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Many `ip` commands, one a line, by one process.
    pub(crate) fn configure(&self, commands: &str) -> Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.namespace, "-batch", "-"]);
        let description = format!("{}: ip -batch", self.name);
        process::run_successfully(&mut ip, &description, commands, EXEC_LIMIT)
            .with_context(|| format!("{}: these commands failed:\n{commands}", self.name))?;
        Ok(())
    }

    pub(crate) fn write_sysctls(&self, sysctls: &[(String, String)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in sysctls {
                let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
                fs::write(&path, value)
                    .with_context(|| format!("{}: set {name} to {value}", self.name))?;
            }
            Ok(())
        })?
    }

    fn describe(&self, words: &[OsString]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        format!("{}: {}", self.name, words.join(" "))
    }
}

fn words<I, S>(command: I) -> Vec<OsString>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    command
        .into_iter()
        .map(|word| word.as_ref().to_owned())
        .collect()
}
