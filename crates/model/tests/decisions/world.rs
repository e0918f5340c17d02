//! A gateway without a kernel: state, facts, and changes that are decided and absorbed.

use std::fmt::Debug;
use std::str::FromStr;

use adit_model::change::{
    AddDevice, AddForward, AddPinhole, AddSubnet, AddToken, Change, DelegationWish, Ipv6Wish,
    SetDevice, SetForward, SetSubnet,
};
use adit_model::decide::{Random, decide};
use adit_model::desired::Desired;
use adit_model::desired::derive::{Inputs, derive};
use adit_model::edit::Edit;
use adit_model::facts::{AddressFact, Facts, LinkFact, Listener, RouteFact};
use adit_model::key::{PrivateKey, PublicKey};
use adit_model::protocol::Protocol;
use adit_model::refusal::Refusal;
use adit_model::state::{Delivery, Device, DeviceKind, PortPolicy, State};

/// Seconds since 1970 at which everything happens.
pub(crate) const NOW: u64 = 1_800_000_000;

/// The gateway's tunnel interface.
pub(crate) const TUNNEL: &str = "adit0";

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) facts: Facts,
    pub(crate) now: u64,
}

/// Parses what a test wrote.
pub(crate) fn parse<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|error| panic!("`{text}`: {error:?}"))
}

/// Facts of a host without any network.
pub(crate) fn bare_host() -> Facts {
    Facts {
        ipv6: true,
        gateway_key: Some(PublicKey::from_bytes([250; 32])),
        ..Facts::default()
    }
}

/// Adds an uplink: its addresses with their lengths, and the next hops of its default routes.
pub(crate) fn add_uplink(
    facts: &mut Facts,
    name: &str,
    metric: u32,
    addresses: &[&str],
    next_hops: &[&str],
    learnt: bool,
) {
    let index = u32::try_from(facts.links.len()).unwrap() + 2;
    let link = LinkFact {
        index,
        mtu: 1500,
        up: true,
    };
    facts.links.insert(name.to_owned(), link);
    for address in addresses {
        let address: ipnet::IpNet = parse(address);
        facts.addresses.insert(AddressFact {
            interface: name.to_owned(),
            address,
        });
        facts.routes.insert(RouteFact {
            destination: address.trunc(),
            interface: name.to_owned(),
            gateway: None,
            metric: 256,
            from_router_advertisement: false,
        });
    }
    for hop in next_hops {
        let hop: std::net::IpAddr = parse(hop);
        facts.routes.insert(RouteFact {
            destination: parse(if hop.is_ipv6() { "::/0" } else { "0.0.0.0/0" }),
            interface: name.to_owned(),
            gateway: Some(hop),
            metric,
            from_router_advertisement: learnt && hop.is_ipv6(),
        });
    }
    let accept = if learnt { "1" } else { "0" };
    facts
        .sysctls
        .insert(format!("net/ipv6/conf/{name}/accept_ra"), accept.to_owned());
}

pub(crate) fn add_listener(facts: &mut Facts, protocol: Protocol, address: &str, port: u16) {
    facts.listeners.insert(Listener {
        protocol,
        address: parse(address),
        port,
        process: Some(format!("service-{port}")),
    });
}

impl World {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            state: State::default(),
            facts,
            now: NOW,
        }
    }

    /// A VPS whose provider asks for every address of 2001:db8:1::/64 on the link; the default route was learnt.
    pub(crate) fn on_link() -> Self {
        let mut facts = bare_host();
        let addresses = ["203.0.113.10/24", "2001:db8:1::2/64", "fe80::2/64"];
        let hops = ["203.0.113.1", "fe80::1"];
        add_uplink(&mut facts, "eth0", 100, &addresses, &hops, true);
        add_listener(&mut facts, Protocol::Tcp, "::", 22);
        Self::new(facts)
    }

    /// The same with a second uplink that is not the default.
    pub(crate) fn two_uplinks() -> Self {
        let mut world = Self::on_link();
        let addresses = [
            "198.51.100.5/24",
            "198.51.100.6/24",
            "2001:db8:2::5/64",
            "fe80::5/64",
        ];
        let hops = ["198.51.100.1", "2001:db8:2::1"];
        add_uplink(&mut world.facts, "eth1", 200, &addresses, &hops, false);
        world
    }

    /// Decides, and absorbs what was decided.
    pub(crate) fn change(&mut self, change: Change) -> Result<Vec<Edit>, Refusal> {
        let edits = self.decide(change)?;
        self.state.revision += 1;
        for edit in &edits {
            self.state.absorb(edit);
        }
        Ok(edits)
    }

    pub(crate) fn decide(&self, change: Change) -> Result<Vec<Edit>, Refusal> {
        let mut random: Random = [7; 64];
        random[..8].copy_from_slice(&self.state.revision.wrapping_mul(0x9e37_79b9).to_le_bytes());
        decide(&self.state, change, &self.facts, self.now, &random)
    }

    /// Makes changes that have to be possible.
    pub(crate) fn with(mut self, changes: impl IntoIterator<Item = Change>) -> Self {
        for change in changes {
            let text = format!("{change:?}");
            if let Err(refusal) = self.change(change) {
                panic!("{text}: {refusal}");
            }
        }
        self
    }

    pub(crate) fn refused(&self, change: Change) -> Refusal {
        let text = format!("{change:?}");
        match self.decide(change) {
            Ok(edits) => panic!("{text} was not refused: {edits:?}"),
            Err(refusal) => refusal,
        }
    }

    pub(crate) fn device(&self, name: &str) -> &Device {
        self.state.device(name).unwrap()
    }

    pub(crate) fn ipv6_of(&self, name: &str) -> Option<String> {
        let device = self.device(name);
        let address = self.state.subnets[&device.subnet].ipv6_of(device.ipv4);
        address.map(|address| address.to_string())
    }

    /// The prefixes that are delegated to a device, in the order of their making.
    pub(crate) fn delegations_of(&self, name: &str) -> Vec<String> {
        self.state
            .delegations_of(self.device(name).id)
            .map(|delegation| delegation.prefix.to_string())
            .collect()
    }

    pub(crate) fn desired(&self) -> Desired {
        derive(&Inputs {
            state: &self.state,
            facts: &self.facts,
            interface: TUNNEL,
            private_key: &PrivateKey::from_random([9; 32]),
            now: self.now,
        })
    }
}

/// `--ipv6` as it is written: a prefix, `none`, or nothing.
pub(crate) fn add_subnet_wish(name: &str, ipv4: &str, ipv6: &str) -> AddSubnet {
    AddSubnet {
        name: name.to_owned(),
        ipv4: parse(ipv4),
        ipv6: ipv6_wish(ipv6),
        delivery: Delivery::Auto,
        egress: None,
        peers: true,
        host_access: false,
        gateway_address: true,
        force: false,
    }
}

pub(crate) fn ipv6_wish(text: &str) -> Ipv6Wish {
    match text {
        "" => Ipv6Wish::Private,
        "none" => Ipv6Wish::None,
        prefix => Ipv6Wish::Prefix(parse(prefix)),
    }
}

pub(crate) fn add_subnet(name: &str, ipv4: &str, ipv6: &str) -> Change {
    Change::AddSubnet(add_subnet_wish(name, ipv4, ipv6))
}

pub(crate) fn set_subnet_ipv6(name: &str, ipv6: &str) -> Change {
    let patch = SetSubnet {
        ipv6: Some(ipv6_wish(ipv6)),
        ..SetSubnet::default()
    };
    Change::SetSubnet(name.to_owned(), patch)
}

/// A device whose key is made of its name.
pub(crate) fn add_device_wish(name: &str) -> AddDevice {
    let mut key = [1; 32];
    for (index, byte) in name.bytes().take(31).enumerate() {
        key[index] = byte;
    }
    AddDevice {
        name: name.to_owned(),
        subnet: None,
        kind: DeviceKind::Client,
        routing: None,
        ipv4: None,
        public_key: PublicKey::from_bytes(key),
        egress: None,
        delegate: Vec::new(),
        expires: None,
        port_policy: PortPolicy::default(),
    }
}

pub(crate) fn add_device(name: &str) -> Change {
    Change::AddDevice(add_device_wish(name))
}

pub(crate) fn add_device_in(subnet: &str, name: &str) -> Change {
    Change::AddDevice(AddDevice {
        subnet: Some(subnet.to_owned()),
        ..add_device_wish(name)
    })
}

pub(crate) fn add_device_at(name: &str, ipv4: &str) -> Change {
    Change::AddDevice(AddDevice {
        ipv4: Some(parse(ipv4)),
        ..add_device_wish(name)
    })
}

pub(crate) fn set_device(name: &str, patch: SetDevice) -> Change {
    Change::SetDevice(name.to_owned(), patch)
}

/// `--delegate` as it is written: a length or a prefix.
pub(crate) fn wish(text: &str) -> DelegationWish {
    text.parse().map_or_else(
        |_| DelegationWish::Prefix(parse(text)),
        DelegationWish::Length,
    )
}

pub(crate) fn delegate(name: &str, wishes: &[&str]) -> Change {
    let patch = SetDevice {
        delegate: wishes.iter().map(|text| wish(text)).collect(),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

pub(crate) fn revoke(name: &str, prefixes: &[&str]) -> Change {
    let patch = SetDevice {
        revoke: prefixes.iter().map(|text| parse(text)).collect(),
        ..SetDevice::default()
    };
    set_device(name, patch)
}

/// A forward as it is written: `[ADDR:]PORT[-PORT][/PROTOCOL]`, with `ADDR@` before the port instead of a colon.
pub(crate) fn add_forward_wish(text: &str, device: &str) -> AddForward {
    let (address, rest) = match text.split_once('@') {
        Some((address, rest)) => (Some(parse(address)), rest),
        None => (None, text),
    };
    let (port, port_end, protocols) = ports(rest);
    AddForward {
        address,
        port,
        port_end,
        protocols,
        device: device.to_owned(),
        target_port: None,
        hostname: None,
        label: String::new(),
    }
}

fn ports(text: &str) -> (u16, u16, std::collections::BTreeSet<Protocol>) {
    let (range, protocols) = match text.split_once('/') {
        Some((range, protocol)) => (range, [parse(protocol)].into()),
        None => (text, std::collections::BTreeSet::new()),
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    (parse(first), parse(last), protocols)
}

pub(crate) fn add_forward(text: &str, device: &str) -> Change {
    Change::AddForward(add_forward_wish(text, device))
}

pub(crate) fn set_forward(id: u64, patch: SetForward) -> Change {
    Change::SetForward(id.to_string(), patch)
}

pub(crate) fn add_pinhole(device: &str, text: &str) -> Change {
    let (port, port_end, protocols) = ports(text);
    Change::AddPinhole(AddPinhole {
        device: device.to_owned(),
        port,
        port_end,
        protocols,
        label: String::new(),
    })
}

pub(crate) fn add_token(name: &str) -> Change {
    Change::AddToken(AddToken {
        name: name.to_owned(),
        hash: "00".repeat(32),
        scopes: [].into(),
        device: None,
        expires: None,
    })
}
