//! The HTTP API against its own description: requests that the `OpenAPI` document allows, and
//! requests that it forbids, are never answered with a 5xx, nor with a status, a type or a body
//! that the document does not describe.

use std::path::Path;
use std::process::Command;

use crate::support::raw::{request_with, text};
use crate::support::{Raw, Server, wait_until};
use crate::{root, tool};

const SECRET: &str = "a-key-for-generated-requests";

/// Checks that ask for more than the document can say: that two parameters belong together, that a
/// batch is answered one by one, that 1.0 is not an integer; and that the method is checked before
/// whether the request may come from a web page.
const UNFIT: &str = "positive_data_acceptance,negative_data_rejection,unsupported_method";

#[test]
fn generated_requests_are_answered_as_described() {
    let schemathesis = tool(root().join(".cache/venv/bin/st"));
    let server = Server::start(&format!("[[api_key]]\nsecret = \"{SECRET}\"\n"));
    // Somebody to be listed, and something to be read.
    let mut client = Raw::connect(server.address());
    client.send(&request_with("/ws", ""));
    client.switched();
    for n in 0..3 {
        client.send(&text(r#"{"type":"subscribe","channel":"0","presence":true}"#));
        client.send(&text(format!(r#"{{"type":"publish","channel":"0","content":{n}}}"#)));
    }
    wait_until("the channel has a member", || server.metrics().get("channel_members") == 1);
    // It leaves files where it runs.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new("timeout")
        .arg("300")
        .arg(schemathesis)
        .arg("run")
        .arg(format!("http://{}/v1/openapi.json", server.admin()))
        .args(["--header", &format!("Authorization: Bearer {SECRET}")])
        // It would end the server under test.
        .args(["--exclude-path", "/v1/drain"])
        .args(["--checks", "all", "--exclude-checks", UNFIT])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "1"])
        .args(["--generation-database", "none", "--suppress-health-check", "all", "--no-color"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder)
        .output()
        .expect("coreutils are there");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}{errors}", output.status);
    let number = |before: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(before));
        let digits = line.and_then(|rest| rest.split_whitespace().next());
        digits.and_then(|digits| digits.parse::<u32>().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    assert!(number("Tested:") >= 18, "every call is tested: {said}");
    assert_eq!(server.metrics().get("request_errors_total"), 2, "the client's own, and no more");
}
