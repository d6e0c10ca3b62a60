//! The bare echoes as processes: they give back what they got, whatever its size, and end with it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

const BENCH: &str = env!("CARGO_BIN_EXE_seawall-bench");

/// A bare echo that ends with the test.
struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(BENCH)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the echo starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, address }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo(bare: &Bare, arguments: &str) -> String {
    let url = format!("ws://{}/", bare.address);
    let pid = bare.child.id().to_string();
    let output = Command::new(BENCH)
        .args(["echo", &url, "--raw", "--verify", "--warmup", "0", "--duration", "0.3"])
        .args(["--server-pid", &pid])
        .args(arguments.split(' '))
        .output()
        .expect("the generator runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

fn gives_back_what_it_got(arguments: &[&str]) {
    let bare = Bare::start(arguments);
    for load in [
        "--connections 50 --size 20",
        "--connections 50 --size 20 --depth 16",
        "--connections 3 --size 1000000",
        "--connections 3 --size 50000 --depth 20",
        "--connections 20 --size 100 --rate 2000 --threads 2",
    ] {
        let text = echo(&bare, load);
        assert!(text.contains("server CPU per message"), "{load}: {text}");
        assert!(text.contains("verified"), "{load}: {text}");
    }
}

#[test]
fn the_epoll_echo_gives_back_what_it_got() {
    gives_back_what_it_got(&["serve-epoll", "127.0.0.1:0"]);
}

#[test]
fn the_uring_echo_gives_back_what_it_got() {
    gives_back_what_it_got(&["serve-uring", "127.0.0.1:0"]);
}

#[test]
fn the_uring_echo_survives_running_out_of_buffers() {
    let few = ["serve-uring", "127.0.0.1:0", "--buffers", "2", "--buffer-size", "1024"];
    gives_back_what_it_got(&few);
}

#[test]
fn a_second_server_on_the_port_is_refused_with_a_hint() {
    let bare = Bare::start(&["serve-epoll", "127.0.0.1:0"]);
    let second = Command::new(BENCH).args(["serve-uring", &bare.address]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("still running"), "{text}");
}

#[test]
fn an_unknown_congestion_control_is_refused_with_a_hint() {
    let arguments = ["serve-epoll", "127.0.0.1:0", "--congestion", "nonesuch"];
    let output = Command::new(BENCH).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("tcp_available_congestion_control"), "{text}");
}
