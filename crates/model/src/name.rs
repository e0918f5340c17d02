//! The rule for names of subnets and devices.

use crate::refusal::Refusal;

/// Longest name: that of a DNS label, since names become records.
const LONGEST: usize = 63;

/// Checks a name: letters, digits, `-`, `_`, `.`; starts with a letter or digit; not digits alone, which are ids.
pub(crate) fn check(kind: &'static str, name: &str) -> Result<(), Refusal> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    if first && all && !digits && name.len() <= LONGEST {
        Ok(())
    } else {
        Err(Refusal::NameInvalid {
            kind,
            name: name.chars().take(100).collect(),
        })
    }
}

/// Checks a label: free text on one line.
pub(crate) fn check_label(label: &str) -> Result<(), Refusal> {
    if label.len() > 200 || label.chars().any(char::is_control) {
        return Err(Refusal::LabelTooLong {
            length: label.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_files_commands_and_dns() {
        for good in ["a", "nas", "web-1", "my.box", "a_b", "1a"] {
            assert!(check("device", good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "12", "-a", ".a", "a b", "a\nb", "ä", "a/b", &long] {
            assert!(check("device", bad).is_err(), "{bad:?}");
        }
    }
}
