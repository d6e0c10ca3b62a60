//! `seawall publish`: a message to a channel, from a shell.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::remote::{Remote, text};

/// Publishes to a channel of a running server, as a backend does.
///
/// Exit codes: 0 the message is in the channel's log; 1 it is not, and standard error says why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
        \x20 seawall publish news '{\"headline\":\"hello\"}'\n\
        \x20 seawall publish news hello --text\n\
        \x20 echo '[1,2]' | seawall publish news")]
pub(super) struct Arguments {
    /// The channel
    channel: String,

    /// The content: JSON, or - for standard input
    #[arg(default_value = "-", allow_negative_numbers = true)]
    data: String,

    /// Take the content as text, and publish it as a JSON string
    #[arg(long)]
    text: bool,

    /// Idempotency key: a repeat with the same key takes effect once
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let body = match body(arguments) {
        Ok(body) => body,
        Err(text) => return super::fail(&text),
    };
    arguments.remote.run(
        |api| api.post("/v1/publish", &body),
        |answer| {
            let (offset, epoch) = (&answer["offset"], text(answer, "epoch"));
            let known = answer["duplicate"] == true;
            let again = if known { " (a repeat: it was published before)" } else { "" };
            format!("{} is at offset {offset} of epoch {epoch}{again}\n", arguments.channel)
        },
    )
}

fn body(arguments: &Arguments) -> Result<String, String> {
    let mut data = arguments.data.clone();
    if data == "-" {
        data.clear();
        if std::io::stdin().is_terminal() {
            eprintln!("reading the content from standard input; end it with Ctrl-D");
        }
        let read = std::io::stdin().read_to_string(&mut data);
        read.map_err(|error| format!("cannot read standard input: {error}"))?;
    }
    // A line end belongs to the shell that wrote it.
    let data = data.strip_suffix('\n').unwrap_or(&data);
    let content = if arguments.text {
        Value::from(data).to_string()
    } else {
        let checked = serde_json::from_str::<&RawValue>(data);
        checked.map_err(|error| {
            format!("the content is not JSON: {error}; use --text to publish it as a JSON string")
        })?;
        data.to_owned()
    };
    let mut head = json!({"channel": arguments.channel});
    if let Some(key) = &arguments.key {
        head["key"] = key.as_str().into();
    }
    let mut body = head.to_string();
    // Byte for byte, as it was written.
    body.truncate(body.len() - 1);
    Ok(format!("{body},\"content\":{content}}}"))
}
