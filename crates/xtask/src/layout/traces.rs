//! Traces of the one machine on which a change was made.

use super::Finding;
use crate::tree::Tree;

/// In two pieces each, so that this file does not find itself.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];
const REGISTRY_HOSTS: &[&str] = &[
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("registry.", "npmjs.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("proxy.", "golang.org"),
];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{path}:{number}");
            for directory in MACHINE_PATHS
                .iter()
                .filter(|directory| names_directory(line, directory))
            {
                findings.push(Finding::new(
                    &place,
                    format!("names the directory {directory} of one machine"),
                    "make the path relative to the repository, or an argument",
                ));
            }
            if let Some(registry) = registry(path, line) {
                findings.push(Finding::new(
                    &place,
                    format!("names the package registry {registry}"),
                    "leave the choice of registry to the configuration of whoever builds",
                ));
            }
        }
    }
    findings
}

/// Whether the line has the directory as the start of a path, not as a part further in (of a URL, for one).
fn names_directory(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(position, _)| {
        let before = line[..position].chars().next_back();
        before
            .is_none_or(|character| !character.is_alphanumeric() && !"._-~}*/".contains(character))
    })
}

fn registry<'line>(path: &str, line: &'line str) -> Option<&'line str> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let quoted = |key: &str| {
        line.trim()
            .strip_prefix(key)?
            .trim_end_matches(',')
            .strip_suffix('"')
    };
    match file {
        "Cargo.lock" => quoted("source = \"").filter(|source| {
            (source.starts_with("registry+") || source.starts_with("sparse+"))
                && *source != CRATES_IO
        }),
        "package-lock.json" => {
            quoted("\"resolved\": \"").filter(|source| source.starts_with("http"))
        }
        _ => REGISTRY_HOSTS.iter().find_map(|host| {
            let start = line.find(host)?;
            line.get(start..start + host.len())
        }),
    }
}
