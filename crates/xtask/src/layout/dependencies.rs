//! No crate lists a dependency that it does not name, and the workspace none that no crate lists.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Finding;
use crate::tree::Tree;

/// What a table of dependencies serves: the folders of a crate in which it may be named.
const TABLES: &[(&str, &[&str])] = &[
    ("dependencies", &["src/", "examples/", "build.rs"]),
    (
        "dev-dependencies",
        &["src/", "tests/", "examples/", "benches/"],
    ),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = BTreeSet::new();
    for (name, path, text) in tree.manifests() {
        let Ok(manifest) = toml::from_str::<Table>(text) else {
            continue;
        };
        let folder = format!("crates/{name}/");
        for (table, folders) in TABLES {
            for dependency in keys(&manifest, table) {
                let word = dependency.replace('-', "_");
                let mut sources = tree.sources().filter_map(|(source, text)| {
                    let inside = source.strip_prefix(&folder)?;
                    folders
                        .iter()
                        .any(|folder| inside.starts_with(folder))
                        .then_some(text)
                });
                if !sources.any(|text| names(text, &word)) {
                    findings.push(Finding::new(
                        path,
                        format!("nothing names `{dependency}` of [{table}]"),
                        "remove the line",
                    ));
                }
                listed.insert(dependency);
            }
        }
    }
    findings.extend(unlisted(tree, &listed));
    findings
}

fn unlisted(tree: &Tree, listed: &BTreeSet<String>) -> Vec<Finding> {
    let root = tree.texts().find(|(path, _)| *path == "Cargo.toml");
    let manifest = root.and_then(|(_, text)| toml::from_str::<Table>(text).ok());
    let workspace = manifest
        .as_ref()
        .and_then(|manifest| manifest.get("workspace")?.as_table());
    let Some(workspace) = workspace else {
        return Vec::new();
    };
    keys(workspace, "dependencies")
        .into_iter()
        .filter(|dependency| !listed.contains(dependency))
        .map(|dependency| {
            let what = format!("no crate lists `{dependency}` of the workspace's dependencies");
            Finding::new("Cargo.toml", what, "remove the line")
        })
        .collect()
}

fn keys(manifest: &Table, table: &str) -> Vec<String> {
    let table = manifest.get(table).and_then(Value::as_table);
    table.into_iter().flat_map(Table::keys).cloned().collect()
}

/// Whether a text has a word; a longer one that contains it does not count.
fn names(text: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).any(|(start, _)| {
        let before = text.get(..start).and_then(|text| text.chars().next_back());
        let after = text
            .get(start + word.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}
