//! How mappings of this host are shown.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use adit_agent::holdings::Holding;
use adit_agent::reach::Reach;
use adit_model::protocol::Protocol;
use serde::Serialize;

use crate::output::{Output, or_dash};

/// What `--json` writes.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    mappings: Vec<View>,
    problems: Vec<String>,
}

/// One mapping.
#[derive(Debug, Serialize)]
pub(super) struct View {
    mechanism: String,
    gateway: IpAddr,
    protocol: Protocol,
    internal: SocketAddr,
    external: SocketAddr,
    ports: u16,
    /// From where the external address can be reached.
    reach: Reach,
    hostnames: Vec<String>,
    expires_in: u64,
    process: Option<u32>,
}

impl Document {
    pub(super) fn new(held: &[Holding], problems: &[String], now: SystemTime) -> Self {
        Self {
            mappings: held.iter().map(|holding| View::new(holding, now)).collect(),
            problems: problems.to_vec(),
        }
    }
}

impl View {
    pub(super) fn new(holding: &Holding, now: SystemTime) -> Self {
        Self {
            mechanism: holding.mechanism.clone(),
            gateway: holding.gateway.ip(),
            protocol: holding.protocol,
            internal: SocketAddr::new(holding.local, holding.port),
            external: holding.external,
            ports: holding.ports,
            reach: Reach::of(holding.external.ip()),
            hostnames: holding.hostnames.clone(),
            expires_in: holding.left(now).as_secs(),
            process: holding.live_watcher(),
        }
    }
}

/// `198.51.100.7:8080/tcp -> 10.59.0.2:8080, for 3600 s by pcp`
pub(super) fn describe(holding: &Holding, now: SystemTime) -> String {
    format!(
        "{} -> {}, for {} s by {}",
        external(holding),
        internal(holding),
        holding.left(now).as_secs(),
        holding.mechanism
    )
}

pub(super) fn table(output: Output, held: &[Holding], now: SystemTime) {
    let header = [
        "EXTERNAL",
        "THIS HOST",
        "NAMES",
        "BY",
        "GATEWAY",
        "ENDS IN",
        "PROCESS",
    ];
    let rows = held.iter().map(|holding| {
        let names = Some(holding.hostnames.join(" ")).filter(|it| !it.is_empty());
        vec![
            external(holding),
            internal(holding),
            or_dash(names),
            holding.mechanism.clone(),
            holding.gateway.ip().to_string(),
            format!("{} s", holding.left(now).as_secs()),
            or_dash(holding.live_watcher()),
        ]
    });
    output.table(&header, rows);
}

/// Says when the Internet does not get there in spite of the mapping.
pub(super) fn warn(output: Output, holding: &Holding) {
    warn_of(output, holding.external.ip());
}

/// The same of an address alone.
pub(super) fn warn_of(output: Output, address: IpAddr) {
    match Reach::of(address) {
        Reach::Public => {}
        Reach::Shared => output.note(&format!(
            "{address} is shared by the customers of a provider (CGNAT): the Internet does not reach it"
        )),
        Reach::Private => output.note(&format!(
            "{address} is a private address: the gateway is behind another one, and the Internet does not reach it"
        )),
        Reach::Nobody => output.note("the gateway has no external address"),
    }
}

fn external(holding: &Holding) -> String {
    format!("{}{}", holding.external, ending(holding))
}

fn internal(holding: &Holding) -> String {
    SocketAddr::new(holding.local, holding.port).to_string()
}

/// `/tcp`, or `-5009/tcp` for a range.
fn ending(holding: &Holding) -> String {
    match holding.ports {
        0 | 1 => format!("/{}", holding.protocol),
        ports => format!(
            "-{}/{}",
            holding.external.port().saturating_add(ports - 1),
            holding.protocol
        ),
    }
}
