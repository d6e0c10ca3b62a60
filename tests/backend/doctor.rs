//! `seawall doctor` and the applications that a configuration names.

use std::process::Command;

use seawall::link::{LinkRecord, LinkSession, RecordKind, append_record};
use serde_json::Value;
use tungstenite::accept_hdr;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::application::{Application, Folder, LANGUAGES, SECRET, free_port};
use crate::support::scripted::{Scripted, http};

/// Returns the findings about applications.
fn examine(folder: &Folder, backend: &str) -> Vec<Value> {
    let secret = folder.write("app.secret", SECRET);
    examine_config(folder, &format!("[[backend]]\n{backend}\nsecret_files = [{secret:?}]\n"))
}

/// Returns the same for a whole configuration.
pub(crate) fn examine_config(folder: &Folder, config: &str) -> Vec<Value> {
    let config = folder.write("doctor.toml", config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(["doctor", "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let output = command.args(["--config", &config]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("no report: {}", String::from_utf8_lossy(&output.stderr));
    });
    let all = report["findings"].as_array().unwrap().iter();
    let own = all.filter(|one| one["name"].as_str().unwrap().starts_with("backend"));
    own.cloned().collect()
}

#[track_caller]
pub(crate) fn check(findings: &[Value], name: &str, state: &str, says: &str) {
    let found = findings.iter().find(|one| one["name"] == name).expect(name);
    assert_eq!(found["state"], state, "{found}");
    let text = found["found"].as_str().unwrap();
    assert!(text.contains(says), "{says}: {found}");
    assert_eq!(found["cure"].is_null(), state == "ok", "{found}");
}

#[test]
fn applications_of_the_guide_have_no_problem() {
    for language in LANGUAGES {
        let folder = Folder::new();
        let application = Application::start(&folder, language, free_port());
        let (events, hooks) = (application.url(), application.hook_url());
        let findings = examine(&folder, &format!("events_url = {events:?}\nhook_url = {hooks:?}"));
        for name in ["backend", "backend signature", "backend clock"] {
            let of_name = findings.iter().filter(|one| one["name"] == name);
            assert_eq!(of_name.clone().count(), 2, "{findings:#?}");
            assert!(of_name.clone().all(|one| one["state"] == "ok"), "{findings:#?}");
        }
    }
}

#[test]
fn what_is_wrong_with_an_application_is_found_with_its_remedy() {
    let folder = Folder::new();
    let old = "date: Tue, 01 Jan 2030 00:00:00 GMT\r\n";
    let application = Scripted::start(move |_| Some(http("200 OK", old, "{}")));
    let backend = format!("hook_url = {:?}", application.hook_url());
    let findings = examine(&folder, &backend);
    check(&findings, "backend", "ok", "status 200");
    check(&findings, "backend signature", "warning", "accepts a wrong signature");
    check(&findings, "backend clock", "warning", "ahead of this host's");
    for (status, remedy) in [
        ("401 Unauthorized", "secret"),
        ("404 Not Found", "correct the address"),
        ("302 Found", "redirects are not followed"),
        ("500 No", "status from 200 to 299"),
    ] {
        application.answer(move |_| Some(http(status, "", "")));
        let findings = examine(&folder, &backend);
        check(&findings, "backend", "failure", &status[..3]);
        assert!(findings[0]["cure"].as_str().unwrap().contains(remedy), "{findings:#?}");
    }
    let findings = examine(&folder, &format!("hook_url = \"http://127.0.0.1:{}\"", free_port()));
    check(&findings, "backend", "warning", "Connection refused");
}

/// An application with an endpoint for links, which checks a token or does not.
fn link_endpoint(checks: bool) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/link", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            #[allow(clippy::result_large_err, reason = "the library's callback")]
            let upgrade = |request: &Request, mut response: Response| {
                let token = request.headers().get("authorization");
                if checks && token.is_none_or(|token| token != "Bearer s3cret-of-links") {
                    let mut refusal = ErrorResponse::new(None);
                    *refusal.status_mut() = tungstenite::http::StatusCode::UNAUTHORIZED;
                    return Err(refusal);
                }
                let chosen = request.headers()["sec-websocket-protocol"].clone();
                response.headers_mut().insert("sec-websocket-protocol", chosen);
                Ok(response)
            };
            let Ok(mut socket) = accept_hdr(tcp.unwrap(), upgrade) else { continue };
            let body = br#"{"instance":"app-7"}"#;
            let mut hello = Vec::new();
            append_record(
                &mut hello,
                &LinkRecord::new(RecordKind::Hello, LinkSession::NONE, 1, body),
            );
            let _ = socket.send(tungstenite::Message::Binary(hello.into()));
            while socket.read().is_ok() {}
        }
    });
    url
}

#[test]
fn endpoints_for_links_are_dialed() {
    let folder = Folder::new();
    let token = folder.write("links.token", "s3cret-of-links\n");
    for (checks, state, verb) in [(true, "ok", "rejects"), (false, "warning", "accepts")] {
        let links = link_endpoint(checks);
        let backend = format!("links = [{links:?}]\nlink_token_file = {token:?}");
        let findings = examine(&folder, &backend);
        check(&findings, "backend link", "ok", "\"app-7\"");
        check(&findings, "backend token", state, verb);
    }
    let links = link_endpoint(true);
    let findings = examine(&folder, &format!("links = [{links:?}]"));
    check(&findings, "backend link", "warning", "link_token_file");
    let gone = format!("links = [\"ws://127.0.0.1:{}\"]", free_port());
    check(&examine(&folder, &gone), "backend link", "warning", "Connection refused");
}
