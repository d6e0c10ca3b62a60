//! `seawall connections`: lists connections, or describes one.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::remote::{Api, ApiResponse, Remote, format_table, percent_encode, text_of};
use crate::text::terminal;

/// Entries per call at most.
const PAGE: usize = 1000;

/// Lists the connections of a running server, or describes one of them.
///
/// Exit codes: 0 done; 1 the server cannot be reached, or has no such connection.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
        \x20 seawall connections --user ann\n\
        \x20 seawall connections --address 203.0.113.7 --json")]
pub(super) struct Arguments {
    /// A connection's id
    id: Option<String>,

    /// Only connections of this user
    #[arg(long, conflicts_with = "id")]
    user: Option<String>,

    /// Only connections from this IP address
    #[arg(long, conflicts_with = "id")]
    address: Option<String>,

    /// List at most this many connections
    #[arg(long, default_value_t = 100, conflicts_with = "id")]
    limit: usize,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.id {
        Some(id) => {
            let path = format!("/v1/connections/{}", percent_encode(id));
            arguments.remote.run(|api| api.get(&path, &[]), format_connection)
        }
        None => arguments.remote.run(
            |api| list_connections(api, arguments),
            |answer| format_list(answer, unix_now_ms()),
        ),
    }
}

fn list_connections(api: &Api, arguments: &Arguments) -> Result<ApiResponse, String> {
    let mut all: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let left = (arguments.limit - all.len()).min(PAGE).to_string();
        let mut query = vec![("limit", left.as_str())];
        query.extend(arguments.user.as_deref().map(|user| ("user", user)));
        query.extend(arguments.address.as_deref().map(|address| ("address", address)));
        if !after.is_empty() {
            query.push(("after", &after));
        }
        let page = api.get("/v1/connections", &query)?;
        let next = page["next"].as_str().unwrap_or_default();
        if all.is_empty() && (next.is_empty() || arguments.limit <= PAGE) {
            return Ok(page);
        }
        all.extend(page["connections"].as_array().into_iter().flatten().cloned());
        if next.is_empty() || all.len() >= arguments.limit {
            let mut answer = json!({"connections": all});
            if !next.is_empty() {
                answer["next"] = next.into();
            }
            return Ok(answer.into());
        }
        next.clone_into(&mut after);
    }
}

fn unix_now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// Formats a duration in its two largest units.
fn format_span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

fn format_list(answer: &Value, now_ms: u64) -> String {
    let connections = answer["connections"].as_array().map_or(&[][..], Vec::as_slice);
    let head =
        ["CONNECTION", "USER", "ADDRESS", "AGE", "IN", "OUT", "QUEUED", "DROPPED", "CHANNELS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in connections {
        let since_ms = one["since"].as_u64().unwrap_or(now_ms);
        let number = |name: &str| one[name].to_string();
        let channels = one["subscriptions"].as_array().map_or(0, Vec::len);
        rows.push(vec![
            text_of(one, "connection").to_owned(),
            text_of(one, "user").to_owned(),
            text_of(one, "address").to_owned(),
            format_span(now_ms.saturating_sub(since_ms)),
            number("messages_received"),
            number("messages_sent"),
            number("queue_bytes"),
            number("dropped"),
            channels.to_string(),
        ]);
    }
    let mut out =
        if connections.is_empty() { "no connections\n".to_owned() } else { format_table(&rows) };
    if !answer["next"].is_null() {
        out.push_str("more available; raise --limit\n");
    }
    out
}

fn format_connection(answer: &Value) -> String {
    let mut out = String::new();
    let fields = answer.as_object().into_iter().flatten();
    let tcp = answer["tcp"].as_object().into_iter().flatten();
    let tcp = tcp.map(|(name, value)| (format!("tcp {name}"), value));
    let fields = fields.map(|(name, value)| (name.clone(), value));
    for (name, value) in
        fields.filter(|(_, value)| !value.is_array() && !value.is_object()).chain(tcp)
    {
        let value = match (name.as_str(), value) {
            ("since", Value::Number(since)) => {
                let age_ms = unix_now_ms().saturating_sub(since.as_u64().unwrap_or(0));
                format!("{} ago", format_span(age_ms))
            }
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        };
        // Writing to a string cannot fail.
        let (name, value) = (name.replace('_', " "), terminal::escape(&value));
        let _ = writeln!(out, "{name:<25} {value}");
    }
    for channel in answer["subscriptions"].as_array().into_iter().flatten() {
        let channel = terminal::escape(channel.as_str().unwrap_or_default());
        let _ = writeln!(out, "{:<25} {channel}", "channel");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (s, text) in [(0, "0s"), (59, "59s"), (61, "1m01s"), (3660, "1h01m"), (90_000, "1d01h")]
        {
            assert_eq!(format_span(s * 1000), text);
        }
    }
}
