//! The libraries that applications use: in clients and in backends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::CONFIG;
use crate::support::Server;

/// Longer than any script takes; one that hangs is ended.
const SCRIPT_SECONDS_MAX: &str = "120";

/// Runs a script with a server, which must print `works` at its end.
fn run(script: &str) {
    let server = Server::start(CONFIG);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let is_python = Path::new(script).extension().is_some_and(|end| end == "py");
    let program = if is_python { root.join(".cache/venv/bin/python") } else { "node".into() };
    let output = Command::new("timeout")
        .arg(SCRIPT_SECONDS_MAX)
        .arg(program)
        .arg(root.join("tests/pusher").join(script))
        .arg(root.join(".cache/node"))
        .arg(server.address().port().to_string())
        .output()
        .expect("coreutils are there");
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && text.ends_with("works\n"),
        "{script}: {text}{errors}; if a library is missing, run scripts/check.sh --install"
    );
}

#[test]
fn pusher_js_and_the_library_for_node() {
    run("with_pusher_js.mjs");
}

#[test]
fn laravel_echo() {
    run("with_echo.mjs");
}

#[test]
fn pysher_and_the_library_for_python() {
    run("with_pysher.py");
}

#[test]
fn clients_come_back_after_a_cut() {
    run("storm.mjs");
}
