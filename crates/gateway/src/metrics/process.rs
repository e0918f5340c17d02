//! What the daemon itself takes of this host, under the names that Prometheus' clients use.

use std::fs;

use super::exposition::Kind;

/// The kernel tells processor time in hundredths of a second, whatever its own clock does.
const TICKS: u64 = 100;

type Sample = (&'static str, Kind, &'static str, f64);

/// What can be read of it.
pub(super) fn observe() -> Vec<Sample> {
    let samples = [
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory that the daemon takes.",
            resident(),
        ),
        (
            "process_open_fds",
            Kind::Gauge,
            "Files and sockets that the daemon has open.",
            open_files(),
        ),
        (
            "process_max_fds",
            Kind::Gauge,
            "Files and sockets that it may have open.",
            allowed_files(),
        ),
        (
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time that it took.",
            processor_time(),
        ),
    ];
    let readable = |(name, kind, help, value): (_, _, _, Option<f64>)| {
        value.map(|value| (name, kind, help, value))
    };
    samples.into_iter().filter_map(readable).collect()
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn open_files() -> Option<f64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is this directory.
    u32::try_from(files.saturating_sub(1)).ok().map(f64::from)
}

fn allowed_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn processor_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold blanks and parentheses; the fields after it do not.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    u32::try_from(user + system)
        .ok()
        .map(|ticks| f64::from(ticks) / TICKS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let samples = observe();
        assert_eq!(samples.len(), 4);
        assert!(samples.iter().take(3).all(|(.., value)| *value > 0.0));
    }
}
