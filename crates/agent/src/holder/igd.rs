//! Mappings by UPnP: one port each, one call after the other.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use adit_model::protocol::Protocol;
use adit_model::timestamp::Timestamp;
use adit_proto::igd::{
    Action, Answer, Fault, Mapper, Mapping, MappingKey, Outside, PinholeRequest, PortProtocol,
};
use tokio::time::Instant;

use super::{Change, Reason, Wanted};
use crate::holdings::{Holding, Place};
use crate::igd::{AskError, Router};

/// What routers show of a mapping.
const DESCRIPTION: &str = "adit";

/// After a failure the same is asked again after this time.
const REST: Duration = Duration::from_secs(60);

/// A renewal that failed is tried again no sooner.
const RENEWAL_GAP: Duration = Duration::from_secs(4);

/// A mapping that the router keeps until it is deleted is looked after as one of a week.
const UNBOUNDED: Duration = Duration::from_secs(604_800);

/// The longest time that a router keeps a pinhole, in seconds.
const LONGEST_PINHOLE: u32 = 86_400;

/// Keeps mappings with a router.
#[derive(Debug)]
pub(super) struct Holder {
    router: Router,
    entries: Vec<Entry>,
    told: VecDeque<Change>,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    held: Option<Held>,
    is_leaving: bool,
    due: Instant,
}

/// What was mapped.
#[derive(Clone, Copy, Debug)]
struct Held {
    opening: Opening,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// A port of the router.
    Port(u16),
    /// For IPv6; by its number at the router.
    Pinhole(u16),
}

/// What the router granted.
struct Granted {
    opening: Opening,
    external: SocketAddr,
    lifetime: Duration,
}

impl Holder {
    pub(super) const fn new(router: Router) -> Self {
        Self {
            router,
            entries: Vec::new(),
            told: VecDeque::new(),
        }
    }

    pub(super) const fn router(&self) -> &Router {
        &self.router
    }

    pub(super) fn want(&mut self, wanted: &Wanted) {
        for wanted in each_port(wanted) {
            if wanted.is_exact || !wanted.filters.is_empty() || !wanted.hostnames.is_empty() {
                let text = "the router speaks UPnP only, which cannot say that".to_owned();
                let reason = if wanted.hostnames.is_empty() {
                    Reason::Other(text)
                } else {
                    Reason::NoNames(text)
                };
                self.told.push_back(Change::Failed(wanted, reason, None));
                continue;
            }
            self.entries.push(Entry {
                wanted,
                held: None,
                is_leaving: false,
                due: Instant::now(),
            });
        }
    }

    pub(super) fn release_earlier(&mut self, wanted: &Wanted, pinhole: Option<u16>) {
        for wanted in each_port(wanted) {
            let external = wanted.external.unwrap_or(wanted.first).get();
            let opening = pinhole.map_or(Opening::Port(external), Opening::Pinhole);
            let until = Instant::now();
            self.entries.push(Entry {
                wanted,
                held: Some(Held { opening, until }),
                is_leaving: true,
                due: Instant::now(),
            });
        }
    }

    pub(super) fn release_all(&mut self) {
        // What was never mapped is not there to be deleted.
        self.entries.retain(|entry| entry.held.is_some());
        for entry in &mut self.entries {
            entry.is_leaving = true;
            entry.due = Instant::now();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.told.is_empty()
    }

    pub(super) fn is_settled_but(&self, refused: &[(Protocol, u16)]) -> bool {
        self.told.is_empty()
            && self.entries.iter().all(|entry| {
                let name = (entry.wanted.protocol, entry.wanted.first.get());
                entry.held.is_some() || refused.contains(&name)
            })
    }

    pub(super) async fn next_change(&mut self) -> Change {
        loop {
            if let Some(change) = self.told.pop_front() {
                return change;
            }
            let next = self.entries.iter().enumerate();
            let Some((at, due)) = next
                .map(|(at, entry)| (at, entry.due))
                .min_by_key(|(_, due)| *due)
            else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(due).await;
            // Until the answer is there nothing is changed, so that a wait can be given up and begun again.
            let Some(entry) = self.entries.get(at) else {
                continue;
            };
            if entry.is_leaving {
                let is_gone = self.delete(entry).await;
                let entry = self.entries.swap_remove(at);
                return Change::Released(entry.wanted, is_gone);
            }
            let outcome = self.obtain(entry).await;
            let Some(entry) = self.entries.get_mut(at) else {
                continue;
            };
            let place = Place {
                gateway: self.router.search_address(),
                local: self.router.local(),
            };
            if let Some(change) = settle(entry, outcome, place, Instant::now()) {
                return change;
            }
        }
    }

    async fn obtain(&self, entry: &Entry) -> Result<Granted, String> {
        match self.router.local() {
            IpAddr::V4(local) => self.map(entry, local).await,
            IpAddr::V6(local) => self.open(entry, local).await,
        }
    }

    /// Opens the port of this host's own address.
    async fn open(&self, entry: &Entry, local: Ipv6Addr) -> Result<Granted, String> {
        let port = entry.wanted.first.get();
        let lease = entry.wanted.lifetime.clamp(1, LONGEST_PINHOLE);
        let granted = |id| Granted {
            opening: Opening::Pinhole(id),
            external: SocketAddr::new(local.into(), port),
            lifetime: Duration::from_secs(lease.into()),
        };
        if let Some(Opening::Pinhole(id)) = entry.held.map(|held| held.opening) {
            match self.router.ask(&Action::UpdatePinhole { id, lease }).await {
                Ok(_) => return Ok(granted(id)),
                // The router lost its state.
                Err(AskError::Fault(Fault::NoSuchPinhole)) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let request = PinholeRequest {
            outside: Outside::Anyone,
            remote_port: 0,
            internal_client: local,
            internal_port: port,
            protocol: match entry.wanted.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            },
            lease,
        };
        match self.router.ask(&Action::AddPinhole(request)).await {
            Ok(Answer::Pinhole { id }) => Ok(granted(id)),
            Ok(_) => Err("the router opened nothing".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn map(&self, entry: &Entry, local: Ipv4Addr) -> Result<Granted, String> {
        let wanted = &entry.wanted;
        let suggested = wanted.external.unwrap_or(wanted.first).get();
        let wish = Mapping {
            outside: Outside::Anyone,
            external_port: match entry.held.map(|held| held.opening) {
                Some(Opening::Port(port)) => port,
                Some(Opening::Pinhole(_)) | None => suggested,
            },
            protocol: protocol(wanted.protocol),
            internal_port: wanted.first.get(),
            internal_client: local,
            enabled: true,
            description: DESCRIPTION.to_owned(),
            lease: wanted.lifetime,
        };
        let mut mapper = Mapper::new(self.router.gateway(), wish);
        while let Some(action) = mapper.next_action() {
            match self.router.ask(&action).await {
                Ok(answer) => mapper.handle_answer(Ok(answer)),
                Err(AskError::Fault(fault)) => mapper.handle_answer(Err(fault)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let mapped = match mapper.outcome() {
            Some(Ok(mapped)) => mapped,
            Some(Err(fault)) => return Err(AskError::Fault(fault).to_string()),
            None => return Err("the router decided nothing".to_owned()),
        };
        let address = match self.router.ask(&Action::ExternalAddress).await {
            Ok(Answer::ExternalAddress(Some(address))) => address,
            Ok(_) => return Err("the router has no external address".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let lifetime = match mapped.lease {
            0 => UNBOUNDED,
            seconds => Duration::from_secs(seconds.into()),
        };
        Ok(Granted {
            opening: Opening::Port(mapped.external_port),
            external: SocketAddr::new(address.into(), mapped.external_port),
            lifetime,
        })
    }

    async fn delete(&self, entry: &Entry) -> bool {
        let Some(held) = entry.held else {
            return true;
        };
        let action = match held.opening {
            Opening::Port(external_port) => Action::Delete(MappingKey {
                outside: Outside::Anyone,
                external_port,
                protocol: protocol(entry.wanted.protocol),
            }),
            Opening::Pinhole(id) => Action::DeletePinhole { id },
        };
        match self.router.ask(&action).await {
            Ok(_) => true,
            Err(error) => shows_absence(&error),
        }
    }
}

/// Whether a deletion was refused because there is nothing to delete.
const fn shows_absence(error: &AskError) -> bool {
    match error {
        AskError::Fault(fault) => matches!(
            fault,
            Fault::NoSuchEntry | Fault::NoSuchPinhole | Fault::MappingNotFound
        ),
        AskError::Silent | AskError::Unreadable(_) | AskError::Input(_) => false,
    }
}

/// Takes in what became of a call; nothing is told of a renewal for which there is time left.
fn settle(
    entry: &mut Entry,
    outcome: Result<Granted, String>,
    place: Place,
    now: Instant,
) -> Option<Change> {
    match outcome {
        Ok(Granted {
            opening,
            external,
            lifetime,
        }) => {
            let until = now + lifetime;
            entry.held = Some(Held { opening, until });
            entry.due = now + lifetime / 2;
            Some(Change::Held(Holding {
                gateway: place.gateway,
                local: place.local,
                mechanism: crate::igd::MECHANISM.to_owned(),
                protocol: entry.wanted.protocol,
                port: entry.wanted.first.get(),
                ports: 1,
                external,
                hostnames: Vec::new(),
                expires: Timestamp::from(SystemTime::now() + lifetime),
                nonce: [0; 12],
                pinhole: match opening {
                    Opening::Port(_) => None,
                    Opening::Pinhole(id) => Some(id),
                },
                watcher: None,
                watcher_began: None,
            }))
        }
        Err(reason) => {
            let wanted = entry.wanted.clone();
            match entry.held {
                Some(held) if held.until > now => {
                    tracing::debug!(reason, "a mapping is not renewed yet");
                    let left = held.until.duration_since(now);
                    entry.due = now + (left / 2).max(RENEWAL_GAP).min(left);
                    None
                }
                Some(_) => {
                    entry.held = None;
                    entry.due = now + REST;
                    Some(Change::Lost(wanted))
                }
                None => {
                    entry.due = now + REST;
                    Some(Change::Failed(wanted, Reason::Other(reason), Some(REST)))
                }
            }
        }
    }
}

fn each_port(wanted: &Wanted) -> Vec<Wanted> {
    let one = |offset: u16| {
        Some(Wanted {
            first: wanted.first.checked_add(offset)?,
            external: wanted.external.and_then(|it| it.checked_add(offset)),
            ports: 1,
            ..wanted.clone()
        })
    };
    (0..wanted.ports).filter_map(one).collect()
}

const fn protocol(protocol: Protocol) -> PortProtocol {
    match protocol {
        Protocol::Tcp => PortProtocol::Tcp,
        Protocol::Udp => PortProtocol::Udp,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            protocol: Protocol::Udp,
            first: NonZeroU16::new(8080).unwrap(),
            ports: 1,
            external: None,
            is_exact: false,
            lifetime: 3600,
            filters: Vec::new(),
            hostnames: Vec::new(),
        }
    }

    #[test]
    fn renewal_that_fails_is_tried_again_while_the_mapping_is_held() {
        let place = Place {
            gateway: "192.168.1.1:1900".parse().unwrap(),
            local: "192.168.1.11".parse().unwrap(),
        };
        let start = Instant::now();
        let mut entry = Entry {
            wanted: wanted(),
            held: None,
            is_leaving: false,
            due: start,
        };
        let hour = Duration::from_secs(3600);
        let granted = || {
            Ok(Granted {
                opening: Opening::Port(8080),
                external: "198.51.100.7:8080".parse().unwrap(),
                lifetime: hour,
            })
        };
        let failed = || Err("the router does not answer".to_owned());
        let held = settle(&mut entry, granted(), place, start);
        assert!(matches!(held, Some(Change::Held(_))), "{held:?}");
        assert_eq!(entry.due, start + hour / 2);

        // It fails once, and then it does not.
        let renewal = entry.due;
        assert_eq!(settle(&mut entry, failed(), place, renewal), None);
        assert_eq!(entry.due, start + hour / 4 * 3);
        let again = entry.due;
        let held = settle(&mut entry, granted(), place, again);
        assert!(matches!(held, Some(Change::Held(_))), "{held:?}");

        // It fails until the end, and is told once as lost and then as failed.
        let end = again + hour;
        let mut tries = 0;
        let change = loop {
            tries += 1;
            let due = entry.due;
            assert!(due <= end && tries < 20, "{tries}");
            if let Some(change) = settle(&mut entry, failed(), place, due) {
                assert_eq!(due, end);
                break change;
            }
        };
        assert_eq!(change, Change::Lost(wanted()));
        assert_eq!(entry.due, end + REST);
        let change = settle(&mut entry, failed(), place, end + REST);
        assert!(matches!(change, Some(Change::Failed(..))), "{change:?}");
    }

    #[test]
    fn only_what_is_not_there_counts_as_given_back_when_a_deletion_is_refused() {
        for (fault, is_gone) in [
            (Fault::NoSuchEntry, true),
            (Fault::NoSuchPinhole, true),
            (Fault::MappingNotFound, true),
            (Fault::NotAuthorized, false),
            (Fault::ActionFailed, false),
            (Fault::Other(899), false),
        ] {
            assert_eq!(shows_absence(&AskError::Fault(fault)), is_gone, "{fault:?}");
        }
        assert!(!shows_absence(&AskError::Silent));
    }

    #[test]
    fn range_is_one_mapping_for_each_port() {
        let wanted = Wanted {
            first: NonZeroU16::new(65534).unwrap(),
            ports: 3,
            external: NonZeroU16::new(5000),
            ..wanted()
        };
        let ports = each_port(&wanted).into_iter();
        let ports: Vec<_> = ports
            .map(|it| (it.first.get(), it.external.map(NonZeroU16::get)))
            .collect();
        assert_eq!(ports, [(65534, Some(5000)), (65535, Some(5001))]);
    }
}
