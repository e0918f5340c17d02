//! Loads, observes and watches the firewall's table.
//!
//! Text goes to the `nft` program, which turns it into one transaction; a few plain elements go to the kernel without it. What the kernel then lists is the fingerprint
//! of the skeleton: a rule that reads differently later was changed by someone else. Elements are compared one by one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{Output, Stdio};
use std::sync::Arc;

use adit_model::desired::firewall::{
    Delta, Elements, Firewall, TABLE, Translations, render_removal,
};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use thiserror::Error;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::netfilter::{Request, Requests, SUBSYSTEM_NFTABLES, attribute, push_attribute, u32_be};

mod batch;
pub mod evidence;
pub mod foreign;
pub(crate) mod listing;
mod police;
pub(crate) mod watch;

pub use listing::Fingerprint;
pub use police::{Police, Source};
pub use watch::Watch;

#[derive(Debug, Error)]
pub enum FirewallError {
    #[error("cannot run nft, which loads and lists the firewall; install nftables: {0}")]
    Spawn(#[source] io::Error),
    #[error("nft refused to {operation} table {TABLE}: {message}")]
    Refused {
        operation: &'static str,
        message: String,
    },
    #[error("cannot read nft's listing of table {TABLE}: {0}")]
    Listing(#[from] serde_json::Error),
    #[error("cannot read nft's listing of table {TABLE}: {object} is unknown")]
    Unknown { object: String },
    #[error("cannot {operation} over the netfilter netlink socket: {cause}")]
    Netlink {
        operation: &'static str,
        cause: io::Error,
    },
    #[error("table {TABLE} was changed by others each time it was loaded")]
    Contended,
}

/// The table in this network namespace.
#[derive(Debug, Default)]
pub struct Table {
    journal: Arc<Journal>,
    /// The skeleton that was loaded last, and how the kernel lists it.
    loaded: Option<(String, Fingerprint)>,
    /// For elements; open while they can be exchanged by it.
    requests: Option<Requests>,
}

/// What the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The skeleton that we loaded, as text; `None` when it is not, or no longer, ours.
    pub skeleton: Option<String>,
    pub elements: Elements,
}

impl Observed {
    pub fn matches(&self, wanted: &Firewall) -> bool {
        self.fits(wanted) && self.elements == wanted.elements()
    }

    fn fits(&self, wanted: &Firewall) -> bool {
        self.skeleton.as_ref() == Some(&wanted.render_skeleton())
    }
}

impl Table {
    /// Tells when others change the table. It is open before this returns, so that nothing is missed after it.
    pub fn watch(&self) -> Result<Watch, FirewallError> {
        Watch::open(Arc::clone(&self.journal))
    }

    /// Replaces the table in one transaction, whatever is there. Tracked connections and their translations go on.
    /// A large one that is missing takes a moment to load: what denies comes first, the translations after it.
    pub async fn replace(&mut self, wanted: &Firewall) -> Result<(), FirewallError> {
        let is_large = wanted.elements().len() > MANY_ELEMENTS;
        if is_large && listing::fingerprint(&list(&["--terse"]).await?)?.is_none() {
            let mut bare = wanted.clone();
            bare.translations4 = Translations::default();
            bare.translations6 = Translations::default();
            self.load(&bare).await?;
        }
        self.load(wanted).await
    }

    async fn load(&mut self, wanted: &Firewall) -> Result<(), FirewallError> {
        self.loaded = None;
        let text = wanted.render();
        for _ in 0..LOAD_ATTEMPTS {
            let mut own = self.journal.0.lock().await;
            let generation = commit(&mut own, "load", &text).await?;
            let fingerprint = listing::fingerprint(&list(&["--terse"]).await?)?;
            // What others did between the transaction and the listing must not pass for ours.
            if generation.is_some() && generation == Some(current_generation()?) {
                drop(own);
                self.loaded =
                    fingerprint.map(|fingerprint| (wanted.render_skeleton(), fingerprint));
                return Ok(());
            }
        }
        Err(FirewallError::Contended)
    }

    /// Leads from one table to another: by elements if that suffices and the kernel agrees, else by replacing all of it.
    pub async fn update(&mut self, from: &Firewall, to: &Firewall) -> Result<(), FirewallError> {
        let delta = self.loaded.as_ref().and_then(|_| Firewall::delta(from, to));
        match delta {
            Some(delta) if delta.is_empty() => Ok(()),
            Some(delta) => match self.exchange(&delta).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the firewall is not as it was left; loading all of it");
                    self.replace(to).await
                }
            },
            None => self.replace(to).await,
        }
    }

    /// What the kernel holds; `None` without a table.
    pub async fn observe(&self) -> Result<Option<Observed>, FirewallError> {
        let listing = list(&[]).await?;
        let Some(fingerprint) = listing::fingerprint(&listing)? else {
            return Ok(None);
        };
        let known = self.loaded.as_ref();
        Ok(Some(Observed {
            skeleton: known
                .filter(|(_, loaded)| *loaded == fingerprint)
                .map(|(skeleton, _)| skeleton.clone()),
            elements: listing::elements(&listing)?,
        }))
    }

    /// Deletes the table; succeeds when there is none.
    pub async fn remove(&mut self) -> Result<(), FirewallError> {
        self.loaded = None;
        self.apply("delete", &render_removal()).await
    }

    async fn exchange(&mut self, delta: &Delta) -> Result<(), FirewallError> {
        let Some(changes) = batch::requests(delta) else {
            return self.apply(UPDATE, &delta.render()).await;
        };
        let failed = |cause| FirewallError::Netlink {
            operation: "change elements",
            cause,
        };
        let mut own = self.journal.0.lock().await;
        adit_fault::point(format_args!("nft/{UPDATE}")).map_err(failed)?;
        for _ in 0..LOAD_ATTEMPTS {
            let mut requests = match self.requests.take() {
                Some(requests) => requests,
                None => Requests::open().map_err(failed)?,
            };
            let before = generation(&mut requests)?;
            match requests.transact(before, &changes) {
                Ok(()) => {
                    remember(&mut own, before.wrapping_add(1));
                    self.requests = Some(requests);
                    adit_fault::passing(format_args!("nft/{UPDATE}/done"));
                    return Ok(());
                }
                Err(error) if error.raw_os_error() == Some(Errno::ERESTART as i32) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(FirewallError::Contended)
    }

    async fn apply(&self, operation: &'static str, text: &str) -> Result<(), FirewallError> {
        let mut own = self.journal.0.lock().await;
        commit(&mut own, operation, text).await?;
        Ok(())
    }
}

/// A table with fewer elements is loaded within the time in which a missing one has to be healed.
const MANY_ELEMENTS: usize = 1000;

/// How often a table is loaded again because another program committed a transaction meanwhile.
const LOAD_ATTEMPTS: usize = 5;

/// What an exchange of elements is called.
const UPDATE: &str = "update";

/// How many of our transactions are remembered, to tell their events from those of others.
const JOURNAL_LENGTH: usize = 64;

/// The generations of the ruleset that our transactions made. It is locked for as long as one is under way.
#[derive(Debug, Default)]
struct Journal(Mutex<BTreeSet<u32>>);

/// Commits a script, and returns the generation that it made, if nobody else made one meanwhile.
///
/// The kernel counts one generation for each transaction.
async fn commit(
    own: &mut MutexGuard<'_, BTreeSet<u32>>,
    operation: &'static str,
    text: &str,
) -> Result<Option<u32>, FirewallError> {
    let before = current_generation()?;
    run(operation, &["--file", "-"], text).await?;
    let after = current_generation()?;
    if after != before.wrapping_add(1) {
        return Ok(None);
    }
    remember(own, after);
    Ok(Some(after))
}

fn remember(own: &mut BTreeSet<u32>, generation: u32) {
    own.insert(generation);
    if own.len() > JOURNAL_LENGTH {
        own.pop_first();
    }
}

/// Whether the gateway's table is there, whatever is in it.
///
/// # Errors
///
/// The kernel does not tell.
pub fn is_there() -> Result<bool, FirewallError> {
    is_loaded(TABLE)
}

/// Whether there is a table of ours of this name, which is written as `inet NAME`.
fn is_loaded(table: &str) -> Result<bool, FirewallError> {
    const GET_TABLE: u8 = 1;
    const FAMILY_INET: u8 = 1;
    const NAME: u16 = 1;
    let name = table.rsplit(' ').next().unwrap_or(table);
    let mut attributes = Vec::new();
    push_attribute(&mut attributes, NAME, format!("{name}\0").as_bytes());
    let request = Request {
        subsystem: SUBSYSTEM_NFTABLES,
        kind: GET_TABLE,
        family: FAMILY_INET,
        attributes,
    };
    match Requests::open().and_then(|mut requests| requests.get(&request, |_| Some(()))) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(cause) => Err(FirewallError::Netlink {
            operation: "look for a table",
            cause,
        }),
    }
}

fn current_generation() -> Result<u32, FirewallError> {
    let mut requests = Requests::open().map_err(no_generation)?;
    generation(&mut requests)
}

fn generation(requests: &mut Requests) -> Result<u32, FirewallError> {
    const GET_GENERATION: u8 = 16;
    let request = Request {
        subsystem: SUBSYSTEM_NFTABLES,
        kind: GET_GENERATION,
        family: 0,
        attributes: Vec::new(),
    };
    requests
        .get(&request, |message| generation_in(message.attributes))
        .map_err(no_generation)
}

fn no_generation(cause: io::Error) -> FirewallError {
    FirewallError::Netlink {
        operation: "read the ruleset's generation",
        cause,
    }
}

pub(crate) fn generation_in(attributes: &[u8]) -> Option<u32> {
    const GENERATION: u16 = 1;
    attribute(attributes, GENERATION).and_then(u32_be)
}

/// The table as JSON; empty without a table.
async fn list(options: &[&str]) -> Result<Vec<u8>, FirewallError> {
    let command = ["--json", "list", "table", "inet", "adit"];
    let arguments = [options, &command].concat();
    match run("list", &arguments, "").await {
        Ok(output) => Ok(output.stdout),
        Err(FirewallError::Refused { message, .. })
            if message.contains("No such file or directory") =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

async fn run(
    operation: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<Output, FirewallError> {
    adit_fault::point(format_args!("nft/{operation}")).map_err(FirewallError::Spawn)?;
    let output = Command::new("nft")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(memory_file(input).map_err(FirewallError::Spawn)?)
        .output()
        .await
        .map_err(FirewallError::Spawn)?;
    adit_fault::passing(format_args!("nft/{operation}/done"));
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FirewallError::Refused { operation, message })
}

/// A file rather than a pipe: nft would take the first part of a script that broke off for the whole.
fn memory_file(content: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("nftables", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}
