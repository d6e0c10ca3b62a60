//! Signals at any moment: a start that is interrupted ends cleanly or remembers what it was asked.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::process::command;
use crate::support::{Raw, Server, wait_until};

const ARGUMENTS: [&str; 6] = ["--listen", "127.0.0.1:0", "--shards", "1", "--admin", "127.0.0.1:0"];

fn kill(child: &Child, signal: &str) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
}

/// Whether the process blocks or ignores a signal, or has a handler for it.
fn minds(child: &Child, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let sets = status.lines().filter_map(|line| {
        let (name, mask) = line.split_once(':')?;
        ["SigBlk", "SigIgn", "SigCgt"].contains(&name).then_some(mask.trim())
    });
    sets.into_iter()
        .any(|mask| u64::from_str_radix(mask, 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1))
}

/// A start that has just taken over its signals, and this many steps of 250 µs later.
fn early(step: u32) -> (Child, std::path::PathBuf) {
    let (mut command, path) = command(&ARGUMENTS, "");
    let child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // They are taken over in this order; the last one is minded when all are.
    while !minds(&child, 15) || !minds(&child, 14) || !minds(&child, 1) {
        assert!(Instant::now() < deadline, "the server does not take over its signals");
        std::thread::yield_now();
    }
    let until = Instant::now() + Duration::from_micros(250) * step;
    while Instant::now() < until {
        std::thread::yield_now();
    }
    (child, path)
}

/// Reads the log until a line holds one of the words, or the end; returns all of it.
fn log_until(reader: &mut impl BufRead, words: &[&str]) -> String {
    let mut log = String::new();
    while reader.read_line(&mut log).unwrap() > 0 {
        if log.lines().last().is_some_and(|line| words.iter().any(|word| line.contains(word))) {
            break;
        }
    }
    log
}

#[test]
fn an_early_hangup_is_remembered_as_a_reload() {
    for step in 0..30 {
        let (mut child, path) = early(step * 3);
        kill(&child, "HUP");
        let mut reader = BufReader::new(child.stderr.take().unwrap());
        let log = log_until(&mut reader, &["configuration reloaded"]);
        assert!(log.contains("configuration reloaded"), "step {step}: {log}");
        kill(&child, "TERM");
        reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "step {step}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn an_early_end_is_a_clean_one() {
    for signal in ["TERM", "INT"] {
        for step in 0..20 {
            let (mut child, path) = early(step * 4);
            kill(&child, signal);
            let mut log = String::new();
            child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(0), "step {step}, {:?}: {log}", status.signal());
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_start_that_waits_for_its_configuration_can_be_ended() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(["serve", "--config", "-"]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_until("the signals are taken over", || minds(&child, 15) && minds(&child, 14));
    kill(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_without_a_meaning_end_nothing() {
    let mut server = Server::start("");
    let mut client = Raw::open(server.address());
    for signal in ["USR1", "USR2", "QUIT", "ALRM"] {
        server.signal(signal);
        let line = format!("SIG{signal}");
        wait_until("the signal is logged", || server.log().contains(&line));
        client.echo("still here");
    }
    for signal in ["PIPE", "VTALRM", "PROF", "IO", "PWR", "XFSZ", "34", "40", "64"] {
        server.signal(signal);
        client.echo("still here");
    }
    assert!(server.reload("").contains("configuration reloaded"));
    server.signal("TERM");
    assert_eq!(client.frame().close_code(), 1001);
    client.send(&crate::support::raw::close(1001));
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
}
