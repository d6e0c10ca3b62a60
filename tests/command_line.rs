//! The command line as its users meet it: help, completions, manual pages, and what it says of
//! input that is wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

const COMMANDS: [&str; 16] = [
    "serve",
    "check-config",
    "config",
    "token",
    "publish",
    "channels",
    "connections",
    "kick",
    "link",
    "status",
    "reload",
    "drain",
    "doctor",
    "completions",
    "man",
    "version",
];

fn seawall(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(arguments).output().expect("the program can be run")
}

#[track_caller]
fn says(arguments: &[&str]) -> String {
    let output = seawall(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn every_command_has_help_with_examples() {
    let all = says(&["--help"]);
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command}: {all}");
        let help = says(&[command, "--help"]);
        let example = format!("Examples:\n  seawall {command}");
        assert!(help.contains(&example) || help.contains("| seawall"), "{command}: {help}");
        let headings = help.lines().filter(|line| *line == "Options:").count();
        assert!(help.contains("Usage:") && headings == 1, "{command}: {help}");
        assert_eq!(help.contains("--engine-ring-entries"), command == "serve", "{command}");
        assert!(!help.contains("[env: `"), "{command}: {help}");
        assert!(says(&[command, "-h"]).lines().count() <= help.lines().count(), "{command}");
    }
}

#[test]
fn an_unknown_command_is_answered_with_those_there_are() {
    let unknown = seawall(&["start"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(COMMANDS.iter().all(|command| said.contains(command)), "{said}");
}

#[test]
fn a_configuration_is_checked_under_the_name_that_serve_takes() {
    for arguments in
        [["check-config", "/no/file"].as_slice(), &["check-config", "--config", "/no/file"]]
    {
        let output = seawall(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("/no/file"), "{said}");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = says(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
        assert!(script.contains("connections-per-shard-max"), "{shell} does not know the options");
    }
    let wrong = seawall(&["completions", "tcsh"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("bash"), "{wrong:?}");
}

#[test]
fn every_command_has_a_manual_page() {
    assert!(says(&["man"]).contains(".TH seawall 1"));
    for command in COMMANDS {
        let page = says(&["man", command]);
        assert!(page.contains(&format!(".TH seawall-{command} 1")), "{page}");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    let wrong = seawall(&["man", "nothing"]);
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("nothing") && said.contains("check-config"), "{said}");
}

#[test]
fn wrong_input_is_answered_with_what_to_write() {
    for (arguments, code, says) in [
        (&["servee"][..], 2, "Commands: serve, check-config"),
        (&["kick"], 2, "--user <USER>|--connection <ID>"),
        (&["kick", "--user", "a", "--code", "99999"], 2, "3000 to 4999"),
        (&["link", "--listen", "nowhere"], 2, "<IP:PORT>"),
        (&["link", "--token-file", "/none"], 1, "cannot read /none"),
        (&["token", "--expires", "1w"], 2, "7d"),
        (&["token"], 1, "--private-key"),
        (&["publish", "news", "hello"], 1, "--text"),
        (&["channels", "--url", "foo"], 1, "http://HOST:PORT"),
        (&["check-config", "/none.toml"], 1, "cannot read /none.toml"),
        (&["serve", "--listen", "localhost"], 1, "localhost:PORT"),
        (&["serve", "--log-level", "loud"], 1, "error, warn, info, debug or trace"),
        (&["serve", "--listener-unix-mode", "9"], 1, "not `9`"),
        (&["serve", "--listener-unix-mode", "0x1b0"], 1, "not `0x1b0`"),
    ] {
        let output = seawall(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

/// A secret that the group may read is accepted with a warning, as Kubernetes mounts them.
#[test]
fn files_of_secrets_that_the_group_may_read_are_named() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let secret = folder.join(format!("group-secret-{}", std::process::id()));
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let config = folder.join(format!("group-secret-{}.toml", std::process::id()));
    let name = secret.display().to_string();
    let text =
        format!("[[key]]\nsecret_file = \"{name}\"\n[[api_key]]\nsecret_file = \"{name}\"\n");
    std::fs::write(&config, text).unwrap();
    for (mode, accepted, warns) in [
        (0o600, true, false),
        (0o400, true, false),
        (0o640, true, true),
        (0o440, true, true),
        (0o660, true, true),
        (0o644, false, false),
        (0o604, false, false),
    ] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = seawall(&["check-config", config.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), accepted, "{mode:o}: {said}");
        let warnings = said.lines().filter(|line| line.starts_with("warning: ")).count();
        assert_eq!(warnings, usize::from(warns), "{mode:o}: {said}");
        assert!(!warns || said.contains(&format!("chmod g= {name}")), "{said}");
    }
    std::fs::remove_file(secret).unwrap();
    std::fs::remove_file(config).unwrap();
}
