//! Which crate may import which, read from the manifests.

use toml::{Table, Value};

use super::Finding;
use crate::tree::Tree;

/// Ours that each crate may import. `adit` and only `adit` may import all.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("proto", &["model"]),
    ("fault", &[]),
    ("store", &["model", "fault"]),
    ("host", &["model", "fault"]),
    ("wireguard", &[]),
    ("front", &["proto"]),
    ("api", &["model"]),
    (
        "gateway",
        &["model", "proto", "store", "host", "api", "front", "fault"],
    ),
    ("agent", &["model", "proto", "host", "api"]),
    ("lab", &[]),
    ("xtask", &[]),
];
const BINARY: &str = "adit";

/// Foreign crates (a trailing `*` stands for any ending) that only the listed crates of ours may name.
const RESERVED: &[(&str, &[&str])] = &[
    ("rusqlite", &["store"]),
    ("libsqlite3-sys", &["store"]),
    ("rtnetlink", &["host", "wireguard"]),
    ("netlink-*", &["host", "wireguard"]),
];

/// Crates that know no effects, and the foreign crates that would bring them in.
const PURE: &[&str] = &["model", "proto"];
const EFFECTS: &[&str] = &["tokio", "nix", "socket2", "getrandom", "rand"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, path, text) in tree.manifests() {
        let manifest: Table = match toml::from_str(text) {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::new(
                    path,
                    format!("is not TOML: {}", error.message()),
                    "mend the syntax",
                ));
                continue;
            }
        };
        let edges = EDGES
            .iter()
            .find(|(from, _)| *from == name)
            .map(|(_, to)| *to);
        if edges.is_none() && name != BINARY {
            findings.push(Finding::new(
                path,
                format!("the crate `{name}` is not in the table of imports"),
                "add it to EDGES in crates/xtask/src/layout/imports.rs and to the table of rooms in the documentation",
            ));
        }
        for dependency in dependencies(&manifest) {
            if let (Some(to), Some(edges)) = (our_crate(&dependency), edges)
                && !edges.contains(&to)
            {
                let allowed = if edges.is_empty() {
                    "none of ours".to_owned()
                } else {
                    edges.join(", ")
                };
                findings.push(Finding::new(
                    path,
                    format!("`{name}` must not import `{to}`"),
                    format!("it may import {allowed}: move the code to where both may reach it, or pass it in as an argument"),
                ));
            }
            if let Some((_, owners)) = RESERVED
                .iter()
                .find(|(pattern, _)| matches(pattern, &dependency))
                && !owners.contains(&name)
            {
                findings.push(Finding::new(
                    path,
                    format!("`{name}` must not name `{dependency}`"),
                    format!(
                        "that is for {} alone: ask it through its API",
                        owners.join(" and ")
                    ),
                ));
            }
            if PURE.contains(&name) && EFFECTS.contains(&dependency.as_str()) {
                findings.push(Finding::new(
                    path,
                    format!("`{name}` has no effects and must not name `{dependency}`"),
                    "take time, random bytes and input as arguments",
                ));
            }
        }
    }
    findings
}

/// The packages in every dependency table of a manifest, the ones for a single platform included.
fn dependencies(manifest: &Table) -> Vec<String> {
    let platforms = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flatten();
    let mut packages: Vec<String> = std::iter::once(manifest)
        .chain(platforms.filter_map(|(_, platform)| platform.as_table()))
        .flat_map(|scope| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| scope.get(kind))
        })
        .filter_map(|table| table?.as_table())
        .flatten()
        .map(|(key, value)| {
            value
                .get("package")
                .and_then(Value::as_str)
                .unwrap_or(key)
                .to_owned()
        })
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

/// The directory name of a package of ours.
fn our_crate(package: &str) -> Option<&str> {
    match package.strip_prefix("adit-") {
        Some(name) => Some(name),
        None => (package == BINARY).then_some(BINARY),
    }
}

fn matches(pattern: &str, package: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => package.starts_with(start),
        None => package == pattern,
    }
}
