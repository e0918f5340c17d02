//! The gateway's HTTP interface as a program speaks it that knows nothing of Adit: one request a connection.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where the interface is.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    socket: PathBuf,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Api {
    pub(crate) fn new(runtime_dir: PathBuf) -> Self {
        Self {
            socket: runtime_dir.join("adit.sock"),
        }
    }

    pub(crate) fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Asks, with headers as `Name: value`, for a path under `/api/v1`.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        body: Option<&Value>,
    ) -> Result<Reply> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        self.send(format!("{head}\r\n{body}").as_bytes())
            .with_context(|| format!("{method} {path}"))
    }

    /// Sends bytes as they are, and reads until the gateway closes.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<Reply> {
        let mut stream = self.connect()?;
        stream.write_all(bytes)?;
        read(stream)
    }
}

/// Reads an answer to its end.
fn read(mut stream: UnixStream) -> Result<Reply> {
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read an answer")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("no whole answer: {text:?}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let reply = Reply {
        status: status.context("a status")?.parse()?,
        headers,
        text: body.to_owned(),
    };
    // What was cut short is no answer.
    if let Some(length) = reply.header("content-length") {
        ensure!(
            length == body.len().to_string(),
            "an answer of {length} bytes ended after {}",
            body.len()
        );
    }
    Ok(reply)
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{self:?}"))
    }

    pub(crate) fn code(&self) -> Result<String> {
        let problem = self.json()?;
        let hint = problem["hint"].as_str().unwrap_or_default();
        ensure!(!hint.is_empty(), "a problem without a hint: {problem}");
        let code = problem["code"].as_str().map(str::to_owned);
        code.with_context(|| format!("no code in {problem}"))
    }
}
