//! The connections that this host itself had with ports that a change opens: they end in time, and before the answer where
//! nobody is patient.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_host::reconcile::Openings;
use adit_model::desired::Desired;
use adit_model::desired::firewall::Port;
use adit_model::protocol::Protocol;

use crate::namespace::Namespace;
use crate::reconcile::{gateway, host, interface, open, run_in, until};

#[test]
fn what_is_opened_ends_what_was_tracked_at_once_or_together() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("sysctls.json");
    let name = interface();
    let mut desired = gateway(&name, 1..3);
    gateway_host.enter(async || {
        let handle = run_in(&record, &name).await;
        let first = handle.apply(Arc::new(desired.clone()), Openings::AtOnce);
        assert_eq!(first.await.unwrap().problems, []);
        for port in 8001..8007 {
            track(&gateway_host, port);
        }
        let began = Instant::now();
        for port in 8001..8004 {
            open_port(&mut desired, port);
            let report = handle.apply(Arc::new(desired.clone()), Openings::Together);
            assert_eq!(report.await.unwrap().problems, []);
        }
        let took = began.elapsed();
        let waiting = tracked(&gateway_host).len();
        until(
            "those that waited have ended",
            Duration::from_secs(2),
            || tracked(&gateway_host) == [8004, 8005, 8006],
        )
        .await;
        println!("three ports were opened in {took:?}; {waiting} of six were tracked then");
        for port in 8004..8007 {
            open_port(&mut desired, port);
            let report = handle.apply(Arc::new(desired.clone()), Openings::AtOnce);
            assert_eq!(report.await.unwrap().problems, []);
            assert!(!tracked(&gateway_host).contains(&port), "{port} waits");
        }
        open(&name, &record).teardown().await;
    });
}

fn open_port(desired: &mut Desired, port: u16) {
    let external = Port {
        address: "192.0.2.1".parse().unwrap(),
        protocol: Protocol::Udp,
        port,
    };
    let firewall = desired.firewall.as_mut().unwrap();
    let forwards = &mut firewall.translations4.forwards;
    forwards.insert(external, ([10, 59, 0, 1].into(), 80));
}

/// As if somebody had sent to this host itself.
fn track(host: &Namespace, port: u16) {
    let command = format!(
        "--create --protonum udp --orig-src 198.51.100.9 --orig-dst 192.0.2.1 --sport 4000 --dport {port} --timeout 300"
    );
    host.run("conntrack", &command.split(' ').collect::<Vec<_>>());
}

/// The ports to which connections are tracked.
fn tracked(host: &Namespace) -> Vec<u16> {
    let listing = host.run("conntrack", &["--dump", "--orig-src", "198.51.100.9"]);
    let ports = listing.lines().filter_map(|line| {
        let (_, rest) = line.split_once("dport=")?;
        rest.split(' ').next()?.parse().ok()
    });
    let mut ports: Vec<u16> = ports.collect();
    ports.sort_unstable();
    ports
}
