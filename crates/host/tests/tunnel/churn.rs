//! Ten thousand devices while another program changes tables as fast as it can: no plan is built on half of a dump.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_host::netlink::Netlink;
use adit_host::reconcile::Openings;

use crate::namespace::Namespace;
use crate::reconcile::{gateway, host, interface, run_in, until};

const DEVICES: u32 = 10_000;
const DURATION: Duration = Duration::from_secs(12);

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(namespace: &Namespace, command: &[&str], output: Stdio) -> Running {
    let child = Command::new("ip")
        .args(["netns", "exec", &namespace.name])
        .args(command)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

/// Adds and removes foreign objects, for ever: `VERB` is `add` or `del`.
fn churn(
    namespace: &Namespace,
    folder: &Path,
    name: &str,
    objects: &[String],
    pause: &str,
) -> Running {
    let file = |verb: &str| {
        let path = folder.join(format!("{name}-{verb}"));
        fs::write(&path, objects.join("\n").replace("VERB", verb) + "\n").unwrap();
        path.display().to_string()
    };
    // A batch that is killed between two lines leaves objects behind, so both go on after an error.
    let script = format!(
        "while :; do ip -force -batch {}; sleep {pause}; ip -force -batch {}; done",
        file("add"),
        file("del")
    );
    spawn(namespace, &["sh", "-c", &script], Stdio::null())
}

/// The kernel reads the addresses of an interface in pieces, by their place in a list: where an earlier one goes in between, a
/// later one is skipped. It says so, and such a dump does not count.
#[test]
fn a_dump_that_was_disturbed_is_read_again() {
    const STABLE: usize = 3000;
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    // Others of one network come after the first of every network in that list.
    let stable: Vec<String> = (1..=STABLE)
        .map(|n| format!("address add 10.98.{}.{}/16 dev wan", n / 250, 1 + n % 250))
        .collect();
    let batch = folder.path().join("stable");
    fs::write(&batch, stable.join("\n") + "\n").unwrap();
    gateway_host.run("ip", &["-batch", &batch.display().to_string()]);
    let first: Vec<String> = (0..300)
        .map(|n| format!("address VERB 10.99.{}.{}/32 dev wan", n / 250, 1 + n % 250))
        .collect();
    let _churning = churn(&gateway_host, folder.path(), "first", &first, "0.05");
    gateway_host.enter(async || {
        let netlink = Netlink::open().unwrap();
        let end = Instant::now() + Duration::from_secs(4);
        let (mut whole, mut given_up) = (0, 0);
        while Instant::now() < end {
            match adit_host::address::observe(&netlink, "wan").await {
                Ok(addresses) => {
                    let seen = addresses
                        .iter()
                        .filter(|it| it.address.to_string().starts_with("10.98."));
                    assert_eq!(seen.count(), STABLE, "after {whole} whole dumps");
                    whole += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("kept changing"), "{error}");
                    given_up += 1;
                }
            }
        }
        println!("{whole} dumps were whole, {given_up} were given up");
        assert!(whole > 5, "{whole} dumps");
    });
}

#[test]
fn dumps_that_others_disturb_change_nothing() {
    let (gateway_host, _provider) = host();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("sysctls.json");
    let name = interface();
    let desired = Arc::new(gateway(&name, 1..DEVICES + 1));
    gateway_host.enter(async || {
        let handle = run_in(&record, &name).await;
        let report = handle
            .apply(Arc::clone(&desired), Openings::AtOnce)
            .await
            .unwrap();
        assert_eq!(report.problems, []);
        let count = |family: &str| {
            let routes = gateway_host.run("ip", &[family, "route", "show", "proto", "173"]);
            routes.lines().count()
        };
        let before = (count("-4"), count("-6"));
        assert_eq!(before, (DEVICES as usize, DEVICES as usize));
        // What was healed while the first apply's own events came in.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let healed = handle.status().borrow().healed.clone();

        let seen = folder.path().join("events");
        let monitor = spawn(
            &gateway_host,
            &["ip", "-o", "monitor", "route", "address"],
            File::create(&seen).unwrap().into(),
        );
        let routes4: Vec<String> = (0..2000)
            .map(|n| {
                format!(
                    "route VERB 10.{}.{}.0/24 via 192.0.2.254",
                    100 + n / 250,
                    n % 250
                )
            })
            .collect();
        // In the very prefix, so that they lie between ours in the kernel's tree.
        let routes6: Vec<String> = (0..2000)
            .map(|n| format!("-6 route VERB 2001:db8:1::{n:x}:0/112 via 2001:db8:1::b"))
            .collect();
        let neighbors: Vec<String> = (0..500)
            .map(|n| format!("-6 neigh VERB proxy 2001:db8:1:0:1::{n:x} dev wan"))
            .collect();
        let churning = [
            churn(&gateway_host, folder.path(), "routes4", &routes4, "0"),
            churn(&gateway_host, folder.path(), "routes6", &routes6, "0"),
            churn(&gateway_host, folder.path(), "neighbors", &neighbors, "0"),
        ];
        let end = Instant::now() + DURATION;
        let mut told = std::collections::BTreeSet::new();
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            told.extend(handle.status().borrow().problems.clone());
        }
        drop(churning);
        drop(monitor);
        let events = fs::read_to_string(&seen).unwrap();
        let foreign = events.lines().filter(|line| line.contains("wan")).count();
        let ours: Vec<&str> = events.lines().filter(|line| line.contains(&name)).collect();
        println!("{foreign} changes by others; told meanwhile: {told:?}");
        assert!(foreign > 10_000, "only {foreign} changes by others");
        assert_eq!(ours, Vec::<&str>::new(), "our own routes were touched");
        assert_eq!(
            handle.status().borrow().healed,
            healed,
            "there was nothing to heal"
        );
        until("nothing is wrong", Duration::from_secs(20), || {
            handle.status().borrow().problems.is_empty()
        })
        .await;
        assert_eq!((count("-4"), count("-6")), before);
        gateway_host.run("ip", &["link", "del", &name]);
    });
}
