//! `seawall reload` and `seawall status` against a running server.

use std::process::{Command, Output};

use crate::support::{Raw, Server, wait_until};

fn seawall(server: &Server, arguments: &[&str]) -> (Output, String) {
    let url = format!("http://{}", server.admin());
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.args(arguments).args(["--url", &url]).output().unwrap();
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn reload_reports_what_changed_what_needs_a_restart_and_what_is_wrong() {
    let server = Server::start("[rates]\nburst_ms = 1000\n");
    let (output, said) = seawall(&server, &["reload"]);
    assert_eq!((output.status.code(), &*said), (Some(0), "reloaded; no option changed\n"));
    let write = |config: &str| std::fs::write(server.config(), config).unwrap();
    write("[rates]\nburst_ms = 3000\n[[channel]]\n[engine]\nsend_bytes_max = 8192\n");
    let (output, said) = seawall(&server, &["reload"]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "reloaded; changed: [[channel]], rates.burst_ms\nneeds a restart: [engine]\n");
    let (_, status) = seawall(&server, &["status"]);
    assert!(status.contains("succeeded; needs a restart: [engine]"), "{status}");
    write("[rates]\nburst_ms = \"x\"\n[log]\nlevel = \"loud\"\n");
    let (output, said) = seawall(&server, &["reload"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["line 2: rates.burst_ms", "log.level", "The previous configuration stays"] {
        assert!(said.contains(part), "{said}");
    }
    let (_, status) = seawall(&server, &["status"]);
    assert!(status.contains("FAILED, the previous configuration is in force: "), "{status}");
}

#[test]
fn status_shows_the_server_on_one_screen() {
    let server = Server::start("");
    let _client = Raw::open(server.address());
    wait_until("it is open", || server.metrics().get("connections_open") == 1);
    let (output, said) = seawall(&server, &["status"]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let listener = server.address().to_string();
    let start = format!("seawall {} (pid {}), up ", env!("CARGO_PKG_VERSION"), server.pid());
    for part in
        [&*start, &listener, "1 open of ", " MB used", "draining     no", "last reload  none"]
    {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert!(said.lines().count() <= 24 && said.lines().all(|line| line.len() <= 100), "{said}");
    let (_, json) = seawall(&server, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["node"]["connections_open"]["total"], 1);
    drop(server);
}
