//! The bodies of the fuzz targets: any bytes in, laws asserted, nothing out.
//!
//! Random bytes seldom authenticate. So the data says what a client seals and how it is damaged;
//! what must come of it follows from that.

use std::sync::LazyLock;

use rustls::{AlertDescription as Alert, ContentType};

use super::certificates::{Certificate, CertificateParts, CertificateSet};
use super::development::DevelopmentCertificate;
use super::handshake::{HandshakeError, INPUT_BYTES_MAX, TlsHandshake};
use super::keys::KeyCache;
use super::record::{CONTENT_BYTES_MAX, HEADER_BYTES, RECORD_BYTES_MAX, RecordBuilder};
use super::secrets::{DirectionSecrets, TrafficSecret};
use super::session::{Opened, Session};
use super::settings::{self, ListenerTls, Settings};
use super::suite::{Cipher, Suite, Version};
use super::tickets;

/// Bytes that a run may be about: more takes long, and shows nothing else.
const WIRE_BYTES_MAX: usize = 48 * 1024;

/// How the client's side of a connection came to its end.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Failed(Alert),
    Rejected(Alert),
}

/// What a client sends.
struct Client {
    suite: Suite,
    send: DirectionSecrets,
    wire: Vec<u8>,
    /// Where the last record begins, and how much content precedes it.
    last: (usize, usize),
    /// Where the wire is cut.
    cuts: Vec<usize>,
    /// Content that must come out: up to what breaks a rule first.
    content: Vec<u8>,
    updates: u8,
    conduct: Conduct,
}

/// Whether the client has followed the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Sound,
    /// It has sealed what it must not.
    Wrong,
    /// Bytes were damaged or added that it has not sealed: nothing behind them may be accepted.
    Forged,
}

fn secrets(suite: Suite, seed: u8) -> DirectionSecrets {
    DirectionSecrets::derive(suite, &TrafficSecret::new([seed; 48]))
}

/// The server's side of a connection, or the client's.
fn session(suite: Suite, receive: u8, send: u8, keys: &mut KeyCache) -> Session {
    let (receive, send) = (secrets(suite, receive), secrets(suite, send));
    Session::new(keys.next_session(), suite, receive, send, Vec::new())
}

const CLIENT: u8 = 1;
const SERVER: u8 = 2;

impl Client {
    fn new(suite: Suite) -> Self {
        Self {
            suite,
            send: secrets(suite, CLIENT),
            wire: Vec::new(),
            last: (0, 0),
            cuts: Vec::new(),
            content: Vec::new(),
            updates: 0,
            conduct: Conduct::Sound,
        }
    }

    fn seal(&mut self, kind: u8, content: &[u8]) {
        let start = self.wire.len();
        self.last = (start, self.content.len());
        let mut record = RecordBuilder::at(self.suite, &mut self.wire, start);
        assert!(record.add(content).is_empty(), "it fits");
        let key = self.send.expand_key(self.suite.cipher);
        let (iv, number) = (self.send.iv(), self.send.take_number());
        record.seal(&key, &iv, number, ContentType::from(kind));
    }

    fn seal_data(&mut self, length: usize, is_padded: bool) {
        let content: Vec<u8> = (0..length).map(|at| (at * 7 + self.wire.len()) as u8).collect();
        if is_padded && self.suite.version == Version::Tls13 {
            // The type precedes the padding: a further zero for each further zero of it.
            let mut padded = content.clone();
            padded.push(u8::from(ContentType::ApplicationData));
            self.seal(0, &padded);
        } else {
            self.seal(u8::from(ContentType::ApplicationData), &content);
        }
        if self.conduct == Conduct::Sound {
            self.content.extend(&content);
        }
        if length > 0 {
            self.updates = 0;
        }
    }

    fn update_keys(&mut self, request: u8) {
        self.seal(u8::from(ContentType::Handshake), &[24, 0, 0, 1, request]);
        if self.suite.version == Version::Tls13 && request <= 1 && self.updates < 32 {
            self.updates += 1;
            self.send.update(self.suite);
        } else {
            self.go_wrong(Conduct::Wrong);
        }
    }

    fn go_wrong(&mut self, how: Conduct) {
        if self.conduct == Conduct::Sound {
            self.conduct = how;
        }
    }

    fn operate(&mut self, operation: u8, operand: u8, data: &mut &[u8]) {
        let mut take = |count: usize| {
            let (taken, rest) = data.split_at(count.min(data.len()));
            *data = rest;
            taken.to_vec()
        };
        let length = usize::from(operand);
        match operation % 12 {
            0 => self.cuts.push(self.wire.len()),
            1 => self.cuts.push(self.wire.len().saturating_sub(length)),
            2 => self.seal_data(length, false),
            3 => self.seal_data(length, true),
            // At and near the largest record.
            4 => self.seal_data(CONTENT_BYTES_MAX - 1 - length % 4, length & 4 != 0),
            5 => self.update_keys(operand & 1),
            6 => {
                self.seal(u8::from(ContentType::Handshake), &take(length % 16));
                self.go_wrong(Conduct::Wrong);
            }
            7 => {
                self.seal(u8::from(ContentType::Alert), &take(length % 4));
                self.go_wrong(Conduct::Wrong);
            }
            8 => {
                let content = take(length);
                self.seal(operation / 12, &content);
                self.go_wrong(Conduct::Wrong);
            }
            9 => self.forge(&take(length)),
            10 => self.damage(length, operation / 12),
            // A record again.
            _ => {
                let record = self.wire[self.last.0..].to_vec();
                self.forge(&record);
            }
        }
    }

    /// Adds bytes that it has not sealed at this place.
    fn forge(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.wire.extend(bytes);
            self.go_wrong(Conduct::Forged);
        }
    }

    /// Changes a bit of the last record; once, for a second change may undo the first.
    fn damage(&mut self, at: usize, bit: u8) {
        let (start, content_bytes) = self.last;
        let record = &mut self.wire[start..];
        if self.conduct == Conduct::Sound && !record.is_empty() {
            let at = at % record.len();
            record[at] ^= 1 << (bit % 8);
            self.content.truncate(content_bytes);
            self.go_wrong(Conduct::Forged);
        }
    }
}

/// A connection as a list of operations: records right, wrong and damaged, cut anywhere.
pub fn records(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let version = if choice & 1 == 0 { Version::Tls13 } else { Version::Tls12 };
    let ciphers = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    let suite = Suite { version, cipher: ciphers[usize::from(choice / 2) % ciphers.len()] };
    let mut client = Client::new(suite);
    while let [operation, operand, further @ ..] = rest
        && client.wire.len() < WIRE_BYTES_MAX
    {
        rest = further;
        client.operate(*operation, *operand, &mut rest);
    }
    let whole = receive(&client, [client.wire.len()].into_iter());
    client.cuts.sort_unstable();
    let cut = receive(&client, client.cuts.iter().copied().chain([client.wire.len()]));
    assert_eq!(cut, whole, "cut at {:?}", client.cuts);
    assert_eq!(receive(&client, 1..=client.wire.len()), whole, "byte by byte");
    let (content, end) = whole;
    match client.conduct {
        Conduct::Sound => assert_eq!((content, end), (client.content, None)),
        Conduct::Wrong => assert!(content.starts_with(&client.content), "{end:?}"),
        Conduct::Forged => assert_eq!(content, client.content, "{end:?}"),
    }
}

/// What a server makes of it, in parts that end at these places.
fn receive(client: &Client, ends: impl Iterator<Item = usize>) -> (Vec<u8>, Option<End>) {
    let mut keys = KeyCache::default();
    let mut session = session(client.suite, CLIENT, SERVER, &mut keys);
    let (mut content, mut end, mut start) = (Vec::new(), None, 0);
    for next in ends {
        let mut part = client.wire[start..next].to_vec();
        start = next;
        end = open(&mut session, &mut keys, &mut part, &mut content);
        if end.is_some() {
            break;
        }
        assert!(session.partial_bytes() <= 2 * RECORD_BYTES_MAX, "{}", session.partial_bytes());
    }
    check_answer(client.suite, session, &mut keys, end.as_ref());
    (content, end)
}

fn open(
    session: &mut Session,
    keys: &mut KeyCache,
    mut wire: &mut [u8],
    content: &mut Vec<u8>,
) -> Option<End> {
    loop {
        let mut record = match session.next_record(&mut wire) {
            Ok(record) => record?,
            Err(alert) => return Some(End::Rejected(alert)),
        };
        match session.open(keys, record.bytes_mut()) {
            Ok(Opened::Data(data)) => content.extend_from_slice(data),
            Ok(Opened::Control) => {}
            Ok(Opened::Closed) => return Some(End::Closed),
            Ok(Opened::Failed(alert)) => return Some(End::Failed(alert)),
            Err(alert) => return Some(End::Rejected(alert)),
        }
    }
}

/// The client can open what the server has yet to say, and learns why the connection ends.
fn check_answer(suite: Suite, mut session: Session, keys: &mut KeyCache, end: Option<&End>) {
    let mut wire = Vec::new();
    session.seal_owed(keys, &mut wire);
    if session.has_ended() {
        assert!(matches!(end, Some(End::Failed(_))) && wire.is_empty());
    } else {
        session.seal(keys, [&b"answer"[..]].into_iter(), &mut wire);
    }
    match end {
        Some(End::Rejected(alert)) => session.fail(*alert),
        _ => session.finish(),
    }
    session.seal_end(keys, &mut wire);
    assert!(session.has_ended() && !session.has_output());
    let mut client = self::session(suite, SERVER, CLIENT, keys);
    let mut content = Vec::new();
    let learned = open(&mut client, keys, &mut wire, &mut content);
    let (answer, expected): (&[u8], _) = match end {
        Some(End::Failed(_)) => (b"", None),
        Some(End::Rejected(alert)) => (b"answer", Some(End::Failed(*alert))),
        _ => (b"answer", Some(End::Closed)),
    };
    assert_eq!((&content[..], learned), (answer, expected));
}

static LISTENER: LazyLock<ListenerTls> = LazyLock::new(|| {
    let made = DevelopmentCertificate::make(&[]).expect("its names are valid");
    let parts = CertificateParts {
        chain: made.chain.as_bytes(),
        key: made.key.as_bytes(),
        ocsp: &[],
        names: &[],
        now_s: 1_750_000_000,
    };
    let certificate = Certificate::read(&parts).expect("it is valid");
    let settings = Settings {
        challenges: None,
        certificates: CertificateSet::new(vec![certificate]).into(),
        tickets: tickets::random_tickets().expect("there is randomness"),
        verifier: None,
    };
    settings::listener_tls(&settings).expect("the settings are those of every server")
});

/// What a client without any keys sends: it comes to no end of a handshake, and the same wherever
/// it is cut. The first byte says where.
pub fn handshake(data: &[u8]) {
    let Some((&choice, wire)) = data.split_first() else { return };
    let whole = attempt(wire, usize::MAX);
    let cut = attempt(wire, usize::from(choice).max(1));
    assert_eq!(cut, whole, "cut each {choice} bytes");
}

fn attempt(wire: &[u8], part_bytes: usize) -> Result<(), HandshakeError> {
    let mut handshake = TlsHandshake::new(&LISTENER).expect("the configuration is valid");
    let mut output = Vec::new();
    let mut result = Ok(());
    for part in wire.chunks(part_bytes.min(wire.len().max(1))) {
        handshake.push(part);
        match handshake.advance(&mut output) {
            Ok(is_over) => assert!(!is_over, "it has no keys"),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
        let bytes_max = INPUT_BYTES_MAX + RECORD_BYTES_MAX + part.len();
        assert!(handshake.partial_bytes() <= 2 * bytes_max, "{}", handshake.partial_bytes());
    }
    check_records(&output);
    result
}

/// All output is whole records.
fn check_records(mut output: &[u8]) {
    while let [kind @ 20..=23, 3, 1 | 3, high, low, rest @ ..] = output {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(length > 0 && length + HEADER_BYTES <= RECORD_BYTES_MAX, "type {kind}: {length}");
        output = &rest[length..];
    }
    assert!(output.is_empty(), "{output:?}");
}
