//! The client library where an application decides and answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::application::Folder;
use crate::hooks::{PATIENT, asked, start};
use crate::support::scripted::{Received, Scripted, http};
use crate::support::wait_until;

fn answer(request: &Received) -> Value {
    let question = request.json();
    let error = |code: &str| json!({"error": {"code": code, "message": "no"}});
    match question["type"].as_str() {
        Some("connect") if question["headers"]["cookie"] == "session=s-ann" => {
            json!({"user": "ann", "expires_in_s": 4})
        }
        Some("connect") => json!({"refuse": {"status": 401}}),
        Some("subscribe") if question["channel"] == "private:ann" => json!({}),
        Some("subscribe") if question["channel"] == "private:short" => json!({"expires_in_s": 1}),
        Some("subscribe") => error("not_yours"),
        Some("publish") if question["content"] == "spam" => error("spam"),
        Some("publish") => json!({"content": question["content"].as_str().unwrap().trim()}),
        _ if question["method"] == "add" => {
            let numbers = question["content"].as_array().unwrap().iter();
            json!({"content": numbers.map(|one| one.as_u64().unwrap()).sum::<u64>()})
        }
        _ => error("no_method"),
    }
}

#[test]
fn the_library_calls_resumes_and_repeats_no_call() {
    let folder = Folder::new();
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let application = Scripted::start(move |request| {
        if request.json()["method"] == "slow" {
            wait_until("the test lets it answer", || opened.load(Ordering::Acquire));
        }
        Some(http("200 OK", "", &answer(request).to_string()))
    });
    let server = start(&application, &folder, PATIENT);
    let root = env!("CARGO_MANIFEST_DIR");
    let mut run = Command::new("timeout");
    run.args(["120", "node", &format!("{root}/tests/backend/library.mjs")]);
    run.arg(format!("{root}/.cache/node")).arg(format!("ws://{}/ws", server.address()));
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = run.spawn().expect("coreutils are there");
    let mut lines = BufReader::new(script.stdout.take().expect("it is piped")).lines();
    let mut expect = |expected: &str| {
        let line = lines.next().and_then(Result::ok).unwrap_or_default();
        assert_eq!(line, expected, "run scripts/check.sh --install if `ws` is missing");
    };
    expect("works");
    expect("resumed");
    assert_eq!(asked(&application, "connect").len(), 1, "the ticket sufficed");
    assert_eq!(asked(&application, "subscribe").len(), 2, "the grant sufficed");
    let slow = || asked(&application, "call").iter().filter(|one| one["method"] == "slow").count();
    wait_until("the application is called", || slow() == 1);
    script.stdin.take().expect("it is piped").write_all(b"reconnect\n").unwrap();
    expect("lost");
    expect("known again");
    assert!(script.wait().expect("it ends").success());
    gate.store(true, Ordering::Release);
    assert_eq!(slow(), 1, "it was not called twice");
}
