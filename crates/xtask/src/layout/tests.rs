//! Each rule on a small repository that breaks it, and on one that does not.

use std::fs;
use std::process::Command;

use super::check;
use crate::tree::Tree;

const LINTS: &str = "[lints]\nworkspace = true\n";

#[test]
fn a_repository_that_keeps_the_rules() {
    assert_eq!(findings(&[]), Vec::<String>::new());
}

#[test]
fn what_is_listed_is_named() {
    let lines = findings(&[
        (
            "Cargo.toml",
            "[workspace.dependencies]\nserde = \"1\"\nserde_json = \"1\"\nhttp = \"1\"\n",
        ),
        (
            "crates/lab/Cargo.toml",
            &format!(
                "{LINTS}[dependencies]\nserde.workspace = true\n[dev-dependencies]\nserde_json.workspace = true\n"
            ),
        ),
        (
            "crates/lab/src/lib.rs",
            "//! The lab.\n\nuse serde_json::Value;\n",
        ),
    ]);
    assert_eq!(
        lines,
        [
            "crates/lab/Cargo.toml: nothing names `serde` of [dependencies]; remove the line",
            "Cargo.toml: no crate lists `http` of the workspace's dependencies; remove the line",
        ]
    );
}

#[test]
fn fault_points_are_for_tests() {
    let lines = manifest(
        "gateway",
        "[features]\nfaults = [\"adit-fault/points\"]\n[dependencies]\nadit-fault = { workspace = true, features = [\"points\"] }\n",
    );
    let found = lines.iter().filter(|line| line.contains("on demand"));
    assert_eq!(found.count(), 2, "{lines:?}");
    let lines = manifest(
        "adit",
        "[dev-dependencies]\nadit-fault = { workspace = true, features = [\"points\"] }\n",
    );
    assert!(
        !lines.iter().any(|line| line.contains("on demand")),
        "{lines:?}"
    );
}

#[test]
fn imports_follow_the_table() {
    let lines = manifest(
        "store",
        "[dependencies]\nadit-model.workspace = true\nadit-host.workspace = true\n",
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with(
            "crates/store/Cargo.toml: `store` must not import `host`; it may import model, fault:"
        ),
        "{}",
        lines[0]
    );

    let lines = manifest(
        "lab",
        "[dev-dependencies]\nadit-gateway = { path = \"../gateway\" }\n",
    );
    assert!(
        lines[0].contains("`lab` must not import `gateway`; it may import none of ours"),
        "{lines:?}"
    );

    let renamed = manifest(
        "api",
        "[target.'cfg(unix)'.build-dependencies]\nharmless = { package = \"adit\", path = \"../adit\" }\n",
    );
    assert!(
        renamed[0].contains("`api` must not import `adit`"),
        "{renamed:?}"
    );

    let binary = manifest(
        "adit",
        "[dependencies]\nadit-gateway.workspace = true\n[dev-dependencies]\nadit-lab.workspace = true\n",
    );
    assert_eq!(binary, Vec::<String>::new());

    let unknown = manifest("cellar", "");
    assert!(
        unknown[0].contains("`cellar` is not in the table"),
        "{unknown:?}"
    );
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    assert!(
        manifest("gateway", "[dependencies]\nrusqlite = \"1\"\n")[0]
            .contains("`gateway` must not name `rusqlite`; that is for store alone")
    );
    assert!(
        manifest("lab", "[dependencies]\nnetlink-sys = \"1\"\n")[0]
            .contains("`lab` must not name `netlink-sys`; that is for host and wireguard alone")
    );
    assert!(
        manifest("proto", "[dependencies]\ntokio = \"1\"\n")[0]
            .contains("`proto` has no effects and must not name `tokio`")
    );
    assert_eq!(
        manifest("store", "[dependencies]\nrusqlite = \"1\"\n"),
        Vec::<String>::new()
    );
    assert_eq!(
        manifest(
            "host",
            "[dependencies]\ntokio = \"1\"\nrtnetlink = \"1\"\nnetlink-sys = \"1\"\n"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn lints_are_inherited() {
    for lints in [
        "",
        "[lints]\nworkspace = false\n",
        "[lints.clippy]\ntodo = \"warn\"\n",
    ] {
        let lines = findings(&[("crates/host/Cargo.toml", lints)]);
        assert_eq!(lines.len(), 1, "{lints}: {lines:?}");
        assert!(
            lines[0].starts_with("crates/host/Cargo.toml: the workspace's lints do not apply"),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn model_has_its_clippy_file() {
    let directory = repository(&[]);
    fs::remove_file(directory.path().join("crates/model/clippy.toml")).unwrap();
    let lines = read(&directory);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("crates/model/clippy.toml: is missing"),
        "{}",
        lines[0]
    );
}

#[test]
fn names_say_something() {
    for path in [
        "crates/host/src/helpers.rs",
        "crates/host/src/util/route.rs",
        "web/src/common.ts",
        "scripts/misc",
    ] {
        let lines = findings(&[(path, "//! A file.\n")]);
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        assert!(
            lines[0].starts_with(path) && lines[0].contains("says nothing"),
            "{}",
            lines[0]
        );
    }
    let inline = findings(&[(
        "crates/host/src/route.rs",
        "//! Routes.\npub(crate) mod managers {\n}\nmod manages {}\n",
    )]);
    assert_eq!(inline.len(), 1, "{inline:?}");
    assert!(
        inline[0].contains("the name `managers` says nothing"),
        "{inline:?}"
    );
    let folder = findings(&[("crates/host/src/route/mod.rs", "//! Routes.\n")]);
    assert_eq!(
        folder,
        [
            "crates/host/src/route/mod.rs: is a `mod.rs`; name it `crates/host/src/route.rs`, beside its folder"
        ]
    );
}

#[test]
fn sources_say_their_role() {
    let lines = findings(&[("crates/host/src/route.rs", "use std::fs;\n//! Too late.\n")]);
    assert_eq!(
        lines,
        ["crates/host/src/route.rs: does not say its role; begin it with a `//!` line"]
    );
}

#[test]
fn a_bare_allow_is_refused() {
    for attribute in [
        concat!("#[al", "low(dead_code)]"),
        concat!("    #![al", "low(\n"),
    ] {
        let lines = findings(&[(
            "crates/host/src/route.rs",
            &format!("//! Routes.\n\n{attribute}\nfn route() {{}}\n"),
        )]);
        assert_eq!(lines.len(), 1, "{attribute}: {lines:?}");
        assert!(
            lines[0].starts_with("crates/host/src/route.rs:3: allows a lint silently"),
            "{}",
            lines[0]
        );
    }
    assert_eq!(
        findings(&[(
            "crates/host/src/route.rs",
            "//! Routes.\n#[expect(dead_code, reason = \"soon\")]\nfn route() {}\n"
        )]),
        Vec::<String>::new()
    );
}

#[test]
fn no_trace_of_one_machine() {
    for line in [
        concat!("cd /wo", "rk/main"),
        concat!("KEY=\"/ro", "ot/.ssh/id\""),
    ] {
        let lines = findings(&[("docs/build.md", line)]);
        assert_eq!(lines.len(), 1, "{line}: {lines:?}");
        assert!(
            lines[0].starts_with("docs/build.md:1: names the directory"),
            "{}",
            lines[0]
        );
    }
    for line in [
        concat!("https://example.net/wo", "rk/plan"),
        concat!("$HOME/wo", "rk/"),
        concat!("a network", "ork/ a"),
    ] {
        assert_eq!(
            findings(&[("docs/build.md", line)]),
            Vec::<String>::new(),
            "{line}"
        );
    }
}

#[test]
fn no_registry_is_chosen_for_others() {
    let own = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
    assert_eq!(findings(&[("Cargo.lock", own)]), Vec::<String>::new());
    for (path, line) in [
        (
            "Cargo.lock",
            "source = \"sparse+https://mirror.example.net/index/\"",
        ),
        (
            "web/package-lock.json",
            "      \"resolved\": \"https://mirror.example.net/a.tgz\",",
        ),
        (
            ".cargo/config.toml",
            concat!("registry = \"sparse+https://index.", "crates.io/\""),
        ),
    ] {
        let lines = findings(&[(path, line)]);
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        assert!(
            lines[0].contains(":1: names the package registry"),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn ignored_files_are_not_looked_at() {
    let ignored = findings(&[(".gitignore", "/target\n"), ("target/crates/mod.rs", "")]);
    assert_eq!(ignored, Vec::<String>::new());
}

/// The findings in a crate `name` whose manifest is `dependencies` and the lints.
/// The findings about a manifest whose crate names all that it lists.
fn manifest(name: &str, dependencies: &str) -> Vec<String> {
    let named = dependencies.replace('-', "_").replace('\n', " ");
    findings(&[
        (
            &format!("crates/{name}/Cargo.toml"),
            &format!("{LINTS}{dependencies}"),
        ),
        (
            &format!("crates/{name}/src/lib.rs"),
            &format!("//! Names {named}\n"),
        ),
    ])
}

/// The findings in a sound repository to which `files` were added.
fn findings(files: &[(&str, &str)]) -> Vec<String> {
    read(&repository(files))
}

fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    assert!(
        Command::new("git")
            .args(["init", "--quiet"])
            .arg(directory.path())
            .status()
            .unwrap()
            .success()
    );
    let sound = [
        ("crates/model/Cargo.toml", LINTS),
        ("crates/model/clippy.toml", ""),
        (
            "crates/model/src/lib.rs",
            "//! Decisions.\n\nmod tests {\n}\n",
        ),
    ];
    for (path, text) in sound.iter().chain(files) {
        let file = directory.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    directory
}

fn read(directory: &tempfile::TempDir) -> Vec<String> {
    check(&Tree::read(directory.path()).unwrap())
        .iter()
        .map(ToString::to_string)
        .collect()
}
