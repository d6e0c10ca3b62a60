//! `seawall drain`: the graceful end of a running server.

use std::process::ExitCode;
use std::time::Duration;

use super::remote::Remote;

/// Shuts a running server down gracefully, as SIGTERM does: it accepts no new clients, and closes
/// its connections, spread over `drain.window_ms`.
///
/// Exit codes: 0 it has begun, or with --wait ended; 1 the server was not reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall drain\n  seawall drain --wait")]
pub(super) struct Arguments {
    /// Wait until the server has ended, and print every second how many connections are left
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let begun = arguments.remote.api().and_then(|api| Ok((api.post("/v1/drain", "{}")?, api)));
    let (answer, api) = match begun {
        Ok(begun) => begun,
        Err(text) => return super::fail(&text),
    };
    let shown = arguments.remote.show(&answer, |answer| {
        let (open, ms) = (&answer["connections_open"], answer["window_ms"].as_u64().unwrap_or(0));
        let plural = if *open == 1 { " is" } else { "s are" };
        format!("draining: {open} connection{plural} closed within {} s\n", ms.div_ceil(1000))
    });
    if arguments.wait {
        // It stops answering when it is gone.
        while let Ok(node) = api.get("/v1/node", &[]) {
            eprintln!("{} left", node["connections_open"]["total"]);
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    shown
}
