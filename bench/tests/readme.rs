//! The generator's command lines in the README are understood.

use clap::Parser as _;
use seawall_bench::cli::Cli;

const README: &str = include_str!("../../README.md");

#[test]
fn every_command_line_of_the_readme_is_understood() {
    let inline = README.split('`').skip(1).step_by(2);
    let joined = inline.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let commands: Vec<String> = joined.filter(|text| text.starts_with("seawall-bench ")).collect();
    assert!(commands.len() >= 2, "{commands:?}");
    let with_url = commands.iter().filter(|command| command.contains("ws://"));
    for command in with_url {
        Cli::try_parse_from(command.split(' '))
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    let named = commands.iter().filter(|command| !command.contains("ws://"));
    for command in named {
        let load = command.split(' ').nth(1).expect("a load");
        let parsed = Cli::try_parse_from(["b", load, "ws://h/"]);
        assert!(parsed.is_ok() || load == "plot", "{command}");
    }
}
