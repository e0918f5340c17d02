//! Where devices ask for ports: PCP and NAT-PMP (RFC 6887, RFC 6886) and UPnP on the tunnel interface.
//!
//! A request that changes nothing is decided on the state as it is and answered at once. Any other goes to the writer, beside
//! all other changes, and is answered when it is durable and this host's kernel has it.

mod clock;
mod epoch;
mod igd;
mod limit;
mod outcome;
mod places;
mod promise;
mod socket;
mod translation;
mod updates;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use adit_model::change::Change;
use adit_model::decide::decide;
use adit_model::decide::lease::granted;
use adit_model::facts::Facts;
use adit_model::refusal::Refusal;
use adit_model::state::{Device, DeviceId, State, Subnet};
use adit_model::uplink::{self, Uplink};
use adit_proto::nat_pmp;
use adit_proto::pcp;
use adit_proto::pcp::server::Target;
use adit_proto::port_control::notifier::{Announcement, Notifier};
use adit_proto::port_control::{CLIENT_PORT, Policy, Received, Request, receive};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::epoch::KeptEpoch;
pub(crate) use self::epoch::forget as forget_epoch;
use self::limit::Limits;
use self::outcome::{Failure, Outcome};
use self::places::Places;
pub(crate) use self::promise::Promises;
use self::socket::{Listening, Path, PortSocket};
use self::translation::Wish;
use self::updates::Contacts;
use crate::control::{ChangeError, Control};
use crate::writer::seconds_since_1970;

/// How often it is looked at what time and the host have changed.
const TICK: Duration = Duration::from_secs(1);

/// How long a request waits for a lease that is just ending.
const PATIENCE: Duration = Duration::from_millis(50);

/// What devices ask by PCP and NAT-PMP.
pub(crate) struct PortControl {
    control: Weak<Control>,
    promises: Arc<Promises>,
    epoch: Mutex<KeptEpoch>,
    places: Mutex<Places>,
    notifier: Mutex<Notifier>,
    /// There is something to tell.
    told: Notify,
    contacts: Contacts,
    limits: Limits,
    outlook: Mutex<Option<Outlook>>,
}

/// The uplinks as they were last looked at: most who ask want to know their address, and little changes between them.
#[derive(Clone)]
struct Outlook {
    revision: u64,
    facts: Arc<Facts>,
    uplinks: Arc<[Uplink]>,
}

impl PortControl {
    pub(crate) fn new(control: &Arc<Control>, state_dir: &std::path::Path) -> Arc<Self> {
        let revision = control.state.borrow().revision;
        Arc::new(Self {
            control: Arc::downgrade(control),
            promises: Arc::clone(&control.promises),
            epoch: Mutex::new(KeptEpoch::open(state_dir, revision)),
            places: Mutex::default(),
            notifier: Mutex::new(Notifier::new()),
            told: Notify::new(),
            contacts: Contacts::default(),
            limits: Limits::default(),
            outlook: Mutex::default(),
        })
    }

    /// Works until the daemon ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(clock::run(self.control.clone(), Arc::clone(&self.promises)));
        tasks.spawn(updates::run(Arc::clone(&self)));
        tasks.spawn(igd::serve(Arc::clone(&self)));
        let take = {
            let (ports, runtime) = (Arc::clone(&self), Handle::current());
            move |datagram: &[u8], path: Path, socket: &Arc<PortSocket>| {
                ports.receive(datagram, path, socket, &runtime)
            }
        };
        let mut listening = Listening::default();
        let Some(mut progress) = (self.control.upgrade()).map(|control| control.progress.clone())
        else {
            return;
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = lock(&self.notifier).poll_timeout();
            let wait = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()));
            let is_tick = tokio::select! {
                _ = tick.tick() => true,
                // The interface may be there now.
                changed = progress.changed(), if !listening.is_complete() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(wait) => false,
                () = self.told.notified() => false,
            };
            let Some(control) = self.control.upgrade() else {
                return;
            };
            if is_tick {
                self.watch_addresses(&control);
                self.limits.forget_idle();
                listening.follow(&control.interface, &take);
            }
            self.tell(&control, &listening);
        }
    }

    /// The answer to a datagram, if it can be given at once.
    fn receive(
        self: &Arc<Self>,
        datagram: &[u8],
        path: Path,
        socket: &Arc<PortSocket>,
        runtime: &Handle,
    ) -> Option<Vec<u8>> {
        let control = self.control.upgrade()?;
        let state = Arc::clone(&control.state.borrow());
        let source = path.from.ip();
        // WireGuard lets a device send from its own addresses only; a host behind a device is no device.
        let device = state.device_at(source)?;
        let now = seconds_since_1970();
        if !is_gateway(&state, path.at) || !device.is_active(now) {
            return None;
        }
        if !self.limits.pass(device) {
            control.metrics.port_asked("limited");
            return None;
        }
        let epoch = lock(&self.epoch).value();
        let received = receive(datagram, source, &policy(device), epoch);
        let request = match received {
            Received::Silence => return None,
            Received::Answer(answer) => {
                lock(&self.notifier).heard(source);
                control.metrics.port_asked("plain");
                return Some(answer);
            }
            Received::Request(request) => request,
        };
        let wish = match translation::wish(&state, &request, device.id) {
            Ok(wish) => wish,
            Err(outcome) => {
                control.metrics.port_asked(outcome.name());
                lock(&self.notifier).heard(source);
                return Some(outcome::answer(&request, &outcome, epoch));
            }
        };
        if let Some(outcome) = self.at_once(&control, &state, &wish, now) {
            control.metrics.port_asked(outcome.name());
            self.answering(&request, &outcome, device.id, path.from);
            return Some(outcome::answer(&request, &outcome, epoch));
        }
        let asking = device.id;
        let Some(turn) = self.limits.enter(device.id) else {
            control.metrics.port_asked("limited");
            return None;
        };
        let (ports, socket) = (Arc::clone(self), Arc::clone(socket));
        runtime.spawn(async move {
            let _turn = turn;
            let outcome = ports.in_turn(&control, &wish).await;
            control.metrics.port_asked(outcome.name());
            ports.answering(&request, &outcome, asking, path.from);
            let epoch = lock(&ports.epoch).value();
            socket.send(&outcome::answer(&request, &outcome, epoch), path);
        });
        None
    }

    /// Who is answered needs no more telling of it, and is told of changes where the answer goes.
    fn answering(&self, request: &Request, outcome: &Outcome, asking: DeviceId, to: SocketAddr) {
        lock(&self.notifier).heard(to.ip());
        let Request::Pcp(request) = request else {
            return;
        };
        let (target, remote) = match request {
            pcp::server::Request::Map(map) => (map.target, None),
            pcp::server::Request::Delete(delete) => (delete.target, None),
            pcp::server::Request::Peer(peer) => (
                Target::Port(peer.protocol, peer.internal_port),
                Some(peer.remote),
            ),
        };
        lock(&self.notifier).renewed(to.ip(), target, remote);
        if let Outcome::Granted(grant) = outcome {
            self.contacts.answered(request, grant, asking, to);
        }
    }

    /// What a wish of a device leads to, at once or in its turn; none where too many of its wishes wait already.
    async fn fulfil(&self, control: &Control, device: DeviceId, wish: &Wish) -> Option<Outcome> {
        let state = Arc::clone(&control.state.borrow());
        let at_once = self.at_once(control, &state, wish, seconds_since_1970());
        if at_once.is_some() {
            return at_once;
        }
        let _turn = self.limits.enter(device)?;
        Some(self.in_turn(control, wish).await)
    }

    /// What a wish leads to that needs no change: of what this host's kernel has.
    fn at_once(&self, control: &Control, state: &State, wish: &Wish, now: u64) -> Option<Outcome> {
        let facts = Arc::clone(&control.facts.borrow());
        let mut known = None;
        let change = match wish {
            Wish::Address(device) => {
                let outlook = self.outlook(control, state);
                return Some(match translation::address(state, &outlook, *device) {
                    Some(address) => Outcome::Address(address),
                    None => Outcome::Failed(Failure::no_address()),
                });
            }
            Wish::Request(wish) => {
                known = granted(state, &facts, wish, now);
                if known.is_none() && has_room(state, wish.parties.owner) {
                    return None;
                }
                Change::RequestLease(wish.clone())
            }
            Wish::End(wish) => Change::EndLease(wish.clone()),
            Wish::EndAll(wish) => Change::EndLeases(*wish),
        };
        let edits = match decide(state, change, &facts, now, &[0; 64]) {
            Ok(edits) => edits,
            Err(refusal) => return Some(Outcome::Failed(failure(refusal))),
        };
        if !edits.is_empty() {
            return None;
        }
        match wish {
            Wish::Request(_) => {}
            Wish::EndAll(wish) if translation::is_left(state, wish) => {
                return Some(Outcome::Failed(Failure::left()));
            }
            Wish::Address(_) | Wish::End(_) | Wish::EndAll(_) => {
                let is_gone = control.progress.borrow().has(state.revision);
                return is_gone.then_some(Outcome::Ended);
            }
        }
        let grant = known?;
        let is_live = control.progress.borrow().has(grant.version);
        (is_live && self.promises.renew(&grant, now)).then_some(Outcome::Granted(grant))
    }

    /// What a wish leads to, with the change that it needs.
    async fn in_turn(&self, control: &Control, wish: &Wish) -> Outcome {
        let change = match wish {
            Wish::Request(wish) => Change::RequestLease(wish.clone()),
            Wish::End(wish) => Change::EndLease(wish.clone()),
            Wish::EndAll(wish) => Change::EndLeases(*wish),
            Wish::Address(_) => return Outcome::Ended,
        };
        loop {
            let committed = match control.lease(change.clone()).await {
                Ok(committed) => committed,
                Err(ChangeError::Refused(refusal)) => return Outcome::Failed(failure(refusal)),
                Err(
                    ChangeError::Forbidden
                    | ChangeError::Store { .. }
                    | ChangeError::Apply { .. }
                    | ChangeError::Repeated
                    | ChangeError::Stopping,
                ) => return Outcome::Failed(Failure::Gateway),
            };
            let request = match wish {
                Wish::Request(request) => request,
                Wish::EndAll(wish) if translation::is_left(&committed.state, wish) => {
                    return Outcome::Failed(Failure::left());
                }
                Wish::Address(_) | Wish::End(_) | Wish::EndAll(_) => {
                    // Of what is gone already nobody knows since when: with the newest revision at the latest.
                    let is_gone = !committed.edits.is_empty()
                        || control.applied(committed.revision).await.is_ok();
                    return if is_gone {
                        Outcome::Ended
                    } else {
                        Outcome::Failed(Failure::Gateway)
                    };
                }
            };
            let now = seconds_since_1970();
            let facts = Arc::clone(&control.facts.borrow());
            let Some(grant) = granted(&committed.state, &facts, request, now) else {
                return Outcome::Failed(Failure::Gateway);
            };
            // What was there already may have failed when it came, and be tried again still.
            if committed.edits.is_empty() && control.applied(grant.version).await.is_err() {
                return Outcome::Failed(Failure::Gateway);
            }
            if committed.edits.is_empty() && !self.promises.renew(&grant, now) {
                // It is just ending; who asks gets it anew.
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
            if !committed.edits.is_empty() {
                self.promises.begin(&grant, now);
            }
            return Outcome::Granted(grant);
        }
    }

    fn outlook(&self, control: &Control, state: &State) -> Outlook {
        let facts = Arc::clone(&control.facts.borrow());
        let mut known = lock(&self.outlook);
        let is_same = |known: &&Outlook| {
            known.revision == state.revision && Arc::ptr_eq(&known.facts, &facts)
        };
        if let Some(known) = known.as_ref().filter(is_same) {
            return known.clone();
        }
        let outlook = Outlook {
            revision: state.revision,
            uplinks: uplink::list(state, &facts).into(),
            facts,
        };
        known.insert(outlook).clone()
    }

    /// Clients have to know when their ports may be lost or have another address (RFC 6887 section 8.5): all that may have had
    /// some, since what is lost leaves no trace.
    fn watch_addresses(&self, control: &Control) {
        // Two tasks look, and what was looked at earlier must not be followed later.
        let mut places = lock(&self.places);
        let state = Arc::clone(&control.state.borrow());
        let outlook = self.outlook(control, &state);
        let followed = places.follow(&state, &outlook);
        let begins = {
            let mut epoch = lock(&self.epoch);
            if let Some(places) = followed {
                epoch.follow(places, state.revision);
            }
            epoch.is_to_be_told()
        };
        if !begins {
            return;
        }
        tracing::info!(
            "devices are told that their ports may have been lost, or have another address"
        );
        let (now, time) = (Instant::now(), seconds_since_1970());
        let mut notifier = lock(&self.notifier);
        for device in state.devices.values() {
            let may_ask = device.has_auto_ports() && device.is_active(time);
            if !may_ask && state.leased_ports(device.id) == 0 {
                continue;
            }
            let Some(subnet) = state.subnets.get(&device.subnet) else {
                continue;
            };
            let ipv4 = SocketAddr::new(device.ipv4.into(), CLIENT_PORT);
            notifier.announce(ipv4, Announcement::Pcp { hostnames: true }, now);
            if let Some(IpAddr::V4(address)) = translation::address(&state, &outlook, device.id) {
                notifier.announce(ipv4, Announcement::NatPmp(address), now);
            }
            if let Some(ipv6) = subnet.ipv6_of(device.ipv4) {
                let ipv6 = SocketAddr::new(ipv6.into(), CLIENT_PORT);
                notifier.announce(ipv6, Announcement::Pcp { hostnames: true }, now);
            }
        }
    }

    /// Sends what clients are to be told now without having asked.
    fn tell(&self, control: &Control, listening: &Listening) {
        let epoch = lock(&self.epoch).value();
        let state = Arc::clone(&control.state.borrow());
        loop {
            let due = lock(&self.notifier).poll_transmit(epoch, Instant::now());
            let Some(transmit) = due else {
                return;
            };
            let subnet = (state.device_at(transmit.to.ip()))
                .and_then(|device| state.subnets.get(&device.subnet));
            let gateway = subnet.and_then(|subnet| match transmit.to {
                SocketAddr::V4(_) => Some(IpAddr::V4(subnet.gateway_ipv4())),
                SocketAddr::V6(_) => subnet.gateway_ipv6().map(IpAddr::V6),
            });
            if let Some(at) = gateway
                && let Some(socket) = listening.at(at)
            {
                let from = transmit.to;
                socket.send(&transmit.datagram, Path { from, at });
            }
        }
    }
}

/// The tunnel interface may have addresses that are not Adit's.
fn is_gateway(state: &State, address: IpAddr) -> bool {
    let mut addresses = state.subnets.values().flat_map(Subnet::gateway_addresses);
    addresses.any(|gateway| gateway == address)
}

/// What a device may ask.
fn policy(device: &Device) -> Policy {
    let may = device.has_auto_ports();
    Policy {
        pcp: pcp::server::Policy {
            map: may,
            peer: may,
            third_party: device.port_policy.third_party,
            wildcards: if device.port_policy.all_ports {
                pcp::server::Wildcards::Allowed
            } else {
                pcp::server::Wildcards::Unsupported
            },
            hostnames: true,
        },
        nat_pmp: true,
    }
}

/// Whether a device may open a port more.
fn has_room(state: &State, device: DeviceId) -> bool {
    let device = state.devices.get(&device);
    device.is_some_and(|device| state.leased_ports(device.id) < device.lease_quota())
}

fn failure(refusal: Refusal) -> Failure {
    if let Refusal::LeaseRefused { reason } = refusal {
        return Failure::Refused(reason);
    }
    tracing::warn!(%refusal, "a device's request for a port was refused");
    Failure::Gateway
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error code of a NAT-PMP answer.
type NatPmpCode = nat_pmp::wire::ErrorCode;
