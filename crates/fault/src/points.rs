//! What happens at a point: it is written down, and the plan is looked up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, raise};

use crate::{ENVIRONMENT, HITS, PLAN};

static FAULTS: LazyLock<Option<Mutex<Faults>>> = LazyLock::new(|| {
    let folder = PathBuf::from(std::env::var_os(ENVIRONMENT)?);
    let hits = File::options()
        .create(true)
        .append(true)
        .open(folder.join(HITS))
        .ok()?;
    Some(Mutex::new(Faults {
        plan: folder.join(PLAN),
        hits,
        text: String::new(),
        counts: BTreeMap::new(),
    }))
});

struct Faults {
    plan: PathBuf,
    hits: File,
    /// The plan for which it is counted.
    text: String,
    counts: BTreeMap<String, u64>,
}

pub(crate) fn hit(point: &str) -> io::Result<()> {
    let Some(faults) = LazyLock::force(&FAULTS) else {
        return Ok(());
    };
    let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    faults.hits.write_all(format!("{point}\n").as_bytes())?;
    let text = fs::read_to_string(&faults.plan).unwrap_or_default();
    if text != faults.text {
        faults.text.clone_from(&text);
        faults.counts.clear();
    }
    let count = |counts: &mut BTreeMap<String, u64>, name: &str| {
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    };
    let own = count(&mut faults.counts, point);
    let all = count(&mut faults.counts, "*");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(action), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let number = if name == "*" { all } else { own };
        let is_due = words.next().is_none_or(|nth| nth.parse() == Ok(number));
        if is_due && (name == "*" || name == point) {
            act(action)?;
        }
    }
    Ok(())
}

fn act(action: &str) -> io::Result<()> {
    let errno = match action {
        "kill" => {
            raise(Signal::SIGKILL)?;
            return Ok(());
        }
        "EBUSY" => Errno::EBUSY,
        "ENOBUFS" => Errno::ENOBUFS,
        "ENOENT" => Errno::ENOENT,
        "EPERM" => Errno::EPERM,
        "EIO" => Errno::EIO,
        "ENOSPC" => Errno::ENOSPC,
        unknown => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the fault {unknown} is unknown"),
            ));
        }
    };
    Err(errno.into())
}
