//! `seawall publish`: publishes a message to a channel.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::remote::{Remote, text_of};

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

    /// Idempotency key: repeats with the same key take effect once
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let body = match make_body(arguments) {
        Ok(body) => body,
        Err(text) => return super::print_failure(&text),
    };
    arguments.remote.run(
        |api| api.post("/v1/publish", &body),
        |answer| {
            let (offset, epoch) = (&answer["offset"], text_of(answer, "epoch"));
            let known = answer["duplicate"] == true;
            let again = if known { " (a repeat: it was published before)" } else { "" };
            format!("{} is at offset {offset} of epoch {epoch}{again}\n", arguments.channel)
        },
    )
}

fn make_body(arguments: &Arguments) -> Result<String, String> {
    let mut data = arguments.data.clone();
    if data == "-" {
        data.clear();
        if std::io::stdin().is_terminal() {
            eprintln!("reading the content from standard input; end with Ctrl-D");
        }
        let read = std::io::stdin().read_to_string(&mut data);
        read.map_err(|error| format!("cannot read standard input: {error}"))?;
    }
    // The final line feed comes from the shell (`echo`), not from the content.
    let data = data.strip_suffix('\n').unwrap_or(&data);
    if data.is_empty() && !arguments.text {
        return Err("no content; give DATA, or write it to standard input".to_owned());
    }
    let content = if arguments.text {
        Value::from(data).to_string()
    } else {
        let checked = serde_json::from_str::<&RawValue>(data);
        checked.map_err(|error| {
            format!("content is not JSON: {error}; use --text to publish it as a JSON string")
        })?;
        data.to_owned()
    };
    let mut head = json!({"channel": arguments.channel});
    if let Some(key) = &arguments.key {
        head["key"] = key.as_str().into();
    }
    let mut body = head.to_string();
    // The content is sent byte for byte.
    body.truncate(body.len() - 1);
    Ok(format!("{body},\"content\":{content}}}"))
}
