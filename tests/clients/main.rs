//! Real clients over real sockets: libraries that people use, and a browser.
//!
//! Each runs as a script of its own in `tests/clients/`, which opens, echoes, pings and closes in
//! all the ways that its library offers; the last one is open when the server drains. The
//! scripts' libraries are installed into `.cache` by `scripts/check.sh`.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod model;
mod package;
mod proxy;
mod strict;
mod tungstenite;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::tls::Authority;
use support::{Server, wait_until};

/// Pings every half second, so that each client is seen to answer them.
/// Megabytes of one byte are compressed by more than JSON ever is.
pub(crate) const CONFIG: &str = "[limits]\ninflate_ratio_max = 0\n\
    [[route]]\npath = \"/echo\"\norigins = [\"*\"]\nping_interval_ms = 500\n\
    [[route]]\npath = \"/takeover\"\norigins = [\"*\"]\nping_interval_ms = 500\n\
    compression = \"takeover\"\ncompression_bytes_min = 1\n\
    [[route]]\npath = \"/own\"\ncompression = \"off\"\n";
/// Longer than any script takes; one that hangs is ended.
const SCRIPT_SECONDS_MAX: &str = "120";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool that the tests need, or a failure that says how to get it.
#[track_caller]
fn tool(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run scripts/check.sh --install", path.display());
    path
}

/// A server for one client, and what the client needs to reach it.
struct Target {
    server: Server,
    /// Signs the server's certificate, if it speaks TLS, and the version that the client speaks.
    tls: Option<(Authority, &'static str)>,
}

impl Target {
    fn plain() -> Self {
        Self { server: Server::start(CONFIG), tls: None }
    }

    fn tls(version: &'static str, is_rsa: bool) -> Self {
        let authority = Authority::new();
        let certificate = authority.write("one", &["localhost"], is_rsa);
        let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n";
        let config = format!("{CONFIG}{listener}{certificate}");
        let server = Server::start_with(&["--shards", "2"], &config);
        Self { server, tls: Some((authority, version)) }
    }

    fn url(&self, path: &str) -> String {
        match self.tls {
            None => format!("ws://{}{path}", self.server.address()),
            // The certificate is for this name.
            Some(_) => format!("wss://localhost:{}{path}", self.server.address().port()),
        }
    }

    /// Runs a client with this URL as its next argument, then the authority's file and the version
    /// if it is to speak TLS; ends the server when the client waits for it.
    #[track_caller]
    fn run(mut self, command: &mut Command, script: &str, path: &str) {
        let script = root().join("tests/clients").join(script);
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut child = Command::new("timeout");
        child.arg(SCRIPT_SECONDS_MAX).arg(program).arg(script).args(arguments).arg(self.url(path));
        if let Some((authority, version)) = &self.tls {
            child.arg(authority.file()).arg(version);
        }
        child.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("coreutils are there");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        while let Some(Ok(line)) = lines.next() {
            if line == "waiting" {
                wait_until("pings of ours are answered", || {
                    self.server.metrics().get("pongs_received_total") > 0
                });
                self.check_versions();
                self.server.signal("TERM");
            }
            said.push_str(&line);
            said.push('\n');
        }
        let mut errors = String::new();
        let stderr = child.stderr.as_mut().expect("it is piped");
        stderr.read_to_string(&mut errors).expect("a script writes text");
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success() && said.ends_with("all passed\n"), "{status}\n{said}{errors}");
        assert_eq!(self.server.wait(Duration::from_secs(15)).code(), Some(0), "a drain ends well");
    }

    /// The server has seen the handshakes of this version alone, and a client that does not know
    /// the authority has ended its own.
    #[track_caller]
    fn check_versions(&self) {
        let metrics = self.server.metrics();
        let of_version = |version| metrics.get(&format!("tls{version}_handshakes_total"));
        let found = [of_version("12"), of_version("13")].map(|count| count > 0);
        let expected = ["1.2", "1.3"].map(|one| self.tls.as_ref().is_some_and(|tls| tls.1 == one));
        assert_eq!(found, expected, "handshakes of TLS 1.2 and of 1.3");
        let failed = metrics.get("tls_handshakes_failed_total");
        assert_eq!(failed > 0, self.tls.is_some(), "a client refuses an unknown authority");
    }
}

fn python(script: &str, target: Target, path: &str) {
    let python = tool(root().join(".cache/venv/bin/python"));
    target.run(&mut Command::new(python), script, path);
}

#[test]
fn python_websockets() {
    python("with_websockets.py", Target::plain(), "/echo");
}

#[test]
fn python_websockets_with_takeover() {
    python("with_websockets.py", Target::plain(), "/takeover");
}

#[test]
fn python_websockets_over_tls() {
    python("with_websockets.py", Target::tls("1.3", false), "/echo");
    python("with_websockets.py", Target::tls("1.2", true), "/takeover");
}

#[test]
fn python_aiohttp() {
    python("with_aiohttp.py", Target::plain(), "/echo");
}

#[test]
fn python_aiohttp_over_tls() {
    python("with_aiohttp.py", Target::tls("1.3", true), "/echo");
    python("with_aiohttp.py", Target::tls("1.2", false), "/echo");
}

fn ws(target: Target, path: &str) {
    tool(root().join(".cache/node/node_modules/ws"));
    let mut node = Command::new("node");
    node.arg(root().join(".cache/node"));
    target.run(&mut node, "with_ws.mjs", path);
}

#[test]
fn node_ws() {
    ws(Target::plain(), "/echo");
}

#[test]
fn node_ws_with_takeover() {
    ws(Target::plain(), "/takeover");
}

#[test]
fn node_ws_over_tls() {
    ws(Target::tls("1.3", false), "/echo");
    ws(Target::tls("1.2", true), "/takeover");
}

fn run_chromium(target: Target) {
    tool(root().join(".cache/node/node_modules/playwright-core"));
    tool(PathBuf::from("/usr/bin/chromium"));
    let mut node = Command::new("node");
    // The admin address is another origin, and has a page.
    node.arg(root().join(".cache/node")).arg(target.server.admin().to_string());
    target.run(&mut node, "with_chromium.mjs", "");
}

#[test]
fn chromium() {
    run_chromium(Target::plain());
}

#[test]
fn chromium_over_tls() {
    run_chromium(Target::tls("1.3", false));
    run_chromium(Target::tls("1.2", true));
}

/// A script that ends by itself.
#[track_caller]
fn alone(command: &mut Command) -> String {
    let program = command.get_program().to_owned();
    let output = Command::new("timeout")
        .arg(SCRIPT_SECONDS_MAX)
        .arg(program)
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(root())
        .output()
        .expect("coreutils are there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}{errors}", output.status);
    said
}

#[test]
fn client_library() {
    tool(root().join(".cache/node/node_modules/ws"));
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", "tests/clients/library.test.mjs"]);
    node.arg("tests/clients/library_failures.test.mjs");
    let said = alone(node.arg("tests/clients/library_engine.test.mjs"));
    assert!(said.contains("\n# fail 0\n") && !said.contains("\n# pass 0\n"), "{said}");
}

/// What a hub in memory may have understood differently.
#[test]
fn client_library_with_the_server() {
    tool(root().join(".cache/node/node_modules/ws"));
    let server = Server::start("");
    let mut node = Command::new("node");
    node.arg("--test").arg("tests/clients/library_live.test.mjs");
    node.env("SEAWALL_URL", format!("ws://{}/ws", server.address()));
    let said = alone(&mut node);
    assert!(said.contains("\n# fail 0\n") && said.contains("\n# skipped 0\n"), "{said}");
    assert!(!said.contains("\n# pass 0\n"), "{said}");
}

/// The command of the playground's run in a browser.
fn playground_run() -> Command {
    tool(root().join(".cache/node/node_modules/playwright-core"));
    tool(PathBuf::from("/usr/bin/chromium"));
    let mut node = Command::new("node");
    node.arg("tests/clients/playground.mjs").arg(root().join(".cache/node"));
    node
}

#[test]
fn playground() {
    assert!(alone(playground_run().arg("src/web")).ends_with("all passed\n"));
}

#[test]
fn playground_with_the_server() {
    let server = Server::start("");
    let mut run = playground_run();
    run.arg(format!("http://{}/", server.address())).arg(format!("http://{}", server.admin()));
    assert!(alone(&mut run).ends_with("all passed\n"));
}

#[test]
fn playground_with_a_server_that_asks_for_tokens() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config = format!(
        "[[key]]\nsecret = \"{secret}\"\n[[channel]]\npattern = \"chat:*\"\npresence = true\n"
    );
    let server = Server::start(&config);
    let make = ["token", "--key-secret", secret, "--user", "ann", "--channel", "chat:*"];
    let token = alone(Command::new(env!("CARGO_BIN_EXE_seawall")).args(make));
    let mut run = playground_run();
    run.arg(format!("http://{}/", server.address())).arg(format!("http://{}", server.admin()));
    run.arg(format!("token={}", token.trim()));
    assert!(alone(&mut run).ends_with("all passed\n"));
}
