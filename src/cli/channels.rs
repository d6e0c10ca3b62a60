//! `seawall channels`: which channels there are, and who is on one.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::remote::{Api, ApiResponse, Remote, encoded, table, text};
use crate::text::terminal;

/// The most that one call lists.
const PAGE: usize = 1000;

/// Lists the channels of a running server, or describes one of them and lists its members.
///
/// Exit codes: 0 done; 1 the server was not reached, or there is no such channel.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  seawall channels --prefix chat:\n  seawall channels chat:lobby"
)]
pub(super) struct Arguments {
    /// A channel's name
    channel: Option<String>,

    /// Only names that begin with this
    #[arg(long, conflicts_with = "channel")]
    prefix: Option<String>,

    /// List at most this many channels or members
    #[arg(long, default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.channel {
        Some(channel) => {
            arguments.remote.run(|api| describe(api, channel, arguments.limit), described)
        }
        None => arguments.remote.run(|api| list(api, arguments), listed),
    }
}

fn list(api: &Api, arguments: &Arguments) -> Result<ApiResponse, String> {
    let mut all = serde_json::Map::new();
    let mut after = String::new();
    loop {
        let left = (arguments.limit - all.len()).min(PAGE).to_string();
        let mut query = vec![("limit", left.as_str())];
        query.extend(arguments.prefix.as_deref().map(|prefix| ("prefix", prefix)));
        if !after.is_empty() {
            query.push(("after", &after));
        }
        let page = api.get("/v1/channels", &query)?;
        let next = page["next"].as_str().unwrap_or_default();
        if all.is_empty() && (next.is_empty() || arguments.limit <= PAGE) {
            return Ok(page);
        }
        let channels = page["channels"].as_object().into_iter().flatten();
        all.extend(channels.map(|(name, about)| (name.clone(), about.clone())));
        if next.is_empty() || all.len() >= arguments.limit {
            let mut answer = json!({"channels": all});
            if !next.is_empty() {
                answer["next"] = next.into();
            }
            return Ok(answer.into());
        }
        next.clone_into(&mut after);
    }
}

fn listed(answer: &Value) -> String {
    let mut rows = vec![vec!["CHANNEL".to_owned(), "MEMBERS".to_owned()]];
    for (name, about) in answer["channels"].as_object().into_iter().flatten() {
        rows.push(vec![name.clone(), about["members"].to_string()]);
    }
    let mut out = if rows.len() == 1 { "no channels\n".to_owned() } else { table(&rows) };
    if !answer["next"].is_null() {
        out.push_str("there are more: raise --limit\n");
    }
    out
}

/// What holds for the channel, with a list of its members in the end.
fn describe(api: &Api, channel: &str, limit: usize) -> Result<ApiResponse, String> {
    /// Members as the server wrote them.
    #[derive(Deserialize)]
    struct Page {
        members: Vec<Box<RawValue>>,
        next: Option<String>,
    }
    let path = format!("/v1/channels/{}", encoded(channel));
    let about = api.get(&path, &[])?;
    let mut members: Vec<Box<RawValue>> = Vec::new();
    let mut after = String::new();
    loop {
        let query = [("after", after.as_str())];
        let query = if after.is_empty() { &[][..] } else { &query[..] };
        let page = api.get_if_kept(&format!("{path}/presence"), query)?;
        let page = page.map(|page| serde_json::from_str::<Page>(&page.text)).transpose();
        let page = page.map_err(|error| format!("the members of {channel}: {error}"))?;
        let next = match page {
            Some(page) => {
                members.extend(page.members);
                page.next.unwrap_or_default()
            }
            None => String::new(),
        };
        if next.is_empty() || members.len() >= limit {
            members.truncate(limit);
            let members: Vec<&str> = members.iter().map(|member| member.get()).collect();
            let head = about.text.trim_end().strip_suffix('}').unwrap_or_default();
            let text = format!("{head},\"listed\":[{}]}}", members.join(","));
            return ApiResponse::new(text).map_err(|error| error.to_string());
        }
        after = next;
    }
}

fn described(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<10} {}", terminal::escape(value));
    };
    line("channel", text(answer, "channel"));
    line("position", &format!("{} of epoch {}", answer["offset"], text(answer, "epoch")));
    line("members", &answer["members"].to_string());
    line("users", &answer["users"].to_string());
    let listed = answer["listed"].as_array().map_or(&[][..], Vec::as_slice);
    for one in listed {
        let user = one["user"].as_str().unwrap_or("nobody by name");
        let info = match &one["info"] {
            Value::Null => String::new(),
            info => format!("  {info}"),
        };
        line("member", &format!("{user}  {}{info}", text(one, "connection")));
    }
    if (listed.len() as u64) < answer["users"].as_u64().unwrap_or(0) {
        out.push_str("there are more: raise --limit\n");
    }
    out
}
