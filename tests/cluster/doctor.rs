//! What `seawall doctor` finds out about engines.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::engine::{Engine, KINDS, Kind, free_port, node_config, start_node};
use crate::support::wait_until;

/// Runs the doctor with this configuration; returns its findings on engines.
fn examine(config: &str) -> Vec<Value> {
    let path = std::env::temp_dir().join(format!("seawall-doctor-{}.toml", free_port()));
    std::fs::write(&path, config).expect("the configuration can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["doctor", "--json", "--listen", "127.0.0.1:0", "--admin", "", "--config"])
        .arg(&path)
        .output()
        .expect("the doctor can be run");
    let _ = std::fs::remove_file(path);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let findings = report["findings"].as_array().expect("a report has findings").clone();
    let is_of_engine =
        |one: &Value| one["name"].as_str().is_some_and(|name| name.starts_with("cluster "));
    let of_engine: Vec<_> = findings.into_iter().filter(is_of_engine).collect();
    for one in &of_engine {
        assert_eq!(one["state"] == "ok", one["cure"].is_null(), "a problem has a remedy: {one}");
    }
    of_engine
}

#[track_caller]
fn find<'f>(findings: &'f [Value], name: &str) -> &'f Value {
    let found = findings.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {findings:?}"))
}

/// Asserts the state of a finding, and what it says was found and is the remedy.
#[track_caller]
fn check(findings: &[Value], name: &str, state: &str, found: &str, cure: &str) {
    let one = find(findings, name);
    assert_eq!(one["state"], state, "{one}");
    assert!(one["found"].as_str().unwrap().contains(found), "{one}");
    assert!(cure.is_empty() || one["cure"].as_str().unwrap().contains(cure), "{one}");
}

#[test]
fn an_engine_as_recommended_has_no_problem() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let config = node_config(&[engine.url()], "");
        let findings = examine(&config);
        assert_eq!(findings.len(), 7, "{findings:?}");
        assert!(findings.iter().all(|one| one["state"] == "ok"), "{findings:?}");
        check(&findings, "cluster engine", "ok", &format!("{kind:?} "), "");
        check(&findings, "cluster nodes", "ok", "none yet", "");
        assert_eq!(engine.call(&["DBSIZE"]), ":0", "it leaves nothing");
        let _node = start_node(&engine);
        wait_until("the node is listed", || engine.call(&["DBSIZE"]) != ":0");
        let version = format!("1, of version {}", env!("CARGO_PKG_VERSION"));
        check(&examine(&config), "cluster nodes", "ok", &version, "");
    }
}

#[test]
fn what_is_set_wrong_is_found_with_its_remedy() {
    let engine = Engine::start(Kind::Redis);
    for (name, value) in [
        ("maxmemory-policy", "allkeys-lru"),
        ("client-output-buffer-limit", "pubsub 1048576 524288 10"),
    ] {
        engine.call(&["CONFIG", "SET", name, value]);
    }
    engine.call(&["HSET", "seawall:nodes", "1", "99999999999999 {\"version\":\"0.0.1\"}"]);
    let findings = examine(&node_config(&[engine.url()], "on_failover = \"keep\"\n"));
    check(&findings, "cluster eviction", "failure", "allkeys-lru", "noeviction");
    check(&findings, "cluster output limit", "warning", "pubsub 1048576", "pubsub 33554432");
    check(&findings, "cluster durability", "warning", "no append-only file", "appendfsync always");
    check(&findings, "cluster nodes", "note", "0.0.1", "upgrade");
    engine.call(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    let findings = examine(&node_config(&[engine.url()], ""));
    check(&findings, "cluster eviction", "ok", "volatile-ttl", "");
    check(&findings, "cluster durability", "ok", "new_epoch", "");
}

#[test]
fn a_replica_and_an_absent_instance_are_told_apart() {
    let primary = Engine::start(Kind::Redis);
    let port = primary.url().rsplit_once(':').expect("it has a port").1.to_owned();
    let replica = Engine::start_with(Kind::Redis, &["--replicaof", "127.0.0.1", &port]);
    wait_until("the replica is in sync", || {
        let said = replica.call(&["REPLICAOF", "127.0.0.1", &port]);
        said.contains("Already connected")
    });
    let mut gone = Engine::start(Kind::Redis);
    gone.kill();
    let findings = examine(&node_config(&[replica.url(), gone.url()], ""));
    let of = |engine: &Engine| {
        let name = engine.url().replace("redis://", "");
        let is_it = |one: &&Value| one["found"].as_str().unwrap().contains(&name);
        findings.iter().find(is_it).unwrap_or_else(|| panic!("no {name} in {findings:?}")).clone()
    };
    let (replica, gone) = (of(&replica), of(&gone));
    assert_eq!(
        (&replica["name"], &replica["state"]),
        (&"cluster engine".into(), &"failure".into())
    );
    assert!(replica["cure"].as_str().unwrap().contains("primary"), "{replica}");
    assert_eq!((&gone["name"], &gone["state"]), (&"cluster engine".into(), &"warning".into()));
    assert!(gone["cure"].as_str().unwrap().contains("start "), "{gone}");
}

#[test]
fn rights_that_a_user_lacks_are_named() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let path = std::env::temp_dir().join(format!("seawall-user-{}", free_port()));
        std::fs::write(&path, "secret").expect("a file can be written");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("its mode can be set");
        let more = format!("user = \"node\"\npassword_file = \"{}\"\n", path.display());
        let config = node_config(&[engine.url()], &more);
        let grant = |rights: &[&str]| {
            let user = ["ACL", "SETUSER", "node", "reset", "on", ">secret"];
            assert_eq!(engine.call(&[&user[..], rights].concat()), "+OK");
        };
        // As DEPLOYMENT.md says, and what the scripts call.
        let documented = [
            "~seawall:*",
            "&seawall:*",
            "+hello",
            "+info",
            "+script|load",
            "+eval",
            "+evalsha",
            "+publish",
            "+subscribe",
            "+unsubscribe",
            "+@read",
            "+@write",
            "+time",
        ];
        grant(&documented);
        let findings = examine(&config);
        check(&findings, "cluster rights", "ok", "all commands are allowed", "");
        check(&findings, "cluster output limit", "ok", "may not read it", "");
        grant(&[&documented[..], &["-hset", "-zadd", "-subscribe"]].concat());
        let findings = examine(&config);
        check(&findings, "cluster rights", "failure", "SUBSCRIBE HSET ZADD", "+subscribe +hset");
        grant(&[&documented[..], &["resetchannels"]].concat());
        let findings = examine(&config);
        check(&findings, "cluster rights", "failure", "PUBLISH", "&seawall:*");
        assert_eq!(engine.call(&["DBSIZE"]), ":0", "it leaves nothing");
        engine.call(&["ACL", "SETUSER", "node", ">other", "<secret"]);
        let findings = examine(&config);
        check(&findings, "cluster engine", "failure", "WRONGPASS", "cluster.password_file");
        let _ = std::fs::remove_file(path);
    }
}
