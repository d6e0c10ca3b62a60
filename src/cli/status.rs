//! `seawall status`: shows a running server on one screen.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::remote::{ApiResponse, Remote, text_of};
use crate::text::terminal::escape;

/// Shows the state of a running server: version, uptime, listeners, connections, memory, and the
/// outcome of the last reload.
///
/// Exit codes: 0 the server runs; 1 it cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall status\n  seawall status --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    arguments.remote.run(
        |api| {
            let (node, memory) = (api.get("/v1/node", &[])?, api.get("/v1/memory", &[])?);
            let text = format!("{{\"node\":{},\"memory\":{}}}", node.text, memory.text);
            ApiResponse::new(text).map_err(|error| error.to_string())
        },
        |answer| format_status(&answer["node"], &answer["memory"]),
    )
}

fn format_status(node: &Value, memory: &Value) -> String {
    let mut out = format!(
        "seawall {} (pid {}), up {}\n",
        escape(text_of(node, "version")),
        node["pid"],
        format_duration(node["uptime_s"].as_f64().unwrap_or(0.0) as u64)
    );
    let driver = &node["driver"];
    let engine = format!("{} ({})", text_of(driver, "name"), text_of(driver, "reason"));
    write_row(&mut out, "engine", &escape(&engine));
    for listener in node["listeners"].as_array().into_iter().flatten() {
        write_row(&mut out, "listener", &escape(text_of(listener, "address")));
    }
    let open = &node["connections_open"];
    let by_shard = open["by_shard"].as_array().into_iter().flatten();
    let by_shard = by_shard.map(Value::to_string).collect::<Vec<_>>().join(" ");
    let connections = format!(
        "{} open of {} (by shard: {by_shard})",
        open["total"], node["limits"]["connections_max"]
    );
    write_row(&mut out, "connections", &connections);
    let bytes = |name: &str| memory[name].as_u64().unwrap_or(0) as f64 / 1e6;
    let most = match memory["memory_bytes_max"].as_u64() {
        None | Some(0) => "no limit".to_owned(),
        Some(_) => format!("limit {:.1} MB", bytes("memory_bytes_max")),
    };
    let used = format!(
        "{:.1} MB used, {:.1} MB of them in the process ({most})",
        bytes("used_bytes"),
        bytes("resident_bytes")
    );
    write_row(&mut out, "memory", &used);
    let draining = if node["draining"] == true { "yes: no new connections" } else { "no" };
    write_row(&mut out, "draining", draining);
    write_row(&mut out, "last reload", &format_reload(&node["last_reload"]));
    out
}

fn write_row(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {name:<12} {value}");
}

fn format_reload(outcome: &Value) -> String {
    let Some(time_ms) = outcome["time_ms"].as_u64() else { return "none".to_owned() };
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let ago = format_duration(now.saturating_sub(time_ms / 1000));
    if outcome["ok"] == true {
        let waiting = outcome["restart_required"].as_array().into_iter().flatten();
        let waiting: Vec<_> = waiting.filter_map(Value::as_str).map(escape).collect();
        let waiting = if waiting.is_empty() {
            String::new()
        } else {
            format!("; needs a restart: {}", waiting.join(", "))
        };
        return format!("{ago} ago: succeeded{waiting}");
    }
    let error = text_of(outcome, "error").lines().map(escape).collect::<Vec<_>>();
    format!("{ago} ago: FAILED, the previous configuration is in force: {}", error.join("; "))
}

/// Formats a duration in its two largest units.
fn format_duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, shown) in
            [(0, "0 s"), (61, "1 min 1 s"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(format_duration(seconds), shown);
        }
    }

    #[test]
    fn values_of_the_server_move_no_cursor() {
        let outcome = json!({"time_ms": 1, "ok": false, "error": "a\u{1b}[2Jb\nc"});
        assert!(format_reload(&outcome).ends_with("a\\u{1b}[2Jb; c"));
        assert_eq!(format_reload(&Value::Null), "none");
    }
}
