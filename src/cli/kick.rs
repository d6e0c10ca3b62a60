//! `seawall kick`: ends connections, or takes them from channels.

use std::process::ExitCode;

use serde_json::json;

use super::remote::{Api, ApiResponse, Remote};

/// Disconnects a user or a connection, and revokes the tickets with which it would resume; with
/// --channel, unsubscribes it from these channels instead.
///
/// Exit codes: 0 a connection was found; 1 none was, or the server was not reached.
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

    /// Only from this channel; may be given several times
    #[arg(long)]
    channel: Vec<String>,

    /// The close code: 1000, 1001, or from 3000 to 4999; without: 4403, on which clients stay away
    #[arg(long, conflicts_with = "channel", value_parser = close_code)]
    code: Option<u16>,

    /// The reason that clients receive, at most 123 bytes
    #[arg(long, conflicts_with = "channel")]
    reason: Option<String>,

    #[command(flatten)]
    remote: Remote,
}

fn close_code(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(code @ (1000 | 1001 | 3000..=4999)) => Ok(code),
        _ => Err("write 1000, 1001, or a number from 3000 to 4999".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let answer = match arguments.remote.api().and_then(|api| kick(&api, arguments)) {
        Ok(answer) => answer,
        Err(text) => return super::fail(&text),
    };
    let (what, verb) = if arguments.channel.is_empty() {
        ("disconnected", "disconnected")
    } else {
        ("unsubscribed", "unsubscribed")
    };
    let count = answer[what].as_u64().unwrap_or(0);
    let shown = arguments.remote.show(&answer, |_| match count {
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
