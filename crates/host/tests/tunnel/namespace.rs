//! Network namespaces of a test's own, removed with what runs in them.

use std::fs::File;
use std::future::Future;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with loopback up.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = format!("adtun-{}", unique());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.run("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs a command inside; it has to succeed. Gives its standard output.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        run("ip", &all)
    }

    /// Runs asynchronous code on a thread inside, with a runtime of its own.
    pub(crate) fn enter<T, F, Fut>(&self, code: F) -> T
    where
        T: Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = T>,
    {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(code())
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let pids = Command::new("ip")
            .args(["netns", "pids", &self.name])
            .output();
        if let Ok(pids) = pids {
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let is_this_test = pid == std::process::id().to_string();
                if !is_this_test {
                    let _ = Command::new("kill").arg(pid).status();
                }
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Joins two namespaces by a veth pair, each end under the given name and with the given addresses.
pub(crate) fn join(ends: [(&Namespace, &str, &[&str]); 2]) {
    let [(left, left_name, _), (right, right_name, _)] = ends;
    run(
        "ip",
        &[
            "link",
            "add",
            left_name,
            "netns",
            &left.name,
            "type",
            "veth",
            "peer",
            "name",
            right_name,
            "netns",
            &right.name,
        ],
    );
    for (namespace, name, addresses) in ends {
        for address in addresses {
            let arguments = ["address", "add", address, "dev", name];
            match address.contains(':') {
                true => namespace.run("ip", &[&arguments[..], &["nodad"]].concat()),
                false => namespace.run("ip", &arguments),
            };
        }
        namespace.run("ip", &["link", "set", name, "up"]);
    }
}

/// A name that no other test of this machine uses: UAPI sockets share one folder across network namespaces.
pub(crate) fn unique() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{number}", std::process::id())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
