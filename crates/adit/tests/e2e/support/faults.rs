//! Faults in the daemon of a world: where it fails or dies, and what it passed.

use std::fs;
use std::path::PathBuf;

use adit_lab::Gateway;
use anyhow::{Context as _, Result};

/// The folder through which a daemon is told; see `adit_fault`.
#[derive(Debug)]
pub(crate) struct Faults {
    folder: PathBuf,
}

impl Faults {
    /// For the next start of the gateway, and all after it.
    pub(crate) fn install(gateway: &mut Gateway) -> Result<Self> {
        let folder = gateway.runtime_dir().with_file_name("faults");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        gateway.set_environment(adit_fault::ENVIRONMENT, folder.as_os_str());
        let faults = Self { folder };
        faults.clear()?;
        faults.forget_hits()?;
        Ok(faults)
    }

    /// One fault a line: `ACTION POINT [N]`. It holds at once, and is there whole or not at all.
    pub(crate) fn plan(&self, text: &str) -> Result<()> {
        let path = self.folder.join(adit_fault::PLAN);
        let new = path.with_extension("new");
        fs::write(&new, format!("{text}\n"))?;
        fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn clear(&self) -> Result<()> {
        self.plan("")
    }

    /// The points passed since they were forgotten, in their order.
    pub(crate) fn hits(&self) -> Result<Vec<String>> {
        let path = self.folder.join(adit_fault::HITS);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub(crate) fn forget_hits(&self) -> Result<()> {
        let path = self.folder.join(adit_fault::HITS);
        fs::write(&path, "").with_context(|| path.display().to_string())
    }
}

/// Whether the long variants are wanted, which take minutes each.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("ADIT_SOAK").is_some_and(|value| value == "1")
}
