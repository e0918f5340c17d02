//! Documents that are generated from the code: written, or checked to be current.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{example, openapi};

/// A document, and the example that prints it from the code's own definitions.
struct Document {
    path: &'static str,
    example: &'static str,
}

const REFERENCE: Document = Document {
    path: "docs/commands.md",
    example: "reference",
};
const INTERFACE: Document = Document {
    path: "docs/openapi.json",
    example: "openapi",
};

/// Writes what is generated; with `check` only compares, and tells what is out of date. What is wrong in a document is told
/// in any case.
pub(crate) fn generate(repository: &Path, check: bool) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for document in [REFERENCE, INTERFACE] {
        let text = print(repository, &document)?;
        let path = repository.join(document.path);
        if document.path == INTERFACE.path {
            let read = serde_json::from_slice(&text);
            let read = read.with_context(|| format!("{} is not JSON", document.path))?;
            let wrong = openapi::check(&read).into_iter();
            findings.extend(wrong.map(|finding| format!("{}: {finding}", document.path)));
        }
        if std::fs::read(&path).unwrap_or_default() == text {
            continue;
        }
        if check {
            let path = document.path;
            findings.push(format!(
                "{path}: out of date; run `cargo xtask docs` and commit it"
            ));
        } else {
            std::fs::write(&path, &text)
                .with_context(|| format!("cannot write {}", document.path))?;
        }
    }
    Ok(findings)
}

fn print(repository: &Path, document: &Document) -> Result<Vec<u8>> {
    let output = example::command(repository, document.example)?
        .output()
        .with_context(|| format!("cannot run the example `{}`", document.example))?;
    if !output.status.success() {
        bail!(
            "{} cannot be generated:\n{}",
            document.path,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
