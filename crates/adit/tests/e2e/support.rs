//! What all topics share: a world with a gateway in it, sockets in namespaces, raw packets, captures.

mod api;
mod boot;
mod capture;
mod faults;
mod findings;
mod machine;
pub(crate) mod oracle;
mod packet;
mod probe;
mod snapshot;
mod socket;
mod stream;
mod traffic;
mod world;

pub(crate) use api::Api;
pub(crate) use boot::{Booted, Init};
pub(crate) use capture::Capture;
pub(crate) use faults::{Faults, is_soak};
pub(crate) use findings::Findings;
pub(crate) use machine::Machine;
pub(crate) use packet::{Injector, syn4, udp4, udp6};
pub(crate) use probe::probe;
pub(crate) use snapshot::{FILLED_BY_PACKETS, Snapshot};
pub(crate) use socket::{
    Conversation, accept, at, connect, converse, exchange, listen, raw, receive, send, udp,
};
pub(crate) use stream::Stream;
pub(crate) use traffic::{Account, Dialogue, Transfer};
pub(crate) use world::{
    Device, INTERNET4, INTERNET6, PUBLIC4, PUBLIC6, STRANGER4, STRANGER6, World, binary, dataplane,
};
