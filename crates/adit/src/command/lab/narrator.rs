//! Tells a story on the terminal: numbered steps, commands with what they said, and what was to be seen.

use std::env;
use std::io::{self, IsTerminal as _, StdoutLock, Write as _};

use anyhow::Result;

const BOLD: &str = "1";
const CYAN: &str = "36";
const GREEN: &str = "32";

pub(super) struct Narrator {
    out: StdoutLock<'static>,
    colour: bool,
    step: String,
    steps: u32,
    facts: u32,
}

impl Narrator {
    pub(super) fn new() -> Self {
        let out = io::stdout().lock();
        let plain = env::var_os("NO_COLOR").is_some()
            || env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: out.is_terminal() && !plain,
            out,
            step: "the beginning".to_owned(),
            steps: 0,
            facts: 0,
        }
    }

    /// Begins a numbered step.
    pub(super) fn step(&mut self, title: &str) -> Result<()> {
        self.steps += 1;
        title.clone_into(&mut self.step);
        let title = self.paint(BOLD, &format!("{:>2}. {title}", self.steps));
        writeln!(self.out, "\n{title}")?;
        Ok(self.out.flush()?)
    }

    /// Text at the left margin.
    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}")?;
        Ok(self.out.flush()?)
    }

    /// A remark inside a step.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        self.write(&format!("    {text}"))
    }

    /// What a person types on a host.
    pub(super) fn command(&mut self, host: &str, text: &str) -> Result<()> {
        let prompt = self.paint(CYAN, &format!("{host}#"));
        self.write(&format!("    {prompt} {text}"))
    }

    /// What a command said; of something longer than this many lines only the beginning, and how much more there is.
    pub(super) fn output(&mut self, text: &str, limit: usize) -> Result<()> {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let shown = if lines.len() > limit + 1 {
            limit
        } else {
            lines.len()
        };
        for line in &lines[..shown] {
            self.write(format!("      {line}").trim_end())?;
        }
        match lines.len() - shown {
            0 => Ok(()),
            rest => self.write(&format!("      ... and {rest} more lines")),
        }
    }

    /// Something that was expected and seen.
    pub(super) fn fact(&mut self, text: &str) -> Result<()> {
        self.facts += 1;
        let mark = self.paint(GREEN, "ok");
        self.write(&format!("    {mark}  {text}"))
    }

    /// The step that the story is at.
    pub(super) fn current(&self) -> String {
        match self.steps {
            0 => self.step.clone(),
            number => format!("step {number} ({})", self.step),
        }
    }

    pub(super) fn facts(&self) -> u32 {
        self.facts
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
