//! Names that the rule for names allows, as near as possible to those in the file.

use std::collections::{BTreeMap, BTreeSet};

use crate::name;

/// Gives out names, each once.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The last number behind a name: ten thousand peers without names must not be counted anew for each.
    last: BTreeMap<String, u32>,
}

impl Names {
    /// The name nearest to a wish, or to the fallback.
    pub(super) fn give(
        &mut self,
        wish: Option<&str>,
        kind: &'static str,
        fallback: &str,
    ) -> String {
        let name = wish
            .map(tidy)
            .filter(|name| name::check(kind, name).is_ok())
            .or_else(|| wish.map(|wish| tidy(&format!("{fallback}-{wish}"))))
            .filter(|name| name::check(kind, name).is_ok())
            .unwrap_or_else(|| fallback.to_owned());
        let mut unique = name.clone();
        let mut number = self.last.get(&name).copied().unwrap_or(1);
        while !self.taken.insert(unique.clone()) {
            number += 1;
            let end = format!("-{number}");
            let room: String = name.chars().take(63 - end.len()).collect();
            unique = room + &end;
        }
        self.last.insert(name, number);
        unique
    }
}

/// Letters, digits, `-`, `_` and `.`; one `-` for whatever else stands between them.
fn tidy(text: &str) -> String {
    let mut name = String::new();
    for character in text.trim().chars() {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.') {
            name.push(character);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name: String = name
        .trim_start_matches(['-', '_', '.'])
        .chars()
        .take(63)
        .collect();
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_near_and_each_is_given_once() {
        let mut names = Names::default();
        let mut give = |wish: Option<&str>| names.give(wish, "device", "device");
        assert_eq!(give(Some("Anna's phone")), "Anna-s-phone");
        assert_eq!(give(Some("Anna s phone")), "Anna-s-phone-2");
        assert_eq!(give(Some("12")), "device-12");
        assert_eq!(give(Some("日本")), "device");
        assert_eq!(give(None), "device-2");
        assert_eq!(give(Some(&"a".repeat(80))).len(), 63);
        assert_eq!(give(Some(&"a".repeat(90))).len(), 63);
        assert_eq!(give(Some("me@home.example")), "me-home.example");
    }
}
