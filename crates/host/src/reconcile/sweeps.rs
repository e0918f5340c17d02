//! Tracked connections that have yet to end: noted before the rules change under which they began, since what the rules were
//! cannot be seen afterwards. A daemon that was killed in between, or a sweep that failed, leaves none of them behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_model::desired::firewall::Endpoint;
use adit_model::plan::Sweep;
use adit_model::protocol::PortRange;
use ipnet::IpNet;

/// What is to be swept, in memory and in a file of the state directory.
///
/// Tracked connections do not outlive the host, so nothing here waits for the disk.
#[derive(Debug)]
pub(super) struct Sweeps {
    path: PathBuf,
    /// Open while something is on record.
    record: Option<File>,
    pending: Sweep,
    /// When the last one ended, and how long it took: the kernel walks through all that it tracks.
    last: Option<(Instant, Duration)>,
    /// Whether the change that is under way lets what it opens wait.
    is_patient: bool,
    is_postponed: bool,
}

/// What was opened waits for this long after a sweep, so that many share the next ...
const PAUSE: Duration = Duration::from_millis(100);

/// ... and where sweeping takes long, for this many times as long as it took.
const SHARE: u32 = 30;

impl Sweeps {
    /// With what a predecessor left undone.
    pub(super) fn open(path: PathBuf) -> Self {
        let pending = match fs::read_to_string(&path) {
            Ok(text) => decode(&text),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, file = %path.display(), "which connections have to end is not known");
                }
                Sweep::default()
            }
        };
        Self {
            path,
            record: None,
            pending,
            last: None,
            is_patient: false,
            is_postponed: false,
        }
    }

    /// A change is about to begin, or has ended.
    pub(super) fn set_patient(&mut self, is_patient: bool) {
        self.is_patient = is_patient;
    }

    /// Whether what is pending may wait for its turn, which it then does.
    pub(super) fn postpone(&mut self) -> bool {
        let is_early = self.turn().is_some_and(|turn| turn > Instant::now());
        self.is_postponed = is_early && self.is_patient && !self.pending.is_urgent();
        self.is_postponed
    }

    /// When what was postponed is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.turn().filter(|_| self.is_postponed)
    }

    /// A sweep that began then has ended, well or not.
    pub(super) fn note(&mut self, began: Instant) {
        self.last = Some((Instant::now(), began.elapsed()));
        self.is_postponed = false;
    }

    fn turn(&self) -> Option<Instant> {
        self.last
            .map(|(ended, took)| ended + PAUSE.max(took * SHARE))
    }

    pub(super) fn pending(&self) -> &Sweep {
        &self.pending
    }

    pub(super) fn add(&mut self, sweep: Sweep) {
        let news = Sweep {
            endpoints: add(&mut self.pending.endpoints, sweep.endpoints),
            opened: add(&mut self.pending.opened, sweep.opened),
            prefixes: add(&mut self.pending.prefixes, sweep.prefixes),
            unguarded: add(&mut self.pending.unguarded, sweep.unguarded),
        };
        if news.is_empty() {
            return;
        }
        // Without a file they end all the same, unless the daemon is killed just now.
        if let Err(error) = self.store(&encode(&news)) {
            tracing::warn!(%error, file = %self.path.display(), "which connections have to end is not on record");
        }
    }

    pub(super) fn clear(&mut self) {
        self.pending = Sweep::default();
        self.record = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.path.display(), "these connections would be ended once more");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn store(&mut self, text: &str) -> io::Result<()> {
        adit_fault::point("sweep/record")?;
        let record = match &mut self.record {
            Some(record) => record,
            none @ None => {
                let open = File::options().create(true).append(true).open(&self.path)?;
                none.insert(open)
            }
        };
        record.write_all(text.as_bytes())
    }
}

/// Adds what is not there yet, and returns it.
fn add<T: Ord + Clone>(pending: &mut BTreeSet<T>, mut more: BTreeSet<T>) -> BTreeSet<T> {
    more.retain(|it| !pending.contains(it));
    pending.extend(more.iter().cloned());
    more
}

fn encode(sweep: &Sweep) -> String {
    let Sweep {
        endpoints,
        opened,
        prefixes,
        unguarded,
    } = sweep;
    // A successor has no reason to wait.
    let endpoints = endpoints.iter().chain(opened).map(|endpoint| {
        let Endpoint {
            address,
            protocol,
            ports,
        } = endpoint;
        format!(
            "endpoint {address} {protocol} {} {}\n",
            ports.first(),
            ports.last()
        )
    });
    let prefixes = prefixes.iter().map(|prefix| format!("prefix {prefix}\n"));
    let unguarded = unguarded
        .iter()
        .map(|prefix| format!("unguarded {prefix}\n"));
    endpoints.chain(prefixes).chain(unguarded).collect()
}

/// A line that cannot be read is passed over: the others still count.
fn decode(text: &str) -> Sweep {
    let mut sweep = Sweep::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["endpoint", address, protocol, first, last] => {
                sweep
                    .endpoints
                    .extend(endpoint(address, protocol, first, last));
            }
            ["prefix", prefix] => sweep.prefixes.extend(prefix.parse::<IpNet>()),
            ["unguarded", prefix] => sweep.unguarded.extend(prefix.parse::<IpNet>()),
            _ => {}
        }
    }
    sweep
}

pub(super) fn endpoint(
    address: &str,
    protocol: &str,
    first: &str,
    last: &str,
) -> Option<Endpoint<IpAddr>> {
    Some(Endpoint {
        address: address.parse().ok()?,
        protocol: protocol.parse().ok()?,
        ports: PortRange::new(first.parse().ok()?, last.parse().ok()?)?,
    })
}

/// The endpoints among keys of the table's maps and sets: `ADDRESS . PROTOCOL . PORT`, or a range of ports.
pub(super) fn endpoints_in<'a>(keys: impl Iterator<Item = &'a str>) -> BTreeSet<Endpoint<IpAddr>> {
    keys.filter_map(|key| {
        let mut parts = key.split(" . ");
        let (address, protocol, ports) = (parts.next()?, parts.next()?, parts.next()?);
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        match parts.next() {
            None => endpoint(address, protocol, first, last),
            Some(_) => None,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_back_and_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sweep");
        let mut sweeps = Sweeps::open(file.clone());
        let keys = [
            "192.0.2.1 . udp . 80",
            "2001:db8::1 . tcp . 5000-5010",
            "wan . 10.0.0.1 . tcp . 1",
        ];
        let sweep = Sweep {
            endpoints: endpoints_in(keys.into_iter()),
            opened: BTreeSet::new(),
            prefixes: ["10.59.0.2/32".parse().unwrap()].into(),
            unguarded: ["2001:db8::/64".parse().unwrap()].into(),
        };
        assert_eq!(sweep.endpoints.len(), 2);
        sweeps.add(sweep.clone());
        sweeps.add(Sweep::default());
        let more = endpoints_in(["192.0.2.1 . udp . 80", "192.0.2.1 . tcp . 81"].into_iter());
        sweeps.add(Sweep {
            opened: more.clone(),
            ..Sweep::default()
        });
        let mut sweep = sweep;
        sweep.endpoints.extend(more);
        let mut again = Sweeps::open(file.clone());
        assert_eq!(again.pending(), &sweep);
        again.clear();
        assert!(again.pending().is_empty() && !file.exists());
    }
}
