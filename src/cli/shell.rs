//! `seawall completions` and `seawall man`: generated from the definition of the command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Command;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 seawall completions bash > /etc/bash_completion.d/seawall\n\
    \x20 seawall completions zsh > \"${fpath[1]}/_seawall\"\n\
    \x20 seawall completions fish > ~/.config/fish/completions/seawall.fish")]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints a manual page (roff) of the program or of one command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 seawall man | man -l -\n\
    \x20 seawall man serve > /usr/local/share/man/man1/seawall-serve.1")]
pub(super) struct ManArguments {
    /// A command, such as serve; default: the program itself
    command: Option<String>,
}

pub(super) fn print_completions(
    arguments: &CompletionsArguments,
    mut program: Command,
) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "seawall", &mut text);
    write_output(&text)
}

pub(super) fn print_manual(arguments: &ManArguments, mut program: Command) -> ExitCode {
    program.build();
    let page = match &arguments.command {
        None => program,
        Some(name) => {
            let found = program.get_subcommands().find(|command| command.get_name() == name);
            let Some(command) = found else {
                let names: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
                let text = format!("no command `{name}`; there are {}", names.join(", "));
                return super::print_failure(&text);
            };
            command.clone().name(format!("seawall-{name}"))
        }
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(page).render(&mut text) {
        Ok(()) => write_output(&text),
        Err(error) => super::print_failure(&error),
    }
}

/// Writes to standard output. A closed pipe (`| head`) is no failure.
fn write_output(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            super::print_failure(&error)
        }
        _ => ExitCode::SUCCESS,
    }
}
