//! Names that say nothing about what is behind them.

use super::Finding;
use crate::tree::Tree;

const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "commons", "helper", "helpers", "misc", "miscs", "manager",
    "managers",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.paths() {
        let parts: Vec<&str> = path.split('/').map(stem).collect();
        if let Some(name) = parts.iter().find(|part| EMPTY_NAMES.contains(part)) {
            findings.push(empty_name(path, name));
        }
        if path.ends_with("/mod.rs") {
            let folder = path.trim_end_matches("/mod.rs");
            findings.push(Finding::new(
                path,
                "is a `mod.rs`",
                format!("name it `{folder}.rs`, beside its folder"),
            ));
        }
    }
    for (path, text) in tree.sources() {
        // A module with a file of its own has been found by its path.
        for name in text
            .lines()
            .filter_map(inline_module)
            .filter(|name| EMPTY_NAMES.contains(name))
        {
            findings.push(empty_name(path, name));
        }
    }
    findings
}

fn empty_name(path: &str, name: &str) -> Finding {
    Finding::new(
        path,
        format!("the name `{name}` says nothing"),
        "name it after what it knows or does",
    )
}

fn stem(part: &str) -> &str {
    part.split('.').next().unwrap_or(part)
}

/// The name in `mod name {`, whatever its visibility.
fn inline_module(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("mod ")?;
    let visibility = before.trim_end();
    let declares = visibility.is_empty()
        || visibility == "pub"
        || (visibility.starts_with("pub(") && visibility.ends_with(')'));
    let (name, _) = after.split_once('{')?;
    declares.then_some(name.trim())
}
