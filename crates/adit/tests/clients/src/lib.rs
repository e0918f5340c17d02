//! What the programs are told, word by word on standard input, and how they answer.

use std::env::args;
use std::error::Error;
use std::io::{Write as _, stdin, stdout};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The arguments: the gateway's address, the device's own, the port of both sides, and the protocol.
pub fn argument<T>(place: usize) -> Outcome<T>
where
    T: std::str::FromStr,
    T::Err: Error + 'static,
{
    let text = args().nth(place).ok_or("an argument is missing")?;
    Ok(text.parse()?)
}

/// Answers each word of `open`, `renew`, `close` with one line.
pub fn serve(mut answer: impl FnMut(&str) -> Outcome<String>) -> Outcome<()> {
    for line in stdin().lines() {
        let line = line?;
        let told = match answer(&line) {
            Ok(told) => told,
            Err(error) => format!("failed: {error}"),
        };
        println!("{told}");
        stdout().flush()?;
    }
    Ok(())
}
