//! Commits that share a disk's sync, and changes that expect what is no longer so.

use adit_model::change::{AddSubnet, Ipv6Wish};
use adit_model::state::Delivery;

use super::*;

fn subnet(name: &str, third: u8) -> Change {
    Change::AddSubnet(AddSubnet {
        name: name.to_owned(),
        ipv4: format!("10.{third}.0.0/24").parse().unwrap(),
        ipv6: Ipv6Wish::None,
        delivery: Delivery::Auto,
        egress: None,
        peers: true,
        host_access: false,
        gateway_address: true,
        force: false,
    })
}

fn start(directory: &std::path::Path) -> (Writer, watch::Receiver<Arc<State>>) {
    let (store, loaded) = Store::open(directory).unwrap();
    let answers = Answers::new(loaded.answers.clone());
    let state = restore(loaded).unwrap();
    let (published, receiver) = watch::channel(Arc::new(state.clone()));
    let (_, facts) = watch::channel(Arc::new(Facts::default()));
    (
        Writer {
            store,
            state,
            facts,
            published,
            answers,
            events: Arc::new(Events::new(0)),
            metrics: Arc::new(Metrics::new()),
            directory: directory.to_owned(),
            private_key: watch::Sender::new(PrivateKey::from_random([1; 32])),
            holding: Holding::default(),
        },
        receiver,
    )
}

#[test]
fn changes_that_arrive_together_share_a_commit_and_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, receiver) = start(directory.path());
    let mut answers = Vec::new();
    let mut batch = Vec::new();
    for (name, third) in [("a", 1), ("b", 2), ("b", 3), ("c", 2)] {
        let (answer, receive) = oneshot::channel();
        batch.push(Request {
            change: subnet(name, third),
            caller: Caller::User { uid: Some(0) },
            expected: None,
            confirm: Confirm::Never,
            repeatable: None,
            answer,
        });
        answers.push(receive);
    }
    writer.commit(batch);
    let results: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.blocking_recv().unwrap())
        .collect();
    assert_eq!(results[0].as_ref().unwrap().revision, 1);
    assert_eq!(results[1].as_ref().unwrap().revision, 1);
    assert!(matches!(
        &results[2],
        Err(WriteError::Refused(Refusal::NameTaken { .. }))
    ));
    assert!(matches!(
        &results[3],
        Err(WriteError::Refused(Refusal::Overlap { .. }))
    ));
    let before = State::clone(&receiver.borrow());
    drop(writer);
    let (again, _) = start(directory.path());
    assert_eq!(again.state, before);
    assert_eq!(again.state.subnets.len(), 2);
}

fn remove(reference: &str, expected: Option<Expected>) -> (Request, Answer) {
    let (answer, receive) = oneshot::channel();
    let change = Change::RemoveSubnet {
        reference: reference.to_owned(),
        force: false,
    };
    let request = Request {
        change,
        caller: Caller::User { uid: Some(0) },
        expected,
        confirm: Confirm::Never,
        repeatable: None,
        answer,
    };
    (request, receive)
}

type Answer = oneshot::Receiver<Result<Committed, WriteError>>;

#[test]
fn what_was_changed_meanwhile_is_not_changed_by_those_who_expect_it_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _receiver) = start(directory.path());
    for (name, third) in [("a", 1), ("b", 2)] {
        let (answer, _) = oneshot::channel();
        writer.commit(vec![Request {
            change: subnet(name, third),
            caller: Caller::User { uid: Some(0) },
            expected: None,
            confirm: Confirm::Never,
            repeatable: None,
            answer,
        }]);
    }
    let keys: Vec<_> = (writer.state.subnets.keys().copied().map(Key::Subnet)).collect();
    let expect = |key, versions: &[u64]| {
        Some(Expected {
            key,
            versions: versions.to_vec(),
        })
    };
    assert_eq!(writer.state.version(keys[0]), Some(1));
    assert_eq!(writer.state.version(keys[1]), Some(2));
    // Of the two that saw the same version and arrive together, one comes first.
    let (requests, answers): (Vec<_>, Vec<_>) = [
        remove("a", expect(keys[0], &[2])),
        remove("b", expect(keys[1], &[1, 2])),
        remove("b", expect(keys[1], &[2])),
    ]
    .into_iter()
    .unzip();
    writer.commit(requests);
    let made: Vec<bool> = answers
        .into_iter()
        .map(|answer| match answer.blocking_recv().unwrap() {
            Ok(_) => true,
            Err(WriteError::Refused(Refusal::VersionMismatch { .. })) => false,
            Err(other) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made, [false, true, false]);
    assert_eq!(writer.state.subnets.len(), 1);
    drop(writer);
    let (again, _) = start(directory.path());
    assert_eq!(again.state.version(keys[0]), Some(1));
    assert_eq!(again.state.version(keys[1]), None);
}
