//! `adit token`: tokens for programs.

use std::collections::BTreeSet;

use adit_api::types::token::AddToken;
use adit_model::state::Scope;
use clap::{Args, Subcommand, ValueEnum};

use super::{Condition, Session};
use crate::expiry::Expiry;
use crate::output::{Failure, or_dash};

/// What `adit token` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Add a token, and show its secret once
    Add(AddArguments),
    /// List the tokens
    List,
    /// Remove a token
    Remove {
        /// Its name or id
        name: String,
        #[command(flatten)]
        condition: Condition,
    },
}

/// Arguments of `adit token add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// A name for it
    name: String,
    /// What it allows; `read` unless said
    #[arg(long, value_enum, value_delimiter = ',')]
    scope: Vec<ScopeName>,
    /// Allow that for the things of this device only
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// When it becomes void: 30d, 12h, or a time as in RFC 3339
    #[arg(long, value_name = "TIME|SPAN")]
    expires: Option<Expiry>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeName {
    /// Look
    Read,
    /// Change
    Write,
    /// See preshared keys in configurations
    Secrets,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Read => Self::Read,
            ScopeName::Write => Self::Write,
            ScopeName::Secrets => Self::Secrets,
        }
    }
}

pub(super) async fn run(session: Session, command: TokenCommand) -> Result<(), Failure> {
    let Session { client, output } = session;
    match command {
        TokenCommand::Add(arguments) => {
            let request = AddToken {
                name: arguments.name,
                device: arguments.device,
                scopes: arguments.scope.into_iter().map(Into::into).collect(),
                expires: arguments.expires.and_then(Expiry::moment),
            };
            let added = client.add_token(&request).await?;
            if output.is_json() {
                return output.document(&added);
            }
            if let Some(secret) = &added.secret {
                output.result(secret);
                output.note("This is the token. It is shown this once and not stored.");
            }
            for next in &added.next {
                output.note(next);
            }
            Ok(())
        }
        TokenCommand::List => {
            let answer = client.tokens().await?;
            if output.is_json() {
                return output.document(&answer);
            }
            if answer.tokens.is_empty() {
                output.note("There is no token yet: `adit token add NAME` adds one.");
                return Ok(());
            }
            let rows = answer.tokens.into_iter().map(|token| {
                vec![
                    token.id.to_string(),
                    token.name,
                    scopes(&token.scopes),
                    token.device.unwrap_or_else(|| "all".to_owned()),
                    or_dash(token.expires),
                ]
            });
            output.table(&["ID", "NAME", "SCOPES", "DEVICE", "EXPIRES"], rows);
            Ok(())
        }
        TokenCommand::Remove { name, condition } => {
            let client = client.if_version(condition.if_version);
            let removed = client.remove_token(&name).await?;
            if output.is_json() {
                return output.document(&removed);
            }
            output.result(&format!("Removed token `{name}`."));
            Ok(())
        }
    }
}

fn scopes(scopes: &BTreeSet<Scope>) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    names.join(", ")
}
