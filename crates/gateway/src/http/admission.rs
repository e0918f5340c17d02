//! How many connections over TCP there are at a time, in all and from one source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_model::state::TokenId;
use tokio::sync::{oneshot, watch};

use super::source::Source;

/// In all. One that has shown no token gives way to a new one.
const TOTAL: usize = 256;
/// From one source.
const PER_SOURCE: usize = 32;

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Open>);

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    connections: Arc<Connections>,
    /// Ends when the connection has to give way.
    pub(super) evicted: oneshot::Receiver<()>,
    /// The token that was used on it last.
    pub(super) holder: Arc<watch::Sender<Option<TokenId>>>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    slots: BTreeMap<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    source: Source,
    holder: Arc<watch::Sender<Option<TokenId>>>,
    /// Dropped with the slot, which is what the connection notices.
    _evict: oneshot::Sender<()>,
}

impl Connections {
    /// Makes room for a connection, unless all that there are have shown a token.
    pub(super) fn admit(self: &Arc<Self>, from: IpAddr) -> Option<Ticket> {
        let source = Source::of(from);
        let mut open = self.lock();
        let of_source = open.slots.values().filter(|slot| slot.source == source);
        let is_crowded = of_source.count() >= PER_SOURCE;
        if is_crowded || open.slots.len() >= TOTAL {
            let mut slots = open.slots.iter();
            let oldest = slots.find(|(_, slot)| {
                slot.holder.borrow().is_none() && (!is_crowded || slot.source == source)
            });
            let number = *oldest?.0;
            open.slots.remove(&number);
        }
        open.last += 1;
        let number = open.last;
        let (evict, evicted) = oneshot::channel();
        let holder = Arc::new(watch::channel(None).0);
        let slot = Slot {
            source,
            holder: Arc::clone(&holder),
            _evict: evict,
        };
        open.slots.insert(number, slot);
        Some(Ticket {
            number,
            connections: Arc::clone(self),
            evicted,
            holder,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.lock().slots.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(ticket: &mut Ticket) -> bool {
        !matches!(
            ticket.evicted.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        )
    }

    #[test]
    fn one_source_crowds_itself_out_and_nobody_who_has_shown_a_token() {
        let connections = Arc::new(Connections::default());
        let from = |text: &str| connections.admit(text.parse().unwrap());
        let mut other = from("192.0.2.1").unwrap();
        let mut known = from("2001:db8::1").unwrap();
        known.holder.send_replace(Some(TokenId(1)));
        let mut crowd: Vec<Ticket> = (2..100)
            .map(|number| from(&format!("2001:db8::{number:x}")).unwrap())
            .collect();
        assert!(!is_evicted(&mut known) && !is_evicted(&mut other));
        let left = crowd
            .iter_mut()
            .filter_map(|ticket| (!is_evicted(ticket)).then_some(()))
            .count();
        assert_eq!(left, PER_SOURCE - 1, "with the one that has a token");
        for ticket in &crowd {
            ticket.holder.send_replace(Some(TokenId(2)));
        }
        assert!(from("2001:db8::ffff").is_none());
        drop(crowd);
        assert!(from("2001:db8::ffff").is_some());
    }

    #[test]
    fn many_sources_have_a_bound_together_and_the_oldest_without_a_token_gives_way() {
        let connections = Arc::new(Connections::default());
        let mut tickets: Vec<Ticket> = (0..=TOTAL)
            .map(|number| {
                let address = IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
                connections.admit(address).unwrap()
            })
            .collect();
        assert!(is_evicted(&mut tickets[0]) && !is_evicted(&mut tickets[1]));
        assert_eq!(connections.lock().slots.len(), TOTAL);
    }
}
