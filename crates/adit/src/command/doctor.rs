//! `adit doctor`: everything that could be wrong with a gateway on this host, each with its fix.

use std::path::PathBuf;
use std::time::Duration;

use adit_api::client::ClientError;
use adit_api::types::status::StatusProblem;
use adit_model::diagnosis::{Daemon, diagnose, merge};
use adit_model::problem::{Problem, Severity};
use clap::Args;
use serde_json::json;
use tokio::time::timeout;

use super::gateway::{Options, run_options};
use super::{Session, count};
use crate::output::Failure;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `adit doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    options: Options,
}

/// A gateway elsewhere tells what its status tells; on its own host more is looked at.
pub(super) async fn run(
    session: Session,
    arguments: DoctorArguments,
    runtime_dir: Option<PathBuf>,
    is_here: bool,
) -> Result<(), Failure> {
    let Session { client, output } = session;
    let (daemon, status) = match timeout(PATIENCE, client.status()).await {
        Ok(Ok(status)) => (Daemon::Running, Some(status)),
        Ok(Err(ClientError::Unreachable { .. })) if is_here => (Daemon::Stopped, None),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => (Daemon::Silent, None),
    };
    let interface = status.as_ref().map(|status| status.interface.clone());
    let told: Vec<Problem> = status
        .into_iter()
        .flat_map(|status| status.problems)
        .map(problem)
        .collect();
    let found = if is_here {
        let options = run_options(arguments.options, runtime_dir);
        diagnose(&adit_gateway::examine(options, daemon, interface).await?)
    } else {
        Vec::new()
    };
    let (problems, notices): (Vec<Problem>, Vec<Problem>) = merge(told, found)
        .into_iter()
        .partition(|problem| problem.severity() == Severity::Error);
    if output.is_json() {
        output.document(&json!({ "problems": problems, "notices": notices }))?;
    } else {
        if problems.is_empty() {
            output.result("Nothing is wrong.");
        }
        for problem in problems.iter().chain(&notices) {
            output.result(&format!(
                "{}: {} ({})\n  {}: {}",
                problem.object,
                problem.message,
                problem.code,
                match problem.severity() {
                    Severity::Error => "fix",
                    Severity::Notice => "if that matters",
                },
                problem.fix
            ));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused {
        code: "not-well",
        message: format!(
            "the gateway is not well: {}",
            count(problems.len(), "problem")
        ),
        hint: "each is shown with its fix".to_owned(),
    })
}

fn problem(told: StatusProblem) -> Problem {
    let StatusProblem {
        code,
        object,
        message,
        fix,
        severity: _,
    } = told;
    Problem {
        code,
        object,
        message,
        fix,
    }
}
