//! `seawall doctor`: examines this host for the server, and names the remedy of each problem.
//!
//! Each examination does what the server would do with the same configuration: it makes rings,
//! binds ports and closes them again, connects to the engine of a cluster, and sends applications
//! requests that ask for nothing. It changes nothing.

mod backends;
mod certificates;
mod engine;
mod finding;
mod host;
mod kernel;
mod network;

use std::fmt::Write as _;
use std::process::ExitCode;

use super::flags::{HiddenOverrides, SEE_SERVE};
use super::load::{Loaded, load};
use super::{print, print_failure};
use crate::server::EngineChoice;
use crate::text::terminal;
use finding::{Finding, State};

/// Exit codes: 0 `serve` can start; 1 it cannot work (with --strict: or has warnings).
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:\n\
    \x20 seawall doctor --config seawall.toml\n\
    \x20 seawall doctor --json --strict\n\n\
    {SEE_SERVE}"))]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Treat warnings as failures
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    overrides: HiddenOverrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    // Loading raises the open-files limit, as the server does: read the limits before.
    let limits = host::Limits::read();
    let loaded = match load(arguments.config.as_deref(), &arguments.overrides.0) {
        Ok(loaded) => loaded,
        Err(error) => return print_failure(&error),
    };
    let findings = examine(loaded, limits);
    let text = if arguments.json { format_json(&findings) } else { format_report(&findings) };
    let printed = print::print_text(&text);
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Good);
    let bad = if arguments.strict { State::Warning } else { State::Failure };
    if worst >= bad { ExitCode::FAILURE } else { printed }
}

fn examine(loaded: Loaded, limits: host::Limits) -> Vec<Finding> {
    let Loaded { mut config, open_files, .. } = loaded;
    let choice = EngineChoice::make(config.engine.driver);
    let fitted = choice.as_ref().ok().and_then(|one| one.fit(&mut config, open_files));
    let is_epoll = matches!(choice, Ok(EngineChoice::Epoll { .. }));
    let config = &config;
    let mut findings = kernel::examine(choice);
    findings.extend(host::examine(config, limits, open_files, is_epoll, fitted.is_some()));
    findings.extend(network::examine(config));
    findings.extend(certificates::examine(config));
    findings.extend(engine::examine(config));
    findings.extend(backends::examine(config));
    findings
}

fn format_json(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let object = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "failures": count(State::Failure),
        "warnings": count(State::Warning),
        "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
    });
    terminal::escape_json(&format!("{object:#}\n")).into_owned()
}

fn format_report(findings: &[Finding]) -> String {
    let mut out = String::new();
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, state, found, why, remedy } in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<8} {name:<width$}  {found}", state.name());
        if *state != State::Good {
            let indent = " ".repeat(width + 11);
            let _ = writeln!(out, "{indent}{why}");
            if let Some(remedy) = remedy {
                let _ = writeln!(out, "{indent}-> {remedy}");
            }
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failures, warnings) = (count(State::Failure), count(State::Warning));
    let verdict =
        if failures > 0 { "`seawall serve` cannot work" } else { "`seawall serve` can start" };
    let counted = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let (failures, warnings) = (counted(failures, "failure"), counted(warnings, "warning"));
    let _ = writeln!(out, "\n{failures}, {warnings}: {verdict}");
    out
}
