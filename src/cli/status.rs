//! `seawall status`: a running server on one screen.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::remote::{ApiResponse, Remote, text};
use crate::text::terminal::escape;

/// Shows the state of a running server: version, uptime, listeners, connections, memory, and the
/// outcome of the last reload.
///
/// Exit codes: 0 it runs; 1 it was not reached.
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
        |answer| shown(&answer["node"], &answer["memory"]),
    )
}

fn shown(node: &Value, memory: &Value) -> String {
    let mut out = format!(
        "seawall {} (pid {}), up {}\n",
        escape(text(node, "version")),
        node["pid"],
        duration(node["uptime_s"].as_f64().unwrap_or(0.0) as u64)
    );
    for listener in node["listeners"].as_array().into_iter().flatten() {
        line(&mut out, "listener", &escape(text(listener, "address")));
    }
    let open = &node["connections_open"];
    let by_shard = open["by_shard"].as_array().into_iter().flatten();
    let by_shard = by_shard.map(Value::to_string).collect::<Vec<_>>().join(" ");
    let connections = format!(
        "{} open of {} (by shard: {by_shard})",
        open["total"], node["limits"]["connections_max"]
    );
    line(&mut out, "connections", &connections);
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
    line(&mut out, "memory", &used);
    let draining = if node["draining"] == true { "yes: no new connections" } else { "no" };
    line(&mut out, "draining", draining);
    line(&mut out, "last reload", &last_reload(&node["last_reload"]));
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "  {name:<12} {value}");
}

fn last_reload(outcome: &Value) -> String {
    let Some(time_ms) = outcome["time_ms"].as_u64() else { return "none".to_owned() };
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let ago = duration(now.saturating_sub(time_ms / 1000));
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
    let error = text(outcome, "error").lines().map(escape).collect::<Vec<_>>();
    format!("{ago} ago: FAILED, the previous configuration is in force: {}", error.join("; "))
}

/// A time in its two largest units.
fn duration(seconds: u64) -> String {
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
            assert_eq!(duration(seconds), shown);
        }
    }

    #[test]
    fn what_came_from_outside_moves_no_cursor() {
        let outcome = json!({"time_ms": 1, "ok": false, "error": "a\u{1b}[2Jb\nc"});
        assert!(last_reload(&outcome).ends_with("a\\u{1b}[2Jb; c"));
        assert_eq!(last_reload(&Value::Null), "none");
    }
}
