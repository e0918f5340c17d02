//! Route netlink: one socket, requests in batches, complete dumps, errors that name the object.

mod connection;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use thiserror::Error;
use tokio::sync::Mutex;

use connection::Connection;
#[cfg(feature = "fuzzing")]
pub(crate) use connection::decode;
pub(crate) use connection::open_socket;

/// What a netlink request did not do, on which object, and why.
#[derive(Debug, Error)]
#[error("cannot {operation} {object}: {cause}")]
pub struct NetlinkError {
    /// What was tried: `add`, `remove`, `observe`.
    pub operation: &'static str,
    /// The object, as a person would name it.
    pub object: String,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

impl NetlinkError {
    /// The kernel's error number, if the kernel refused.
    pub fn errno(&self) -> Option<Errno> {
        self.cause.errno()
    }

    pub(crate) fn because(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(Cause) -> Self {
        let object = object.into();
        move |cause| Self {
            operation,
            object,
            cause,
        }
    }
}

/// Why a netlink request failed.
#[derive(Debug, Error)]
pub enum Cause {
    /// The kernel answered with an error.
    #[error("{}", .0.desc())]
    Kernel(Errno),
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel did not answer in time, or its answer was lost.
    #[error("the kernel's answer did not arrive")]
    NoAnswer,
    /// The table changed under every one of several dumps.
    #[error("the table kept changing while it was read")]
    Changing,
    /// Something that is not ours is where ours should go; it is left alone.
    #[error(
        "something that Adit does not own is already there; remove it, or keep it and change Adit's configuration"
    )]
    Occupied,
    /// The interface does not exist.
    #[error("there is no interface {0}")]
    NoInterface(String),
}

impl Cause {
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(errno) => Some(*errno),
            Self::NoInterface(_) => Some(Errno::ENODEV),
            Self::Socket(_) | Self::NoAnswer | Self::Changing | Self::Occupied => None,
        }
    }

    /// Whether this says that an object to be removed is not there.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL)
        )
    }
}

/// A message with the flags that make it create, replace or delete.
pub(crate) type Request = (RouteNetlinkMessage, u16);

/// Route netlink in the network namespace of the thread that opened it.
///
/// Requests run one after the other; clones share the socket. A request that is dropped halfway leaves nothing
/// behind: late answers are recognised by their sequence number and passed over.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Arc<Mutex<Connection>>,
    surprises: Arc<AtomicU64>,
}

impl Netlink {
    /// Opens the socket. Must be called inside a tokio runtime with I/O and time enabled.
    pub fn open() -> Result<Self, NetlinkError> {
        let connection = Connection::open()
            .map_err(Cause::Socket)
            .map_err(NetlinkError::because("open", "route netlink"))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            surprises: Arc::default(),
        })
    }

    /// How many objects were found gone when they were to be removed: what we believed of this host was wrong.
    pub(crate) fn surprises(&self) -> u64 {
        self.surprises.load(Ordering::Relaxed)
    }

    /// The outcome of a removal: what is gone is removed.
    pub(crate) fn removed(&self, outcome: Result<(), Cause>) -> Result<(), Cause> {
        match outcome {
            Err(cause) if cause.is_gone() => {
                self.surprises.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The index of an interface, none if it does not exist.
    pub async fn interface_index(&self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let link = self
            .link(name)
            .await
            .map_err(NetlinkError::because("observe", format!("link {name}")))?;
        Ok(link.map(|message| message.header.index))
    }

    /// The names of all interfaces by index.
    pub async fn interface_names(&self) -> Result<BTreeMap<u32, String>, NetlinkError> {
        let links = self
            .links()
            .await
            .map_err(NetlinkError::because("observe", "links"))?;
        Ok(links
            .iter()
            .filter_map(|message| Some((message.header.index, name_of(message)?.to_owned())))
            .collect())
    }

    /// The indexes of those of `names` that exist.
    pub(crate) async fn indexes<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, u32>, Cause> {
        let mut indexes = BTreeMap::new();
        for name in names {
            if !indexes.contains_key(name)
                && let Some(message) = self.link(name).await?
            {
                indexes.insert(name.to_owned(), message.header.index);
            }
        }
        Ok(indexes)
    }

    /// The link of exactly this name; alternative names do not count.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<LinkMessage>, Cause> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(without_statistics());
        let answer = self.get(RouteNetlinkMessage::GetLink(message)).await;
        match answer {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) if name_of(&link) == Some(name) => {
                Ok(Some(link))
            }
            Ok(_) => Ok(None),
            Err(Cause::Kernel(Errno::ENODEV)) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// All links.
    pub(crate) async fn links(&self) -> Result<Vec<LinkMessage>, Cause> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Unspec;
        message.attributes.push(without_statistics());
        let answers = self.dump(RouteNetlinkMessage::GetLink(message)).await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    /// Everything that a dump request lists, read at one moment.
    pub(crate) async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        self.connection.lock().await.dump(message).await
    }

    /// The one object that a request names.
    pub(crate) async fn get(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Cause> {
        self.connection.lock().await.get(message).await
    }

    /// Makes one change.
    pub(crate) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Cause> {
        let mut results = self.change_many(vec![(message, flags)]).await;
        results.pop().unwrap_or(Err(Cause::NoAnswer))
    }

    /// Makes changes in order; one result for each. A change that fails does not stop those after it.
    pub(crate) async fn change_many(&self, requests: Vec<Request>) -> Vec<Result<(), Cause>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let batch: Vec<Request> = requests
                .by_ref()
                .take(connection::BATCH)
                .map(|(message, flags)| (message, flags | NLM_F_REQUEST | NLM_F_ACK))
                .collect();
            results.extend(self.connection.lock().await.change(batch).await);
        }
        results
    }
}

/// The interface name in a link message.
pub(crate) fn name_of(message: &LinkMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}
