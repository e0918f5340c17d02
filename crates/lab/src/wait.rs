//! Waiting for something to become true, within a bound.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks until the answer is yes. The error says what was awaited, and what the last error of the question was.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let answer = question();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            match answer {
                Ok(_) => bail!("waited {limit:?} in vain: {what}"),
                Err(error) => {
                    return Err(error.context(format!("waited {limit:?} in vain: {what}")));
                }
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
