//! `seawall config` and `seawall version`: what there is, on standard output.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::reference;
use crate::text::terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  seawall config --short > seawall.toml\n  seawall config | less"
)]
pub(super) struct ConfigArguments {
    /// As tables for a document instead of a file that loads
    #[arg(long)]
    markdown: bool,

    /// A short file to start from, with the options that are changed most
    #[arg(long, conflicts_with = "markdown")]
    short: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall version\n  seawall version --json")]
pub(super) struct VersionArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn config(arguments: &ConfigArguments) -> ExitCode {
    if arguments.short {
        return print(reference::SHORT);
    }
    let text = if arguments.markdown { reference::markdown() } else { reference::toml() };
    print(&text)
}

pub(super) fn version(arguments: &VersionArguments) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    if arguments.json {
        let object = serde_json::json!({
            "version": version,
            "build": build,
            "target": format!("{machine}-{system}"),
        });
        print(&format!("{object}\n"))
    } else {
        print(&format!("seawall {version} ({build} build for {machine}-{system})\n"))
    }
}

/// Prints, without anything that acts on a terminal; a reader that has gone (`| head`) is no
/// failure.
pub(super) fn print(text: &str) -> ExitCode {
    let text = terminal::escape_lines(text);
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => super::fail(&error),
        _ => ExitCode::SUCCESS,
    }
}
