//! `adit subnet`: the tunnel's networks.

use adit_api::types::subnet::{AddSubnet, EffectiveDelivery, SetSubnet, Subnet};
use adit_model::change::Patch;
use adit_model::state::Delivery;
use adit_model::uplink::Proof;
use clap::{Args, Subcommand, ValueEnum};

use super::{Condition, Session, Switch, count, read};
use crate::output::{Failure, or_dash};

/// What `adit subnet` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum SubnetCommand {
    /// Add a subnet
    Add(AddArguments),
    /// List the subnets
    List,
    /// Show one subnet
    Show {
        /// Its name or id
        name: String,
    },
    /// Change a subnet
    Set(SetArguments),
    /// Remove a subnet
    Remove(RemoveArguments),
}

/// Arguments of `adit subnet add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// A name for it
    name: String,
    /// Its IPv4 network, such as 10.59.0.0/24
    #[arg(long, value_name = "PREFIX")]
    ipv4: String,
    /// The IPv6 prefix that the provider delivers, or `none`; a random private one unless said
    #[arg(long, value_name = "PREFIX|none")]
    ipv6: Option<String>,
    /// How the provider delivers the prefix
    #[arg(long, value_enum, default_value = "auto")]
    delivery: DeliveryName,
    /// The address or the uplink that its traffic leaves by
    #[arg(long, value_name = "ADDR|IFACE")]
    egress: Option<String>,
    /// Whether its devices reach each other
    #[arg(long, value_enum, default_value = "on")]
    peers: Switch,
    /// Whether its devices reach the gateway host itself
    #[arg(long, value_enum, default_value = "off")]
    host_access: Switch,
    /// Whether the tunnel interface has the gateway's address in it; the gateway then answers there
    #[arg(long, value_enum, default_value = "on")]
    gateway_address: Switch,
    /// Do without an IPv6 default route
    #[arg(long)]
    force: bool,
}

/// Arguments of `adit subnet set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its name or id
    reference: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A new IPv6 prefix, `none`, or `private` for a random private one
    #[arg(long, value_name = "PREFIX|none|private")]
    ipv6: Option<String>,
    /// How the provider delivers the prefix
    #[arg(long, value_enum)]
    delivery: Option<DeliveryName>,
    /// The address or the uplink that its traffic leaves by, or `none`
    #[arg(long, value_name = "ADDR|IFACE|none")]
    egress: Option<String>,
    /// Whether its devices reach each other
    #[arg(long, value_enum)]
    peers: Option<Switch>,
    /// Whether its devices reach the gateway host itself
    #[arg(long, value_enum)]
    host_access: Option<Switch>,
    /// Whether the tunnel interface has the gateway's address in it
    #[arg(long, value_enum)]
    gateway_address: Option<Switch>,
    /// Do without an IPv6 default route
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    condition: Condition,
}

/// Arguments of `adit subnet remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Its name or id
    name: String,
    /// Remove its devices with it
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    condition: Condition,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeliveryName {
    /// On-link where the prefix lies on an uplink, else routed
    Auto,
    /// To an address of this host
    Routed,
    /// Asked for by Neighbor Discovery
    OnLink,
}

impl From<DeliveryName> for Delivery {
    fn from(name: DeliveryName) -> Self {
        match name {
            DeliveryName::Auto => Self::Auto,
            DeliveryName::Routed => Self::Routed,
            DeliveryName::OnLink => Self::OnLink,
        }
    }
}

pub(super) async fn run(session: Session, command: SubnetCommand) -> Result<(), Failure> {
    match command {
        SubnetCommand::Add(arguments) => add(&session, arguments).await,
        SubnetCommand::List => list(&session).await,
        SubnetCommand::Show { name } => show(&session, &session.client.subnet(&name).await?),
        SubnetCommand::Set(arguments) => set(&session, arguments).await,
        SubnetCommand::Remove(arguments) => remove(&session, arguments).await,
    }
}

async fn add(session: &Session, arguments: AddArguments) -> Result<(), Failure> {
    let request = AddSubnet {
        name: arguments.name,
        ipv4: read("--ipv4", &arguments.ipv4)?,
        ipv6: match &arguments.ipv6 {
            Some(text) => Some(read("--ipv6", text)?),
            None => None,
        },
        delivery: arguments.delivery.into(),
        egress: match &arguments.egress {
            Some(text) => Some(read("--egress", text)?),
            None => None,
        },
        peers: arguments.peers.into(),
        host_access: arguments.host_access.into(),
        gateway_address: arguments.gateway_address.into(),
        force: arguments.force,
    };
    let subnet = session.client.add_subnet(&request).await?;
    show(session, &subnet)?;
    session.output.note(&format!(
        "Next: `adit device add NAME --subnet {}`",
        subnet.name
    ));
    Ok(())
}

async fn list(session: &Session) -> Result<(), Failure> {
    let answer = session.client.subnets().await?;
    let output = session.output;
    if output.is_json() {
        return output.document(&answer);
    }
    if answer.subnets.is_empty() {
        output.note("There is no subnet yet: `adit subnet add NAME --ipv4 10.59.0.0/24` adds one.");
        return Ok(());
    }
    let header = [
        "ID", "NAME", "IPV4", "IPV6", "DELIVERY", "UPLINK", "PEERS", "HOST", "DEVICES",
    ];
    let rows = answer.subnets.into_iter().map(|subnet| {
        vec![
            subnet.id.to_string(),
            subnet.name,
            subnet.ipv4.to_string(),
            or_dash(subnet.ipv6),
            or_dash(subnet.effective_delivery.map(delivery)),
            or_dash(subnet.uplink),
            super::state(subnet.peers),
            super::state(subnet.host_access),
            subnet.devices.to_string(),
        ]
    });
    output.table(&header, rows);
    Ok(())
}

async fn set(session: &Session, arguments: SetArguments) -> Result<(), Failure> {
    let has_new_prefix = arguments.ipv6.is_some();
    let request = SetSubnet {
        name: arguments.name,
        ipv6: match &arguments.ipv6 {
            Some(text) => Patch::Set(read("--ipv6", text)?),
            None => Patch::Keep,
        },
        delivery: arguments.delivery.map(Into::into),
        egress: match arguments.egress.as_deref() {
            None => Patch::Keep,
            Some("none") => Patch::Clear,
            Some(text) => Patch::Set(read("--egress", text)?),
        },
        peers: arguments.peers.map(Into::into),
        host_access: arguments.host_access.map(Into::into),
        gateway_address: arguments.gateway_address.map(Into::into),
        force: arguments.force,
    };
    let subnet = session
        .client_if(arguments.condition)
        .set_subnet(&arguments.reference, &request)
        .await?;
    show(session, &subnet)?;
    if has_new_prefix && subnet.devices > 0 {
        session.output.note(
            "Every device of the subnet needs its new configuration: `adit device config NAME`.",
        );
    }
    Ok(())
}

async fn remove(session: &Session, arguments: RemoveArguments) -> Result<(), Failure> {
    let Session { client, output } = session;
    if !output.is_json() && arguments.force {
        let subnet = client.subnet(&arguments.name).await?;
        if subnet.devices > 0 {
            let devices = count(subnet.devices, "device");
            output.note(&format!(
                "Subnet `{}` goes with {devices}, and with their forwards, pinholes and delegations.",
                subnet.name
            ));
            if !arguments.yes {
                output.confirm("Remove all of it?")?;
            }
        }
    }
    let removed = session
        .client_if(arguments.condition)
        .remove_subnet(&arguments.name, arguments.force)
        .await?;
    if output.is_json() {
        return output.document(&removed);
    }
    let removed = removed.removed;
    output.result(&format!(
        "Removed subnet `{}` with {}, {}, {}, {} and {}.",
        arguments.name,
        count(removed.devices, "device"),
        count(removed.forwards, "forward"),
        count(removed.pinholes, "pinhole"),
        count(removed.leases, "lease"),
        count(removed.delegations, "delegation"),
    ));
    Ok(())
}

fn show(session: &Session, subnet: &Subnet) -> Result<(), Failure> {
    let output = session.output;
    if output.is_json() {
        return output.document(subnet);
    }
    output.fields(&[
        ("name", subnet.name.clone()),
        ("ipv4", subnet.ipv4.to_string()),
        ("ipv6", or_dash(subnet.ipv6)),
        ("delivery", or_dash(subnet.effective_delivery.map(delivery))),
        ("seen so far", or_dash(subnet.proven_delivery.map(proof))),
        ("uplink", or_dash(subnet.uplink.as_ref())),
        ("egress", or_dash(subnet.egress.as_ref())),
        (
            "gateway",
            match subnet.gateway_ipv6 {
                _ if !subnet.gateway_address => "no address".to_owned(),
                Some(ipv6) => format!("{}, {ipv6}", subnet.gateway_ipv4),
                None => subnet.gateway_ipv4.to_string(),
            },
        ),
        ("peers", super::state(subnet.peers)),
        ("host access", super::state(subnet.host_access)),
        ("devices", subnet.devices.to_string()),
    ]);
    Ok(())
}

const fn delivery(delivery: EffectiveDelivery) -> &'static str {
    match delivery {
        EffectiveDelivery::Routed => "routed",
        EffectiveDelivery::OnLink => "on-link",
    }
}

const fn proof(proof: Proof) -> &'static str {
    match proof {
        Proof::Routed => "routed: packets for it arrive",
        Proof::OnLink => "on-link: the provider asks for its addresses",
        Proof::Nothing => "nothing: what devices send is not answered",
        Proof::Unknown => "unknown: no packet has shown anything yet",
    }
}
