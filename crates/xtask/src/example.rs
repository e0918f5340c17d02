//! Examples that write from the code's own definitions.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A command that runs it. It is built as the tests of the whole workspace are: for its package alone, dependencies would have
/// other features, and be compiled twice.
pub(crate) fn command(repository: &Path, name: &str) -> Result<Command> {
    let program =
        build(repository, name).with_context(|| format!("the example `{name}` cannot be built"))?;
    let mut command = Command::new(program);
    command.current_dir(repository);
    Ok(command)
}

fn build(repository: &Path, name: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    // What the cargo that runs this says of this package: build scripts look at it, and would run again.
    for (name, _) in env::vars().filter(|(name, _)| is_of_package(name)) {
        cargo.env_remove(name);
    }
    let output = cargo
        .args(["build", "--quiet", "--locked", "--workspace"])
        .args(["--example", name])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repository)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's output")?;
    let messages = text.lines().map(serde_json::from_str::<Value>);
    for message in messages {
        let message = message.context("cargo's output")?;
        let target = &message["target"];
        if target["name"] == name && target["kind"] == serde_json::json!(["example"]) {
            let program = message["executable"].as_str();
            return Ok(program.context("cargo names no program")?.into());
        }
    }
    bail!("cargo names no such example")
}

fn is_of_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}
