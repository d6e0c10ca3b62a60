//! The generator's command lines in the documents are understood, and short ones run.

#[allow(dead_code, reason = "each test program uses its part of it")]
mod server;

use std::process::Command;

use clap::Parser as _;
use seawall_bench::cli::Cli;
use server::{Behaviour, TestServer};

const DOCUMENTS: [&str; 2] = [include_str!("../../README.md"), include_str!("../README.md")];

/// Commands in running text and in blocks.
fn commands() -> Vec<String> {
    let inline = DOCUMENTS.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    let joined = inline.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines = DOCUMENTS.iter().flat_map(|text| text.lines()).map(str::to_owned);
    let all = joined.chain(lines).filter(|text| text.starts_with("seawall-bench "));
    all.map(|text| text.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

#[test]
fn every_command_line_of_the_documents_is_understood() {
    let commands = commands();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands.iter().filter(|command| command.contains("ws://")) {
        let words = command.split(' ').map(|word| word.trim_matches('\''));
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    for command in commands.iter().filter(|command| !command.contains("ws://")) {
        let load = command.split(' ').nth(1).expect("a load");
        let parsed = Cli::try_parse_from(["b", load, "ws://h/"]);
        assert!(parsed.is_ok() || load == "plot", "{command}");
    }
}

/// Short loads run for real, against another server and for less time; how fast they are is not
/// judged.
#[test]
fn short_loads_run() {
    let server = TestServer::start(Behaviour::default());
    let is_short = |command: &String| {
        ["echo", "connect"].iter().any(|load| command.split(' ').nth(1) == Some(load))
    };
    let commands: Vec<String> = commands().into_iter().filter(is_short).collect();
    assert!(commands.len() >= 2, "{commands:?}");
    for command in commands {
        let shorter = command
            .replace("ws://127.0.0.1:9000/echo", &server.url())
            .replace("--duration 5", "--duration 0.3 --warmup 0")
            .replace("--rate 10000", "--rate 200")
            .replace("p99<5ms", "p99<60s");
        let arguments = shorter.split(' ').skip(1).map(|word| word.trim_matches('\''));
        let output = Command::new(env!("CARGO_BIN_EXE_seawall-bench"))
            .args(arguments)
            .output()
            .expect("the generator runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{shorter}: {}", String::from_utf8_lossy(&said));
    }
}
