//! `wss://`: `openssl s_client`, with what its commands and options can do.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::tls::Authority;
use crate::support::wait_until;
use crate::tls::start;

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 ";

/// A running `openssl`, which is written to and read from; dropping it ends it.
pub(crate) struct Openssl {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    said: String,
}

impl Openssl {
    /// Starts one of its commands, with both of its outputs in one, line by line.
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "exec timeout 60 stdbuf -oL openssl \"$@\" 2>&1", "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdin, stdout, said: String::new() }
    }

    /// A client, with further arguments. It stays connected until the server or the test ends it.
    pub(crate) fn connect(address: SocketAddr, arguments: &[&str]) -> Self {
        let address = address.to_string();
        let client = ["s_client", "-connect", &address, "-servername", "localhost"];
        Self::start(&[&client[..], arguments].concat())
    }

    /// Writes this: data, or one of its commands in a line of its own.
    pub(crate) fn write(&mut self, input: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(input.as_bytes()).expect("it runs");
    }

    /// Reads up to the line that contains this text.
    #[track_caller]
    pub(crate) fn await_line(&mut self, text: &str) -> String {
        loop {
            let mut line = Vec::new();
            let bytes = self.stdout.read_until(b'\n', &mut line).expect("it can be read");
            assert!(bytes > 0, "it ended without `{text}`:\n{}", self.said);
            let line = String::from_utf8_lossy(&line);
            self.said.push_str(&line);
            if line.contains(text) {
                return line.into_owned();
            }
        }
    }

    /// Reads to the end, once the server has closed the connection; returns all that was said.
    fn rest(mut self) -> String {
        let mut line = Vec::new();
        while self.stdout.read_until(b'\n', &mut line).expect("it can be read") > 0 {}
        self.said.push_str(&String::from_utf8_lossy(&line));
        std::mem::take(&mut self.said)
    }

    /// Ends its input, and waits for its end.
    fn end(mut self) -> String {
        self.stdin = None;
        self.rest()
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        // It may have ended by itself. `timeout` ends its child with itself.
        let kill = format!("kill {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn openssl_verifies_the_chain_and_speaks_both_versions() {
    let authority = Authority::new();
    let server = start(&authority);
    let file = authority.file();
    for version in ["-tls1_3", "-tls1_2"] {
        let trusts = ["-CAfile", path(&file), "-verify_return_error", version];
        let mut client = Openssl::connect(server.address(), &trusts);
        client.write(REQUEST);
        let said = client.rest();
        assert!(said.contains(OK), "{version}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{version}: {said}");
        assert!(!said.contains("unexpected eof"), "{version}: {said}");
        let distrusts = ["-verify_return_error", version];
        let said = Openssl::connect(server.address(), &distrusts).rest();
        assert!(said.contains("unable to get local issuer certificate"), "{version}: {said}");
    }
    wait_until("both are counted", || server.metrics().get("tls_handshakes_failed_total") == 2);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary files have plain names")
}

#[test]
fn renegotiation_is_refused() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut client = Openssl::connect(server.address(), &["-tls1_2"]);
    client.await_line("Secure Renegotiation IS supported");
    client.write("R\n");
    client.await_line("RENEGOTIATING");
    client.await_line("alert no renegotiation");
    wait_until("the client is gone", || server.metrics().get("connections_tls") == 0);
    let metrics = server.metrics();
    assert_eq!(metrics.get("tls_alerts_sent_total"), 1);
    assert_eq!(metrics.get("tls12_handshakes_total"), 1);
}

#[test]
fn changes_of_keys_are_answered_as_they_ask() {
    const SENT: &str = ">>> TLS 1.3, Handshake [length 0005], KeyUpdate";
    const RECEIVED: &str = "<<< TLS 1.3, Handshake [length 0005], KeyUpdate";
    let authority = Authority::new();
    let server = start(&authority);
    let mut client = Openssl::connect(server.address(), &["-tls1_3", "-msg"]);
    // Asks for other keys of the server, twice; then for none.
    for _ in 0..2 {
        client.write("K\n");
        client.await_line(SENT);
        client.await_line(RECEIVED);
    }
    client.write("k\n");
    client.await_line(SENT);
    client.write(REQUEST);
    client.await_line(OK);
    let said = client.rest();
    assert_eq!(said.matches(RECEIVED).count(), 2, "{said}");
    assert_eq!(server.metrics().get("tls_alerts_sent_total"), 0);
}

#[test]
fn sessions_resume_from_a_file_in_both_versions() {
    let authority = Authority::new();
    let server = start(&authority);
    for version in ["-tls1_2", "-tls1_3"] {
        let file = authority.folder().join("session");
        for (option, kind) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let arguments = [version, option, path(&file)];
            let mut client = Openssl::connect(server.address(), &arguments);
            client.await_line(kind);
            client.write(REQUEST);
            client.await_line(OK);
            let said = client.rest();
            assert!(!said.contains("unexpected eof"), "{version} {option}: {said}");
        }
    }
    let metrics = server.metrics();
    assert_eq!(metrics.get("tls_resumptions_total"), 2);
    assert_eq!(metrics.get("tls12_handshakes_total"), 2);
    assert_eq!(metrics.get("tls13_handshakes_total"), 2);
}

/// Requests with early data could be replayed: a ticket of ours permits none, and what is sent on
/// the ticket of another server is skipped.
#[test]
fn early_data_is_not_processed() {
    let authority = Authority::new();
    let server = start(&authority);
    let early = authority.folder().join("early");
    fs::write(&early, REQUEST).unwrap();
    let own = authority.folder().join("own");
    let mut client = Openssl::connect(server.address(), &["-tls1_3", "-sess_out", path(&own)]);
    client.await_line("Max Early Data: 0");
    client.end();
    let foreign = authority.folder().join("foreign");
    make_early_session(&authority, &foreign);
    let cases = [(&own, "Early data was not sent"), (&foreign, "Early data was rejected")];
    for (answered, (session, outcome)) in cases.into_iter().enumerate() {
        let arguments = ["-tls1_3", "-sess_in", path(session), "-early_data", path(&early)];
        let mut client = Openssl::connect(server.address(), &arguments);
        client.await_line(outcome);
        client.write(REQUEST);
        client.await_line(OK);
        let said = client.rest();
        assert_eq!(said.matches(OK).count(), 1, "{said}");
        assert_eq!(server.metrics().get("answered_total"), answered as u64 + 1);
    }
}

/// The session of a server that permits early data, in a file.
fn make_early_session(authority: &Authority, file: &Path) {
    let (chain, key) = authority.paths("one");
    let server = ["s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_3"];
    let options = ["-early_data", "-cert", path(&chain), "-key", path(&key)];
    let mut server = Openssl::start(&[&server[..], &options].concat());
    let line = server.await_line("ACCEPT 127.0.0.1:");
    let address = line.trim().trim_start_matches("ACCEPT ").parse().expect("it says where");
    let mut client = Openssl::connect(address, &["-tls1_3", "-sess_out", path(file)]);
    // Its tickets follow the first data.
    client.write("data\n");
    client.await_line("Max Early Data: 16384");
    client.end();
}
