//! `adit portmap address`: the address that the Internet has for this host.

use adit_agent::address::{Source, Told, ask, tunnels};
use adit_agent::gateway::{Candidate, candidates};
use adit_agent::reach::Reach;
use anyhow::Context as _;
use serde::Serialize;

use super::arguments::Whom;
use super::{named, view};
use crate::output::{Failure, Output};

#[derive(Serialize)]
struct Document<'a> {
    /// The best of each family.
    addresses: Vec<&'a Told>,
    /// All that was said.
    told: &'a [Told],
}

pub(super) async fn run(output: Output, whom: &Whom) -> Result<(), Failure> {
    let all = candidates().context("read the interfaces and routes of this host")?;
    let tunnels = tunnels(&all);
    let asked = match whom.gateway {
        Some(address) => vec![named(address)?],
        None => all,
    };
    let of = |gateways: &[Candidate], is_ipv4: bool| -> Vec<Candidate> {
        let is_wanted = if is_ipv4 { !whom.ipv6 } else { !whom.ipv4 };
        let of_family = gateways.iter().filter(|it| it.server.is_ipv4() == is_ipv4);
        of_family.filter(|_| is_wanted).cloned().collect()
    };
    let (asked4, tunnels4) = (of(&asked, true), of(&tunnels, true));
    let (asked6, tunnels6) = (of(&asked, false), of(&tunnels, false));
    let (ipv4, ipv6) = tokio::join!(told(&asked4, &tunnels4), told(&asked6, &tunnels6));
    let addresses: Vec<&Told> = [ipv4.last(), ipv6.last()].into_iter().flatten().collect();
    if addresses.is_empty() {
        return Err(Failure::Refused {
            code: "no-address",
            message: "nobody says which address the Internet has for this host".to_owned(),
            hint: "is the tunnel up, and may this device open ports (`adit device set NAME --auto-ports on` at the gateway)? Another \
                   gateway is named with `--gateway ADDR`"
                .to_owned(),
        });
    }
    let all = [ipv4.as_slice(), ipv6.as_slice()].concat();
    for told in &all {
        view::warn_of(output, told.address);
    }
    if output.is_json() {
        return output.document(&Document {
            addresses,
            told: &all,
        });
    }
    for told in addresses {
        output.result(&describe(told));
    }
    Ok(())
}

/// Without a gateway that was asked there is nothing to know.
async fn told(asked: &[Candidate], tunnels: &[Candidate]) -> Vec<Told> {
    if asked.is_empty() {
        return Vec::new();
    }
    ask(asked, tunnels).await
}

/// `203.0.113.2, says 10.59.0.1 (pcp)`
fn describe(told: &Told) -> String {
    let Told {
        address, gateway, ..
    } = told;
    let reach = match told.reach {
        Reach::Public => "",
        Reach::Shared => ", which a provider shares among its customers",
        Reach::Private => ", which is private",
        Reach::Nobody => ", which nobody reaches",
    };
    format!("{address}{reach}, says {gateway} ({})", source(told.by))
}

const fn source(by: Source) -> &'static str {
    match by {
        Source::Pcp => "by pcp",
        Source::NatPmp => "by nat-pmp",
        Source::Upnp => "by upnp",
        Source::Address => "as the Internet sees what comes through it",
        Source::Endpoint => "as it sees where the tunnel comes from",
    }
}
