//! Network namespaces of a test's own. They have no name, and go with the last that holds them.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// With loopback up.
    pub(crate) fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let namespace = Self { file };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs code on a thread inside.
    pub(crate) fn enter<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                code()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a command inside; it has to succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.enter(|| {
            let mut words = command.split_whitespace();
            Command::new(words.next().unwrap())
                .args(words)
                .output()
                .unwrap()
        });
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The kernel makes an IPv6 address usable some time after it was added.
    pub(crate) fn await_address(&self, address: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self
            .run(&format!("ip route get {address}"))
            .starts_with("local ")
        {
            assert!(
                Instant::now() < deadline,
                "{address} does not become usable"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}
