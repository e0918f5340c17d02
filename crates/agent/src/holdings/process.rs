//! When processes began, which tells two of the same number apart.

use std::fs;

/// In ticks of the kernel's clock; nothing when there is no such process, or only what its parent has not asked for yet.
pub(super) fn began(id: u32) -> Option<u64> {
    read(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Fields 3 and 22 (proc_pid_stat(5)). The name before them is in parentheses, and may contain anything.
fn read(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let is_over = matches!(fields.next()?, "Z" | "X");
    let began = fields.nth(18)?.parse().ok()?;
    (!is_over).then_some(began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_do_not_confuse() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(read(&format!("12 (adit) S {rest}")), Some(4711));
        assert_eq!(read(&format!("12 (a) R 1 (b) S {rest}")), Some(4711));
        assert_eq!(read(&format!("12 (adit) Z {rest}")), None);
        assert_eq!(read("12 (adit) S 1 2"), None);
    }

    #[test]
    fn child_that_ended_is_over_before_its_parent_asks() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(began(child.id()) >= began(std::process::id()));
        child.kill().unwrap();
        while began(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
