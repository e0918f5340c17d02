//! The rules of this repository that neither the compiler nor clippy knows.

mod dependencies;
mod imports;
mod manifests;
mod names;
mod sources;
mod traces;

use std::fmt;

use crate::tree::Tree;

/// Something in a file that a rule does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    what: String,
    way_out: String,
}

impl Finding {
    fn new(path: &str, what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            what: what.into(),
            way_out: way_out.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}; {}", self.path, self.what, self.way_out)
    }
}

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    [
        dependencies::check,
        imports::check,
        manifests::check,
        names::check,
        sources::check,
        traces::check,
    ]
    .into_iter()
    .flat_map(|rule| rule(tree))
    .collect()
}

#[cfg(test)]
mod tests;
