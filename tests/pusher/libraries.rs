//! The libraries that applications use: in clients and in backends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::CONFIG;
use crate::support::Server;
use crate::support::tls::Authority;

/// Longer than any script takes; one that hangs is ended.
const SCRIPT_SECONDS_MAX: &str = "120";

/// Runs a script with a server.
fn run(script: &str) {
    run_with(script, &Server::start(CONFIG), None);
}

/// Runs a script, which must print `works` at its end; over TLS if there is an authority.
fn run_with(script: &str, server: &Server, authority: Option<&Authority>) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let is_python = Path::new(script).extension().is_some_and(|end| end == "py");
    let program = if is_python { root.join(".cache/venv/bin/python") } else { "node".into() };
    let mut command = Command::new("timeout");
    command.arg(SCRIPT_SECONDS_MAX).arg(program).arg(root.join("tests/pusher").join(script));
    command.arg(root.join(".cache/node")).arg(server.address().port().to_string());
    if let Some(authority) = authority {
        command.arg("tls").env("NODE_EXTRA_CA_CERTS", authority.file());
    }
    let output = command.output().expect("coreutils are there");
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && text.ends_with("works\n"),
        "{script}: {text}{errors}; if a library is missing, run scripts/check.sh --install"
    );
}

#[test]
fn pusher_js_and_the_library_for_node_over_tls() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n";
    let server = Server::start(&format!("{CONFIG}{listener}{certificate}"));
    run_with("with_pusher_js.mjs", &server, Some(&authority));
}

#[test]
fn pusher_js_in_a_page_and_in_a_worker() {
    run("with_browser.mjs");
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
