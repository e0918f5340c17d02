//! The sessions of one peer: the one in use, the one before, and the one that the peer has yet to confirm.

use std::sync::Arc;

use crate::transport::Session;

#[derive(Default)]
pub(crate) struct Sessions {
    /// Packets sealed with it may still be on their way.
    previous: Option<Arc<Session>>,
    pub(crate) current: Option<Arc<Session>>,
    /// Of a handshake that the peer began: it is not used for sending before the peer has shown that it has the keys.
    next: Option<Arc<Session>>,
}

impl Sessions {
    /// Takes a new session; those that it takes the place of come back.
    pub(crate) fn add(&mut self, session: Arc<Session>) -> Vec<Arc<Session>> {
        let gone = if session.is_initiator {
            let before = self.current.replace(session);
            match self.next.take() {
                // Both began at once: the peer may well send with this one from now on.
                Some(next) => [self.previous.replace(next), before],
                None => [std::mem::replace(&mut self.previous, before), None],
            }
        } else {
            [self.next.replace(session), self.previous.take()]
        };
        gone.into_iter().flatten().collect()
    }

    /// The peer uses this session; the one that goes for it comes back.
    pub(crate) fn confirm(&mut self, session: &Arc<Session>) -> Option<Arc<Session>> {
        let is_next = self
            .next
            .as_ref()
            .is_some_and(|next| Arc::ptr_eq(next, session));
        if !is_next {
            return None;
        }
        let before = std::mem::replace(&mut self.current, self.next.take());
        std::mem::replace(&mut self.previous, before)
    }

    pub(crate) fn take_all(&mut self) -> Vec<Arc<Session>> {
        [self.previous.take(), self.current.take(), self.next.take()]
            .into_iter()
            .flatten()
            .collect()
    }
}
