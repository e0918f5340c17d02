//! Sessions that end and begin under traffic: new keys after 120 seconds, none older than 180.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::findings::Findings;
use crate::network::{Family, Network};
use crate::numbered::Numbered;
use crate::peer::{Peer, connect};
use crate::program::Program;
use crate::traffic::{await_answer, transfer};

const LIMIT: Duration = Duration::from_secs(30);

/// Two minutes in twelve seconds.
const PACE: u32 = 10;
/// Slow enough for the buffers of a program that does not run for a second or two.
const RATE: u64 = 100;

/// Beyond both limits, the second time included.
const AGE: u64 = 400;

#[test]
fn keys_are_renewed_under_traffic() -> Result<()> {
    let mut findings = Findings::default();
    for (other, pace) in [(Program::WireguardGo, 1), (Program::subject(), PACE)] {
        let result = renewed(other, pace);
        findings.check(&format!("with {other:?}"), result);
    }
    findings.conclude()
}

fn renewed(other: Program, pace: u32) -> Result<()> {
    let network = Network::alone("dp-rekey")?;
    let near = Peer::start_with(&network, Program::subject(), 1, 1420, PACE)?;
    let far = Peer::start_with(&network, other, 2, 1420, pace)?;
    connect(&near, &far, Family::V4)?;
    await_answer(&near, &far, Family::V4, LIMIT)?;
    let start = Instant::now();
    let streams = [(&near, &far), (&far, &near)].map(|(from, to)| {
        let stream = Numbered::new(from, to, Family::V6);
        thread::spawn(move || -> Result<_> {
            let mut stream = stream?;
            stream.send(RATE * AGE / u64::from(PACE), RATE)?;
            let tally = stream.settled();
            ensure!(
                tally.duplicates == 0 && tally.corrupt.is_none(),
                "{tally:?}"
            );
            Ok((tally.delivered, stream.sent()))
        })
    });
    let mut handshakes = vec![far.seen(&near)?.handshake];
    while start.elapsed() < Duration::from_secs(AGE / u64::from(PACE)) {
        transfer(&near, &far, Family::V4, 100_000).context("TCP meanwhile")?;
        let handshake = far.seen(&near)?.handshake;
        if handshakes.last() != Some(&handshake) {
            handshakes.push(handshake);
        }
        thread::sleep(Duration::from_millis(300));
    }
    for (way, stream) in ["there", "back"].into_iter().zip(streams) {
        let (delivered, sent) = stream.join().ok().context("a thread panicked")??;
        Findings::note(&format!(
            "figure: {delivered} of {sent} {way}, with {} sessions",
            handshakes.len()
        ));
        ensure!(
            1000 * delivered >= 995 * sent,
            "{delivered} of {sent} {way}"
        );
    }
    ensure!(
        (3..=5).contains(&handshakes.len()),
        "in {AGE} seconds of its own there were handshakes at {handshakes:?}"
    );
    Ok(())
}
