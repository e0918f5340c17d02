//! What every crate must carry beside its sources.

use toml::Table;

use super::Finding;
use crate::tree::Tree;

const MODEL_CLIPPY: &str = "crates/model/clippy.toml";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, path, text) in tree.manifests() {
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

fn inherits_lints(manifest: &str) -> bool {
    toml::from_str::<Table>(manifest)
        .ok()
        .and_then(|manifest| manifest.get("lints")?.get("workspace")?.as_bool())
        .unwrap_or(false)
}
