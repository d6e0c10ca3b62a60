//! Who may speak for a client: PROXY headers and forwarding headers, from whom they are believed.

use crate::support::raw::{request, request_with, text};
use crate::support::{Frame, Raw, Server};

const TRUSTING: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
    trusted_proxies = [\"127.0.0.1/32\"]\n";
const DISTRUSTING: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
    trusted_proxies = [\"192.0.2.0/24\"]\n";

fn server(config: &str) -> Server {
    Server::start_with(&["--shards", "2"], config)
}

/// A version 2 header.
fn block(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = (addresses.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, addresses].concat()
}

fn headers() -> Vec<Vec<u8>> {
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 0x04, 1, 187];
    let with_tlv = [&v4[..], b"\x04\x00\x05abcde"].concat();
    vec![
        b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        block(0x21, 0x11, &v4),
        block(0x21, 0x11, &with_tlv),
        block(0x21, 0x21, &[1; 36]),
        // LOCAL: the proxy speaks for itself, as its health checks do.
        block(0x20, 0x00, b""),
    ]
}

#[test]
fn a_trusted_proxy_s_header_comes_before_the_request() {
    let server = server(TRUSTING);
    for header in headers() {
        let mut client = Raw::connect(server.address());
        client.send(&[header.clone(), request(), text("one segment")].concat());
        client.switched();
        assert_eq!(client.frame(), Frame::text("one segment"));
        // Cut anywhere, byte by byte.
        let mut client = Raw::connect(server.address());
        header.iter().for_each(|byte| client.send(&[*byte]));
        client.upgrade();
        client.echo("after a header in pieces");
    }
    assert_eq!(server.metrics().get("proxy_errors_total"), 0);
}

/// An address of zeros is an address: it is not believed like a local peer, whose headers count,
/// and it is counted like others.
#[test]
fn an_unspecified_source_is_not_trusted() {
    let server = server(&format!(
        "{TRUSTING}forwarded_header = \"x-forwarded-for\"\n\
         [limits]\nconnections_per_address_max = 1\n"
    ));
    let open = |header: &[u8], client: u8| {
        let mut raw = Raw::connect(server.address());
        let forwarded = format!("X-Forwarded-For: 192.0.2.{client}\r\n");
        raw.send(&[header.to_vec(), request_with("/echo", &forwarded)].concat());
        let head = raw.head();
        (raw, head)
    };
    for header in [
        b"PROXY TCP6 :: ::1 1 2\r\n".to_vec(),
        b"PROXY TCP6 :: ::1 0 0\r\n".to_vec(),
        b"PROXY TCP4 0.0.0.0 10.0.0.1 0 443\r\n".to_vec(),
        block(0x21, 0x21, &[0; 36]),
        block(0x21, 0x11, &[0; 12]),
    ] {
        let (mut first, head) = open(&header, 1);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let (_, head) = open(&header, 2);
        assert!(head.starts_with("HTTP/1.1 429 "), "another claim is the same client: {head}");
        first.send(&crate::support::raw::close(1000));
        assert_eq!(first.frame().close_code(), 1000);
        first.end();
        crate::support::wait_until("the connections have left", || {
            server.metrics().sum("shard_connections") == 0
        });
    }
    let (_, head) = open(&block(0x21, 0x21, &[0; 36]), 3);
    assert!(head.starts_with("HTTP/1.1 101 "), "those that left are not counted: {head}");
}

#[test]
fn without_its_header_a_connection_is_closed_unanswered() {
    let server = server(TRUSTING);
    let wrong = [
        request(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n".to_vec(),
        block(0x31, 0x11, &[0; 12]),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
    ];
    for bytes in &wrong {
        let mut client = Raw::connect(server.address());
        client.send(bytes);
        // An end or a reset, but no answer: a peer without a header is not a client.
        assert_eq!(client.rest().unwrap_or_default(), b"");
    }
    assert_eq!(server.metrics().get("proxy_errors_total"), wrong.len() as u64);
    assert_eq!(server.metrics().get("opened_total"), 0);
}

#[test]
fn a_header_from_anybody_else_is_not_believed() {
    let server = server(DISTRUSTING);
    let headers = headers();
    for header in &headers {
        let mut client = Raw::connect(server.address());
        client.send(&[header.clone(), request()].concat());
        assert_eq!(client.rest().unwrap_or_default(), b"");
    }
    assert_eq!(server.metrics().get("proxy_errors_total"), headers.len() as u64);
}

#[test]
fn a_header_that_does_not_come_ends_at_the_handshake_s_deadline() {
    let config = format!("[timeouts]\nhandshake_timeout_ms = 200\n{TRUSTING}");
    let server = server(&config);
    let mut client = Raw::connect(server.address());
    client.send(b"PROXY TCP4 192");
    assert_eq!(client.rest().unwrap_or_default(), b"");
    assert_eq!(server.metrics().get("handshake_timeouts_total"), 1);
}

/// Where PROXY headers are not expected they are a bad request.
#[test]
fn a_header_on_an_ordinary_listener_is_refused() {
    let server = Server::start("");
    let mut client = Raw::connect(server.address());
    client.send(&[b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n".to_vec(), request()].concat());
    assert_eq!(client.answer().0, 400);
}

#[test]
fn forwarding_headers_never_stand_in_the_way() {
    let listener = |header: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nforwarded_header = \"{header}\"\n\
             trusted_proxies = [\"127.0.0.1\"]\n"
        )
    };
    let lines = [
        "X-Forwarded-For: 192.0.2.7\r\n",
        "X-Forwarded-For: evil, 192.0.2.7, 127.0.0.1\r\nX-Forwarded-For: ,,\r\n",
        "Forwarded: for=192.0.2.7;proto=wss, for=\"[2001:db8::1]:80\"\r\n",
        "Forwarded: for=\"unfinished\r\n",
        "",
    ];
    for header in ["x-forwarded-for", "forwarded", ""] {
        let server = server(&listener(header));
        for line in lines {
            let mut client = Raw::connect(server.address());
            client.send(&request_with("/echo", line));
            client.switched();
            client.echo("forwarded");
        }
    }
}
