//! What every crate must carry beside its sources.

use toml::Table;

use super::Finding;
use crate::tree::Tree;

const MODEL_CLIPPY: &str = "crates/model/clippy.toml";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, path, text) in tree.manifests() {
        for table in tables_with_points(text) {
            findings.push(Finding::new(
                path,
                format!("[{table}] gives `adit-fault` features, so a release would have places that fail on demand"),
                "name the features in [dev-dependencies] of `adit` alone",
            ));
        }
        if !inherits_lints(text) {
            findings.push(Finding::new(
                path,
                "the workspace's lints do not apply",
                "add `[lints]` with `workspace = true`",
            ));
        }
    }
    if !tree.contains(MODEL_CLIPPY) {
        findings.push(Finding::new(
            MODEL_CLIPPY,
            "is missing, so nothing keeps effects out of `model`",
            "restore it with its disallowed methods and types",
        ));
    }
    findings
}

/// The tables of what a release is made of that switch fault points on.
fn tables_with_points(manifest: &str) -> Vec<&'static str> {
    let Ok(manifest) = toml::from_str::<Table>(manifest) else {
        return Vec::new();
    };
    let gives = |table: &Table| {
        table
            .get("adit-fault")
            .is_some_and(|dependency| dependency.get("features").is_some())
    };
    let passes_on = |table: &Table| table.to_string().contains("adit-fault");
    let has = |name: &str, test: &dyn Fn(&Table) -> bool| {
        manifest
            .get(name)
            .and_then(toml::Value::as_table)
            .is_some_and(test)
    };
    [
        ("dependencies", has("dependencies", &gives)),
        ("build-dependencies", has("build-dependencies", &gives)),
        ("features", has("features", &passes_on)),
    ]
    .into_iter()
    .filter_map(|(name, found)| found.then_some(name))
    .collect()
}

fn inherits_lints(manifest: &str) -> bool {
    toml::from_str::<Table>(manifest)
        .ok()
        .and_then(|manifest| manifest.get("lints")?.get("workspace")?.as_bool())
        .unwrap_or(false)
}
