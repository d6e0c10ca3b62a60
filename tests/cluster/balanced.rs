//! `scripts/cluster.sh`: a cluster behind `HAProxy`, with real clients.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::wait_until;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The script; it is asked to end with the test.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        // It may have ended.
        let _ = Command::new("kill").args(["-s", "INT", &pid]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// A port with free ones behind it, away from those of other tests.
fn free_ports() -> u16 {
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = 20_000 + (std::process::id() % 100) as u16 * 50;
    let mut bases = (first..32_000).step_by(50);
    bases.find(|base| (*base..base + 21).all(is_free)).expect("there are free ports")
}

/// The word that follows another in the lines that the script prints.
fn words_after<'l>(lines: &'l [String], word: &str) -> Vec<&'l str> {
    let after = |line: &'l String| {
        let mut words = line.split_whitespace().skip_while(|one| *one != word);
        words.next().and_then(|_| words.next())
    };
    lines.iter().filter_map(after).collect()
}

#[test]
fn a_killed_node_behind_the_balancer_costs_nothing() {
    let base = free_ports();
    // Shells that run tests in the background have the signal ignored.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", &format!("{ROOT}/scripts/cluster.sh")]);
    command.args(["--port", &base.to_string(), "--binary", env!("CARGO_BIN_EXE_seawall")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut script = Script(command.spawn().expect("bash is there"));
    let stdout = script.0.stdout.take().expect("it is piped");
    let mut output = BufReader::new(stdout).lines().map_while(Result::ok);
    let lines: Vec<_> = output.by_ref().take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let (pids, admins) = (words_after(&lines, "pid"), words_after(&lines, "admin"));
    assert_eq!((pids.len(), admins.len()), (4, 3), "three nodes and the engine: {lines:?}");
    let clients = Command::new("timeout")
        .args(["120", "node", &format!("{ROOT}/tests/cluster/balanced.mjs")])
        .args([&format!("{ROOT}/.cache/node"), &format!("ws://127.0.0.1:{base}/ws")])
        .args(&admins)
        .output()
        .expect("coreutils are there");
    let said = String::from_utf8_lossy(&clients.stdout);
    assert!(clients.status.success(), "{said}{}", String::from_utf8_lossy(&clients.stderr));
    let killed = said.trim().strip_prefix("killed ").expect("it says which").to_owned();
    let told = output.next().unwrap_or_default();
    assert!(told.starts_with("node-") && told.ends_with("status 137"), "{told}");
    let pid = script.0.id().to_string();
    let asked = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(asked.expect("kill can be run").success());
    assert_eq!(script.0.wait().expect("it ends").code(), Some(0));
    for pid in pids {
        // The killed one was reaped by the script, too.
        let is_gone = || !Path::new(&format!("/proc/{pid}")).exists();
        wait_until(&format!("{pid} has ended; {killed} was killed"), is_gone);
    }
}

/// The lines of the documented configuration that are not about addresses are those of the script.
#[test]
fn the_documented_balancer_is_that_of_the_script() {
    let document = include_str!("../../src/guard/DEPLOYMENT.md");
    let (_, rest) = document.split_once("```haproxy\n").expect("it is documented");
    let (block, _) = rest.split_once("```").expect("a block ends");
    let script = include_str!("../../scripts/cluster.sh");
    let of_addresses = ["bind ", "server "];
    let is_common = |line: &&str| !of_addresses.iter().any(|one| line.trim().starts_with(one));
    let lines: Vec<_> = block.lines().filter(is_common).collect();
    assert!(lines.len() > 15, "{block}");
    for line in lines {
        assert!(script.lines().any(|own| own == line), "not in the script: {line}");
    }
    let path = std::env::temp_dir().join(format!("seawall-haproxy-{}", std::process::id()));
    std::fs::write(&path, block).expect("a file can be written");
    let checked = Command::new("/usr/sbin/haproxy").args(["-c", "-f"]).arg(&path).output();
    let checked = checked.expect("run scripts/check.sh --install");
    let _ = std::fs::remove_file(path);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn what_is_wrong_is_told_with_the_remedy() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = held.local_addr().expect("it is bound").port().to_string();
    for (arguments, says) in [
        (&["--nodes", "9"][..], "--nodes must be a number from 1 to 8"),
        (&["--port", "99999"], "--port must be a number from"),
        (&["--engine", "/nonexistent"], "correct --engine"),
        (&["--colour"], "-h lists them"),
        (&["--port", &port, "--binary", "/nonexistent"], "choose others by --port"),
    ] {
        let output = Command::new(format!("{ROOT}/scripts/cluster.sh")).args(arguments).output();
        let output = output.expect("bash is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(says), "{arguments:?}: {said}");
    }
}
