//! One who has not said yet where it wants to.

use std::sync::Arc;

use adit_proto::quic::{InitialReader, QuicError};

use crate::admission::Held;
use crate::route::{Entry, Names};

/// Datagrams of one who asks; a ClientHello of post-quantum size takes two or three.
const MOST: usize = 16;

#[derive(Debug)]
pub(super) struct Asking {
    reader: InitialReader,
    datagrams: Vec<Vec<u8>>,
    held: Held,
}

/// What a datagram says of it.
#[derive(Debug)]
pub(super) enum Reading {
    Leads(Arc<Entry>),
    /// Not all of it.
    More,
    UnknownName,
    Malformed,
}

impl Asking {
    pub(super) fn new(held: Held) -> Self {
        Self {
            reader: InitialReader::default(),
            datagrams: Vec::new(),
            held,
        }
    }

    pub(super) fn read(&mut self, datagram: &[u8], names: &Names) -> Reading {
        let is_first = self.datagrams.is_empty();
        let leads = |entry: &Arc<Entry>| Reading::Leads(Arc::clone(entry));
        let reading = match self.reader.handle_input(datagram) {
            Ok(Some(hello)) => names
                .find(hello.server_name.as_deref())
                .map_or(Reading::UnknownName, leads),
            // A flow from before, or of a version that only its device may know.
            Err(QuicError::NotInitial) if is_first => {
                names.find(None).map_or(Reading::Malformed, leads)
            }
            Err(QuicError::Tls(_)) => Reading::Malformed,
            Err(_) if is_first => Reading::Malformed,
            Ok(None) | Err(_) if self.datagrams.len() + 1 >= MOST => Reading::Malformed,
            Ok(None) | Err(_) => Reading::More,
        };
        match reading {
            Reading::Leads(_) | Reading::More => self.keep(datagram),
            Reading::UnknownName | Reading::Malformed => {}
        }
        reading
    }

    pub(super) fn datagrams(&self) -> &[Vec<u8>] {
        &self.datagrams
    }

    fn keep(&mut self, datagram: &[u8]) {
        self.datagrams.push(datagram.to_vec());
        let bytes: usize = self.datagrams.iter().map(Vec::len).sum();
        self.held.set(bytes + self.reader.size());
    }
}
