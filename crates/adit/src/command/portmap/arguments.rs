//! What `adit portmap` takes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use adit_agent::holder::Wanted;
use adit_model::hostname;
use adit_model::protocol::Protocol;
use adit_proto::pcp::wire::{Filter, Hostname};
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::super::invalid;
use crate::output::Failure;
use crate::target::Ports;

/// What `adit portmap` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum PortmapCommand {
    /// Ask for ports of this host to be reached from outside; they stay for their lifetime
    Add(Asking),
    /// Ask for ports, keep them, and give them back when this command ends (Ctrl-C)
    Watch(Asking),
    /// List what this host holds
    List,
    /// Tell the address that the Internet has for this host, and whether it reaches it
    Address(Whom),
    /// Give ports back
    Remove {
        /// The ports of this host
        #[arg(
            value_name = "PORT[-PORT][/tcp|/udp]",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        ports: Vec<Ports>,
        /// All that this host holds
        #[arg(long)]
        all: bool,
    },
}

/// Arguments of `adit portmap add` and `watch`.
#[derive(Debug, Args)]
pub(crate) struct Asking {
    /// The ports of this host; TCP and UDP unless one is named
    #[arg(value_name = "PORT[-PORT][/tcp|/udp]", required = true)]
    ports: Vec<Ports>,
    /// The port that remote hosts should see, of a range the first [default: the same]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    external: Option<u16>,
    /// Rather nothing than another external port (PCP only)
    #[arg(long)]
    exact: bool,
    /// For how long, in seconds; the gateway may give another time
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    lifetime: u32,
    /// Only remote hosts in this prefix may come in; repeatable (PCP only)
    #[arg(long, value_name = "PREFIX")]
    from: Vec<IpNet>,
    /// A TLS name that shall lead here; repeatable (gateways that offer it)
    #[arg(long, value_name = "TLS-NAME")]
    hostname: Vec<String>,
    /// The gateway to ask [default: the far end of the tunnel, else the router of the default route]
    #[arg(long, value_name = "ADDR")]
    pub(super) gateway: Option<IpAddr>,
    /// Over IPv4 alone
    #[arg(long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Over IPv6 alone
    #[arg(long)]
    ipv6: bool,
}

/// Arguments of `adit portmap address`.
#[derive(Debug, Args)]
pub(crate) struct Whom {
    /// The gateway to ask [default: the far end of the tunnel, else the router of the default route]
    #[arg(long, value_name = "ADDR")]
    pub(super) gateway: Option<IpAddr>,
    /// Over IPv4 alone
    #[arg(long, conflicts_with = "ipv6")]
    pub(super) ipv4: bool,
    /// Over IPv6 alone
    #[arg(long)]
    pub(super) ipv6: bool,
}

/// The families in which gateways are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

impl Asking {
    pub(super) const fn families(&self) -> Families {
        Families {
            ipv4: !self.ipv6,
            ipv6: !self.ipv4,
        }
    }

    /// What to ask of a gateway of a family.
    pub(super) fn wanted(&self, is_ipv4: bool) -> Result<Vec<Wanted>, Failure> {
        let hostnames: Vec<Hostname> = self
            .hostname
            .iter()
            .map(|name| {
                let parsed = hostname::parse(name).ok();
                let hostname = parsed.and_then(|name| Hostname::new(&name));
                hostname.ok_or_else(|| {
                    let reason = format!(
                        "`{name}` is no TLS name; write blog.example.org, or *.example.org"
                    );
                    invalid("--hostname", &reason)
                })
            })
            .collect::<Result<_, _>>()?;
        let filters: Vec<Filter> = self
            .from
            .iter()
            .filter(|prefix| prefix.addr().is_ipv4() == is_ipv4)
            .map(|prefix| Filter {
                prefix: prefix.trunc(),
                port: None,
            })
            .collect();
        if !self.from.is_empty() && filters.is_empty() {
            // Nobody of this family may come in.
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for ports in &self.ports {
            let named = ports.protocols.iter().copied();
            let protocols: Vec<Protocol> = if ports.protocols.is_empty() {
                Protocol::ALL.to_vec()
            } else {
                named.collect()
            };
            let Some(first) = NonZeroU16::new(ports.first) else {
                continue;
            };
            let offset = ports.first
                - self
                    .ports
                    .first()
                    .map_or(ports.first, |it| it.first.min(ports.first));
            for protocol in protocols {
                wanted.push(Wanted {
                    protocol,
                    first,
                    ports: ports.last - ports.first + 1,
                    external: self
                        .external
                        .and_then(|port| NonZeroU16::new(port.checked_add(offset)?)),
                    is_exact: self.exact,
                    lifetime: self.lifetime,
                    filters: filters.clone(),
                    hostnames: hostnames.clone(),
                });
            }
        }
        Ok(wanted)
    }
}
