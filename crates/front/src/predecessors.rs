//! The fronts that have handed over and carry their last connections: they are told what leads where as long as they last.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::client::{Client, ClientError};
use crate::status::Status;
use crate::table::{Change, Table};

#[derive(Debug, Default)]
pub(crate) struct Predecessors(Vec<Predecessor>);

#[derive(Debug)]
struct Predecessor {
    client: Client,
    /// As it said last.
    status: Status,
}

impl Predecessors {
    pub(crate) fn add(&mut self, mut client: Client, table: &Table) -> Result<(), ClientError> {
        client.be_less_patient()?;
        // A front that began anew, and was told nothing yet, knows of nothing that has to end.
        let status = if *table == Table::default() {
            client.status()?
        } else {
            client.set(table)?
        };
        self.0.push(Predecessor { client, status });
        Ok(())
    }

    pub(crate) fn set(&mut self, table: &Table) {
        self.ask(|client| client.set(table));
    }

    /// That came of a change, which is told where it is one.
    pub(crate) fn change(&mut self, change: &Change, table: &Table) {
        self.ask(|client| match client.change(change) {
            Err(ClientError::Refused { .. }) => client.set(table),
            outcome => outcome,
        });
    }

    /// Over which they are told, for whoever tells them next.
    pub(crate) fn sockets(&self) -> Vec<OwnedFd> {
        let sockets = self.0.iter().map(|it| it.client.socket());
        sockets.filter_map(Result::ok).collect()
    }

    /// Ends them, with their connections.
    pub(crate) fn stop(&mut self) {
        for mut predecessor in self.0.drain(..) {
            if let Err(error) = predecessor.client.stop() {
                tracing::warn!(%error, "the front before this one does not end");
            }
        }
    }

    pub(crate) fn refresh(&mut self, with_names: bool) {
        self.ask(|client| {
            if with_names {
                client.status_with_names()
            } else {
                client.status()
            }
        });
    }

    /// Adds what they carry, as they said it last.
    pub(crate) fn count(&self, status: &mut Status) {
        let mut open = HashMap::new();
        for Predecessor { status: theirs, .. } in &self.0 {
            status.connections += theirs.connections;
            status.waiting += theirs.waiting;
            status.flows += theirs.flows;
            for name in &theirs.names {
                let key = (name.address, name.service, name.name.as_deref());
                *open.entry(key).or_insert(0) += name.open;
            }
        }
        for name in &mut status.names {
            let key = (name.address, name.service, name.name.as_deref());
            name.open += open.get(&key).copied().unwrap_or(0);
        }
    }

    /// Who does not answer has ended, or asks to follow again.
    fn ask(&mut self, mut question: impl FnMut(&mut Client) -> Result<Status, ClientError>) {
        self.0
            .retain_mut(|predecessor| match question(&mut predecessor.client) {
                Ok(status) => {
                    predecessor.status = status;
                    true
                }
                Err(error) => {
                    tracing::debug!(%error, "a front before this one is gone");
                    false
                }
            });
    }
}
