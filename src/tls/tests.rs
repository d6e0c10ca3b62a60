//! The record layer against rustls' own, and against the vectors of RFC 8448.

use proptest::prelude::*;
use rustls::crypto::cipher::OutboundPlainMessage;
use rustls::{AlertDescription, CipherSuite, ContentType, ProtocolVersion};

use super::keys::KeyCache;
use super::record::{self, CONTENT_BYTES_MAX, HEADER_BYTES};
use super::secrets::{DirectionSecrets, TrafficSecret};
use super::session::{Opened, Session};
use super::suite::{Cipher, Suite, Version};
use super::testing::{
    KeyKind, Pair, attempt_handshake, client_config, give_input, read_certificate, server_config,
};

/// All suites of both versions, with the kind of certificate that they take.
const SUITES: [(CipherSuite, KeyKind); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, KeyKind::Elliptic),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, KeyKind::Elliptic),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, KeyKind::Elliptic),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, KeyKind::Elliptic),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, KeyKind::Elliptic),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, KeyKind::Elliptic),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, KeyKind::Rsa),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, KeyKind::Rsa),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, KeyKind::Rsa),
];

fn is_tls13(suite: CipherSuite) -> bool {
    suite.as_str().is_some_and(|name| name.starts_with("TLS13"))
}

fn connect(suite: CipherSuite, kind: KeyKind, part_bytes: usize) -> Pair {
    let version = if is_tls13(suite) { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
    let server = server_config(vec![read_certificate(&["localhost"], kind)]);
    Pair::connect(client_config(version, Some(suite)), &server, part_bytes)
}

#[test]
fn every_suite_carries_data_both_ways_to_a_clean_end() {
    for (suite, kind) in SUITES {
        let mut pair = connect(suite, kind, usize::MAX);
        let long = vec![b'x'; 3 * CONTENT_BYTES_MAX + 5];
        let wire = pair.client_sends(&long);
        assert_eq!(pair.open(&wire, usize::MAX), long, "{suite:?}");
        let wire = pair.seal(&[b"hello, ", &long, b""]);
        let overhead = pair.session.overhead_bytes(long.len() + 7);
        assert_eq!(wire.len(), long.len() + 7 + overhead, "{suite:?}");
        let read = pair.client_reads(&wire);
        assert!(read.starts_with(b"hello, xx") && read.len() == long.len() + 7, "{suite:?}");
        pair.session.finish();
        assert!(pair.session.has_output());
        let wire = pair.seal(&[b"last words"]);
        assert_eq!(pair.client_reads(&wire), b"last words");
        assert!(!pair.session.has_output() && pair.session.has_ended());
        let state = pair.client.process_new_packets().unwrap();
        assert!(state.peer_has_closed(), "{suite:?}: the client knows that nothing was cut off");
    }
}

#[test]
fn close_notify_of_the_client_ends_its_side() {
    for (suite, kind) in SUITES {
        let mut pair = connect(suite, kind, usize::MAX);
        pair.client.send_close_notify();
        let mut wire = super::testing::take_output(&mut pair.client);
        let mut rest = &mut wire[..];
        let mut record = pair.session.next_record(&mut rest).unwrap().unwrap();
        let opened = pair.session.open(&mut pair.keys, record.bytes_mut()).unwrap();
        assert!(matches!(opened, Opened::Closed), "{suite:?}");
        assert!(pair.session.has_peer_closed());
    }
}

/// What happens between a client and its server.
#[derive(Clone, Debug)]
enum Step {
    ClientSends(usize),
    ServerSends(usize),
    /// The client changes its keys and asks for the server's.
    ClientUpdates,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1..200usize, 16_300..16_500usize, 1..70_000usize];
    let step = prop_oneof![
        len.clone().prop_map(Step::ClientSends),
        len.prop_map(Step::ServerSends),
        Just(Step::ClientUpdates),
    ];
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_handshake_whatever_is_in_it_is_more_than_refused(
        at in 0..SUITES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        flight in 0..3usize,
        fragment in prop_oneof![Just(None), (32..500usize).prop_map(Some)],
        part_bytes in 1..2000usize,
    ) {
        let (suite, kind) = SUITES[at];
        let version =
            if is_tls13(suite) { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
        let mut config = client_config(version, Some(suite));
        config.max_fragment_size = fragment;
        let server = server_config(vec![read_certificate(&["localhost"], kind)]);
        let is_over = attempt_handshake(config, &server, part_bytes, |number, wire| {
            if number == flight {
                for (at, value) in &changes {
                    *at.get_mut(wire) ^= value;
                }
            }
        });
        let is_changed = changes.iter().any(|(_, value)| *value != 0) && flight < 2;
        prop_assert!(is_over || is_changed, "an honest handshake succeeds");
    }

    #[test]
    fn any_exchange_in_any_split_is_that_of_rustls(
        at in 0..SUITES.len(),
        steps in steps(),
        part_bytes in prop_oneof![1..40usize, 40..20_000usize],
    ) {
        let (suite, kind) = SUITES[at];
        let mut pair = connect(suite, kind, part_bytes);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::ClientSends(len) => {
                    let plain: Vec<_> = (0..len).map(|at| (at * 7 + number) as u8).collect();
                    let wire = pair.client_sends(&plain);
                    prop_assert_eq!(pair.open(&wire, part_bytes), plain);
                    prop_assert_eq!(pair.session.partial_bytes(), 0);
                }
                Step::ServerSends(len) => {
                    let plain: Vec<_> = (0..len).map(|at| (at * 5 + number) as u8).collect();
                    let parts: Vec<_> = plain.chunks(part_bytes).collect();
                    let wire = pair.seal(&parts);
                    prop_assert_eq!(pair.client_reads(&wire), plain);
                }
                Step::ClientUpdates if is_tls13(suite) => {
                    pair.client.refresh_traffic_keys().unwrap();
                    let wire = super::testing::take_output(&mut pair.client);
                    prop_assert_eq!(pair.open(&wire, part_bytes), b"");
                    prop_assert!(pair.session.has_output());
                }
                Step::ClientUpdates => {}
            }
        }
    }
}

#[test]
fn no_flipped_bit_is_accepted() {
    for (suite, kind) in SUITES {
        let mut pair = connect(suite, kind, usize::MAX);
        let wire = pair.client_sends(b"attack at dawn");
        for bit in 0..wire.len() * 8 {
            let mut changed = wire.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Each attempt with the secrets as they were: a real connection ends with the first.
            let mut attempt = DirectionCopy::of(&pair);
            let outcome = attempt.open(&mut changed);
            let is_header = bit / 8 < HEADER_BYTES;
            match outcome {
                None => assert!(is_header, "{suite:?}: only a length can ask for more, bit {bit}"),
                Some(Err(AlertDescription::BadRecordMac)) => {}
                Some(Err(_)) => assert!(is_header, "{suite:?}: bit {bit} of the body"),
                Some(Ok(())) => panic!("{suite:?}: bit {bit} was accepted"),
            }
        }
        assert_eq!(pair.open(&wire, usize::MAX), b"attack at dawn", "{suite:?}");
    }
}

/// The receiving side of a session, for as many attempts as wanted.
struct DirectionCopy {
    session: Session,
    keys: KeyCache,
}

impl DirectionCopy {
    fn of(pair: &Pair) -> Self {
        let mut keys = KeyCache::default();
        let session = pair.session.copy_for_tests(keys.next_session());
        Self { session, keys }
    }

    /// `None`: the record is not whole.
    fn open(&mut self, wire: &mut [u8]) -> Option<Result<(), AlertDescription>> {
        let mut rest = wire;
        let record = match self.session.next_record(&mut rest) {
            Ok(record) => record,
            Err(alert) => return Some(Err(alert)),
        };
        let mut record = record?;
        Some(self.session.open(&mut self.keys, record.bytes_mut()).map(|_| ()))
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn secret(hex: &str) -> TrafficSecret {
    let mut secret = TrafficSecret::new([0; 48]);
    secret[..32].copy_from_slice(&bytes(hex));
    secret
}

const SUITE_8448: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };

fn session_8448(keys: &mut KeyCache) -> Session {
    let client = secret("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let server = secret("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let receive = DirectionSecrets::derive(SUITE_8448, &client);
    let mut send = DirectionSecrets::derive(SUITE_8448, &server);
    // The ticket, which the example sends before its data.
    let _ = send.take_number();
    Session::new(keys.next_session(), SUITE_8448, receive, send, Vec::new())
}

/// RFC 8448 section 3: the data and the alerts of the simple handshake.
#[test]
fn records_are_those_of_rfc_8448() {
    let mut keys = KeyCache::default();
    let mut session = session_8448(&mut keys);
    let plain: Vec<u8> = (0..50).collect();
    let mut wire = bytes(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc
         ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd
         1e 3d ea e6 3a ee bb 21 69 49 15 e4 17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e
         fd 6d b6 d0 b0 e3",
    );
    let mut rest = &mut wire[..];
    let mut record = session.next_record(&mut rest).unwrap().unwrap();
    match session.open(&mut keys, record.bytes_mut()).unwrap() {
        Opened::Data(content) => assert_eq!(content, plain),
        other => panic!("unexpected: {other:?}"),
    }
    let mut record = session.next_record(&mut rest).unwrap().unwrap();
    assert!(matches!(session.open(&mut keys, record.bytes_mut()), Ok(Opened::Closed)));
    assert!(rest.is_empty());
    let mut sealed = Vec::new();
    session.seal(&mut keys, [&plain[..]].into_iter(), &mut sealed);
    session.finish();
    session.seal_end(&mut keys, &mut sealed);
    let expected = bytes(
        "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa
         1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2
         ab f3 32 54 0d d0 32 e1 67 c2 95 5d 17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be
         7e fa 7a 88 64 a9",
    );
    assert_eq!(sealed, expected);
}

/// Seals one record with the client's key, as a peer may that follows no rules.
fn forge(session_keys: &mut DirectionSecrets, kind: ContentType, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = record::RecordBuilder::at(SUITE_8448, &mut out, 0);
    assert!(builder.add(content).is_empty());
    let key = session_keys.expand_key(SUITE_8448.cipher);
    let (iv, number) = (session_keys.iv(), session_keys.take_number());
    builder.seal(&key, &iv, number, kind);
    out
}

fn answers_to(records: &[(ContentType, &[u8])]) -> Result<(), AlertDescription> {
    let mut keys = KeyCache::default();
    let mut session = session_8448(&mut keys);
    let client = secret("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let mut client = DirectionSecrets::derive(SUITE_8448, &client);
    for (kind, content) in records {
        let mut wire = forge(&mut client, *kind, content);
        if content.first() == Some(&24) && content.len() == 5 {
            client.update(SUITE_8448);
        }
        let mut rest = &mut wire[..];
        let mut record = session.next_record(&mut rest)?.expect("a whole record");
        session.open(&mut keys, record.bytes_mut())?;
    }
    Ok(())
}

#[test]
fn what_breaks_the_rules_is_answered_with_the_right_alert() {
    use AlertDescription as Alert;
    let update: (ContentType, &[u8]) = (ContentType::Handshake, &[24, 0, 0, 1, 0]);
    let data: (ContentType, &[u8]) = (ContentType::ApplicationData, b"x");
    let one = |kind, content: &[u8]| answers_to(&[(kind, content)]);
    assert_eq!(one(ContentType::Handshake, &[24, 0, 0, 1, 2]), Err(Alert::IllegalParameter));
    assert_eq!(one(ContentType::Handshake, &[24, 0, 0, 1]), Err(Alert::UnexpectedMessage));
    let two = [24, 0, 0, 1, 0, 24, 0, 0, 1, 0];
    assert_eq!(one(ContentType::Handshake, &two), Err(Alert::UnexpectedMessage));
    assert_eq!(one(ContentType::Handshake, &[1, 0, 0, 0]), Err(Alert::UnexpectedMessage));
    assert_eq!(one(ContentType::ChangeCipherSpec, &[1]), Err(Alert::UnexpectedMessage));
    assert_eq!(one(ContentType::Alert, &[2]), Err(Alert::DecodeError));
    assert_eq!(one(ContentType::Alert, &[2, 40]), Ok(()));
    assert_eq!(answers_to(&vec![update; 32]), Ok(()));
    assert_eq!(answers_to(&vec![update; 33]), Err(Alert::UnexpectedMessage));
    let mut mixed = vec![update; 32];
    mixed.push(data);
    mixed.extend(vec![update; 32]);
    assert_eq!(answers_to(&mixed), Ok(()), "data between them starts the count again");
    let empty: (ContentType, &[u8]) = (ContentType::ApplicationData, b"");
    assert_eq!(answers_to(&[empty, data]), Ok(()));
}

#[test]
fn records_too_long_are_refused_by_their_header() {
    let mut keys = KeyCache::default();
    let mut session = session_8448(&mut keys);
    let length = (CONTENT_BYTES_MAX + 257) as u16;
    let mut wire = [23, 3, 3, (length >> 8) as u8, length as u8];
    let refused = session.next_record(&mut &mut wire[..]).map(|_| ());
    assert_eq!(refused, Err(AlertDescription::RecordOverflow));
    // In two parts as well.
    let mut session = session_8448(&mut keys);
    assert!(session.next_record(&mut &mut wire[..3]).unwrap().is_none());
    let refused = session.next_record(&mut &mut wire[3..]).map(|_| ());
    assert_eq!(refused, Err(AlertDescription::RecordOverflow));
}

#[test]
fn renegotiation_is_refused() {
    let (suite, kind) = SUITES[3];
    let mut pair = connect(suite, kind, usize::MAX);
    let refused = pair.session.take_handshake_for_tests(&[1, 0, 0, 0]);
    assert_eq!(refused, Err(AlertDescription::NoRenegotiation));
}

#[test]
fn a_worn_key_is_changed_or_ends_its_connection() {
    let mut keys = KeyCache::default();
    let mut session = session_8448(&mut keys);
    session.wear_key_for_tests();
    assert!(!session.is_worn_out(), "TLS 1.3 changes its keys");
    let mut wire = Vec::new();
    session.seal_owed(&mut keys, &mut wire);
    session.seal(&mut keys, [&b"x"[..]].into_iter(), &mut wire);
    let update = [24, 0, 0, 1, 0].len() + session.record_overhead_bytes();
    assert_eq!(wire.len(), update + 1 + session.record_overhead_bytes());
    let before = wire.len();
    session.seal_owed(&mut keys, &mut wire);
    assert_eq!(wire.len(), before, "once");
    let (suite, kind) = SUITES[3];
    let mut pair = connect(suite, kind, usize::MAX);
    assert!(!pair.session.is_worn_out());
    pair.session.wear_key_for_tests();
    assert!(pair.session.is_worn_out(), "TLS 1.2 cannot");
    let before = wire.len();
    pair.session.seal_owed(&mut pair.keys, &mut wire);
    assert_eq!(wire.len(), before);
}

/// Why records are not sealed with the encrypters of rustls: those of AES-GCM hold a key that takes
/// the first nonce it is given for the first of the connection, and refuses most that follow.
/// Connections that drop their keys while idle need keys that can be made again at any time.
#[test]
fn an_encrypter_of_rustls_cannot_be_made_again_later() {
    let rustls::SupportedCipherSuite::Tls13(suite) =
        rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384
    else {
        panic!("a suite of TLS 1.3");
    };
    let message = || OutboundPlainMessage {
        typ: ContentType::ApplicationData,
        version: ProtocolVersion::TLSv1_2,
        payload: (&b"x"[..]).into(),
    };
    let mut encrypter = suite.aead_alg.encrypter([1; 32].into(), [2; 12].into());
    assert!((0..4).all(|number| encrypter.encrypt(message(), number).is_ok()));
    let mut again = suite.aead_alg.encrypter([1; 32].into(), [2; 12].into());
    let sealed: Vec<_> = (1..4).map(|number| again.encrypt(message(), number).is_ok()).collect();
    assert_eq!(sealed, [true, true, false]);
}

#[test]
fn keys_of_talking_connections_are_expanded_once() {
    let (suite, kind) = SUITES[0];
    let mut pair = connect(suite, kind, usize::MAX);
    for _ in 0..10 {
        let wire = pair.client_sends(b"ping");
        assert_eq!(pair.open(&wire, usize::MAX), b"ping");
        let wire = pair.seal(&[b"pong"]);
        give_input(&mut pair.client, &wire);
    }
    // The first record of each direction takes no place.
    assert_eq!(pair.keys.misses(), 4);
    let talk = |pair: &mut Pair| {
        let wire = pair.client_sends(b"ping");
        assert_eq!(pair.open(&wire, usize::MAX), b"ping");
        pair.keys.misses()
    };
    pair.session.forget_keys(&mut pair.keys);
    assert_eq!((talk(&mut pair), talk(&mut pair)), (5, 5), "it had asked before");
    // One that talks between two trims keeps its keys.
    assert!(!pair.keys.trim());
    assert_eq!(talk(&mut pair), 5);
    assert!(!pair.keys.trim());
    assert!(pair.keys.trim(), "it fell idle");
    assert!(!pair.keys.trim(), "there are none");
    // One record between two trims takes no place.
    assert_eq!(talk(&mut pair), 6);
    pair.keys.trim();
    assert_eq!((talk(&mut pair), talk(&mut pair), talk(&mut pair)), (7, 8, 8));
}

#[test]
fn nothing_secret_is_shown() {
    let mut keys = KeyCache::default();
    let session = session_8448(&mut keys);
    let shown = format!("{session:?} {keys:?}");
    assert!(
        !shown.contains("158") && !shown.contains("iv") && !shown.contains("secret"),
        "{shown}"
    );
}

#[test]
fn a_client_resumes_with_its_ticket_and_chooses_groups() {
    let versions =
        [(&rustls::version::TLS13, "X25519MLKEM768"), (&rustls::version::TLS12, "X25519")];
    for (version, group) in versions {
        let server = server_config(vec![read_certificate(&["localhost"], KeyKind::Elliptic)]);
        let client = client_config(version, None);
        let first = Pair::connect(client.clone(), &server, 100);
        assert!(!first.facts.is_resumed);
        assert_eq!(first.facts.group, Some(group));
        let again = Pair::connect(client, &server, 100);
        assert!(again.facts.is_resumed && again.facts.version == first.facts.version);
    }
}
