//! Settings go back to what they were, unless others have come to depend on them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use adit_host::sysctl::{self, Recorder};

use crate::namespace::Namespace;

const FORWARDING4: &str = "net/ipv4/conf/all/forwarding";
const FORWARDING6: &str = "net/ipv6/conf/all/forwarding";

/// All settings that belong to the namespace.
fn settings(namespace: &Namespace) -> BTreeSet<String> {
    let all = namespace.execute("sysctl -a --pattern ^net.ipv[46]");
    let settings: BTreeSet<String> = all.lines().map(str::to_owned).collect();
    assert!(settings.len() > 300);
    settings
}

fn changed(namespace: &Namespace, before: &BTreeSet<String>) -> Vec<String> {
    let after = settings(namespace);
    after.symmetric_difference(before).cloned().collect()
}

/// A host whose links do not all forward alike.
fn host() -> (Namespace, tempfile::TempDir, PathBuf) {
    let namespace = Namespace::new();
    namespace.execute("sysctl -qw net.ipv4.conf.v0.forwarding=1");
    namespace.execute("sysctl -qw net.ipv6.conf.v1.forwarding=1");
    namespace.execute("sysctl -qw net.ipv6.conf.v0.accept_ra=1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sysctl.json");
    (namespace, directory, file)
}

#[test]
fn everything_goes_back_after_a_restart_of_the_daemon() {
    let (namespace, _directory, file) = host();
    let before = settings(&namespace);
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        assert!(recorder.set("net/ipv6/conf/v0/accept_ra", "2").unwrap());
        for path in [FORWARDING4, FORWARDING6] {
            assert!(recorder.set(path, "1").unwrap());
            assert!(!recorder.set(path, "1").unwrap());
        }
        assert!(recorder.set("net/ipv6/neigh/v0/proxy_delay", "0").unwrap());
        assert!(
            recorder
                .set("net/ipv4/tcp_rmem", "4096 90000 7000000")
                .unwrap()
        );
        assert!(recorder.set("net/ipv4/nothing", "1").is_err());
        assert!(recorder.set("../tmp/x", "1").is_err());
    });
    let during = settings(&namespace);
    // `all`, `default` and three links less the one that forwarded before, in both families, `ip_forward`, redirects, and
    // the other three.
    assert_eq!(during.difference(&before).count(), 2 * (5 - 1) + 1 + 1 + 3);

    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        // Drift is put right without losing what was there at first.
        std::fs::write("/proc/sys/net/ipv6/conf/v0/accept_ra", "1").unwrap();
        assert!(recorder.set("net/ipv6/conf/v0/accept_ra", "2").unwrap());
        assert_eq!(recorder.restore_all(|_| None), []);
        assert_eq!(recorder.changed().count(), 0);
    });
    assert_eq!(changed(&namespace, &before), Vec::<String>::new());

    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        assert_eq!(recorder.restore_all(|_| None), []);
    });
    assert_eq!(changed(&namespace, &before), Vec::<String>::new());
}

#[test]
fn links_that_are_gone_need_nothing() {
    let (namespace, _directory, file) = host();
    namespace.ip("link add v2 type veth peer name v3");
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        recorder.set("net/ipv6/conf/v2/accept_ra", "2").unwrap();
        recorder.set(FORWARDING4, "1").unwrap();
        namespace.ip("link del v2");
        assert_eq!(recorder.restore_all(|_| None), []);
        assert_eq!(sysctl::read(FORWARDING4).unwrap().as_deref(), Some("0"));
    });
}

#[test]
fn forwarding_stays_while_others_depend_on_it() {
    let (namespace, _directory, file) = host();
    let read = |path| sysctl::read(path).unwrap().unwrap();
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        recorder.set(FORWARDING4, "1").unwrap();
        recorder.set(FORWARDING6, "1").unwrap();

        let kept = recorder.restore_all(|path| (path == FORWARDING6).then(|| "asked".to_owned()));
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(
            (read(FORWARDING4), read(FORWARDING6)),
            ("0".into(), "1".into())
        );

        recorder.set(FORWARDING4, "1").unwrap();
        namespace.ip("link add docker0 type bridge");
        let kept = recorder.restore_all(|_| None);
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert!(
            kept.iter().all(|it| it.reason.contains("docker0")),
            "{kept:?}"
        );
        assert_eq!(
            (read(FORWARDING4), read(FORWARDING6)),
            ("1".into(), "1".into())
        );
        namespace.ip("link del docker0");

        namespace.execute("sysctl -qw net.ipv4.conf.v1.forwarding=0");
        let kept = recorder.restore_all(|_| None);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(
            kept[0].reason.contains("net/ipv4/conf/v1/forwarding"),
            "{kept:?}"
        );
        assert_eq!(
            (read(FORWARDING4), read(FORWARDING6)),
            ("1".into(), "0".into())
        );
    });
}

#[test]
fn what_somebody_else_set_since_is_theirs() {
    let (namespace, _directory, file) = host();
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        recorder.set("net/ipv6/conf/v0/accept_ra", "2").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/v0/accept_ra", "0").unwrap();
        let kept = recorder.restore("net/ipv6/conf/v0/accept_ra").unwrap();
        assert!(kept.is_some());
        assert_eq!(
            sysctl::read("net/ipv6/conf/v0/accept_ra")
                .unwrap()
                .as_deref(),
            Some("0")
        );
    });
}

#[test]
fn advertisements_that_a_program_has_taken_over_are_left_to_it() {
    let (namespace, _directory, file) = host();
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/v0/accept_ra", "0").unwrap();
        assert!(!recorder.set("net/ipv6/conf/v0/accept_ra", "2").unwrap());
        let found = sysctl::read("net/ipv6/conf/v0/accept_ra").unwrap();
        assert_eq!(found.as_deref(), Some("0"));
        assert_eq!(recorder.changed().count(), 0);
    });
}

#[test]
fn a_record_of_another_namespace_is_forgotten() {
    let (first, _directory, file) = host();
    first.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        recorder.set(FORWARDING4, "1").unwrap();
    });
    let second = Namespace::new();
    second.execute("sysctl -qw net.ipv4.ip_forward=1");
    second.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        assert_eq!(recorder.restore_all(|_| None), []);
        assert_eq!(sysctl::read(FORWARDING4).unwrap().as_deref(), Some("1"));
    });
}

#[test]
fn an_interrupted_restoration_is_finished() {
    let (namespace, _directory, file) = host();
    let before = settings(&namespace);
    namespace.inside(async || {
        let mut recorder = Recorder::open(&file).unwrap();
        recorder.set(FORWARDING4, "1").unwrap();
        // As far as this a restoration had come: the links are all off now, `v0` was not.
        std::fs::write(format!("/proc/sys/{FORWARDING4}"), "0").unwrap();
        assert_eq!(recorder.restore_all(|_| None), []);
    });
    assert_eq!(changed(&namespace, &before), Vec::<String>::new());
}
