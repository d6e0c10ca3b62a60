//! `seawall kick`: disconnects clients, or unsubscribes them from channels.

use std::process::ExitCode;

use serde_json::json;

use super::remote::{Api, ApiResponse, Remote};

/// Disconnects a user or a connection, and revokes its resume tickets; with --channel, unsubscribes
/// it from these channels instead.
///
/// Exit codes: 0 a connection was found; 1 none was found, or the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["user", "connection"]))]
#[command(after_help = "Examples:\n\
        \x20 seawall kick --user ann\n\
        \x20 seawall kick --connection 0-1-2 --code 4000 --reason bye\n\
        \x20 seawall kick --user ann --channel chat:lobby")]
pub(super) struct Arguments {
    /// All connections of this user
    #[arg(long)]
    user: Option<String>,

    /// This connection
    #[arg(long, value_name = "ID")]
    connection: Option<String>,

    /// Unsubscribe from this channel instead; may be repeated
    #[arg(long)]
    channel: Vec<String>,

    /// Close code: 1000, 1001, or 3000 to 4999; default: 4403 (clients do not reconnect)
    #[arg(long, conflicts_with = "channel", value_parser = parse_close_code)]
    code: Option<u16>,

    /// The close reason that clients receive, at most 123 bytes
    #[arg(long, conflicts_with = "channel")]
    reason: Option<String>,

    #[command(flatten)]
    remote: Remote,
}

fn parse_close_code(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(code @ (1000 | 1001 | 3000..=4999)) => Ok(code),
        _ => Err("must be 1000, 1001, or 3000 to 4999".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let answer = match arguments.remote.open_api().and_then(|api| kick(&api, arguments)) {
        Ok(answer) => answer,
        Err(text) => return super::print_failure(&text),
    };
    let (what, verb) = if arguments.channel.is_empty() {
        ("disconnected", "disconnected")
    } else {
        ("unsubscribed", "unsubscribed")
    };
    let count = answer[what].as_u64().unwrap_or(0);
    let shown = arguments.remote.print_answer(&answer, |_| match count {
        1 => format!("1 connection was {verb}\n"),
        count => format!("{count} connections were {verb}\n"),
    });
    if count == 0 { ExitCode::FAILURE } else { shown }
}

fn kick(api: &Api, arguments: &Arguments) -> Result<ApiResponse, String> {
    let mut body = match (&arguments.user, &arguments.connection) {
        (Some(user), _) => json!({"user": user}),
        (None, connection) => json!({"connection": connection}),
    };
    if arguments.channel.is_empty() {
        if let Some(code) = arguments.code {
            body["code"] = code.into();
        }
        if let Some(reason) = &arguments.reason {
            body["reason"] = reason.as_str().into();
        }
        return api.post("/v1/disconnect", &body.to_string());
    }
    let mut count = 0;
    for channel in &arguments.channel {
        body["channel"] = channel.as_str().into();
        let answer = api.post("/v1/unsubscribe", &body.to_string())?;
        count += answer["unsubscribed"].as_u64().unwrap_or(0);
    }
    Ok(json!({"unsubscribed": count}).into())
}
