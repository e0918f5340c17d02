//! Conditions on a request: the version that an object has to have (RFC 9110 section 13.1).

use adit_model::change::Expected;
use adit_model::edit::Key;
use adit_model::state::State;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;

use super::answer::Failure;
use super::request::invalid;

/// Which versions of an object a header names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: any.
    Any,
    List(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    /// None where the text is not one that we write.
    version: Option<u64>,
}

/// What a request says about the version of what it is for.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
}

impl Conditions {
    pub(super) fn of(parts: &Parts) -> Result<Self, Failure> {
        Ok(Self {
            matches: read(parts, &IF_MATCH)?,
            matches_none: read(parts, &IF_NONE_MATCH)?,
        })
    }

    /// What `If-Match` expects of an object: tags are compared strongly.
    pub(super) fn expected(&self, key: Key) -> Option<Expected> {
        let versions = match self.matches.as_ref()? {
            // Whether there is an object at all is known before conditions count (section 13.2.1).
            Tags::Any => return None,
            Tags::List(tags) => tags
                .iter()
                .filter(|tag| !tag.is_weak)
                .filter_map(|tag| tag.version)
                .collect(),
        };
        Some(Expected { key, versions })
    }

    /// Whether `If-None-Match` says that the caller has this version: tags are compared weakly. What an object shows of
    /// `others` is not in its own version, so a later change of one of them makes the answer another.
    pub(super) fn is_known(&self, state: &State, key: Key, others: &[Key]) -> bool {
        let Some(version) = state.version(key) else {
            return false;
        };
        match &self.matches_none {
            None => false,
            Some(Tags::Any) => true,
            Some(Tags::List(tags)) => {
                let is_later = |other: &Key| state.version(*other).is_some_and(|at| at > version);
                tags.iter().any(|tag| tag.version == Some(version)) && !others.iter().any(is_later)
            }
        }
    }
}

/// The tag of a version.
pub(super) fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

fn read(parts: &Parts, header: &HeaderName) -> Result<Option<Tags>, Failure> {
    let mut tags = Vec::new();
    let mut is_there = false;
    for value in parts.headers.get_all(header) {
        is_there = true;
        let refuse = || {
            Failure::from(invalid(format!(
                "`{header}`: it takes `*`, or tags as `ETag` tells them, such as \"12\", separated by commas"
            )))
        };
        let text = value.to_str().map_err(|_| refuse())?;
        if text.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        tags.extend(list(text).ok_or_else(refuse)?);
    }
    Ok(is_there.then_some(Tags::List(tags)))
}

/// A list of entity tags (section 8.8.3); empty elements are allowed (section 5.6.1). None where it is none.
fn list(text: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = text.trim_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let is_weak = rest.starts_with("W/");
        let opened = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
        let (opaque, after) = opened.split_once('"')?;
        if !opaque
            .bytes()
            .all(|byte| byte == 0x21 || byte > 0x22 && byte != 0x7f)
        {
            return None;
        }
        // Only the text that we write ourselves: `"07"` is another tag than `"7"`.
        let version = opaque
            .parse::<u64>()
            .ok()
            .filter(|version| version.to_string() == opaque);
        tags.push(Tag { is_weak, version });
        let after = after.trim_start_matches([' ', '\t']);
        rest = after.trim_start_matches([' ', '\t', ',']);
        if !rest.is_empty() && !after.starts_with(',') {
            return None;
        }
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn expected(values: &[&str]) -> Option<Option<Vec<u64>>> {
        let mut request = Request::builder();
        for value in values {
            request = request.header(IF_MATCH, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let conditions = Conditions::of(&parts).ok()?;
        Some(
            conditions
                .expected(Key::Settings)
                .map(|expected| expected.versions),
        )
    }

    #[test]
    fn a_condition_is_a_star_or_a_list_of_strong_tags() {
        for (values, versions) in [
            (&[][..], None),
            (&["*"], None),
            (&["\"7\""], Some(vec![7])),
            (&["\"7\" , \"8\",, \"9\""], Some(vec![7, 8, 9])),
            (&["\"7\"", "\"8\""], Some(vec![7, 8])),
            // Weak tags never match, nor do those of others.
            (&["W/\"7\""], Some(vec![])),
            (&["W/\"7\", \"8\""], Some(vec![8])),
            (&["\"07\", \"+7\", \"abc\", \"\", \"a,b\""], Some(vec![])),
            (&["\"99999999999999999999\""], Some(vec![])),
            (&[""], Some(vec![])),
        ] {
            assert_eq!(expected(values), Some(versions), "{values:?}");
        }
        for bad in [
            "7",
            "\"7",
            "7\"",
            "w/\"7\"",
            "\"7\" \"8\"",
            "*, \"7\"",
            "\"a b\"",
        ] {
            assert_eq!(expected(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn what_is_known_may_be_weak_and_older_than_nothing_that_it_shows() {
        let state = State::default();
        let version = state.version(Key::Settings).unwrap();
        let known = |value: &str| {
            let request = Request::builder().header(IF_NONE_MATCH, value);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let conditions = Conditions::of(&parts).unwrap();
            conditions.is_known(&state, Key::Settings, &[])
        };
        assert!(known("*") && known(&tag(version)) && known(&format!("W/{}", tag(version))));
        assert!(!known(&tag(version + 1)) && !known(""));
    }
}
