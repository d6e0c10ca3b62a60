//! Certificates: chosen by name, exchanged by a reload, asked of clients.

use std::fs;
use std::io::Read as _;

use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use crate::support::Server;
use crate::support::raw::request;
use crate::support::tls::{self, Authority};

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n";

/// The certificate that a client gets under this name.
fn certificate(server: &Server, config: &ClientConfig, name: &str) -> Result<Vec<u8>, String> {
    let mut client = tls::connect(server.address(), config, name);
    let stream = &mut client.stream;
    stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    Ok(stream.conn.peer_certificates().expect("the server has shown some")[0].to_vec())
}

#[test]
fn each_name_gets_its_certificate_and_a_reload_exchanges_them() {
    let authority = Authority::new();
    let client = authority.client();
    let first = authority.write("first", &["localhost", "first.test"], false);
    let wild = authority.write("wild", &["*.app.test"], false);
    let config = format!("{LISTENER}{first}{wild}");
    let server = Server::start_with(&["--shards", "2"], &config);
    let of = |name: &str| certificate(&server, &client, name);
    let shown = of("first.test").unwrap();
    assert_eq!(of("localhost").unwrap(), shown);
    let wildcard = of("one.app.test").unwrap();
    assert_ne!(wildcard, shown);
    let error = of("other.test").unwrap_err();
    assert!(error.contains("not valid for name"), "the first one is shown: {error}");
    let mut open = tls::open(server.address(), &client);
    // A pair that does not fit is rejected whole.
    let (chain_path, _) = authority.paths("first");
    let good = fs::read(&chain_path).unwrap();
    fs::write(&chain_path, authority.sign(&["localhost"], false).0).unwrap();
    authority.write("wild", &["*.app.test"], false);
    let log = server.reload(&config);
    assert!(log.contains("configuration rejected") && log.contains("does not belong"), "{log}");
    assert_eq!(of("first.test").unwrap(), shown);
    assert_eq!(of("one.app.test").unwrap(), wildcard);
    fs::write(&chain_path, good).unwrap();
    let log = server.reload(&config);
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(of("first.test").unwrap(), shown);
    assert_ne!(of("one.app.test").unwrap(), wildcard);
    open.echo("connections stay");
}

#[test]
fn files_that_change_are_read_without_a_signal() {
    let authority = Authority::new();
    let client = authority.client();
    let written = authority.write("one", &["localhost"], false);
    let config = format!("{LISTENER}{written}[tls]\nwatch_interval_s = 1\n");
    let server = Server::start_with(&["--shards", "2"], &config);
    let shown = certificate(&server, &client, "localhost").unwrap();
    let mut open = tls::open(server.address(), &client);
    let (chain_path, _) = authority.paths("one");
    let good = fs::read(&chain_path).unwrap();
    // A chain without its key: the old pair stays.
    fs::write(&chain_path, authority.sign(&["localhost"], false).0).unwrap();
    server.await_log("does not belong");
    assert_eq!(certificate(&server, &client, "localhost").unwrap(), shown);
    fs::write(&chain_path, good).unwrap();
    authority.write("one", &["localhost"], false);
    server.await_log("configuration reloaded");
    assert_ne!(certificate(&server, &client, "localhost").unwrap(), shown);
    open.echo("connections stay");
}

#[test]
fn nodes_with_the_same_ticket_keys_resume_each_other_s_sessions() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let config = format!("{LISTENER}{certificate}[tls]\nticket_keys = [\"{}\"]\n", "5a".repeat(32));
    let nodes = [(); 2].map(|()| Server::start_with(&["--shards", "1"], &config));
    let mut client = authority.client();
    client.resumption = Resumption::in_memory_sessions(8);
    let kinds = nodes.each_ref().map(|node| {
        let mut client = tls::open(node.address(), &client);
        client.echo("hello");
        client.stream.conn.handshake_kind()
    });
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

#[test]
fn clients_are_asked_for_certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.write("one", &["localhost"], false);
    let config = |wanted: &str| {
        format!(
            "{LISTENER}tls_client_certificates = \"{wanted}\"\ntls_client_ca = \"{}\"\n\
             {certificate}",
            authority.file().display()
        )
    };
    let (own, foreign) = (authority.sign(&["device"], false), other.sign(&["device"], false));
    let outcome = |server: &Server, own: Option<&(String, String)>| {
        let mut client = tls::connect(server.address(), &authority.client_with(own), "localhost");
        client.send(&request());
        let mut head = [0; 12];
        client.stream.read_exact(&mut head).map(|()| head.starts_with(b"HTTP/1.1 101"))
    };
    for (wanted, is_optional) in [("request", true), ("require", false)] {
        let server = Server::start_with(&["--shards", "1"], &config(wanted));
        assert!(matches!(outcome(&server, Some(&own)), Ok(true)), "{wanted}");
        let without = outcome(&server, None);
        assert_eq!(matches!(without, Ok(true)), is_optional, "{wanted}: {without:?}");
        let wrong = outcome(&server, Some(&foreign));
        assert!(wrong.is_err(), "{wanted}: {wrong:?}");
        let failed = server.metrics().get("tls_handshakes_failed_total");
        assert_eq!(failed, if is_optional { 1 } else { 2 }, "{wanted}");
    }
}
