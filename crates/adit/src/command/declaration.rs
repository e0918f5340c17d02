//! `adit export`, `adit plan` and `adit apply`: the manual state as a file.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use adit_api::types::declaration::{Apply, Plan};
use adit_api::types::log::Verb;
use adit_model::declaration::Declaration;
use adit_model::impact::Effect;
use anyhow::Context as _;
use clap::Args;

use super::{Session, count, log};
use crate::output::Failure;

/// What stands for standard input.
const STDIN: &str = "-";

/// Arguments of `adit plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// A declaration in TOML, as `adit export` writes it; - for standard input [default: none, and the plan is what the
    /// gateway has to do on its host by itself]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Arguments of `adit apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// A declaration in TOML, as `adit export` writes it; - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn export(session: Session) -> Result<(), Failure> {
    let declared = session.client.declaration().await?;
    if session.output.is_json() {
        return session.output.document(&declared);
    }
    let text = toml::to_string(&declared.declaration).context("write the declaration")?;
    session.output.result(&format!(
        "# Adit, revision {}. Without secrets; see `adit apply --help`.\n\n{text}",
        declared.revision
    ));
    Ok(())
}

pub(super) async fn plan(session: Session, arguments: PlanArguments) -> Result<(), Failure> {
    let Some(file) = &arguments.file else {
        return host_plan(&session).await;
    };
    let plan = session.client.plan(&request(file)?).await?;
    if session.output.is_json() {
        return session.output.document(&plan);
    }
    session.output.result(&describe(&plan));
    Ok(())
}

/// What the gateway has to do on its host.
async fn host_plan(Session { client, output }: &Session) -> Result<(), Failure> {
    let plan = client.host_plan().await?;
    if output.is_json() {
        return output.document(&plan);
    }
    for problem in &plan.problems {
        output.note(&format!("{}: {}", problem.object, problem.message));
    }
    let mut lines = vec![match plan.count {
        0 => format!("Nothing to do: this host has revision {}.", plan.revision),
        number => format!(
            "To do on this host for revision {}: {}",
            plan.revision,
            count(number, "step")
        ),
    }];
    lines.extend(plan.steps.iter().map(|step| format!("  {}", step.step)));
    if plan.count > plan.steps.len() {
        lines.push(format!("  and {} more", plan.count - plan.steps.len()));
    }
    output.result(&lines.join("\n"));
    Ok(())
}

pub(super) async fn apply(session: Session, arguments: ApplyArguments) -> Result<(), Failure> {
    let Session { client, output } = &session;
    let request = request(&arguments.file)?;
    let plan = client.plan(&request).await?;
    output.note(&describe(&plan));
    if plan.objects.is_empty() {
        return if output.is_json() {
            output.document(&plan)
        } else {
            Ok(())
        };
    }
    if !arguments.yes {
        output.consent("Apply this?")?;
    }
    // What was shown is what is made, or nothing.
    let request = Apply {
        revision: Some(plan.revision),
        ..request
    };
    let made = client.apply(&request).await?;
    if output.is_json() {
        return output.document(&made);
    }
    output.result(&format!(
        "Applied in revision {}: {}.",
        made.revision,
        summary(&made)
    ));
    if made
        .affected
        .iter()
        .any(|it| it.effects.contains(&Effect::Reconfigure))
    {
        output.note("Devices learn what is new to them from their configuration: `adit device config NAME`.");
    }
    Ok(())
}

fn request(file: &Path) -> Result<Apply, Failure> {
    let text = read(file)?;
    Ok(Apply {
        declaration: parse(&text, file)?,
        revision: None,
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    if path == Path::new(STDIN) {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .context("read the declaration from standard input")?;
        return Ok(text);
    }
    let text = fs::read_to_string(path);
    Ok(text.with_context(|| format!("read the declaration {}", path.display()))?)
}

/// The error names the object and the field.
fn parse(text: &str, path: &Path) -> Result<Declaration, Failure> {
    let refuse = |message: String| {
        Failure::Refused {
        code: "declaration-invalid",
        message: format!("the declaration {}: {message}", path.display()),
        hint: "`adit export` shows what a declaration looks like; docs/declarative.md lists the fields"
            .to_owned(),
    }
    };
    let deserializer =
        toml::Deserializer::parse(text).map_err(|error| refuse(error.to_string()))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let place = error.path().to_string();
        let mut error = error.into_inner();
        error.set_input(Some(text));
        let line = error.span().map_or(String::new(), |span| {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        refuse(format!("{line}`{place}`: {}", error.message()))
    })
}

fn describe(plan: &Plan) -> String {
    if plan.objects.is_empty() {
        return format!(
            "Nothing to change: revision {} is so already.",
            plan.revision
        );
    }
    let mut lines = vec![format!(
        "Changes of revision {}: {}",
        plan.revision,
        summary(plan)
    )];
    for verb in [Verb::Added, Verb::Changed, Verb::Removed] {
        let objects = plan.objects.iter().filter(|object| object.verb == verb);
        lines.extend(objects.map(|object| format!("  {}", log::object(object))));
    }
    if !plan.affected.is_empty() {
        lines.push("Whose traffic is affected:".to_owned());
    }
    let width = plan.affected.iter().map(|it| it.device.len()).max();
    let width = width.unwrap_or_default();
    lines.extend(plan.affected.iter().map(|affected| {
        let effects: Vec<&str> = affected.effects.iter().map(|it| effect(*it)).collect();
        format!("  {:<width$}  {}", affected.device, effects.join("; "))
    }));
    lines.join("\n")
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Disconnected => "cannot connect any more",
        Effect::Reconfigure => "needs its new configuration",
        Effect::Connections => "connections through its forwards or pinholes end",
        Effect::Reach => "whom it reaches changes",
    }
}

fn summary(plan: &Plan) -> String {
    let number = |verb| {
        let objects = plan.objects.iter().filter(|object| object.verb == verb);
        objects.count()
    };
    format!(
        "{} added, {} changed, {} removed",
        count(number(Verb::Added), "object"),
        number(Verb::Changed),
        number(Verb::Removed)
    )
}
