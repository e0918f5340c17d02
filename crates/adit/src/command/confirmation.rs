//! `adit confirm`, and what tells whether a change may cut off whoever makes it.

use std::fs;
use std::net::IpAddr;

use adit_model::confirmation::BOUNDS;

use super::Session;
use crate::output::{Failure, Output};

/// What a login over SSH leaves in the environment (sshd(8)): `CLIENT CLIENT-PORT SERVER SERVER-PORT`.
const VARIABLE: &str = "SSH_CONNECTION";

/// How far up the processes are looked through; there is no use in a loop without an end.
const DEEPEST: usize = 32;

pub(super) async fn run(session: Session) -> Result<(), Failure> {
    let confirmed = session.client.confirm().await?;
    if session.output.is_json() {
        return session.output.document(&confirmed);
    }
    session.output.result(&format!(
        "Confirmed: the change of revision {} stays.",
        confirmed.confirmed
    ));
    Ok(())
}

/// Reads `--confirm`.
pub(super) fn seconds(text: &str) -> Result<String, String> {
    let (least, most) = BOUNDS;
    let is_fit = text
        .parse::<u64>()
        .is_ok_and(|seconds| (least..=most).contains(&seconds));
    if is_fit || text == "off" {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "it takes a number of seconds from {least} to {most}, or `off`"
        ))
    }
}

/// Where the person at this terminal comes from: `sudo` takes the variable away, so it is looked for in the processes that
/// this one came from, too.
pub(super) fn address() -> Option<IpAddr> {
    if let Ok(text) = std::env::var(VARIABLE) {
        return client(&text);
    }
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..DEEPEST {
        if process <= 1 {
            return None;
        }
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let found = environment.split(|byte| *byte == 0).find_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            entry.strip_prefix(VARIABLE)?.strip_prefix('=')
        });
        if let Some(text) = found {
            return client(text);
        }
        process = parent(process)?;
    }
    None
}

/// Tells what is still to be done about a change.
pub(super) fn remind(output: Output, awaits: Option<u64>) {
    if let Some(seconds) = awaits {
        output.note(&format!(
            "See that the gateway can still be reached, then `adit confirm` within {seconds} s; otherwise this change is taken back."
        ));
    }
}

fn client(text: &str) -> Option<IpAddr> {
    let address = text.split_whitespace().next()?;
    // A link-local address comes with its interface.
    address.split('%').next()?.parse().ok()
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
