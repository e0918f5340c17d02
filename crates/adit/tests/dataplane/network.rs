//! Where the tunnels lead through: four hosts, and a router between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_lab::topology::{End, HostKind, HostPlan, Link, PATH};
use adit_lab::{Host, Lab, TemporaryLab, Topology};
use anyhow::Result;

use crate::machine::Machine;

/// `a`, `b`, `c` and `d` have one link each to `router`; that of `b` can be narrowed.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lab: TemporaryLab,
    _machine: Machine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The hosts in the order of their numbers, which begin with 1.
const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

impl Network {
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        Self::with(purpose, Machine::share(), 1500)
    }

    /// For what counts losses, or is not to be disturbed.
    pub(crate) fn alone(purpose: &str) -> Result<Self> {
        Self::with(purpose, Machine::alone(), 1500)
    }

    pub(crate) fn with_link_mtu(purpose: &str, mtu: u32) -> Result<Self> {
        Self::with(purpose, Machine::share(), mtu)
    }

    fn with(purpose: &str, machine: Machine, mtu: u32) -> Result<Self> {
        let router = HostPlan::new("router", HostKind::Router, "between all of them");
        let mut topology = Topology::new("dataplane", "four hosts around a router").host(router);
        for (number, name) in (1..).zip(HOSTS) {
            let router4 = outer(100 + number, Family::V4).to_string();
            let router6 = outer(100 + number, Family::V6).to_string();
            let plan = HostPlan::new(name, HostKind::Endpoint, "an end of a tunnel")
                .route("default", &router4)
                .route("default", &router6);
            let addresses = [number, 100 + number].map(|number| {
                FAMILIES.map(|family| {
                    let length = if family == Family::V4 { 24 } else { 64 };
                    format!("{}/{length}", outer(number, family))
                })
            });
            let [own, gateway] = addresses
                .each_ref()
                .map(|of| of.each_ref().map(String::as_str));
            let mut link = Link::between(
                End::new(name, "eth0").addresses(&own),
                End::new("router", &format!("to-{name}")).addresses(&gateway),
            )
            .mtu(mtu);
            if name == "b" {
                link = link.named(PATH);
            }
            topology = topology.host(plan).link(link);
        }
        Ok(Self {
            lab: Lab::temporary(&topology, purpose)?,
            _machine: machine,
        })
    }

    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        self.lab.host(name)
    }

    pub(crate) fn router(&self) -> Result<Host> {
        self.host("router")
    }
}

/// The host of a number.
pub(crate) fn name_of(number: u16) -> &'static str {
    HOSTS[usize::from(number) - 1]
}

/// The address of a host outside of the tunnel; a hundred more is the router on the same link.
pub(crate) fn outer(number: u16, family: Family) -> IpAddr {
    let link = number % 100;
    let host = if number > 100 { 1 } else { 2 };
    other_outer(link, host, family)
}

/// Any address on the link of a host.
pub(crate) fn other_outer(number: u16, host: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, number.to_be_bytes()[1], host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, host.into()).into(),
    }
}

/// The address of a host inside of the tunnel.
pub(crate) fn inner(number: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, 0, number.to_be_bytes()[1]).into(),
        Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number).into(),
    }
}

/// One address alone, as a prefix.
pub(crate) fn only(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
