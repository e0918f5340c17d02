//! Mappings with one gateway: wanted, held, and given back.

mod igd;
mod port_control;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use adit_model::protocol::Protocol;
use adit_proto::pcp::wire::{Filter, Hostname, Suggestion};
use adit_proto::port_control::wish::Wish;

use crate::connection::Connection;
use crate::holdings::{Holding, Place};
use crate::igd::Router;

/// Consecutive ports of this host that shall be reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: NonZeroU16,
    /// How many.
    pub ports: u16,
    /// The first port that remote hosts should see.
    pub external: Option<NonZeroU16>,
    /// Whether no other will do.
    pub is_exact: bool,
    /// In seconds.
    pub lifetime: u32,
    /// Who may come in; nobody named is everybody.
    pub filters: Vec<Filter>,
    /// TLS names that shall lead here.
    pub hostnames: Vec<Hostname>,
}

/// What happened to a mapping, or to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is held, renewed, or another now. Of a range there may be several.
    Held(Holding),
    /// It cannot be had, for this reason. It is asked for again after the time; without one it cannot even be asked for there.
    Failed(Wanted, Reason, Option<Duration>),
    /// It ran out. It is asked for again.
    Lost(Wanted),
    /// It was given back; whether the gateway said so.
    Released(Wanted, bool),
    /// The gateway lost its state; everything is asked for again.
    Reset,
    /// The gateway does not answer. It is asked again after the time.
    Absent(Duration),
}

/// Why a mapping cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is led by TLS names, which the gateway does not do or cannot be told.
    NoNames(String),
    /// The gateway said so, or nothing.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNames(text) | Self::Other(text) => formatter.write_str(text),
        }
    }
}

/// Keeps mappings with a gateway for as long as it is polled.
#[derive(Debug)]
pub struct Holder(Inner);

#[derive(Debug)]
enum Inner {
    PortControl(Box<port_control::Holder>),
    Igd(Box<igd::Holder>),
}

impl Holder {
    /// With a gateway that answered PCP or NAT-PMP.
    pub fn new(connection: Connection) -> Self {
        Self(Inner::PortControl(Box::new(port_control::Holder::new(
            connection,
        ))))
    }

    /// With a router that answered UPnP.
    pub fn with_router(router: Router) -> Self {
        Self(Inner::Igd(Box::new(igd::Holder::new(router))))
    }

    /// Where the gateway listens.
    pub const fn gateway(&self) -> SocketAddr {
        match &self.0 {
            Inner::PortControl(holder) => holder.connection().candidate().server,
            Inner::Igd(holder) => holder.router().search_address(),
        }
    }

    /// The address of this host that it sees.
    pub const fn local(&self) -> IpAddr {
        match &self.0 {
            Inner::PortControl(holder) => holder.connection().candidate().local,
            Inner::Igd(holder) => holder.router().local(),
        }
    }

    /// Between whom its mappings are.
    pub const fn place(&self) -> Place {
        Place {
            gateway: self.gateway(),
            local: self.local(),
        }
    }

    /// Asks for a mapping, and keeps it. With the nonce of an earlier time it is that mapping which is renewed.
    ///
    /// # Errors
    ///
    /// When this host has no random numbers.
    pub fn want(&mut self, wanted: Wanted, nonce: Option<[u8; 12]>) -> io::Result<()> {
        match &mut self.0 {
            Inner::PortControl(holder) => holder.want(wanted, nonce),
            Inner::Igd(holder) => {
                holder.want(&wanted);
                Ok(())
            }
        }
    }

    /// Gives back a mapping of an earlier time.
    pub fn release_earlier(&mut self, holding: &Holding) {
        let Some(wanted) = Wanted::of(holding) else {
            return;
        };
        match &mut self.0 {
            Inner::PortControl(holder) => holder.release_earlier(wanted, holding.nonce),
            Inner::Igd(holder) => holder.release_earlier(&wanted, holding.pinhole),
        }
    }

    /// Gives everything back.
    pub fn release_all(&mut self) {
        match &mut self.0 {
            Inner::PortControl(holder) => holder.release_all(),
            Inner::Igd(holder) => holder.release_all(),
        }
    }

    /// Whether nothing is wanted any more.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Inner::PortControl(holder) => holder.is_empty(),
            Inner::Igd(holder) => holder.is_empty(),
        }
    }

    /// Whether nothing is wanted that could be asked for there.
    pub fn is_hopeless(&self) -> bool {
        match &self.0 {
            Inner::PortControl(holder) => holder.is_hopeless(),
            Inner::Igd(holder) => holder.is_empty(),
        }
    }

    /// Whether everything that is wanted is held, but for these.
    pub fn is_settled_but(&self, refused: &[(Protocol, u16)]) -> bool {
        match &self.0 {
            Inner::PortControl(holder) => holder.is_settled_but(refused),
            Inner::Igd(holder) => holder.is_settled_but(refused),
        }
    }

    /// Waits for the next change. Nothing is lost when the wait is given up.
    pub async fn next_change(&mut self) -> Change {
        match &mut self.0 {
            Inner::PortControl(holder) => holder.next_change().await,
            Inner::Igd(holder) => holder.next_change().await,
        }
    }
}

impl Wanted {
    /// What was granted before.
    fn of(holding: &Holding) -> Option<Self> {
        Some(Self {
            protocol: holding.protocol,
            first: NonZeroU16::new(holding.port)?,
            ports: holding.ports,
            external: NonZeroU16::new(holding.external.port()),
            is_exact: false,
            lifetime: 0,
            filters: Vec::new(),
            hostnames: holding
                .hostnames
                .iter()
                .filter_map(|it| Hostname::new(it))
                .collect(),
        })
    }

    pub(super) fn wish(&self) -> Wish {
        Wish {
            ports: self.ports,
            suggestion: Suggestion {
                address: None,
                // Where it is all the same, the own number is the one that people expect.
                port: self.external.or(Some(self.first)),
            },
            prefer_failure: self.is_exact,
            filters: self.filters.clone(),
            hostnames: self.hostnames.clone(),
            ..Wish::new(self.protocol, self.first, self.lifetime)
        }
    }

    /// Leaves the first ports, and gives the others, if there are any.
    pub(super) fn split_off(&mut self, ports: u16) -> Option<Self> {
        let first = self.first.checked_add(ports)?;
        let left = self.ports.checked_sub(ports).filter(|left| *left > 0)?;
        let rest = Self {
            first,
            ports: left,
            external: self.external.and_then(|it| it.checked_add(ports)),
            ..self.clone()
        };
        self.ports = ports;
        Some(rest)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let names = self.hostnames.iter();
        names.map(|name| name.as_str().to_owned()).collect()
    }
}
