//! The file as others may read it, and what is no such file.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn state(revision: u64) -> Snapshot {
    let object = |kind: &str, id, body| StoredObject {
        kind: kind.to_owned(),
        id,
        version: revision,
        body,
    };
    Snapshot {
        revision,
        objects: vec![
            object("device", 3, json!({"name": "nas\n", "revision": revision})),
            object("subnet", 1, json!({"ipv6": null})),
        ],
    }
}

#[test]
fn the_format_stays_what_it_is() {
    let text = String::from_utf8(render(&state(7)).unwrap()).unwrap();
    let schema = migration::newest(migration::SCHEMAS);
    let expected = format!(
        r#"{{"format":1,"schema":{schema},"revision":7,"objects":2}}
{{"kind":"device","id":3,"version":7,"body":{{"name":"nas\n","revision":7}}}}
{{"kind":"subnet","id":1,"version":7,"body":{{"ipv6":null}}}}
"#
    );
    let (lines, end) = text.split_at(expected.len());
    assert_eq!(lines, expected);
    assert_eq!(end, format!("{}\n", end_of(expected.as_bytes())));
    assert_eq!(parse(text.as_bytes()), Ok(state(7)));
}

#[test]
fn what_was_changed_or_cut_is_refused() {
    let text = render(&state(7)).unwrap();
    for length in 0..text.len() {
        assert!(parse(&text[..length]).is_err(), "{length} bytes");
    }
    for position in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone();
            bytes[position] ^= 1 << bit;
            assert!(parse(&bytes).is_err(), "byte {position}, bit {bit}");
        }
    }
    let sealed = |content: &str| format!("{content}{}\n", end_of(content.as_bytes()));
    let object = r#"{"kind":"a","id":1,"version":1,"body":1}"#;
    for (content, reason) in [
        (
            r#"{"format":2,"schema":1,"revision":7,"objects":0}"#.to_owned(),
            "format 2",
        ),
        (
            r#"{"format":1,"schema":99,"revision":7,"objects":0}"#.to_owned(),
            "schema 99",
        ),
        (
            r#"{"format":1,"schema":1,"revision":7,"objects":1}"#.to_owned(),
            "missing",
        ),
        (
            format!(
                "{}\n{object}\n{object}",
                r#"{"format":1,"schema":1,"revision":7,"objects":2}"#
            ),
            "twice",
        ),
    ] {
        let error = parse(sealed(&format!("{content}\n")).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn the_one_before_is_kept_and_takes_the_place_of_a_damaged_one() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(directory.path());
    assert!(snapshots.newest().is_err());
    assert!(snapshots.write(&state(1)).is_err(), "no state is here");
    fs::write(directory.path().join("adit.db"), "").unwrap();
    for revision in 1..4 {
        snapshots.write(&state(revision)).unwrap();
        assert_eq!(snapshots.newest().unwrap(), state(revision));
    }
    let path = directory.path().join("adit.snapshot");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    fs::write(&path, "damaged").unwrap();
    assert_eq!(snapshots.newest().unwrap(), state(2));
    // A damaged one does not push the good one before it out.
    snapshots.write(&state(4)).unwrap();
    fs::write(&path, "damaged").unwrap();
    assert_eq!(snapshots.newest().unwrap(), state(2));
}
