//! The command line: one file per subcommand.

mod banner;
mod channels;
mod check_config;
mod connections;
mod dev_cert;
mod doctor;
mod drain;
mod flags;
mod kick;
mod link;
mod load;
mod nodes;
mod print;
mod publish;
mod reload;
mod remote;
mod serve;
mod shell;
mod status;
mod token;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use crate::driver::signals;
use crate::text::terminal;
use clap::{CommandFactory as _, Parser, Subcommand};

/// A WebSocket edge server: one binary, one event loop per core.
///
/// Options come from flags, the environment (`SEAWALL_…`) and a file, in this order of precedence;
/// `seawall config` lists them. Exit codes: 0 done; 1 failed, and standard error says why and what
/// to do; 2 the command line is invalid.
#[derive(Debug, Parser)]
#[command(
    name = "seawall",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  seawall serve\n  seawall config --short > seawall.toml\n  seawall \
                  status\n\n`seawall COMMAND --help` explains a command, with examples."
)]
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
    /// Make a certificate for development
    DevCert(dev_cert::Arguments),
    /// Make a token for a client, or explain why one is rejected
    Token(Box<token::Arguments>),
    /// Publish a message to a channel of a running server
    Publish(publish::Arguments),
    /// List the channels of a running server, or describe one
    Channels(channels::Arguments),
    /// List the connections of a running server, or describe one
    Connections(connections::Arguments),
    /// List the nodes of the cluster of a running server
    Nodes(nodes::Arguments),
    /// Disconnect a user or a connection of a running server
    Kick(kick::Arguments),
    /// Act as an application behind a gateway, and show the records of its links
    Link(link::Arguments),
    /// Show the state of a running server
    Status(status::Arguments),
    /// Reload the configuration of a running server
    Reload(reload::Arguments),
    /// Shut a running server down gracefully
    Drain(drain::Arguments),
    /// Examine this host for problems, with remedies
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(shell::CompletionsArguments),
    /// Print a manual page
    Man(shell::ManArguments),
    /// Print the version
    Version(print::VersionArguments),
}

/// Runs the command that the command line names.
pub fn run() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|command| command == "serve") {
        signals::install_handlers();
    }
    let arguments = Arguments::try_parse().unwrap_or_else(|error| exit(&error));
    match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Config(arguments) => print::print_config(&arguments),
        Command::DevCert(arguments) => dev_cert::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Channels(arguments) => channels::run(&arguments),
        Command::Connections(arguments) => connections::run(&arguments),
        Command::Nodes(arguments) => nodes::run(&arguments),
        Command::Kick(arguments) => kick::run(&arguments),
        Command::Link(arguments) => link::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions(arguments) => {
            shell::print_completions(&arguments, Arguments::command())
        }
        Command::Man(arguments) => shell::print_manual(&arguments, Arguments::command()),
        Command::Version(arguments) => print::print_version(&arguments),
    }
}

/// Prints help or an error in the command line, and ends the process.
fn exit(error: &clap::Error) -> ! {
    // The exit code is the same if nothing reads the output.
    let _ = error.print();
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        let command = Arguments::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let _ = writeln!(std::io::stderr(), "Commands: {}", names.join(", "));
    }
    std::process::exit(error.exit_code())
}

/// Prints an error to standard error.
fn print_failure(error: &dyn Display) -> ExitCode {
    // The exit code is the same if nothing reads standard error.
    let _ = std::io::stderr().write_all(format_failure(error).as_bytes());
    ExitCode::FAILURE
}

/// Formats an error: each line after the program's name.
fn format_failure(error: &dyn Display) -> String {
    let mut text = String::new();
    for line in error.to_string().lines() {
        text.extend(["seawall: ", &*terminal::escape(line), "\n"]);
    }
    text
}
