//! `wss://`: what breaks the rules of TLS, at every point of a connection. It is answered with the
//! alert that the RFC names, or with the end of the stream, and concerns no other connection.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription as Alert, ClientConfig, ClientConnection, Error};

use crate::support::raw::text;
use crate::support::tls::{self, Authority, TlsStream};
use crate::support::{Raw, Server, wait_until};
use crate::tls::start;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A record with this content as it is.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("it fits a record");
    [&[kind, 3, 3][..], &length.to_be_bytes(), content].concat()
}

/// So much of a handshake message, in records of the largest size.
fn message(kind: u8, length: u32, sent: usize) -> Vec<u8> {
    let mut content = length.to_be_bytes().to_vec();
    content[0] = kind;
    content.resize(sent, 0);
    content.chunks(1 << 14).flat_map(|part| record(HANDSHAKE, part)).collect()
}

/// A server, and a client of it that follows the rules and must not notice the others.
struct Bystander {
    server: Server,
    authority: Authority,
    client: Raw<TlsStream>,
}

impl Bystander {
    fn start() -> Self {
        let authority = Authority::new();
        let server = start(&authority);
        let client = tls::open(server.address(), &authority.client());
        Self { server, authority, client }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Every other connection is gone, and was counted as one of these.
    #[track_caller]
    fn check(&mut self, name: &str, handshakes_failed: u64, alerts_sent: u64) {
        self.client.echo(name);
        wait_until(&format!("{name}: its connection ends"), || {
            self.server.metrics().get("connections_tls") == 1
        });
        let metrics = self.server.metrics();
        assert_eq!(metrics.get("connections_open"), 1, "{name}");
        assert_eq!(metrics.get("tls_handshakes_failed_total"), handshakes_failed, "{name}");
        assert_eq!(metrics.sum("tls_handshake_failures_total"), handshakes_failed, "{name}");
        assert_eq!(metrics.get("tls_alerts_sent_total"), alerts_sent, "{name}");
    }
}

/// A client whose handshake is under way: the server's flight has come, its own is not sent.
struct Handshake {
    connection: ClientConnection,
    socket: TcpStream,
}

impl Handshake {
    fn begin(address: SocketAddr, config: &ClientConfig) -> Self {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
        let mut begun = Self { connection, socket: TcpStream::connect(address).unwrap() };
        let hello = begun.flight();
        begun.socket.write_all(&hello).unwrap();
        while !begun.connection.wants_write() {
            begun.connection.read_tls(&mut begun.socket).unwrap();
            begun.connection.process_new_packets().unwrap();
        }
        begun
    }

    /// What the client would send now.
    fn flight(&mut self) -> Vec<u8> {
        let mut flight = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut flight).unwrap();
        }
        flight
    }

    /// The alert that the server ends the connection with, if it sends one.
    fn alert(mut self) -> Option<Alert> {
        while self.connection.read_tls(&mut self.socket).expect("the stream ends in order") > 0 {
            match self.connection.process_new_packets() {
                Ok(_) => {}
                Err(Error::AlertReceived(alert)) => return Some(alert),
                Err(error) => panic!("the server sends no TLS: {error}"),
            }
        }
        None
    }
}

#[test]
fn before_a_handshake_the_answer_is_an_alert() {
    let overlong = (1_u16 << 14) + 1;
    let cases: [(&str, Vec<u8>, Option<Alert>); 15] = [
        // Headers alone: nothing more is waited for.
        ("unknown type", vec![24, 3, 3, 0, 9], Some(Alert::UnexpectedMessage)),
        ("SSL 2", vec![0x80, 46, 1, 3, 1], Some(Alert::UnexpectedMessage)),
        ("wrong version", vec![HANDSHAKE, 2, 0, 0, 9], Some(Alert::ProtocolVersion)),
        ("no content", record(HANDSHAKE, b""), Some(Alert::UnexpectedMessage)),
        (
            "too long",
            [&[HANDSHAKE, 3, 1][..], &overlong.to_be_bytes()].concat(),
            Some(Alert::RecordOverflow),
        ),
        ("longest", vec![HANDSHAKE, 3, 1, 0xff, 0xff], Some(Alert::RecordOverflow)),
        ("cut inside", message(1, 32, 36), Some(Alert::DecodeError)),
        ("too large a hello", message(1, 60_000, 60_004), Some(Alert::DecodeError)),
        ("too large to begin", message(1, 0xff_ffff, 60_000), Some(Alert::DecodeError)),
        ("another message", message(20, 12, 16), Some(Alert::UnexpectedMessage)),
        ("data", record(DATA, b"GET / HTTP/1.1"), Some(Alert::UnexpectedMessage)),
        ("change of ciphers", record(CHANGE_CIPHER_SPEC, &[1]), Some(Alert::UnexpectedMessage)),
        ("half an alert", record(ALERT, &[2]), Some(Alert::DecodeError)),
        // An alert is answered with none.
        ("alert", record(ALERT, &[2, 40]), None),
        ("close_notify", record(ALERT, &[1, 0]), None),
    ];
    let mut bystander = Bystander::start();
    for (failed, (name, bytes, expected)) in cases.into_iter().enumerate() {
        let mut client = Raw::connect(bystander.address());
        client.send(&bytes);
        let answer = client.rest().unwrap();
        let alert = expected.map(|alert| record(ALERT, &[2, u8::from(alert)]));
        assert_eq!(answer, alert.unwrap_or_default(), "{name}");
        drop(client);
        bystander.check(name, failed as u64 + 1, 0);
    }
}

/// Things for the place of the client's second flight, and the answers to them in TLS 1.2 and 1.3.
/// In TLS 1.3, that flight is sealed: what is not, cannot be opened.
fn flights() -> Vec<(&'static str, Vec<u8>, [Option<Alert>; 2])> {
    let finished = message(20, 32, 36);
    let warning = record(ALERT, &[1, 90]);
    vec![
        (
            "data",
            record(DATA, &[0; 40]),
            [Some(Alert::UnexpectedMessage), Some(Alert::BadRecordMac)],
        ),
        (
            "empty data",
            record(DATA, b""),
            [Some(Alert::UnexpectedMessage), Some(Alert::BadRecordMac)],
        ),
        ("plain end", finished, [Some(Alert::UnexpectedMessage), Some(Alert::BadRecordMac)]),
        (
            "another hello",
            message(1, 32, 36),
            [Some(Alert::DecodeError), Some(Alert::BadRecordMac)],
        ),
        ("unknown type", vec![99, 3, 3, 0, 9], [Some(Alert::DecodeError); 2]),
        ("too long", vec![DATA, 3, 3, 0xff, 0xff], [Some(Alert::DecodeError); 2]),
        (
            "changes of ciphers",
            record(CHANGE_CIPHER_SPEC, &[1]).repeat(1000),
            [Some(Alert::UnexpectedMessage), None],
        ),
        (
            "another change of ciphers",
            record(CHANGE_CIPHER_SPEC, &[2]),
            [Some(Alert::DecodeError), Some(Alert::UnexpectedMessage)],
        ),
        ("warnings", warning.repeat(1000), [None; 2]),
        ("alert", record(ALERT, &[2, 42]), [None; 2]),
        ("close_notify", record(ALERT, &[1, 0]), [None; 2]),
        ("nothing", Vec::new(), [None; 2]),
    ]
}

#[test]
fn in_the_middle_of_a_handshake_it_fails() {
    let mut bystander = Bystander::start();
    let configs = [&TLS12, &TLS13].map(|version| bystander.authority.client_of(version));
    let mut failed = 0;
    for (name, bytes, expected) in flights() {
        for (config, expected) in configs.iter().zip(expected) {
            let mut client = Handshake::begin(bystander.address(), config);
            client.socket.write_all(&bytes).unwrap();
            client.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.alert(), expected, "{name}");
            failed += 1;
            bystander.check(name, failed, 0);
        }
    }
    for config in &configs {
        let mut client = Handshake::begin(bystander.address(), config);
        let mut flight = client.flight();
        *flight.last_mut().unwrap() ^= 1;
        client.socket.write_all(&flight).unwrap();
        assert_eq!(client.alert(), Some(Alert::BadRecordMac));
        failed += 1;
        bystander.check("a changed end", failed, 0);
    }
}

#[test]
fn a_hello_may_be_cut_at_every_byte() {
    let mut bystander = Bystander::start();
    let name = "localhost".try_into().unwrap();
    let mut config = bystander.authority.client_of(&TLS12);
    config.enable_sni = false;
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    for at in 1..hello.len() {
        let mut client = Raw::connect(bystander.address());
        client.send(&hello[..at]);
        client.send(&hello[at..]);
        let mut answer = [0];
        client.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [HANDSHAKE], "cut at {at}");
    }
    // Two records, each with a part of the message.
    let (header, content) = hello.split_at(5);
    for at in 1..content.len() {
        let (first, second) = content.split_at(at);
        let mut client = Raw::connect(bystander.address());
        client.send(&[record(header[0], first), record(header[0], second)].concat());
        let mut answer = [0];
        client.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [HANDSHAKE], "in two records, cut at {at}");
    }
    // None of them was finished.
    let failed = hello.len() - 1 + content.len() - 1;
    bystander.check("all", failed as u64, 0);
}

/// Sends one message sealed, as bytes.
fn sealed(client: &mut Raw<TlsStream>, payload: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    client.stream.conn.writer().write_all(&text(payload)).unwrap();
    client.stream.conn.write_tls(&mut wire).unwrap();
    wire
}

#[test]
fn an_established_connection_ends_with_the_right_alert() {
    let mut bystander = Bystander::start();
    let mut alerts = 0;
    for (version, is_13) in [(&TLS12, false), (&TLS13, true)] {
        let config = bystander.authority.client_of(version);
        // What is not sealed has a type that is not expected, or cannot be opened.
        let plain = if is_13 { Alert::UnexpectedMessage } else { Alert::BadRecordMac };
        let longest: u16 = (1 << 14) + if is_13 { 256 } else { 2048 };
        let too_long = [&[DATA, 3, 3][..], &(longest + 1).to_be_bytes()].concat();
        let cases = [
            ("unknown type", vec![99, 3, 3, 0, 9], Alert::UnexpectedMessage),
            ("too long", too_long, Alert::RecordOverflow),
            ("no content", record(DATA, b""), Alert::BadRecordMac),
            ("wrong tag", record(DATA, &[0; 100]), Alert::BadRecordMac),
            ("plain handshake", record(HANDSHAKE, &[0; 40]), plain),
            ("plain alert", record(ALERT, &[2, 40]), plain),
            ("change of ciphers", record(CHANGE_CIPHER_SPEC, &[1]), plain),
        ];
        for (name, bytes, expected) in cases {
            let client = tls::open(bystander.address(), &config);
            let (connection, mut socket) = (client.stream.conn, client.stream.sock);
            socket.write_all(&bytes).unwrap();
            let client = Handshake { connection, socket };
            assert_eq!(client.alert(), Some(expected), "{name}");
            alerts += 1;
            bystander.check(name, 0, alerts);
        }
        // Each record once, in order.
        for (name, order) in [("twice", [0, 0]), ("swapped", [1, 0])] {
            let mut client = tls::open(bystander.address(), &config);
            let records = [sealed(&mut client, "one"), sealed(&mut client, "two")];
            let (connection, mut socket) = (client.stream.conn, client.stream.sock);
            socket.write_all(&order.map(|at| &records[at][..]).concat()).unwrap();
            let client = Handshake { connection, socket };
            assert_eq!(client.alert(), Some(Alert::BadRecordMac), "{name}");
            alerts += 1;
            bystander.check(name, 0, alerts);
        }
    }
}

#[test]
fn a_record_may_be_cut_at_every_byte_and_end_nowhere_else() {
    let mut bystander = Bystander::start();
    for (truncations, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let config = bystander.authority.client_of(version);
        let mut client = tls::open(bystander.address(), &config);
        let mut at = 1;
        loop {
            let wire = sealed(&mut client, &at.to_string());
            if at == wire.len() {
                // The stream ends inside of a record.
                client.stream.sock.write_all(&wire[..at - 1]).unwrap();
                client.stream.sock.shutdown(Shutdown::Write).unwrap();
                client.end();
                break;
            }
            for part in [&wire[..at], &wire[at..]] {
                client.stream.sock.write_all(part).unwrap();
            }
            assert_eq!(client.frame().payload, at.to_string().as_bytes());
            at += 1;
        }
        bystander.check("cut", 0, 0);
        let counted = bystander.server.metrics().get("tls_truncations_total");
        assert_eq!(counted, truncations as u64 + 1);
    }
}
