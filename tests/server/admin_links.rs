//! Links that applications dial, at the admin address.

use std::io::{Read, Write};
use std::net::TcpStream;

use seawall::link::{
    LINK_SUBPROTOCOL, LinkRecord, LinkSession, RecordKind, Records, append_record,
};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

use crate::support::tls::{self, Authority};
use crate::support::{Frame, Raw, Server, metrics, raw, wait_until};

const GATEWAY: &str = "[[route]]\npath = \"/game\"\nhandler = \"gateway\"\n\
    [[backend]]\naccept_links = true\n\
    [[api_key]]\nname = \"app\"\nsecret = \"0123456789abcdef0123\"\n";

fn start(rest: &str) -> Server {
    Server::start_with(&["--listen", "127.0.0.1:0"], &format!("{GATEWAY}{rest}"))
}

/// Dials; the status of the answer if it is no link.
fn dial<S: Read + Write>(
    stream: S,
    path: &str,
    key: &str,
    protocol: &str,
) -> Result<WebSocket<S>, u16> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    let lines = [("authorization", format!("Bearer {key}")), ("host", "127.0.0.1".into())];
    for (name, value) in lines {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Returns the next record that is no ping.
fn next_record<S: Read + Write>(socket: &mut WebSocket<S>) -> (RecordKind, LinkSession, Vec<u8>) {
    loop {
        let Message::Binary(bytes) = socket.read().unwrap() else { continue };
        for record in Records::new(&bytes, usize::MAX) {
            let record = record.unwrap();
            if record.known_kind() != Some(RecordKind::Ping) {
                return (record.known_kind().unwrap(), record.session, record.body.to_vec());
            }
        }
    }
}

fn send<S: Read + Write>(socket: &mut WebSocket<S>, record: &LinkRecord<'_>) {
    let mut bytes = Vec::new();
    append_record(&mut bytes, record);
    socket.send(Message::Binary(bytes.into())).unwrap();
}

/// Says hello, accepts a client, and exchanges messages with it.
fn converse<S: Read + Write>(
    server: &Server,
    mut socket: WebSocket<S>,
    metrics: impl Fn() -> String,
) -> WebSocket<S> {
    assert_eq!(next_record(&mut socket).0, RecordKind::Hello);
    let hello = LinkRecord::new(RecordKind::Hello, LinkSession::NONE, 1, br#"{"instance":"one"}"#);
    send(&mut socket, &hello);
    let ready = "seawall_links_ready{backend=\"app\"} 1\n";
    wait_until("the link is ready", || metrics().contains(ready));
    let mut client = Raw::connect(server.address());
    client.send(&raw::request_with("/game", ""));
    let (kind, session, body) = next_record(&mut socket);
    assert_eq!(kind, RecordKind::Open);
    assert!(String::from_utf8(body).unwrap().contains("\"/game\""));
    send(&mut socket, &LinkRecord::new(RecordKind::Accept, session, 0, b""));
    client.switched();
    client.send(&raw::text("hello"));
    assert_eq!(next_record(&mut socket), (RecordKind::Text, session, b"hello".to_vec()));
    send(&mut socket, &LinkRecord::new(RecordKind::Text, session, 0, b"welcome"));
    assert_eq!(client.frame(), Frame::text("welcome"));
    server.await_log("a link to the backend is open");
    socket
}

#[test]
fn an_application_dials_and_exchanges_messages() {
    let server = start("");
    let stream = || TcpStream::connect(server.admin()).unwrap();
    let key = "0123456789abcdef0123";
    for (path, key, protocol, status) in [
        ("/v1/link", "another-key-of-20-bytes", LINK_SUBPROTOCOL, 401),
        ("/v1/link", key, "chat", 400),
        ("/v1/link?backend=other", key, LINK_SUBPROTOCOL, 404),
        ("/v1/link?name=app", key, LINK_SUBPROTOCOL, 400),
    ] {
        assert_eq!(dial(stream(), path, key, protocol).err(), Some(status), "{path} {protocol}");
    }
    let link = dial(stream(), "/v1/link?backend=app", key, LINK_SUBPROTOCOL).unwrap();
    let _link = converse(&server, link, || metrics::get(server.admin(), "/metrics").1);
    let silent = dial(stream(), "/v1/link", key, LINK_SUBPROTOCOL).unwrap();
    drop(silent);
    let failed = || server.metrics().sum("link_dial_failures_total") == 1;
    wait_until("a link without hello is counted", failed);
}

#[test]
fn an_application_dials_over_tls() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let server = start(&format!("[admin]\ntls = true\n{certificate}"));
    let client = tls::connect(server.admin(), &authority.client(), "localhost");
    let key = "0123456789abcdef0123";
    let link = dial(client.stream, "/v1/link", key, LINK_SUBPROTOCOL).unwrap();
    let metrics = || {
        let client = tls::connect(server.admin(), &authority.client(), "localhost");
        metrics::request(client.stream, "GET /metrics", "Host: 127.0.0.1\r\n", "").body
    };
    let _link = converse(&server, link, metrics);
}

#[test]
fn no_link_is_accepted_where_none_is_configured() {
    let server = Server::start("[[backend]]\nlinks = [\"ws://127.0.0.1:1\"]\n");
    let stream = TcpStream::connect(server.admin()).unwrap();
    assert_eq!(dial(stream, "/v1/link", "", LINK_SUBPROTOCOL).err(), Some(404));
}
