//! `adit settings`: the settings of the gateway.

use adit_api::types::settings::{SetSettings, Settings};
use adit_model::change::Patch;
use clap::{Args, Subcommand, ValueEnum};

use super::{Condition, Session, invalid, read};
use crate::output::Failure;

/// What `adit settings` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Show the settings
    Show,
    /// Change a setting
    Set(SetArguments),
}

/// Arguments of `adit settings set`.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// The setting
    #[arg(value_enum)]
    key: SettingName,
    /// Its value
    value: String,
    #[command(flatten)]
    condition: Condition,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SettingName {
    /// UDP port of WireGuard
    ListenPort,
    /// Resolvers that `full` devices are told, separated by commas, or `none`
    DnsServers,
    /// Ports that outbound connections are translated to, FIRST-LAST
    SnatPorts,
    /// The tunnel's MTU in bytes, or `auto`
    Mtu,
    /// The packet size in bytes that TCP is clamped to
    ClampMtu,
    /// Connections that one device may have open, in each family and each way
    ConnectionLimit,
    /// The shortest time in seconds that a lease is given for
    LeaseMinimum,
    /// The longest time in seconds that a lease is given for
    LeaseMaximum,
}

pub(super) async fn run(session: Session, command: SettingsCommand) -> Result<(), Failure> {
    match command {
        SettingsCommand::Show => show(&session, &session.client.settings().await?),
        SettingsCommand::Set(arguments) => {
            let request = request(arguments.key, &arguments.value)?;
            let client = session.client_if(arguments.condition);
            let settings = client.set_settings(&request).await?;
            show(&session, &settings)?;
            if matches!(
                arguments.key,
                SettingName::ListenPort | SettingName::Mtu | SettingName::DnsServers
            ) {
                session
                    .output
                    .note("Devices learn it from their configuration: `adit device config NAME`.");
            }
            Ok(())
        }
    }
}

fn request(key: SettingName, value: &str) -> Result<SetSettings, Failure> {
    let mut request = SetSettings::default();
    match key {
        SettingName::ListenPort => request.listen_port = Some(number("listen-port", value)?),
        SettingName::DnsServers => {
            let mut servers = Vec::new();
            for text in value.split(',').map(str::trim) {
                if !matches!(text, "" | "none") {
                    servers.push(read("dns-servers", text)?);
                }
            }
            request.dns_servers = Some(servers);
        }
        SettingName::SnatPorts => request.snat_ports = Some(read("snat-ports", value)?),
        SettingName::Mtu if matches!(value, "auto" | "none") => request.mtu = Patch::Clear,
        SettingName::Mtu => request.mtu = Patch::Set(number("mtu", value)?),
        SettingName::ClampMtu => request.clamp_mtu = Some(number("clamp-mtu", value)?),
        SettingName::ConnectionLimit => {
            request.connection_limit = Some(number("connection-limit", value)?);
        }
        SettingName::LeaseMinimum => request.lease_minimum = Some(number("lease-minimum", value)?),
        SettingName::LeaseMaximum => request.lease_maximum = Some(number("lease-maximum", value)?),
    }
    Ok(request)
}

fn number<N: TryFrom<u32>>(key: &str, value: &str) -> Result<N, Failure> {
    let number: Option<u32> = value.parse().ok();
    number
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| {
            let last = (1_u64 << (8 * size_of::<N>())) - 1;
            invalid(key, &format!("`{value}` is no number from 0 to {last}"))
        })
}

fn show(session: &Session, settings: &Settings) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(settings);
    }
    let servers: Vec<String> = settings
        .dns_servers
        .iter()
        .map(ToString::to_string)
        .collect();
    let servers = if servers.is_empty() {
        "none".to_owned()
    } else {
        servers.join(",")
    };
    let mtu = match settings.mtu.configured {
        Some(mtu) => mtu.to_string(),
        None => format!("auto: {} ({})", settings.mtu.value, settings.mtu.reason),
    };
    session.output.fields(&[
        ("listen-port", settings.listen_port.to_string()),
        ("dns-servers", servers),
        ("snat-ports", settings.snat_ports.clone()),
        ("mtu", mtu),
        ("clamp-mtu", settings.clamp_mtu.to_string()),
        ("connection-limit", settings.connection_limit.to_string()),
        ("lease-minimum", settings.lease_minimum.to_string()),
        ("lease-maximum", settings.lease_maximum.to_string()),
    ]);
    Ok(())
}
