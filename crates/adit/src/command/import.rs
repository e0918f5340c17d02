//! `adit import`: another WireGuard server taken over, so that its devices go on as they are.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use adit_api::types::import::{ImportServer, Imported};
use adit_model::import::{self, Hints, ImportError, Reading};
use adit_store::foreign;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{Session, count};
use crate::output::{Failure, Output};

/// No configuration is larger.
const LARGEST: u64 = 64 << 20;

/// What is read of wg-easy's database.
const TABLES: &[&str] = &["interfaces_table", "user_configs_table", "clients_table"];

/// Arguments of `adit import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The other server's wg0.conf (PiVPN's too), wg0.json or wg-easy.db of wg-easy, or a dump of StartTunnel's database
    file: PathBuf,
    /// The UDP port that devices connect to [default: what the file says]
    #[arg(long, value_name = "PORT")]
    listen_port: Option<u16>,
    /// The name of the subnet [default: the name of the file]
    #[arg(long, value_name = "NAME")]
    subnet: Option<String>,
    /// PiVPN's list of names [default: configs/clients.txt beside the file, if it is there]
    #[arg(long, value_name = "FILE")]
    clients: Option<PathBuf>,
    /// Show what would be taken over, and change nothing
    #[arg(long)]
    plan: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(session: Session, arguments: ImportArguments) -> Result<(), Failure> {
    let Session { client, output } = session;
    let Reading { import, notes } = read(&arguments)?;
    let mut request = ImportServer {
        import,
        dry_run: true,
    };
    let planned = client.import(&request).await?;
    if !output.is_json() {
        show(output, &arguments.file, &planned, &notes);
    }
    if arguments.plan {
        return tell(output, &planned, &notes);
    }
    if !arguments.yes {
        output.confirm("Take it over?")?;
    }
    request.dry_run = false;
    let imported = client.import(&request).await?;
    if !output.is_json() {
        output.result(&format!(
            "Taken over: {}, {} and {}. The devices go on as they are.",
            count(imported.subnets.len(), "subnet"),
            count(imported.devices.len(), "device"),
            count(imported.forwards.len(), "forward"),
        ));
    }
    tell(output, &imported, &notes)
}

fn tell(output: Output, imported: &Imported, notes: &[String]) -> Result<(), Failure> {
    if !output.is_json() {
        return Ok(());
    }
    let mut document =
        serde_json::to_value(imported).map_err(|error| Failure::Failed(error.into()))?;
    document["notes"] = json!(notes);
    output.document(&document)
}

fn show(output: Output, file: &Path, planned: &Imported, notes: &[String]) {
    output.note(&format!(
        "From {}: the server's key ({}), UDP port {}.",
        file.display(),
        planned.public_key,
        planned.listen_port
    ));
    for subnet in &planned.subnets {
        let ipv6 = subnet.ipv6.map(|prefix| format!(" and {prefix}"));
        output.note(&format!(
            "Subnet `{}`: {}{}; its devices reach this host, as before (`--host-access off` closes it)",
            subnet.name,
            subnet.ipv4,
            ipv6.unwrap_or_default(),
        ));
    }
    for device in &planned.devices {
        let mut words: Vec<String> = device
            .addresses()
            .map(|address| address.to_string())
            .chain(device.delegations.iter().map(ToString::to_string))
            .collect();
        if !device.enabled {
            words.push("switched off".to_owned());
        }
        output.note(&format!("Device `{}`: {}", device.name, words.join(", ")));
    }
    for forward in &planned.forwards {
        output.note(&format!(
            "Forward of port {} to `{}`:{}",
            forward.port, forward.device, forward.target_port
        ));
    }
    for note in notes {
        output.note(&format!("Note: {note}"));
    }
}

fn read(arguments: &ImportArguments) -> Result<Reading, Failure> {
    let file = &arguments.file;
    let content = content(file)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let clients = match &arguments.clients {
        Some(path) => Some(text(path, self::content(path)?)?),
        None => {
            let path = file.with_file_name("configs/clients.txt");
            match path.exists() {
                true => Some(text(&path, self::content(&path)?)?),
                false => None,
            }
        }
    };
    let hints = Hints {
        subnet: arguments.subnet.as_deref().unwrap_or(&stem),
        listen_port: arguments.listen_port,
        clients: clients.as_deref(),
    };
    let reading = if content.starts_with(foreign::MAGIC) {
        let tables = foreign::read_tables(file, TABLES).context("cannot import")?;
        import::read_tables(&tables, &hints)
    } else {
        import::read(&text(file, content)?, &hints)
    };
    reading.map_err(|error| unreadable(file, error))
}

fn unreadable(file: &Path, error: ImportError) -> Failure {
    Failure::Refused {
        code: "import-unreadable",
        message: format!("{}, {}: {}", file.display(), error.place, error.reason),
        hint: error.hint,
    }
}

fn content(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = || format!("cannot read {}", path.display());
    let mut content = Vec::new();
    let file = File::open(path).with_context(failed)?;
    file.take(LARGEST)
        .read_to_end(&mut content)
        .with_context(failed)?;
    Ok(content)
}

fn text(path: &Path, content: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(content).map_err(|_| Failure::Refused {
        code: "import-unreadable",
        message: format!("{} is neither text nor a database", path.display()),
        hint: "name the server's wg0.conf, or what wg-easy, PiVPN or StartTunnel keep".to_owned(),
    })
}
