//! What a node does at its start, with engines that it can and cannot use.

use std::process::Output;

use crate::client::{got, posted};
use crate::engine::{Engine, KINDS, Kind, OPEN_CHANNELS, RESUME, free_port, node_config};
use crate::support::process::command;
use crate::support::tls::Authority;
use crate::support::{Server, wait_until};

/// A start that fails; returns what it printed.
fn fail_to_start(config: &str) -> String {
    let arguments = ["--listen", "127.0.0.1:0", "--admin", ""];
    let (mut command, path) = command(&arguments, config);
    let Output { status, stderr, .. } = command.output().expect("the server can be run");
    let _ = std::fs::remove_file(path);
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).expect("it prints UTF-8")
}

#[test]
fn an_engine_that_can_never_be_used_ends_the_start() {
    let protected = Engine::start_with(Kind::Redis, &["--requirepass", "secret"]);
    let said = fail_to_start(&node_config(&[protected.url()], ""));
    assert!(said.contains("cluster.password_file"), "{said}");
    let part = Engine::start_with(Kind::Redis, &["--cluster-enabled", "yes"]);
    let said = fail_to_start(&node_config(&[part.url()], ""));
    assert!(said.contains("Redis Cluster, which is not supported"), "{said}");
    let config = node_config(&["redis://127.0.0.1".into()], "").replace(RESUME, "");
    let said = fail_to_start(&config);
    assert!(said.contains("resume.keys"), "{said}");
}

#[test]
fn a_password_comes_from_a_file() {
    let engine = Engine::start_with(Kind::Redis, &["--requirepass", "a secret"]);
    let path = std::env::temp_dir().join(format!("seawall-password-{}", std::process::id()));
    std::fs::write(&path, "a secret\n").expect("a file can be written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).expect("its mode can be set");
    let more = format!("password_file = \"{}\"\n", path.display());
    let server = Server::start(&node_config(&[engine.url()], &more));
    let body = serde_json::json!({"channel": "room", "content": 1});
    assert_eq!(posted(&server, "/v1/publish", &body)["offset"], 1);
    assert!(!server.log().contains("a secret"));
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_node_starts_without_its_engine_and_serves_once_that_is_there() {
    for kind in KINDS {
        let mut engine = Engine::start(kind);
        engine.kill();
        let server = Server::start(&node_config(&[engine.url()], OPEN_CHANNELS));
        assert!(server.log().contains("cannot use the cluster's engine"), "{}", server.log());
        let body = serde_json::json!({"channel": "room", "content": 1});
        engine.restart();
        wait_until("a publish succeeds", || {
            crate::client::post(&server, "/v1/publish", &body).0 == 200
        });
        assert!(got(&server, "/v1/channels/room")["offset"].as_u64() >= Some(1));
    }
}

#[test]
fn an_engine_over_tls_is_verified() {
    let own = Authority::new();
    own.write("engine", &["localhost"], false);
    let ((chain, key), port) = (own.paths("engine"), free_port().to_string());
    let [chain, key] = [chain, key].map(|path| path.display().to_string());
    let files = ["--tls-cert-file", &chain, "--tls-key-file", &key, "--tls-ca-cert-file", &chain];
    let port_of = ["--tls-port", &port, "--tls-auth-clients", "no"];
    let _engine = Engine::start_with(Kind::Redis, &[&port_of[..], &files[..]].concat());
    let url = [format!("rediss://localhost:{port}")];
    let known = format!("ca_file = \"{}\"\n", own.file().display());
    let server = Server::start(&node_config(&url, &known));
    let body = serde_json::json!({"channel": "room", "content": 1});
    assert_eq!(posted(&server, "/v1/publish", &body)["offset"], 1);
    let other = Authority::new();
    let unknown = format!("ca_file = \"{}\"\ncommand_timeout_ms = 100\n", other.file().display());
    let server = Server::start(&node_config(&url, &unknown));
    server.await_log("invalid peer certificate");
    assert_eq!(crate::client::post(&server, "/v1/publish", &body).0, 503);
}
