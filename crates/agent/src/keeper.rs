//! What one process holds for as long as it runs, and writes down.

use std::time::SystemTime;

use crate::holder::Wanted;
use crate::holdings::{Holding, Holdings, HoldingsError, Place};

/// The mappings of this process, which are in the file as well.
#[derive(Debug)]
pub struct Keeper {
    holdings: Holdings,
    held: Vec<Holding>,
}

impl Keeper {
    /// With nothing yet.
    pub const fn new(holdings: Holdings) -> Self {
        Self {
            holdings,
            held: Vec::new(),
        }
    }

    /// Takes in what is held, renewed, or another now; gives it back as it was written down if remote hosts see another.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn put(
        &mut self,
        holding: Holding,
        now: SystemTime,
    ) -> Result<Option<&Holding>, HoldingsError> {
        let holding = holding.watched();
        let before = self.held.iter().find(|other| other.is_same(&holding));
        let is_news = before.is_none_or(|before| {
            before.external != holding.external || before.ports != holding.ports
        });
        self.holdings.put(holding.clone(), now)?;
        self.held.retain(|other| !other.is_same(&holding));
        self.held.push(holding);
        Ok(self.held.last().filter(|_| is_news))
    }

    /// What is wanted of a place is not held there.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn forget(
        &mut self,
        place: Place,
        wanted: &Wanted,
        now: SystemTime,
    ) -> Result<(), HoldingsError> {
        self.forget_if(now, |holding| {
            holding.is_of(place, wanted.protocol, wanted.first.get())
        })
    }

    /// Nothing there is kept any more: what was given back is gone, and the rest runs out.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn leave(
        &mut self,
        place: Place,
        gone: &[Wanted],
        now: SystemTime,
    ) -> Result<(), HoldingsError> {
        for wanted in gone {
            self.forget(place, wanted, now)?;
        }
        for holding in self.held.extract_if(.., |it| it.place() == place) {
            // With its nonce it can be renewed or given back later.
            self.holdings.put(holding.watched_like(None), now)?;
        }
        Ok(())
    }

    /// Everything was given back.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn forget_all(&mut self, now: SystemTime) -> Result<(), HoldingsError> {
        self.forget_if(now, |_| true)
    }

    fn forget_if(
        &mut self,
        now: SystemTime,
        is_it: impl Fn(&Holding) -> bool,
    ) -> Result<(), HoldingsError> {
        for holding in self.held.iter().filter(|holding| is_it(holding)) {
            self.holdings.remove(holding, now)?;
        }
        self.held.retain(|holding| !is_it(holding));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use adit_model::protocol::Protocol;
    use adit_model::timestamp::Timestamp;

    use super::*;

    fn holding(gateway: &str, local: &str) -> Holding {
        Holding {
            gateway: gateway.parse().unwrap(),
            local: local.parse().unwrap(),
            mechanism: "pcp".to_owned(),
            protocol: Protocol::Tcp,
            port: 8080,
            ports: 1,
            external: "198.51.100.7:8080".parse().unwrap(),
            hostnames: Vec::new(),
            expires: Timestamp(3600),
            nonce: [7; 12],
            pinhole: None,
            watcher: None,
            watcher_began: None,
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            protocol: Protocol::Tcp,
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
    fn failure_with_one_gateway_leaves_what_another_granted() {
        let folder = tempfile::tempdir().unwrap();
        let holdings = Holdings::new(folder.path());
        let mut keeper = Keeper::new(holdings.clone());
        let now = SystemTime::UNIX_EPOCH;
        let ipv4 = holding("10.59.0.1:5351", "10.59.0.2");
        let ipv6 = holding("[fd59::1]:5351", "fd59::2");
        let moved = holding("10.59.0.1:5351", "10.59.0.3");
        for holding in [&ipv4, &ipv6, &moved] {
            assert!(keeper.put(holding.clone(), now).unwrap().is_some());
            assert!(keeper.put(holding.clone(), now).unwrap().is_none());
        }
        let listed = || {
            let listed = holdings.list(now).unwrap().into_iter();
            listed.map(|it| (it.place(), it.nonce)).collect::<Vec<_>>()
        };
        keeper.forget(ipv6.place(), &wanted(), now).unwrap();
        assert_eq!(
            listed(),
            [(ipv4.place(), [7; 12]), (moved.place(), [7; 12])]
        );
        keeper.forget(ipv4.place(), &wanted(), now).unwrap();
        assert_eq!(listed(), [(moved.place(), [7; 12])]);
        keeper.forget_all(now).unwrap();
        assert!(listed().is_empty());
    }

    #[test]
    fn what_was_not_given_back_stays_known_until_it_runs_out() {
        let folder = tempfile::tempdir().unwrap();
        let holdings = Holdings::new(folder.path());
        let mut keeper = Keeper::new(holdings.clone());
        let now = SystemTime::UNIX_EPOCH;
        let given = holding("10.59.0.1:5351", "10.59.0.2");
        let silent = Holding {
            port: 8081,
            ..given.clone()
        };
        let other = holding("192.168.1.1:5351", "192.168.1.11");
        for holding in [&given, &silent, &other] {
            keeper.put(holding.clone(), now).unwrap();
        }
        keeper.leave(given.place(), &[wanted()], now).unwrap();
        let listed = holdings.list(now).unwrap();
        assert_eq!(listed, [other.clone().watched(), silent.clone()]);
        // It is no longer of this process.
        keeper.forget_all(now).unwrap();
        assert_eq!(holdings.list(now).unwrap(), [silent]);
    }
}
