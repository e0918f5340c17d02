//! UPnP Internet Gateway Device, versions 1 and 2: discovery, documents and actions, for the gateway and for clients.
//!
//! There are two root devices, because clients of version 1 that compare device types exactly refuse the documents of
//! version 2. Nothing here is evented, so no request makes the gateway talk to a third party.

mod action;
mod client;
mod description;
mod fault;
mod http;
mod server;
mod service;
mod soap;
mod ssdp;
mod xml;

pub use action::{
    Action, Answer, Mapping, MappingKey, MappingRange, Outside, PinholeRequest, PortProtocol,
};
pub use client::{
    CallError, DescriptionError, Exchange, ExchangeError, Location, MappedPort, Mapper,
    RemoteGateway, SearchTarget,
};
pub use description::Identity;
pub use fault::Fault;
pub use http::HttpError;
pub use server::{Connection, Event, Request, Seen};
pub use service::{Service, Version};
pub use ssdp::{Search, receive_search};
pub use xml::{Element, Limits, XmlError};

/// The port of discovery; also that of the groups.
pub const SSDP_PORT: u16 = 1900;

/// The group of discovery in IPv4.
pub const SSDP_GROUP_IPV4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(239, 255, 255, 250);

/// The groups of discovery in IPv6: of the link, and of the site.
pub const SSDP_GROUPS_IPV6: [std::net::Ipv6Addr; 2] = [
    std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc),
    std::net::Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xc),
];

/// The longest lease that version 2 knows, in seconds: a week.
pub const LONGEST_LEASE: u32 = 604_800;
