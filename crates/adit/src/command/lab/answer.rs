//! A service for trying things out: it tells everyone who connects which address they come from.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

/// Arguments of `adit lab answer`.
#[derive(Debug, Args)]
pub(crate) struct AnswerArguments {
    /// The TCP port, on every address of both families
    port: u16,
    /// How it introduces itself
    #[arg(long, default_value = "adit")]
    name: String,
}

pub(super) fn run(arguments: &AnswerArguments) -> Result<ExitCode> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, arguments.port));
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    loop {
        let (mut stream, source) = listener
            .accept()
            .with_context(|| format!("accept on {address}"))?;
        let answer = format!(
            "hello from {}: you are {}\n",
            arguments.name,
            source.ip().to_canonical()
        );
        // Whoever has gone away in the meantime needs no answer.
        let _ = stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .and_then(|()| stream.write_all(answer.as_bytes()));
    }
}
