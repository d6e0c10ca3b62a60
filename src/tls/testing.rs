//! A client of rustls, and certificates for its server.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
};

use super::certificates::{Certificate, CertificateParts, CertificateSet};
use super::handshake::{HandshakeFacts, TlsHandshake};
use super::keys::KeyCache;
use super::session::{Opened, Session};
use super::settings::{self, ListenerTls, Settings};
use super::tickets;

/// A time at which the certificates of these tests are valid.
pub(super) const NOW_S: i64 = 1_750_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Elliptic,
    Rsa,
}

/// Chain and key for these names, as PEM.
pub(super) fn make_certificate(names: &[&str], kind: KeyKind) -> (String, String) {
    // Making a key for RSA takes longest of all.
    static RSA: LazyLock<KeyPair> =
        LazyLock::new(|| KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    static ELLIPTIC: LazyLock<KeyPair> =
        LazyLock::new(|| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let key: &KeyPair = match kind {
        KeyKind::Elliptic => &ELLIPTIC,
        KeyKind::Rsa => &RSA,
    };
    let certificate = CertificateParams::new(names).unwrap().self_signed(key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

pub(super) fn read_certificate(names: &[&str], kind: KeyKind) -> Certificate {
    let (chain, key) = make_certificate(names, kind);
    let parts = CertificateParts {
        chain: chain.as_bytes(),
        key: key.as_bytes(),
        ocsp: &[],
        names: &[],
        now_s: NOW_S,
    };
    Certificate::read(&parts).unwrap()
}

pub(super) fn server_config(certificates: Vec<Certificate>) -> ListenerTls {
    let settings = Settings {
        challenges: None,
        certificates: Arc::new(CertificateSet::new(certificates)),
        tickets: tickets::random_tickets().unwrap(),
        verifier: None,
    };
    settings::listener_tls(&settings).unwrap()
}

/// Accepts every certificate: these tests are not about chains.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = settings::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = settings::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        settings::provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn client_config(
    version: &'static SupportedProtocolVersion,
    suite: Option<CipherSuite>,
) -> ClientConfig {
    let mut provider = settings::provider();
    provider.cipher_suites.retain(|known| suite.is_none_or(|suite| known.suite() == suite));
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(16);
    config.alpn_protocols = vec![settings::ALPN.to_vec()];
    config
}

/// A client and its server.
pub(super) struct Pair {
    pub(super) client: ClientConnection,
    pub(super) session: Session,
    pub(super) keys: KeyCache,
    pub(super) facts: HandshakeFacts,
}

impl Pair {
    /// Has both speak the handshake; the server gets what the client sends in parts of so many
    /// bytes.
    pub(super) fn connect(client: ClientConfig, server: &ListenerTls, part_bytes: usize) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut keys = KeyCache::default();
        let mut handshake = TlsHandshake::new(server).unwrap();
        let mut output = Vec::new();
        'handshake: loop {
            let sent = take_output(&mut client);
            assert!(!sent.is_empty(), "the handshake makes progress");
            for part in sent.chunks(part_bytes) {
                handshake.push(part);
                if handshake.advance(&mut output).unwrap() {
                    break 'handshake;
                }
            }
            give_input(&mut client, &std::mem::take(&mut output));
        }
        let (session, facts, rest) = handshake.finish(&mut keys, output).unwrap();
        assert!(rest.is_empty(), "the client has sent no data yet");
        let mut pair = Self { client, session, keys, facts };
        let mut flight = Vec::new();
        pair.session.seal_owed(&mut pair.keys, &mut flight);
        give_input(&mut pair.client, &flight);
        assert!(!pair.client.is_handshaking());
        pair
    }

    /// What the client sends when it writes this.
    pub(super) fn client_sends(&mut self, plain: &[u8]) -> Vec<u8> {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(plain).unwrap();
        take_output(&mut self.client)
    }

    /// Opens what came from the client, in parts of so many bytes; returns the content.
    pub(super) fn open(&mut self, wire: &[u8], part_bytes: usize) -> Vec<u8> {
        let mut content = Vec::new();
        for part in wire.chunks(part_bytes) {
            let mut part = part.to_vec();
            let mut rest = &mut part[..];
            while let Some(mut record) = self.session.next_record(&mut rest).unwrap() {
                match self.session.open(&mut self.keys, record.bytes_mut()).unwrap() {
                    Opened::Data(data) => content.extend_from_slice(data),
                    Opened::Control => {}
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        content
    }

    /// Seals this, with what precedes it.
    pub(super) fn seal(&mut self, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.seal_owed(&mut self.keys, &mut out);
        self.session.seal(&mut self.keys, parts.iter().copied(), &mut out);
        self.session.seal_end(&mut self.keys, &mut out);
        out
    }

    /// What the client reads of this.
    pub(super) fn client_reads(&mut self, wire: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        for part in wire.chunks(4000) {
            give_input(&mut self.client, part);
            let mut buffer = [0; 8192];
            while let Ok(len) = self.client.reader().read(&mut buffer) {
                if len == 0 {
                    break;
                }
                content.extend_from_slice(&buffer[..len]);
            }
        }
        content
    }
}

/// A handshake whose flights from the client are changed on their way; returns whether both sides
/// came to its end.
pub(super) fn attempt_handshake(
    client: ClientConfig,
    server: &ListenerTls,
    part_bytes: usize,
    mut change: impl FnMut(usize, &mut [u8]),
) -> bool {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut handshake = TlsHandshake::new(server).unwrap();
    for flight in 0..4 {
        let mut sent = take_output(&mut client);
        if sent.is_empty() {
            return false;
        }
        change(flight, &mut sent);
        let mut output = Vec::new();
        for part in sent.chunks(part_bytes) {
            handshake.push(part);
            match handshake.advance(&mut output) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
        }
        let mut wire = &output[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
    }
    false
}

pub(super) fn take_output(client: &mut ClientConnection) -> Vec<u8> {
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    sent
}

pub(super) fn give_input(client: &mut ClientConnection, mut wire: &[u8]) {
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        client.process_new_packets().unwrap();
    }
}
