//! Commits that share a disk's sync, and changes that expect what is no longer so.

use std::net::UdpSocket;

use adit_model::change::{AddDevice, AddSubnet, Ipv6Wish, Parties, RequestLease};
use adit_model::facts::{AddressFact, RouteFact};
use adit_model::protocol::Protocol;
use adit_model::state::{Delivery, DeviceId, DeviceKind, Family, Mechanism};

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
            observer: listener::Observer::default(),
            leading: watch::Sender::new(Arc::default()),
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

fn make(writer: &mut Writer, change: Change) -> Committed {
    let (answer, receive) = oneshot::channel();
    writer.commit(vec![Request {
        change,
        caller: Caller::Gateway,
        expected: None,
        confirm: Confirm::Never,
        repeatable: None,
        answer,
    }]);
    receive.blocking_recv().unwrap().unwrap()
}

fn wish(device: DeviceId, internal: u16, external: u16, lifetime: u32) -> Change {
    Change::RequestLease(Box::new(RequestLease {
        parties: Parties::own(device),
        mechanism: Mechanism::NatPmp,
        family: Family::Ipv4,
        protocol: Some(Protocol::Udp),
        internal,
        external: Some(external),
        address: None,
        exact: false,
        count: 1,
        parity: false,
        lifetime,
        nonce: None,
        clear_filters: false,
        filters: Vec::new(),
        remote: None,
        hostnames: Default::default(),
        description: String::new(),
    }))
}

/// The public port of the device's lease of a port of its own.
fn leased(committed: &Committed, internal: u16) -> u16 {
    let mut leases = committed.state.leases.values();
    let lease = leases.find(|lease| lease.internal == internal).unwrap();
    lease.external
}

#[test]
fn a_socket_of_the_moment_keeps_new_leases_away_and_moves_none() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _) = start(directory.path());
    let mut facts = Facts::default();
    facts.addresses.insert(AddressFact {
        interface: "eth0".into(),
        address: "203.0.113.2/24".parse().unwrap(),
    });
    facts.routes.insert(RouteFact {
        destination: "0.0.0.0/0".parse().unwrap(),
        interface: "eth0".into(),
        gateway: None,
        metric: 0,
        from_router_advertisement: false,
    });
    writer.facts = watch::channel(Arc::new(facts)).1;
    make(&mut writer, subnet("lan", 59));
    let added = make(
        &mut writer,
        Change::AddDevice(AddDevice {
            name: "box".into(),
            subnet: None,
            kind: DeviceKind::Server,
            routing: None,
            ipv4: None,
            public_key: PrivateKey::from_random([3; 32]).public_key(),
            egress: None,
            delegate: Vec::new(),
            expires: None,
            port_policy: Default::default(),
        }),
    );
    let device = added.state.devices.values().next().unwrap().id;
    // As a resolver has for each of its questions.
    let (socket, port) = (50_000..60_000)
        .find_map(|port| Some((UdpSocket::bind(("0.0.0.0", port)).ok()?, port)))
        .unwrap();
    let first = make(&mut writer, wish(device, 7000, port, 3600));
    assert_ne!(leased(&first, 7000), port, "a port that is a socket's");
    drop(socket);
    let second = make(&mut writer, wish(device, 7001, port, 600));
    assert_eq!(leased(&second, 7001), port);
    let _socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    let renewed = make(&mut writer, wish(device, 7001, port, 7200));
    assert!(!renewed.edits.is_empty(), "it needed no write");
    assert_eq!(leased(&renewed, 7001), port, "it had to make way");
}
