//! Several named assertions over one world: the first that fails does not hide the others.

use anyhow::{Result, ensure};

#[derive(Debug, Default)]
pub(crate) struct Findings {
    failed: Vec<String>,
}

impl Findings {
    pub(crate) fn check(&mut self, name: &str, result: Result<()>) {
        if let Err(error) = result {
            self.failed.push(format!("{name}: {error:#}"));
        }
    }

    /// Says something that was measured, for `--nocapture`.
    #[expect(
        clippy::print_stderr,
        reason = "a measurement is for whoever watches the test"
    )]
    pub(crate) fn note(text: &str) {
        eprintln!("{text}");
    }

    pub(crate) fn conclude(self) -> Result<()> {
        ensure!(
            self.failed.is_empty(),
            "{} of the assertions failed:\n{}",
            self.failed.len(),
            self.failed.join("\n")
        );
        Ok(())
    }
}
