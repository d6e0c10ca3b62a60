//! `seawall reload`: makes a running server reload its configuration.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::remote::Remote;
use crate::text::terminal::escape;

/// Makes a running server reload its configuration, as SIGHUP does, and waits for the outcome:
/// which options changed, which of them need a restart, or why nothing changed.
///
/// Exit codes: 0 the configuration is in force; 1 it has errors and the previous one stays in
/// force, or the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 seawall reload\n\
    \x20 seawall reload --url unix:/run/admin.sock")]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    arguments.remote.run(|api| api.post("/v1/reload", "{}"), format_outcome)
}

fn format_outcome(answer: &Value) -> String {
    let list = |name: &str| {
        let items = answer[name].as_array().into_iter().flatten();
        let items = items.filter_map(Value::as_str).map(escape).collect::<Vec<_>>();
        (!items.is_empty()).then(|| items.join(", "))
    };
    let mut text = match list("applied") {
        Some(applied) => format!("reloaded; changed: {applied}\n"),
        None => "reloaded; no option changed\n".to_owned(),
    };
    if let Some(waiting) = list("restart_required") {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "needs a restart: {waiting}");
    }
    text
}
