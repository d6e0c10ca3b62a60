//! `seawall drain`: shuts a running server down gracefully.

use std::process::ExitCode;
use std::time::Duration;

use super::remote::Remote;

/// Shuts a running server down gracefully, as SIGTERM does: it accepts no new clients, and closes
/// its connections, spread over `drain.window_ms`.
///
/// Exit codes: 0 the drain has started, or with --wait ended; 1 the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall drain\n  seawall drain --wait")]
pub(super) struct Arguments {
    /// Wait until the server has ended, and print the number of open connections every second
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let begun = arguments.remote.open_api().and_then(|api| Ok((api.post("/v1/drain", "{}")?, api)));
    let (answer, api) = match begun {
        Ok(begun) => begun,
        Err(text) => return super::print_failure(&text),
    };
    let shown = arguments.remote.print_answer(&answer, |answer| {
        let (open, ms) = (&answer["connections_open"], answer["window_ms"].as_u64().unwrap_or(0));
        let plural = if *open == 1 { " is" } else { "s are" };
        format!("draining: {open} connection{plural} closed within {} s\n", ms.div_ceil(1000))
    });
    if arguments.wait {
        // The admin address stops answering when the process has ended.
        while let Ok(node) = api.get("/v1/node", &[]) {
            eprintln!("{} left", node["connections_open"]["total"]);
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    shown
}
