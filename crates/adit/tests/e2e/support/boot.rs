//! A VPS of a lab with systemd or OpenRC on it: PID 1 of its own, on an overlay of this machine's root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use adit_lab::{Host, wait_until};
use anyhow::{Context as _, Result, ensure};

const LIMIT: Duration = Duration::from_secs(30);

/// What starts services.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Init {
    Systemd,
    OpenRc,
}

#[derive(Debug)]
pub(crate) struct Booted {
    /// Ends with everything that it started.
    outer: Child,
    init: i32,
    group: PathBuf,
    folder: PathBuf,
}

/// What a command on it did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Booted {
    pub(crate) fn boot(host: &Host, init: Init) -> Result<Self> {
        let group = group_of(host.namespace())?;
        let folder = host.folder()?.join("boot");
        fs::create_dir_all(&folder)?;
        let log = File::create(host.folder()?.join("boot.log"))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/setup/boot.sh");
        let outer = Command::new("sh")
            .args(["-c", "echo $$ > \"$1/cgroup.procs\" && exec ip netns exec \"$2\" unshare --cgroup --mount --pid --ipc --uts --fork --kill-child sh \"$3\" \"$4\" \"$5\"", "boot"])
            .arg(&group)
            .arg(host.namespace())
            .args([&script, &folder])
            .arg(match init {
                Init::Systemd => "systemd",
                Init::OpenRc => "openrc",
            })
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("boot")?;
        let mut booted = Self {
            outer,
            init: 0,
            group,
            folder,
        };
        let children = format!("/proc/{0}/task/{0}/children", booted.outer.id());
        wait_until("the first process", LIMIT, || {
            let text = fs::read_to_string(&children)?;
            let first = text.split_whitespace().next();
            booted.init = first.context("no child")?.parse()?;
            // Its own root is there when it is no script of ours any more.
            ensure!(booted.path("/run").join("lock").exists(), "no root yet");
            Ok(true)
        })?;
        wait_until("the start of the host", LIMIT, || {
            match init {
                Init::Systemd => {
                    let state = booted.try_run(["systemctl", "is-system-running"])?.stdout;
                    ensure!(matches!(state.trim(), "running" | "degraded"), "{state:?}");
                }
                Init::OpenRc => ensure!(booted.path("/run/started").exists(), "not yet"),
            }
            Ok(true)
        })?;
        Ok(booted)
    }

    /// Runs a command that must succeed; what it writes on standard output.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let words: Vec<_> = words.into_iter().map(|it| it.as_ref().to_owned()).collect();
        let ran = self.try_run(&words)?;
        ensure!(ran.code == Some(0), "{words:?}: {ran:?}");
        Ok(ran.stdout)
    }

    pub(crate) fn try_run<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Ran> {
        let output = Command::new("nsenter")
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"])
            .args(["--root", "--wd"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("nsenter")?;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A file on it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        // Its processes end with its first, and leave their groups a moment later.
        for _ in 0..100 {
            remove_groups(&self.group);
            if !self.group.exists() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A control group for it alone, in the hierarchy of this machine.
fn group_of(name: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let hierarchy = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| path)
        .context("no cgroup2 hierarchy is mounted, which systemd needs")?;
    let group = Path::new(hierarchy).join(format!("{name}-boot"));
    remove_groups(&group);
    fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
    Ok(group)
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
