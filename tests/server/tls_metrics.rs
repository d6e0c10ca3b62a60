//! `wss://`: what metrics show of handshakes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};

use crate::support::tls::{self, Authority};
use crate::support::{Raw, Server, wait_until};
use crate::tls::LISTENER;

fn hello(config: ClientConfig) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

fn start(authority: &Authority, options: &str) -> Server {
    let certificate = authority.write("one", &["localhost"], false);
    Server::start_with(&["--shards", "2"], &format!("{LISTENER}{certificate}{options}"))
}

/// Waits until one more handshake has failed for this cause, and none for another.
#[track_caller]
fn await_failure(server: &Server, cause: &str, failed: &mut u64) {
    *failed += 1;
    let family = format!("tls_handshake_failures_total{{cause=\"{cause}\"}}");
    wait_until(cause, || server.metrics().get(&family) == 1);
    let metrics = server.metrics();
    assert_eq!(metrics.sum("tls_handshake_failures_total"), *failed, "{cause}");
    assert_eq!(metrics.get("tls_handshakes_failed_total"), *failed, "{cause}");
}

#[test]
fn failures_are_counted_by_cause() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.write("one", &["localhost"], false);
    let config = format!(
        "{LISTENER}tls_client_certificates = \"request\"\ntls_client_ca = \"{}\"\n{certificate}",
        authority.file().display()
    );
    let server = Server::start_with(&["--shards", "2"], &config);
    let mut failed = 0;
    let refuse = |config: &ClientConfig| {
        let mut client = tls::connect(server.address(), config, "localhost");
        // It fails on one side or the other, while it is written or read.
        let written = client.stream.write_all(&crate::support::raw::request());
        assert!(written.and_then(|()| client.stream.read_exact(&mut [0])).is_err());
    };
    refuse(&other.client());
    await_failure(&server, "alert", &mut failed);
    refuse(&authority.client_with(Some(&other.sign(&["device"], false))));
    await_failure(&server, "client_certificate", &mut failed);
    let mut config = authority.client();
    config.alpn_protocols = vec![b"h2".to_vec()];
    refuse(&config);
    await_failure(&server, "incompatible", &mut failed);
    let mut client = Raw::connect(server.address());
    client.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    client.rest().unwrap();
    await_failure(&server, "malformed", &mut failed);
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(&hello(authority.client())).unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    await_failure(&server, "abandoned", &mut failed);
    // Nothing but a connection: no handshake has begun.
    drop(TcpStream::connect(server.address()).unwrap());
    tls::open(server.address(), &authority.client()).echo("served");
    wait_until("it is gone", || server.metrics().get("connections_tls") == 0);
    assert_eq!(server.metrics().get("tls_handshakes_failed_total"), failed);
    assert_eq!(server.metrics().get("tls_handshake_seconds_count"), 1);
}

#[test]
fn handshakes_that_stay_incomplete_time_out() {
    let authority = Authority::new();
    let server = start(&authority, "[timeouts]\nhandshake_timeout_ms = 300\n");
    let mut client = Raw::connect(server.address());
    client.send(&hello(authority.client())[..50]);
    assert!(client.rest().unwrap().is_empty());
    await_failure(&server, "timeout", &mut 0);
    assert_eq!(server.metrics().get("handshake_timeouts_total"), 1);
}

#[test]
fn completed_ones_are_counted_by_what_they_settled_on() {
    let authority = Authority::new();
    let server = start(&authority, "");
    let mut groups = Vec::new();
    for version in [&TLS12, &TLS13] {
        let mut config = authority.client_of(version);
        config.resumption = Resumption::in_memory_sessions(8);
        for _ in 0..2 {
            let mut client = tls::open(server.address(), &config);
            client.echo("hello");
            let group = client.stream.conn.negotiated_key_exchange_group();
            let group = group.and_then(|group| group.name().as_str()).unwrap_or("none");
            groups.push(group);
        }
    }
    assert_eq!(groups.iter().filter(|group| **group == "none").count(), 1, "{groups:?}");
    let metrics = server.metrics();
    for group in &groups {
        let expected = groups.iter().filter(|other| *other == group).count() as u64;
        let found = metrics.get(&format!("tls_groups_total{{group=\"{group}\"}}"));
        assert_eq!(found, expected, "{group} of {groups:?}");
    }
    assert_eq!(metrics.get("tls_ciphers_total{cipher=\"aes-256-gcm\"}"), 4);
    assert_eq!(metrics.sum("tls_groups_total"), 4);
    assert_eq!(metrics.get("tls_resumptions_total"), 2);
    assert_eq!(metrics.get("tls_handshake_seconds_count"), 4);
}
