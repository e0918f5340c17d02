//! What is written: results on standard output, everything else on standard error, as text or as one JSON document.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use adit_api::client::ClientError;
use clap::error::ErrorKind;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde::Serialize;
use serde_json::json;

/// Refused or failed.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// Nobody answers.
const UNREACHABLE: u8 = 3;

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The gateway said so, or did not answer.
    Client(ClientError),
    /// This program says so.
    Refused {
        code: &'static str,
        message: String,
        hint: String,
    },
    /// Something on this machine failed.
    Failed(anyhow::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Where and how a command writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are wanted as JSON.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// The one JSON document of this command.
    pub(crate) fn document(self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::Failed(error.into()))?;
        self.result(&text);
        Ok(())
    }

    /// A result for people, or a text that is the result.
    pub(crate) fn result(self, text: &str) {
        write(io::stdout().lock(), text);
    }

    /// One of many lines, as they come; false when nobody reads them any more.
    pub(crate) fn line(self, text: &str) -> bool {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .is_ok()
    }

    /// Something that people want to know besides.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            write(io::stderr().lock(), text);
        }
    }

    /// Rows under a header.
    pub(crate) fn table(self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(header.iter().copied());
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.result(&table.trim_fmt());
    }

    /// Names and values.
    pub(crate) fn fields(self, fields: &[(&str, String)]) {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned())
            .collect();
        self.result(&lines.join("\n"));
    }

    /// A text as a QR code of half blocks, light on dark as terminals mostly are.
    pub(crate) fn qr(self, text: &str) -> Result<(), Failure> {
        let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| {
            Failure::Refused {
                code: "too-long-for-qr",
                message: format!(
                    "a configuration of {} bytes does not fit into a QR code",
                    text.len()
                ),
                hint:
                    "copy it as a file; cameras are for phones, whose routing is `full` or `split`"
                        .to_owned(),
            }
        })?;
        let image = code
            .render::<Dense1x2>()
            // A terminal is dark and lights the blocks: those are the light modules.
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build();
        self.result(&image);
        Ok(())
    }

    /// Asks a person; without one the answer is yes.
    pub(crate) fn confirm(self, question: &str) -> Result<(), Failure> {
        if self.json || !io::stdin().is_terminal() {
            return Ok(());
        }
        ask(question)
    }

    /// Asks a person for a text; none without a person, or without an answer.
    pub(crate) fn question(self, question: &str) -> Result<Option<String>, Failure> {
        if self.json || !io::stdin().is_terminal() {
            return Ok(None);
        }
        let answer = answer(question)?;
        Ok(Some(answer).filter(|text| !text.is_empty()))
    }

    /// Asks a person; without one the answer is no.
    pub(crate) fn consent(self, question: &str) -> Result<(), Failure> {
        if self.json || !io::stdin().is_terminal() {
            return Err(Failure::Refused {
                code: "not-confirmed",
                message: "nothing was changed, since there is nobody to ask".to_owned(),
                hint: "look at the plan, and add `--yes`".to_owned(),
            });
        }
        ask(question)
    }

    /// Tells why a command failed.
    pub(crate) fn failure(self, failure: Failure) -> ExitCode {
        let (code, message, hint, status) = match failure {
            Failure::Client(ClientError::Problem(problem)) => {
                (problem.code, problem.detail, problem.hint, FAILED)
            }
            Failure::Client(error @ ClientError::Unreachable { .. }) => {
                let hint = "is the gateway running (`systemctl status adit-gateway`), and are you root? Another one is reached with \
                            `--runtime-dir DIR`; with `--url`, does it listen there (`listen` in its gateway.toml), and is it https://?";
                (
                    "unreachable".to_owned(),
                    error.to_string(),
                    hint.to_owned(),
                    UNREACHABLE,
                )
            }
            Failure::Client(ClientError::Untrusted { what, why, hint }) => (
                "untrusted".to_owned(),
                format!("the gateway at {what} cannot be trusted: {why}"),
                hint,
                UNREACHABLE,
            ),
            Failure::Client(error @ ClientError::Protocol { .. }) => {
                let hint =
                    "is it a gateway, and of the version of this command (`adit --version`)?";
                (
                    "protocol".to_owned(),
                    error.to_string(),
                    hint.to_owned(),
                    FAILED,
                )
            }
            Failure::Client(ClientError::Target(message)) => (
                "usage".to_owned(),
                message,
                "`adit --help` tells about --url, --token-file and --ca-file".to_owned(),
                USAGE,
            ),
            Failure::Refused {
                code,
                message,
                hint,
            } => {
                // The text of an option that cannot be read: nobody was asked.
                let status = if code == "invalid-request" {
                    USAGE
                } else {
                    FAILED
                };
                (code.to_owned(), message, hint, status)
            }
            Failure::Failed(error) => (
                "failed".to_owned(),
                with_causes(&error),
                "mend what the message names, and repeat the command; `-v` logs more".to_owned(),
                FAILED,
            ),
        };
        self.error(&code, &message, &hint);
        ExitCode::from(status)
    }

    /// Tells what is wrong with the arguments, or shows the help that they ask for.
    pub(crate) fn usage(self, error: &clap::Error) -> ExitCode {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // Nobody is left to tell when standard output is gone.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        if self.json {
            let text = error.render().to_string();
            let message = text.lines().next().unwrap_or_default();
            let message = message.trim_start_matches("error: ");
            self.error("usage", message, "`adit --help` shows the commands");
        } else {
            // Nobody is left to tell when standard error is gone.
            let _ = error.print();
        }
        ExitCode::from(USAGE)
    }

    fn error(self, code: &str, message: &str, hint: &str) {
        let text = if self.json {
            json!({"error": {"code": code, "message": message, "hint": hint}}).to_string()
        } else {
            format!("error: {message}\n  hint: {hint}")
        };
        write(io::stderr().lock(), &text);
    }
}

fn ask(question: &str) -> Result<(), Failure> {
    let answer = answer(&format!("{question} [y/N]"))?;
    if matches!(answer.as_str(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Refused {
        code: "not-confirmed",
        message: "nothing was changed".to_owned(),
        hint: "answer `y`, or add `--yes`".to_owned(),
    })
}

fn answer(question: &str) -> Result<String, Failure> {
    let mut stderr = io::stderr().lock();
    // A prompt that cannot be shown leaves the question unanswered below.
    let _ = write!(stderr, "{question} ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::Failed(error.into()))?;
    Ok(answer.trim().to_owned())
}

/// `-` for what is not there.
pub(crate) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// An error with its causes, but for those that the text before them tells already.
fn with_causes(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Nobody is left to tell when the reader of a pipe has gone away.
fn write(mut stream: impl Write, text: &str) {
    let _ = writeln!(stream, "{}", text.trim_end_matches('\n')).and_then(|()| stream.flush());
}
