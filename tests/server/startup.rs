//! Failed starts: the message has reason and remedy, and the exit code is not 0.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::command;

/// Runs the server, which must end by itself; gives what it said.
fn failure(arguments: &[&str], config: &str) -> String {
    let (mut command, path) = command(arguments, config);
    let mut child = command.spawn().expect("the server can be started");
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("a child can be waited for").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it was there just now");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output can be read");
    std::fs::remove_file(path).expect("the configuration was written");
    let text = String::from_utf8(output.stderr).expect("messages are text");
    let code = output.status.code();
    assert!(code.is_some_and(|code| code != 0), "ended with {code:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[track_caller]
fn assert_contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases: [(&str, &[&str]); 10] = [
        ("shardz = 2\n", &["shardz", "unknown", "line 1"]),
        ("[limits]\nmessage_bytes_max = \"16 MiB\"\n", &["message_bytes_max", "line 2"]),
        ("[limits]\nmessage_bytes_max = 0\n", &["limits.message_bytes_max", "between"]),
        ("[timeouts]\nhandshake_timeout_ms = 0\n", &["handshake_timeout_ms", "must not be 0"]),
        ("[[listener]]\naddress = \"localhost\"\n", &["localhost", "ADDR:PORT"]),
        (
            "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n",
            &["proxy_protocol", "trusted_proxies"],
        ),
        ("[[route]]\npath = \"echo\"\n", &["route echo", "begin with `/`"]),
        ("[[route]]\npath = \"/x\"\nhandler = \"nothing\"\n", &["nothing", "echo"]),
        ("[admin]\nlisten = \"0.0.0.0:0\"\n", &["admin.listen", "loopback"]),
        ("[[listener", &["line 1"]),
    ];
    for (config, words) in cases {
        assert_contains(&failure(&[], config), words);
    }
}

#[test]
fn a_missing_file_is_named() {
    let (mut command, path) = command(&[], "");
    std::fs::remove_file(&path).expect("it was just written");
    let output = command.output().expect("the server can be started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("messages are text");
    assert_contains(
        &text,
        &["cannot read", path.to_str().expect("the path is text"), "No such file"],
    );
}

#[test]
fn a_busy_port_is_told_with_its_cure() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let text = failure(&["--listen", &address, "--admin", ""], "");
    assert_contains(&text, &[&address, "in use", "ss -ltnp"]);
    let text = failure(&["--listen", "127.0.0.1:0", "--admin", &address], "");
    assert_contains(&text, &[&address, "in use", "--admin"]);
}

#[test]
fn an_address_of_another_host_is_told() {
    let anybody = "--auth-allow-anonymous";
    let text = failure(&["--listen", "192.0.2.1:0", "--admin", "", anybody], "");
    assert_contains(&text, &["192.0.2.1", "no interface", "ip addr"]);
}

#[test]
fn unknown_flags_and_values_are_told() {
    assert_contains(&failure(&["--shard", "2"], ""), &["--shard", "--shards"]);
    assert_contains(&failure(&["--shards", "1025"], ""), &["--shards", "0 to 1024", "1025"]);
    assert_contains(&failure(&["--shards", "many"], ""), &["--shards", "many"]);
    assert_contains(&failure(&["surplus"], ""), &["surplus", "Usage"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.arg("swim").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_contains(&String::from_utf8(output.stderr).unwrap(), &["swim", "Usage"]);
}
