//! `seawall config` and `seawall version`: print all options, or the version.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::reference;
use crate::text::terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  seawall config --short > seawall.toml\n  seawall config | less"
)]
pub(super) struct ConfigArguments {
    /// Print Markdown tables instead of a file
    #[arg(long)]
    markdown: bool,

    /// Print a short file with the options that are changed most
    #[arg(long, conflicts_with = "markdown")]
    short: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall version\n  seawall version --json")]
pub(super) struct VersionArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn print_config(arguments: &ConfigArguments) -> ExitCode {
    if arguments.short {
        return print_text(reference::SHORT);
    }
    let text = if arguments.markdown { reference::markdown() } else { reference::toml() };
    print_text(&text)
}

pub(super) fn print_version(arguments: &VersionArguments) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    if arguments.json {
        let object = serde_json::json!({
            "version": version,
            "build": build,
            "target": format!("{machine}-{system}"),
        });
        print_text(&format!("{object}\n"))
    } else {
        print_text(&format!("seawall {version} ({build} build for {machine}-{system})\n"))
    }
}

/// Prints text, with terminal control characters escaped. A closed pipe (`| head`) is no failure.
pub(super) fn print_text(text: &str) -> ExitCode {
    let text = terminal::escape_lines(text);
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            super::print_failure(&error)
        }
        _ => ExitCode::SUCCESS,
    }
}
