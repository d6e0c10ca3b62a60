//! The server where `io_uring` is refused for real, by a filter of system calls as container
//! runtimes set it: it runs on epoll, and says why.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::Value;

use support::metrics::get;
use support::{Raw, Server, process};

/// What a refused call fails with: in present profiles, and in old ones that do not know the call.
const ERRNOS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// Starts a process whose calls for rings fail with this error; old profiles lack `epoll_pwait2`
/// as well.
fn spawn_denied(errno: i32, mut command: Command) -> Child {
    // A filter stays on its thread, and on what that starts.
    let thread = std::thread::spawn(move || {
        let mut calls =
            vec![libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
        if errno == libc::ENOSYS {
            calls.push(libc::SYS_epoll_pwait2);
        }
        let rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
        let denied = SeccompAction::Errno(errno as u32);
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture);
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        apply_filter(&program).unwrap();
        command.spawn().unwrap()
    });
    thread.join().unwrap()
}

fn output_denied(errno: i32, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.env_remove("SEAWALL_DRIVER").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn_denied(errno, command).wait_with_output().unwrap()
}

/// A server on a free port, to which rings are refused.
fn serve_denied(errno: i32, arguments: &[&str], config: &str) -> Server {
    let (mut command, config) = process::command(arguments, config);
    command.env_remove("SEAWALL_DRIVER");
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2"]);
    Server::watch(spawn_denied(errno, command), config)
}

fn cause(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

#[test]
fn it_serves_on_epoll_and_says_why() {
    for errno in ERRNOS {
        let mut server = serve_denied(errno, &[], "");
        let mut client = Raw::open(server.address());
        client.echo("small");
        client.echo(&"large".repeat(50_000));
        let (_, node) = get(server.admin(), "/v1/node");
        let node: Value = serde_json::from_str(&node).unwrap();
        assert_eq!(node["driver"]["name"], "epoll");
        let reason = node["driver"]["reason"].as_str().unwrap();
        assert!(reason.contains(&cause(errno)) && reason.contains("profile"), "{reason}");
        let ready: Value = serde_json::from_str(&get(server.admin(), "/readyz").1).unwrap();
        assert_eq!(ready["driver"], "epoll");
        assert_eq!(server.metrics().get("driver_info{name=\"epoll\"}"), 1);
        server.signal("TERM");
        assert!(server.wait(Duration::from_secs(30)).success());
        let log = server.log();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("on epoll")).collect();
        let [warning] = warnings[..] else { panic!("said once: {log}") };
        assert!(warning.contains(reason), "{warning}");
    }
}

#[test]
fn what_was_asked_for_fails_with_the_remedies() {
    for errno in ERRNOS {
        let arguments = ["serve", "--driver", "uring", "--listen", "127.0.0.1:0", "--admin", ""];
        let output = output_denied(errno, &arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        for part in [&cause(errno), "seccomp", "io_uring_setup", "--driver auto"] {
            assert!(said.contains(part), "`{part}` is missing: {said}");
        }
    }
}

#[test]
fn it_runs_in_its_own_sandbox_and_logs_histograms() {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("denied-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = folder.join("seawall.hlog");
    let config = format!(
        "[metrics]\nhistogram_log = {:?}\nhistogram_log_interval_s = 1\n",
        log.to_str().unwrap()
    );
    for errno in ERRNOS {
        let mut server = serve_denied(errno, &["--sandbox"], &config);
        Raw::open(server.address()).echo("in the sandbox");
        assert_eq!(server.metrics().get("driver_info{name=\"epoll\"}"), 1);
        server.reload(&format!("{config}[limits]\nretry_after_s = 9\n"));
        server.signal("TERM");
        assert!(server.wait(Duration::from_secs(30)).success(), "{}", server.log());
        let written = std::fs::read_to_string(&log).unwrap();
        assert!(written.lines().any(|line| line.starts_with("Tag=turnaround,")), "{written}");
        std::fs::remove_file(&log).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn doctor_names_the_engine_and_what_would_change_it() {
    let free = ["--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for errno in ERRNOS {
        let doctor = |driver: &str| {
            let output =
                output_denied(errno, &[&["doctor", "--driver", driver], &free[..]].concat());
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            let findings = object["findings"].as_array().unwrap();
            let engine = findings.iter().find(|one| one["name"] == "engine").unwrap().clone();
            (output.status.code(), engine)
        };
        let (code, engine) = doctor("auto");
        assert_eq!((code, &engine["state"]), (Some(0), &"warning".into()), "{engine}");
        let found = engine["found"].as_str().unwrap();
        assert!(found.starts_with("epoll: ") && found.contains(&cause(errno)), "{found}");
        assert!(engine["cure"].as_str().unwrap().contains("io_uring_setup"), "{engine}");
        let (code, engine) = doctor("uring");
        assert_eq!((code, &engine["state"]), (Some(1), &"failure".into()), "{engine}");
        let (code, engine) = doctor("epoll");
        assert_eq!((code, &engine["state"]), (Some(0), &"note".into()), "{engine}");
    }
}

/// As in a container: a network of its own, in which only a Unix socket leads out.
#[test]
fn it_serves_in_a_network_namespace() {
    let socket = std::env::temp_dir().join(format!("seawall-denied-{}", std::process::id()));
    let mut command = Command::new("unshare");
    let address = format!("unix:{}", socket.display());
    command.args(["-rn", env!("CARGO_BIN_EXE_seawall"), "serve", "--shards", "2"]);
    command.args(["--listen", &address, "--admin", ""]).env_remove("SEAWALL_DRIVER");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (_, config) = process::command(&[], "");
    let server = Server::watch(spawn_denied(libc::EPERM, command), config);
    assert!(server.log().contains("engine      epoll ("), "{}", server.log());
    for _ in 0..20 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(&support::raw::request()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        client.write_all(&support::raw::frame(0x81, b"inside")).unwrap();
        let mut echo = [0; 8];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"\x81\x06inside");
    }
    drop(server);
    let _ = std::fs::remove_file(socket);
}
