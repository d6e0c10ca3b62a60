//! `seawall doctor` reports the state of this machine: compares it with the kernel's own files.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

fn doctor(arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let free = ["doctor", "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = command.args(free).args(arguments).output().unwrap();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("no report: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), object)
}

fn finding<'o>(object: &'o Value, name: &str) -> &'o Value {
    let findings = object["findings"].as_array().unwrap();
    findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}: {object:#}"))
}

fn kernel(path: &str) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// The soft and hard limit of this process, which a child inherits.
fn limits(name: &str) -> (String, String) {
    let text = kernel("/proc/self/limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn what_it_finds_is_true() {
    let (code, object) = doctor(&[]);
    assert_eq!(code, Some(0), "nothing stops the server here: {object:#}");
    let found = |name| finding(&object, name)["found"].as_str().unwrap().to_owned();
    let (soft, hard) = limits("Max open files");
    assert!(found("open files").starts_with(&format!("soft {soft}, hard {hard}: ")));
    let (soft, _) = limits("Max locked memory");
    assert!(found("locked memory").starts_with(&format!("limit {soft}, needed")));
    let release = kernel("/proc/sys/kernel/osrelease");
    assert_eq!(found("kernel"), format!("Linux {release}"));
    let control = kernel("/proc/sys/net/ipv4/tcp_congestion_control");
    assert!(found("congestion control").starts_with(&format!("{control} by default")));
    let state = &finding(&object, "congestion control")["state"];
    assert_eq!(state == "note", control.starts_with("bbr"), "BBR is worth a note");
    let ulp = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    let tls = ulp.split_whitespace().any(|name| name == "tls");
    assert_eq!(finding(&object, "kernel TLS")["state"] == "ok", tls);
    let somaxconn: u32 = kernel("/proc/sys/net/core/somaxconn").parse().unwrap();
    assert!(found("somaxconn").starts_with(&somaxconn.to_string()));
    assert_eq!(finding(&object, "somaxconn")["state"] == "ok", somaxconn >= 4096);
    let places: i64 = kernel("/proc/sys/net/ipv4/tcp_ehash_entries").parse().unwrap();
    assert!(found("table of connections").starts_with(&format!("{} buckets", places.abs())));
    assert!(found("engine").starts_with("io_uring: "));
}

#[test]
fn every_finding_says_why_and_every_bad_one_how() {
    let (_, object) = doctor(&[]);
    for finding in object["findings"].as_array().unwrap() {
        assert!(finding["why"].as_str().unwrap().len() > 10, "{finding}");
        assert_eq!(finding["cure"].is_string(), finding["state"] != "ok", "{finding}");
    }
}

#[test]
fn a_table_too_small_for_the_connections_is_a_note() {
    let places: i64 = kernel("/proc/sys/net/ipv4/tcp_ehash_entries").parse().unwrap();
    for shards in ["1", "64"] {
        let (_, object) = doctor(&["--shards", shards]);
        let found = finding(&object, "table of connections");
        let received = found["found"].as_str().unwrap();
        let all = received.split(' ').rev().nth(1).unwrap();
        let small = all.parse::<i64>().unwrap() > places.abs() * 2;
        assert_eq!(found["state"] == "note", small, "{found}");
    }
}

#[test]
fn strict_turns_warnings_into_failure() {
    let (_, object) = doctor(&[]);
    let (code, strict) = doctor(&["--strict"]);
    assert_eq!(object["warnings"], strict["warnings"]);
    assert_eq!(code == Some(1), object["warnings"].as_u64().unwrap() > 0);
}

#[test]
fn a_busy_port_stops_the_server_and_is_told() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    for (flag, name) in [("--listen", "listener"), ("--admin", "admin")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        let other = if flag == "--listen" { "--admin" } else { "--listen" };
        let arguments = ["doctor", "--json", flag, &address, other, "127.0.0.1:0"];
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let finding = finding(&object, name);
        assert_eq!(finding["state"], "failure");
        assert!(finding["found"].as_str().unwrap().contains(&address), "{finding}");
        assert!(finding["cure"].as_str().unwrap().contains("ss -ltnp"), "{finding}");
    }
}

#[test]
fn a_limit_too_low_is_told_with_the_numbers() {
    let binary = env!("CARGO_BIN_EXE_seawall");
    let shell = format!(
        "ulimit -n 1000 && exec {binary} doctor --listen 127.0.0.1:0 --admin 127.0.0.1:0 --shards 2"
    );
    let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    let line = report.lines().find(|line| line.contains("open files")).unwrap();
    assert!(line.starts_with("warning") && line.contains("hard 1000: 888 connections"), "{line}");
    assert!(report.contains("LimitNOFILE"), "{report}");
    assert!(report.ends_with("can start\n"), "{report}");
}

#[test]
fn a_bad_configuration_is_told_before_anything_is_looked_at() {
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["doctor", "--config", "/nonexistent.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot read /nonexistent.toml"), "{text}");
}
