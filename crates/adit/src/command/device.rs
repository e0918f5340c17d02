//! `adit device`: the machines that are connected through the tunnel.

mod arguments;
pub(super) mod view;

use adit_api::text::Delegate;
use adit_api::types::device::{AddDevice, AddedDevice, ConfigurationQuery, RekeyDevice, SetDevice};
use adit_model::change::Patch;
use adit_model::configuration::Format;
use serde_json::json;

pub(crate) use arguments::DeviceCommand;
pub(super) use arguments::KindName;
use arguments::{
    AddArguments, ConfigArguments, RekeyArguments, RemoveArguments, SetArguments, Switch,
};

use super::{Session, count, invalid, read};
use crate::output::{Failure, Output};

pub(super) async fn run(session: Session, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(arguments) => add(&session, *arguments).await,
        DeviceCommand::List => view::list(session.output, &session.client.devices().await?),
        DeviceCommand::Show { name } => {
            view::detail(session.output, &session.client.device(&name).await?)
        }
        DeviceCommand::Set(arguments) => set(&session, *arguments).await,
        DeviceCommand::Remove(arguments) => remove(&session, arguments).await,
        DeviceCommand::Rekey(arguments) => rekey(&session, arguments).await,
        DeviceCommand::Config(arguments) => config(&session, arguments).await,
    }
}

async fn add(session: &Session, arguments: AddArguments) -> Result<(), Failure> {
    let request = AddDevice {
        name: arguments.name,
        subnet: arguments.subnet,
        kind: arguments.kind.map(Into::into).unwrap_or_default(),
        routing: arguments.routing.map(Into::into),
        ipv4: match &arguments.ipv4 {
            Some(text) => Some(read("--ipv4", text)?),
            None => None,
        },
        public_key: arguments.public_key,
        egress: match &arguments.egress {
            Some(text) => Some(read("--egress", text)?),
            None => None,
        },
        delegate: delegate(&arguments.delegate)?,
        expires: arguments.expires.and_then(|expiry| expiry.moment()),
        key_file: arguments.key_file,
    };
    let added = session.client.add_device(&request).await?;
    tell(session.output, &added, "Added", arguments.qr)
}

async fn rekey(session: &Session, arguments: RekeyArguments) -> Result<(), Failure> {
    let request = RekeyDevice {
        public_key: arguments.public_key,
        key_file: arguments.key_file,
    };
    let added = session
        .client_if(arguments.condition)
        .rekey_device(&arguments.name, &request)
        .await?;
    tell(session.output, &added, "New key for", arguments.qr)
}

/// The configuration is the result; what is said about it goes to standard error, so that `>` makes a whole file.
pub(super) fn tell(
    output: Output,
    added: &AddedDevice,
    done: &str,
    qr: bool,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(added);
    }
    let device = &added.device;
    let addresses: Vec<String> = device
        .addresses()
        .map(|address| address.to_string())
        .chain(device.delegations.iter().map(ToString::to_string))
        .collect();
    output.note(&format!(
        "{done} device `{}` in subnet `{}`: {}\n",
        device.name,
        device.subnet,
        addresses.join(", ")
    ));
    if let Some(config) = &added.config {
        output.result(config);
        if qr {
            output.result("");
            // The device is there, whether or not its configuration fits into a picture.
            if let Err(failure) = output.qr(config) {
                output.failure(failure);
            }
        }
    }
    output.note("");
    for (index, step) in added.next.iter().enumerate() {
        output.note(&format!("{}. {step}", index + 1));
    }
    Ok(())
}

async fn set(session: &Session, arguments: SetArguments) -> Result<(), Failure> {
    let mut revoke = Vec::new();
    for text in &arguments.revoke {
        revoke.push(read("--revoke", text)?);
    }
    let mut ranges = Vec::new();
    for text in &arguments.auto_port_range {
        ranges.push(read("--auto-port-range", text)?);
    }
    let request = SetDevice {
        name: arguments.name,
        kind: arguments.kind.map(Into::into),
        routing: arguments.routing.map(Into::into),
        ipv4: match &arguments.ipv4 {
            Some(text) => Some(read("--ipv4", text)?),
            None => None,
        },
        egress: match arguments.egress.as_deref() {
            None => Patch::Keep,
            Some("none") => Patch::Clear,
            Some(text) => Patch::Set(read("--egress", text)?),
        },
        enabled: arguments.enabling.wish(),
        expires: match arguments.expires {
            None => Patch::Keep,
            Some(expiry) => expiry.moment().map_or(Patch::Clear, Patch::Set),
        },
        delegate: delegate(&arguments.delegate)?,
        revoke,
        auto_ports: (arguments.auto_ports).map_or(Patch::Keep, |is| Patch::Set(is == Switch::On)),
        lease_quota: arguments.lease_quota.map_or(Patch::Keep, Patch::Set),
        request_rate: arguments.request_rate.map_or(Patch::Keep, Patch::Set),
        auto_port_ranges: if ranges.is_empty() {
            Patch::Keep
        } else {
            Patch::Set(ranges)
        },
        third_party: arguments.third_party.map(|is| is == Switch::On),
        all_ports: arguments.all_ports.map(|is| is == Switch::On),
    };
    let needs_configuration = request.routing.is_some()
        || request.ipv4.is_some()
        || !request.delegate.is_empty()
        || !request.revoke.is_empty();
    let device = session
        .client_if(arguments.condition)
        .set_device(&arguments.reference, &request)
        .await?;
    view::one(session.output, &device)?;
    if needs_configuration {
        session.output.note(&format!(
            "The device needs its new configuration: `adit device config {}`.",
            device.name
        ));
    }
    Ok(())
}

async fn remove(session: &Session, arguments: RemoveArguments) -> Result<(), Failure> {
    let Session { client, output } = session;
    if !output.is_json() {
        let detail = client.device(&arguments.name).await?;
        output.note(&format!(
            "Device `{}` goes with {}, {}, {} and {}.",
            detail.device.name,
            count(detail.forwards.len(), "forward"),
            count(detail.pinholes.len(), "pinhole"),
            count(detail.leases.len(), "lease"),
            count(detail.device.delegations.len(), "delegation"),
        ));
        if !arguments.yes {
            output.confirm("Remove it?")?;
        }
    }
    let client = session.client_if(arguments.condition);
    let removed = client.remove_device(&arguments.name).await?;
    if output.is_json() {
        return output.document(&removed);
    }
    output.result(&format!("Removed device `{}`.", arguments.name));
    Ok(())
}

async fn config(session: &Session, arguments: ConfigArguments) -> Result<(), Failure> {
    let output = session.output;
    let query = ConfigurationQuery {
        format: Some(Format::from(arguments.format).name().to_owned()),
        key_file: arguments.key_file,
    };
    let text = session
        .client
        .device_configuration(&arguments.name, &query)
        .await?;
    if output.is_json() {
        return output.document(&json!({"config": text}));
    }
    if arguments.qr {
        return output.qr(&text);
    }
    output.result(&text);
    Ok(())
}

fn delegate(texts: &[String]) -> Result<Vec<Delegate>, Failure> {
    texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, String>>()
        .map_err(|reason| invalid("--delegate", &reason))
}
