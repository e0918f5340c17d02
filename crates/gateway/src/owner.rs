//! Whose the state is: what root does with the daemon stopped leaves files that the daemon's user can read.

use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::bail;
use nix::unistd::{Gid, Uid, User, getegid, geteuid, setfsgid, setfsuid};

/// Files that this thread makes belong to the owner of the state directory until this is dropped.
///
/// Only file accesses are affected: network capabilities and the processes that are started stay those of root.
#[derive(Debug)]
pub(crate) struct Owner {
    /// It belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Owner {
    /// Refuses to let root run the gateway on the state of another: what root writes, its owner cannot read any more.
    pub(crate) fn check(state_dir: &Path) -> anyhow::Result<()> {
        let Some(owner) = Self::other(state_dir) else {
            return Ok(());
        };
        let name = User::from_uid(owner).ok().flatten();
        let name = name.map_or_else(|| format!("uid {owner}"), |user| format!("`{}`", user.name));
        let folder = state_dir.display();
        bail!(
            "the state in {folder} belongs to {name}, who could not read what root writes there: start the gateway as that user \
             (`systemctl start adit-gateway`), or make the state root's (`chown -R root: {folder}`)"
        )
    }

    /// Who has the state, if it is not this process's user; asked by root only.
    fn other(state_dir: &Path) -> Option<Uid> {
        let owner = fs::metadata(state_dir).ok()?.uid();
        (geteuid().is_root() && owner != 0).then(|| Uid::from_raw(owner))
    }

    /// None when there is nothing to do: no root, or a state of its own.
    pub(crate) fn act(state_dir: &Path) -> Option<Self> {
        let owner = Self::other(state_dir)?;
        let group = fs::metadata(state_dir).ok()?.gid();
        setfsgid(Gid::from_raw(group));
        setfsuid(owner);
        Some(Self {
            _thread: PhantomData,
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        setfsuid(geteuid());
        setfsgid(getegid());
    }
}
