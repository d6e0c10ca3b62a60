//! The command line: one file a subcommand.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A WebSocket edge server: one binary, one `io_uring` loop per core.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT.
    Serve(serve::Arguments),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
    }
}
