//! What passes an interface, as text.

use std::thread;
use std::time::Duration;

use adit_lab::{Host, Process, wait_until};
use anyhow::Result;

const LIMIT: Duration = Duration::from_secs(5);

/// Packets that were already on their way when the awaited one was seen may be written after it.
const GRACE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Capture {
    process: Process,
}

impl Capture {
    pub(crate) fn start(host: &Host, interface: &str, filter: &str) -> Result<Self> {
        Self::start_with(host, interface, &[], filter)
    }

    /// Only what leaves by the interface.
    pub(crate) fn start_outgoing(host: &Host, interface: &str, filter: &str) -> Result<Self> {
        Self::start_with(host, interface, &["-Q", "out"], filter)
    }

    /// Only what arrives by the interface, in full.
    pub(crate) fn start_incoming(host: &Host, interface: &str, filter: &str) -> Result<Self> {
        Self::start_with(host, interface, &["-v", "-e", "-Q", "in"], filter)
    }

    pub(crate) fn text(&self) -> Result<String> {
        self.process.stdout()
    }

    /// Lines that contain the text, up to now.
    pub(crate) fn count(&self, text: &str) -> Result<usize> {
        let all = self.text()?;
        Ok(all.lines().filter(|line| line.contains(text)).count())
    }

    /// Waits for a packet that must come, and then for those that overtook nothing.
    pub(crate) fn wait_for(&self, text: &str) -> Result<()> {
        let what = format!("a packet {text:?} in a capture");
        let waited = wait_until(&what, LIMIT, || Ok(self.count(text)? > 0));
        thread::sleep(GRACE);
        match waited {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!("the capture holds {:?}", self.text()?))),
        }
    }

    fn start_with(host: &Host, interface: &str, options: &[&str], filter: &str) -> Result<Self> {
        // Without immediate mode the kernel hands packets over once a second.
        let mut command = vec!["tcpdump", "-lnn", "--immediate-mode", "-i", interface];
        command.extend(options);
        command.push(filter);
        let mut process = host.spawn(command)?;
        process.wait_for_output("listening on", LIMIT)?;
        Ok(Self { process })
    }
}
