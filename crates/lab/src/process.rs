//! Processes: run one to its end within a bound, keep one in the background, know one again by pid and start time.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait::wait_until;

/// What a command that has ended left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A process in the background. It is killed when this is dropped; its output is in files and can be read at any time.
#[derive(Debug)]
pub struct Process {
    child: Child,
    description: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A pid can be used again; together with its start time it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    start_time: u64,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written to its standard output up to now.
    pub fn stdout(&self) -> Result<String> {
        read_lossy(&self.stdout)
    }

    pub fn stderr(&self) -> Result<String> {
        read_lossy(&self.stderr)
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.try_wait()?.is_none())
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running()? {
            send(self.child.id().cast_signed(), signal)
                .with_context(|| format!("{signal} to {}", self.description))?;
        }
        Ok(())
    }

    /// Waits for its end, and leaves it running when the limit has passed.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.description);
        let mut status = None;
        wait_until(&what, limit, || {
            status = self.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context(what)
    }

    /// Waits until its output, standard error included, contains the text.
    pub fn wait_for_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("{text:?} from {}", self.description);
        let mut seen = String::new();
        let mut ended = None;
        wait_until(&what, limit, || {
            ended = self.try_wait()?;
            seen = self.stdout()? + &self.stderr()?;
            Ok(seen.contains(text) || ended.is_some())
        })
        .with_context(|| format!("{} wrote {seen:?}", self.description))?;
        match ended {
            Some(status) if !seen.contains(text) => {
                bail!(
                    "{} ended with {status} without {text:?}: {seen:?}",
                    self.description
                )
            }
            Some(_) | None => Ok(()),
        }
    }

    /// SIGTERM, and SIGKILL when that did not end it within 5 s.
    pub fn stop(&mut self) -> Result<Output> {
        self.signal(Signal::SIGTERM)?;
        let status = match self.wait(Duration::from_secs(5)) {
            Ok(status) => status,
            Err(_) => {
                self.kill();
                self.child
                    .wait()
                    .with_context(|| format!("wait for {}", self.description))?
            }
        };
        Ok(Output {
            status,
            stdout: self.stdout()?,
            stderr: self.stderr()?,
        })
    }

    pub(crate) fn new(child: Child, description: String, stdout: PathBuf, stderr: PathBuf) -> Self {
        Self {
            child,
            description,
            stdout,
            stderr,
        }
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.description))
    }

    fn kill(&mut self) {
        // An error only says that it has ended.
        let _ = self.child.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

impl Identity {
    /// None when there is no such process, or only its zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        if self.is_alive() {
            send(self.pid, signal).with_context(|| format!("{signal} to process {}", self.pid))?;
        }
        Ok(())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.status)?;
        for (name, text) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            let text = text.trim_end();
            if !text.is_empty() {
                write!(formatter, "\n{name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// This process and those that it descends from.
pub(crate) fn ancestry() -> Vec<i32> {
    let mut pids = vec![std::process::id().cast_signed()];
    while let Some(stat) = pids.last().copied().and_then(Stat::read) {
        if stat.parent <= 0 || pids.contains(&stat.parent) {
            break;
        }
        pids.push(stat.parent);
    }
    pids
}

/// Runs a command to its end, with any exit status.
///
/// Output goes to files and not through pipes: a daemon that the command leaves behind may keep its descriptors, and
/// reading a pipe would wait for that daemon.
pub(crate) fn run(
    command: &mut Command,
    description: &str,
    input: &str,
    limit: Duration,
) -> Result<Output> {
    let name = || description.to_owned();
    let mut stdout = tempfile::tempfile().with_context(name)?;
    let mut stderr = tempfile::tempfile().with_context(name)?;
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        let mut file = tempfile::tempfile().with_context(name)?;
        file.write_all(input.as_bytes()).with_context(name)?;
        file.rewind().with_context(name)?;
        file.into()
    };
    command.stdin(stdin);
    command.stdout(stdout.try_clone().with_context(name)?);
    command.stderr(stderr.try_clone().with_context(name)?);
    let mut child = command.spawn().with_context(name)?;
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    let status = loop {
        if let Some(status) = child.try_wait().with_context(name)? {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "{description}: did not end within {limit:?}\n{}",
                read_back(&mut stderr)?
            );
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    Ok(Output {
        status,
        stdout: read_back(&mut stdout)?,
        stderr: read_back(&mut stderr)?,
    })
}

/// [`run`], and anything but success is an error that shows what it said.
pub(crate) fn run_successfully(
    command: &mut Command,
    description: &str,
    input: &str,
    limit: Duration,
) -> Result<Output> {
    let output = run(command, description, input, limit)?;
    if !output.status.success() {
        bail!("{description}: {output}");
    }
    Ok(output)
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    match signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Stat {
    state: char,
    parent: i32,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc_pid_stat(5): the name in parentheses may hold anything, so count from its end: state is field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_lossy(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
