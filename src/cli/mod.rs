//! The command line: one file a subcommand.

mod banner;
mod channels;
mod check_config;
mod connections;
mod doctor;
mod drain;
mod flags;
mod kick;
mod load;
mod print;
mod publish;
mod remote;
mod serve;
mod token;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use crate::driver::signals;
use crate::text::terminal;
use clap::{Parser, Subcommand};

/// A WebSocket edge server: one binary, one `io_uring` loop per core.
///
/// Options come from flags, the environment (`SEAWALL_…`) and a file, in this order of precedence;
/// `seawall config` lists them. Exit codes: 0 done; 1 failed, and standard error says why and what
/// to do; 2 the command line cannot be understood.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT
    Serve(serve::Arguments),
    /// Check a configuration without running it
    CheckConfig(check_config::Arguments),
    /// Print every option with its default, unit and meaning, as a file that loads
    Config(print::ConfigArguments),
    /// Make a token for a client, or say why one is not taken
    Token(Box<token::Arguments>),
    /// Publish a message to a channel of a running server
    Publish(publish::Arguments),
    /// List the channels of a running server, or tell about one
    Channels(channels::Arguments),
    /// List the connections of a running server, or tell about one
    Connections(connections::Arguments),
    /// Disconnect a user or a connection of a running server
    Kick(kick::Arguments),
    /// Begin the graceful end of a running server
    Drain(drain::Arguments),
    /// Look at this host: what stands in the server's way, and what mends it
    Doctor(doctor::Arguments),
    /// Print the version
    Version(print::VersionArguments),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|command| command == "serve") {
        signals::prepare();
    }
    match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Config(arguments) => print::config(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Channels(arguments) => channels::run(&arguments),
        Command::Connections(arguments) => connections::run(&arguments),
        Command::Kick(arguments) => kick::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Version(arguments) => print::version(&arguments),
    }
}

/// Prints what went wrong.
fn fail(error: &dyn Display) -> ExitCode {
    // A standard error that nothing reads changes nothing about the exit code.
    let _ = std::io::stderr().write_all(failure(error).as_bytes());
    ExitCode::FAILURE
}

/// What went wrong, each line under the program's name.
fn failure(error: &dyn Display) -> String {
    let mut text = String::new();
    for line in error.to_string().lines() {
        text.extend(["seawall: ", &*terminal::escape(line), "\n"]);
    }
    text
}
