//! Certificates ordered from Pebble, the test server of Let's Encrypt.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::tls::{self, Authority};
use crate::support::{Server, wait_until};

/// A port of 127.0.0.1 that nothing listens on. It lies below those that the kernel hands out, so
/// that no other test gets it before it is used.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
    ports.by_ref().take(100).find(is_free).expect("there is a free port")
}

/// An authority that verifies names at these ports of this host; ended when it is dropped.
struct Pebble {
    programs: Vec<Child>,
    own: Authority,
    directory: String,
    management: SocketAddr,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // It may have ended.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl Pebble {
    fn start(tls_port: u16, http_port: u16) -> Self {
        let own = Authority::new();
        own.write("pebble", &["localhost"], false);
        let (chain, key) = own.paths("pebble");
        let (port, management, dns) = (free_port(), free_port(), free_port());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": chain,
            "privateKey": key,
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let path = own.folder().join("pebble.json");
        fs::write(&path, config.to_string()).expect("a file can be written");
        let dns_address = format!("127.0.0.1:{dns}");
        let run = |command: &mut Command| {
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().expect("scripts/check.sh --install installs Pebble")
        };
        // Every name is this host.
        let names = run(Command::new("pebble-challtestsrv").args([
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
            "-dns01",
            &dns_address,
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-management",
            &format!("127.0.0.1:{}", free_port()),
        ]));
        let authority = run(Command::new("pebble")
            .arg("-config")
            .arg(&path)
            .args(["-strict", "-dnsserver", &dns_address])
            .env("PEBBLE_VA_NOSLEEP", "1"));
        let pebble = Self {
            programs: vec![names, authority],
            own,
            directory: format!("https://localhost:{port}/dir"),
            management: SocketAddr::from(([127, 0, 0, 1], management)),
        };
        for port in [port, management] {
            wait_until("Pebble listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        wait_until("names are resolved", || TcpStream::connect(&dns_address).is_ok());
        pebble
    }

    /// The certificate with which it signs, as PEM.
    fn root(&self) -> String {
        let mut client = tls::connect(self.management, &self.own.client(), "localhost");
        client.send(b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = String::from_utf8(client.rest().expect("it answers")).expect("it is text");
        let (_, pem) = answer.split_once("\r\n\r\n").expect("there is a body");
        pem.to_owned()
    }

    /// The section of a configuration that orders from it.
    fn section(&self, names: &str, folder: &str, more: &str) -> String {
        format!(
            "[acme]\nnames = [{names}]\ndirectory = \"{}\"\naccept_terms = true\n\
             contact = \"ops@app.test\"\ndir = \"{}\"\nca_file = \"{}\"\n{more}",
            self.directory,
            self.own.folder().join(folder).display(),
            self.own.file().display()
        )
    }
}

fn listeners(tls_port: u16, http_port: u16) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:{tls_port}\"\ntls = true\n\
         [[listener]]\naddress = \"127.0.0.1:{http_port}\"\ntls_redirect_port = {tls_port}\n"
    )
}

fn order_by(challenge: &str, arguments: &[&str]) {
    let (tls_port, http_port) = (free_port(), free_port());
    let pebble = Pebble::start(tls_port, http_port);
    let more = format!("challenge = \"{challenge}\"\n");
    let section = pebble.section("\"app.test\", \"Www.App.test\"", "account", &more);
    let config = format!("{}{section}", listeners(tls_port, http_port));
    let arguments = [&["--shards", "2"], arguments].concat();
    let server = Server::start_with(&arguments, &config);
    server.await_log("a certificate was issued");
    server.await_log("configuration reloaded");
    let client = tls::client(&pebble.root(), None);
    let certificate = |server: &Server| {
        let mut client = tls::connect(server.address(), &client, "www.app.test");
        client.upgrade();
        client.echo("over a certificate of Pebble");
        client.stream.conn.peer_certificates().expect("it has shown some")[0].to_vec()
    };
    let first = certificate(&server);
    drop(server);
    // It outlives the process, and no other is ordered.
    let server = Server::start_with(&arguments, &config);
    assert_eq!(certificate(&server), first);
    assert!(!server.log().contains("ordering"), "{}", server.log());
    drop(server);
    // Other names need another certificate, from the same account.
    let section = pebble.section("\"other.test\"", "account", &more);
    let server =
        Server::start_with(&arguments, &format!("{}{section}", listeners(tls_port, http_port)));
    server.await_log("configuration reloaded");
    let mut other = tls::connect(server.address(), &client, "other.test");
    other.upgrade();
    other.echo("for another name");
}

#[test]
fn a_certificate_is_ordered_by_a_handshake() {
    order_by("tls-alpn-01", &[]);
}

#[test]
fn a_certificate_is_ordered_by_a_page() {
    order_by("http-01", &[]);
}

#[test]
fn an_order_works_in_the_sandbox() {
    order_by("tls-alpn-01", &["--sandbox"]);
}

#[test]
fn names_that_lead_elsewhere_are_reported_and_the_server_goes_on() {
    let (tls_port, http_port) = (free_port(), free_port());
    let pebble = Pebble::start(free_port(), free_port());
    let section = pebble.section("\"app.test\"", "account", "");
    let own = Authority::new();
    let certificate = own.write("one", &["localhost"], false);
    let config = format!("{}{section}{certificate}", listeners(tls_port, http_port));
    let server = Server::start_with(&["--shards", "1"], &config);
    server.await_log("cannot order a certificate");
    let log = server.log();
    assert!(log.contains("must reach this server at port 443"), "{log}");
    tls::open(server.address(), &own.client()).echo("the other certificate serves");
}
