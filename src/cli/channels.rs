//! `seawall channels`: lists channels, or describes one with its members.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::remote::{Api, ApiResponse, Remote, format_table, percent_encode, text_of};
use crate::text::terminal;

/// Entries per call at most.
const PAGE: usize = 1000;

/// Lists the channels of a running server, or describes one of them and lists its members.
///
/// Exit codes: 0 done; 1 the server cannot be reached, or has no such channel.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  seawall channels --prefix chat:\n  seawall channels chat:lobby"
)]
pub(super) struct Arguments {
    /// A channel's name
    channel: Option<String>,

    /// Only names with this prefix
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
        Some(channel) => arguments
            .remote
            .run(|api| describe_channel(api, channel, arguments.limit), format_channel),
        None => arguments.remote.run(|api| list_channels(api, arguments), format_list),
    }
}

fn list_channels(api: &Api, arguments: &Arguments) -> Result<ApiResponse, String> {
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

fn format_list(answer: &Value) -> String {
    let mut rows = vec![vec!["CHANNEL".to_owned(), "MEMBERS".to_owned()]];
    for (name, about) in answer["channels"].as_object().into_iter().flatten() {
        rows.push(vec![name.clone(), about["members"].to_string()]);
    }
    let mut out = if rows.len() == 1 { "no channels\n".to_owned() } else { format_table(&rows) };
    if !answer["next"].is_null() {
        out.push_str("more available; raise --limit\n");
    }
    out
}

/// Fetches a channel's state, and its members page by page.
fn describe_channel(api: &Api, channel: &str, limit: usize) -> Result<ApiResponse, String> {
    /// The members, in the server's own JSON text.
    #[derive(Deserialize)]
    struct Page {
        members: Vec<Box<RawValue>>,
        next: Option<String>,
    }
    let path = format!("/v1/channels/{}", percent_encode(channel));
    let about = api.get(&path, &[])?;
    let mut members: Vec<Box<RawValue>> = Vec::new();
    let mut after = String::new();
    loop {
        let query = [("after", after.as_str())];
        let query = if after.is_empty() { &[][..] } else { &query[..] };
        let page = api.get_if_found(&format!("{path}/presence"), query)?;
        let page = page.map(|page| serde_json::from_str::<Page>(&page.text)).transpose();
        let page =
            page.map_err(|error| format!("cannot read the members of {channel}: {error}"))?;
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

fn format_channel(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<10} {}", terminal::escape(value));
    };
    line("channel", text_of(answer, "channel"));
    line("position", &format!("{} of epoch {}", answer["offset"], text_of(answer, "epoch")));
    line("members", &answer["members"].to_string());
    line("users", &answer["users"].to_string());
    let listed = answer["listed"].as_array().map_or(&[][..], Vec::as_slice);
    for one in listed {
        let user = one["user"].as_str().unwrap_or("anonymous");
        let info = match &one["info"] {
            Value::Null => String::new(),
            info => format!("  {info}"),
        };
        line("member", &format!("{user}  {}{info}", text_of(one, "connection")));
    }
    if (listed.len() as u64) < answer["users"].as_u64().unwrap_or(0) {
        out.push_str("more available; raise --limit\n");
    }
    out
}
