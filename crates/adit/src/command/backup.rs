//! `adit backup` and `adit restore`: everything of a gateway in one file, keys included.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_api::client::{Client, ClientError};
use adit_api::types::backup::Backup;
use adit_api::types::status::Status;
use adit_gateway::RunOptions;
use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use super::{Session, count};
use crate::envelope::{self, EnvelopeError};
use crate::output::Failure;

/// How long a gateway may take to begin anew.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// Arguments of `adit backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// The file to write; it gets mode 0600
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `adit restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// A file that `adit backup` wrote
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// A file with the passphrase that seals the backup; - for standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The directory of state and keys of a gateway that does not run [default: /var/lib/adit]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Its configuration [default: /etc/adit/gateway.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn back_up(
    session: Session,
    arguments: BackupArguments,
    runtime_dir: Option<PathBuf>,
) -> Result<(), Failure> {
    let BackupArguments { file, place } = arguments;
    let passphrase = passphrase(&place)?;
    let backup = match session.client.kept().await {
        Ok(kept) => {
            let state_dir = PathBuf::from(&kept.state_dir);
            adit_gateway::complete(kept, &state_dir)?
        }
        Err(ClientError::Unreachable { .. }) => {
            adit_gateway::back_up(options(place, runtime_dir)).await?
        }
        Err(error) => return Err(error.into()),
    };
    let text = serde_json::to_string(&backup).context("write the backup")?;
    let content = match &passphrase {
        Some(passphrase) => {
            let mut random = [0; 28];
            getrandom::fill(&mut random)
                .map_err(|error| anyhow!("cannot get random bytes: {error}"))?;
            envelope::seal(&text, passphrase, random).context("seal the backup")?
        }
        None => envelope::plain(&text),
    };
    write(&file, &content).with_context(|| format!("write the backup {}", file.display()))?;
    let objects = backup.objects.len();
    if session.output.is_json() {
        return session.output.document(&json!({
            "file": file,
            "revision": backup.revision,
            "objects": objects,
            "sealed": passphrase.is_some(),
        }));
    }
    session.output.result(&format!(
        "Revision {} is in {}, with {}.",
        backup.revision,
        file.display(),
        count(objects, "object")
    ));
    if passphrase.is_none() {
        session.output.note(
            "It holds the gateway's private key and is not sealed: whoever reads it can be this gateway. See --passphrase-file.",
        );
    }
    Ok(())
}

pub(super) async fn restore(
    session: Session,
    arguments: RestoreArguments,
    runtime_dir: Option<PathBuf>,
) -> Result<(), Failure> {
    let Session { client, output } = &session;
    let RestoreArguments { file, yes, place } = arguments;
    let backup = read(&file, passphrase(&place)?.as_deref())?;
    let told = format!(
        "the backup of {} (revision {}, {})",
        backup.time,
        backup.revision,
        count(backup.objects.len(), "object")
    );
    let before = match client.status().await {
        Ok(status) => status,
        Err(ClientError::Unreachable { .. }) => {
            if !yes && place.has_state() {
                output.note(&format!(
                    "{told} takes the place of the state that is there."
                ));
                output.consent("Restore it?")?;
            }
            let revision = adit_gateway::restore_from(options(place, runtime_dir), &backup).await?;
            if output.is_json() {
                return output.document(&json!({"revision": revision, "running": false}));
            }
            output.result(&format!(
                "Restored {told}. It is in force when the gateway is started."
            ));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let counts = &before.counts;
    if !yes && counts.subnets + counts.devices > 0 {
        output.note(&format!(
            "{told} takes the place of {} and {} that are there.",
            count(counts.subnets, "subnet"),
            count(counts.devices, "device")
        ));
        output.consent("Restore it?")?;
    }
    let restoring = client.restore(&backup).await?;
    let status = await_start(client, restoring.revision).await?;
    if output.is_json() {
        return output.document(&json!({
            "revision": status.revision,
            "running": true,
            "problems": status.problems,
        }));
    }
    output.result(&format!("Restored {told}; it is in force."));
    for problem in &status.problems {
        output.note(&format!(
            "{}: {}\n  {}",
            problem.object, problem.message, problem.fix
        ));
    }
    Ok(())
}

impl Place {
    /// Whether there is something that would be put aside.
    fn has_state(&self) -> bool {
        let directory = self.state_dir.as_deref();
        let directory = directory.unwrap_or(Path::new("/var/lib/adit"));
        directory.join("adit.db").exists()
    }
}

/// The gateway as it is after it began anew.
async fn await_start(client: &Client, revision: u64) -> Result<Status, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(PAUSE).await;
        let status = client.status().await;
        let is_late = Instant::now() > until;
        match status {
            Ok(status) if status.revision >= revision && status.applied => return Ok(status),
            Ok(status) if is_late && status.revision >= revision => return Ok(status),
            Err(error) if is_late => return Err(error.into()),
            Ok(_) if is_late => {
                return Err(Failure::Refused {
                    code: "not-restored",
                    message: "the gateway did not begin anew with the backup".to_owned(),
                    hint: "see its log (`journalctl -u adit-gateway`), and start it again"
                        .to_owned(),
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn read(path: &Path, passphrase: Option<&[u8]>) -> Result<Backup, Failure> {
    let name = || format!("read the backup {}", path.display());
    let text = fs::read_to_string(path).with_context(name)?;
    let refuse = |message: String, hint: &str| Failure::Refused {
        code: "backup-unusable",
        message: format!("the backup {}: {message}", path.display()),
        hint: hint.to_owned(),
    };
    let text = envelope::open(&text, passphrase).map_err(|error| {
        let hint = match error {
            EnvelopeError::Sealed | EnvelopeError::Passphrase => {
                "give the passphrase that it was made with: `--passphrase-file FILE`"
            }
            EnvelopeError::Foreign | EnvelopeError::Damaged(_) | EnvelopeError::Key(_) => {
                "take another copy of it, or another backup"
            }
        };
        refuse(error.to_string(), hint)
    })?;
    serde_json::from_str(&text).map_err(|error| {
        refuse(
            format!("this version of Adit cannot read it: {error}"),
            "install the version that made it, or a newer one",
        )
    })
}

/// Whole or not at all, and for nobody else to read at any moment.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let unfinished = PathBuf::from(name);
    let _ = fs::remove_file(&unfinished);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

fn passphrase(place: &Place) -> Result<Option<Vec<u8>>, Failure> {
    let Some(path) = &place.passphrase_file else {
        return Ok(None);
    };
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin()
            .read_line(&mut text)
            .context("read the passphrase from standard input")?;
    } else {
        fs::File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| format!("read the passphrase file {}", path.display()))?;
    }
    let passphrase = text.lines().next().unwrap_or_default();
    if passphrase.is_empty() {
        return Err(Failure::Refused {
            code: "passphrase-empty",
            message: "the passphrase file has nothing in its first line".to_owned(),
            hint: "write the passphrase there, and nothing else".to_owned(),
        });
    }
    Ok(Some(passphrase.as_bytes().to_vec()))
}

fn options(place: Place, runtime_dir: Option<PathBuf>) -> RunOptions {
    RunOptions {
        state_dir: place.state_dir,
        config: place.config,
        runtime_dir,
        ..RunOptions::default()
    }
}
