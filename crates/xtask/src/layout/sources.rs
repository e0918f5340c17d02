//! What a Rust source must begin with, and the attribute it must not use.

use super::Finding;
use crate::tree::Tree;

/// In two pieces, so that this file does not find itself.
const ALLOW: [&str; 2] = [concat!("#[al", "low("), concat!("#![al", "low(")];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.sources() {
        if !text.starts_with("//!") {
            findings.push(Finding::new(
                path,
                "does not say its role",
                "begin it with a `//!` line",
            ));
        }
    }
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".rs")) {
        for (number, line) in (1..).zip(text.lines()) {
            if ALLOW.iter().any(|attribute| line.contains(attribute)) {
                findings.push(Finding::new(
                    &format!("{path}:{number}"),
                    "allows a lint silently",
                    "mend the cause, or write `#[expect(LINT, reason = \"…\")]`",
                ));
            }
        }
    }
    findings
}
