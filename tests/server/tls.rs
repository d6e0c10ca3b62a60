//! `wss://`: a client of rustls, byte by byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustls::client::Resumption;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};

use crate::openssl::Openssl;
use crate::support::raw::{self, close, request, text};
use crate::support::tls::{self, Authority};
use crate::support::{Frame, Raw, Server, wait_until};

pub(crate) const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = true\n";

pub(crate) fn start(authority: &Authority) -> Server {
    let certificate = authority.write("one", &["localhost"], false);
    Server::start_with(&["--shards", "2"], &format!("{LISTENER}{certificate}"))
}

#[test]
fn messages_of_every_size_come_back_to_a_clean_end() {
    let authority = Authority::new();
    let server = start(&authority);
    assert!(server.listeners()[0].starts_with("wss://"), "{:?}", server.listeners());
    let mut client = tls::open(server.address(), &authority.client());
    for len in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
        client.echo(&"x".repeat(len));
    }
    let many: Vec<String> = (0..500).map(|n| format!("{n}:{}", "y".repeat(n))).collect();
    client.send(&many.iter().flat_map(text).collect::<Vec<u8>>());
    for message in &many {
        assert_eq!(client.frame(), Frame::text(message));
    }
    client.send(&close(1000));
    assert_eq!(client.frame().close_code(), 1000);
    // Fails if the stream ends without a close_notify.
    client.end();
    let connection = &client.stream.conn;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.alpn_protocol(), None, "the client offered none");
    drop(client);
    wait_until("the connection is counted out", || server.metrics().get("connections_tls") == 0);
    let metrics = server.metrics();
    assert_eq!(metrics.get("tls13_handshakes_total"), 1);
    assert_eq!(metrics.get("closed_total{code=\"1000\"}"), 1);
}

#[test]
fn pages_loaded_without_tls_are_not_of_the_same_origin() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let route = "[[route]]\npath = \"/same\"\n";
    let server = Server::start_with(&["--shards", "1"], &format!("{LISTENER}{certificate}{route}"));
    for (origin, expected) in [("https://localhost", "101"), ("http://localhost", "403")] {
        let mut client = tls::connect(server.address(), &authority.client(), "localhost");
        let head = format!(
            "GET /same HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        client.send(head.as_bytes());
        let answer = client.head();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{origin}: {answer}");
    }
}

#[test]
fn plain_requests_are_redirected_to_tls() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    for (port, expected) in
        [(443, "https://app.test/ws?x=1"), (8443, "https://app.test:8443/ws?x=1")]
    {
        let plain =
            format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls_redirect_port = {port}\n");
        let server = Server::start_with(&["--shards", "1"], &format!("{plain}{certificate}"));
        let ask = |target: &str| {
            let mut raw = Raw::connect(server.address());
            raw.send(format!("GET {target} HTTP/1.1\r\nHost: app.test:80\r\n\r\n").as_bytes());
            String::from_utf8(raw.rest().unwrap()).unwrap()
        };
        let answer = ask("/ws?x=1");
        assert!(answer.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nLocation: {expected}\r\n")), "{answer}");
        assert!(ask("/readyz").starts_with("HTTP/1.1 200 "));
    }
}

/// Handshakes wait for their turn: those that end meanwhile leave nothing, and the others are not
/// held up by them.
#[test]
fn handshakes_that_are_cut_off_while_they_wait_leave_nothing() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut open = tls::open(server.address(), &authority.client());
    let mut hello = Vec::new();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let config = std::sync::Arc::new(authority.client());
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    connection.write_tls(&mut hello).unwrap();
    let mut completed = 1;
    for round in 0..20 {
        let waiting: Vec<TcpStream> = (0..20)
            .map(|_| {
                let mut stream = TcpStream::connect(server.address()).unwrap();
                stream.write_all(&hello).unwrap();
                stream
            })
            .collect();
        for stream in waiting {
            // A reset.
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        open.echo(&format!("beside round {round}"));
        tls::open(server.address(), &authority.client()).echo("another one");
        completed += 1;
    }
    let metrics = || server.metrics();
    wait_until("the others are gone", || metrics().get("connections_tls") == 1);
    assert_eq!(metrics().get("tls13_handshakes_total"), completed);
    open.echo("still there");
}

#[test]
fn every_suite_is_spoken() {
    let authority = Authority::new();
    let server = start(&authority);
    let suites = authority.client().crypto_provider().cipher_suites.clone();
    let mut spoken = 0;
    for suite in suites {
        if suite.suite().as_str().is_some_and(|name| name.contains("_RSA_")) {
            continue;
        }
        let mut config = authority.client();
        let mut provider = (**config.crypto_provider()).clone();
        provider.cipher_suites = vec![suite];
        config = {
            let mut roots = rustls::RootCertStore::empty();
            let pem = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem().as_bytes());
            roots.add(pem.unwrap()).unwrap();
            rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth()
        };
        let mut client = tls::open(server.address(), &config);
        client.echo("hello");
        client.echo(&"z".repeat(100_000));
        let negotiated = client.stream.conn.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(negotiated, suite.suite());
        assert_ne!(negotiated, CipherSuite::TLS_NULL_WITH_NULL_NULL);
        spoken += 1;
    }
    assert_eq!(spoken, 6);
}

#[test]
fn keys_change_in_the_middle_and_sessions_resume() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut config = authority.client();
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let mut client = tls::open(server.address(), &config);
        for _ in 0..5 {
            client.stream.conn.refresh_traffic_keys().unwrap();
            client.echo("with other keys");
        }
        assert_eq!(client.stream.conn.handshake_kind(), Some(expected));
        assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    assert_eq!(server.metrics().get("tls_resumptions_total"), 2);
}

#[test]
fn the_client_may_end_the_stream_first() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut client = tls::open(server.address(), &authority.client());
    client.send(&text("last"));
    client.stream.conn.send_close_notify();
    client.stream.conn.complete_io(&mut client.stream.sock).unwrap();
    assert_eq!(client.frame(), Frame::text("last"));
    client.end();
    let cut = tls::open(server.address(), &authority.client());
    drop(cut.stream.sock);
    wait_until("the truncation is counted", || server.metrics().get("tls_truncations_total") == 1);
    wait_until("both are gone", || server.metrics().get("connections_open") == 0);
}

#[test]
fn plain_http_is_answered_with_the_reason() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut client = Raw::connect(server.address());
    client.send(&request());
    let (status, answer) = client.answer();
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("this port requires TLS; use https:// or wss://"), "{answer}");
    assert_eq!(server.metrics().get("tls_plain_requests_total"), 1);
    // Neither TLS nor HTTP.
    let mut client = Raw::connect(server.address());
    client.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    let answer = client.rest().unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    wait_until("it is counted", || server.metrics().get("tls_handshakes_failed_total") == 1);
}

#[test]
fn a_changed_record_ends_the_connection_with_an_alert() {
    let authority = Authority::new();
    let server = start(&authority);
    let mut client = tls::open(server.address(), &authority.client());
    client.echo("before");
    client.stream.conn.writer().write_all(&text("changed on its way")).unwrap();
    let mut wire = Vec::new();
    client.stream.conn.write_tls(&mut wire).unwrap();
    let at = wire.len() / 2;
    wire[at] ^= 1;
    client.stream.sock.write_all(&wire).unwrap();
    let mut rest = Vec::new();
    let error = client.stream.read_to_end(&mut rest).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(server.metrics().get("tls_alerts_sent_total"), 1);
}

#[test]
fn handshake_and_request_may_come_byte_by_byte() {
    let authority = Authority::new();
    let server = start(&authority);
    let client = tls::connect(server.address(), &authority.client(), "localhost");
    let (mut connection, mut socket) = (client.stream.conn, client.stream.sock);
    connection.writer().write_all(&[request(), text("slow")].concat()).unwrap();
    while connection.is_handshaking() || connection.wants_write() {
        let mut wire = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut wire).unwrap();
        }
        for byte in wire {
            socket.write_all(&[byte]).unwrap();
        }
        if connection.is_handshaking() {
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
    }
    let mut client = Raw::over(rustls::StreamOwned::new(connection, socket));
    client.switched();
    assert_eq!(client.frame(), Frame::text("slow"));
}

#[test]
fn a_proxy_header_precedes_the_handshake() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let config = format!(
        "{LISTENER}proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n{certificate}"
    );
    let server = Server::start_with(&["--shards", "1"], &config);
    for is_cut in [false, true] {
        let client = tls::connect(server.address(), &authority.client(), "localhost");
        let (mut connection, mut socket) = (client.stream.conn, client.stream.sock);
        let mut wire = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n".to_vec();
        if is_cut {
            socket.write_all(&wire[..20]).unwrap();
            wire.drain(..20);
        }
        connection.write_tls(&mut wire).unwrap();
        socket.write_all(&wire).unwrap();
        let mut client = Raw::over(rustls::StreamOwned::new(connection, socket));
        client.upgrade();
        client.echo("behind a proxy");
    }
}

#[test]
fn development_needs_one_flag_and_the_admin_address_stays_plain() {
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--dev-tls"], "");
    assert!(server.listeners()[0].starts_with("wss://"));
    let mut client = Openssl::connect(server.address(), &["-tls1_2"]);
    client.write("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    client.await_line("HTTP/1.1 200 ");
    assert!(server.metrics().get("tls12_handshakes_total") >= 1);
}

#[test]
fn many_connections_at_once_are_all_served() {
    let authority = Authority::new();
    let server = start(&authority);
    let config = authority.client();
    let mut clients: Vec<_> =
        (0..100).map(|_| tls::connect(server.address(), &config, "localhost")).collect();
    clients.iter_mut().for_each(|client| client.send(&request()));
    for (number, client) in clients.iter_mut().enumerate() {
        client.switched();
        client.echo(&format!("{number}"));
    }
    assert_eq!(server.metrics().get("connections_tls"), 100);
    drop(clients);
    wait_until("all are gone", || server.metrics().get("connections_tls") == 0);
    let silent = TcpStream::connect(server.address()).unwrap();
    drop(silent);
    let frame = raw::frame(raw::FIN | raw::PING, b"p");
    let mut client = tls::open(server.address(), &config);
    client.send(&frame);
    assert_eq!(client.frame().payload, b"p");
}
