//! Protocol versions and cipher suites: what a finished handshake has settled on.

use aws_lc_rs::aead;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use rustls::{ProtocolVersion, SupportedCipherSuite};

/// Bytes of every authentication tag.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of every IV and nonce.
pub(super) const IV_BYTES: usize = 12;
/// Bytes of the longest key.
pub(super) const KEY_BYTES_MAX: usize = 32;
/// Bytes of the longest traffic secret: that of SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;

/// How records are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    /// As metrics name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    pub(super) fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    /// Records that one key may seal: more would give away more of AES-GCM than is safe (RFC 8446
    /// section 5.5). Other ciphers are bounded by their sequence numbers alone.
    pub(super) fn records_max(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 1 << 24,
            Self::ChaCha20Poly1305 => 1 << 62,
        }
    }
}

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// As metrics and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    pub(super) fn from_protocol(version: ProtocolVersion) -> Option<Self> {
        match version {
            ProtocolVersion::TLSv1_2 => Some(Self::Tls12),
            ProtocolVersion::TLSv1_3 => Some(Self::Tls13),
            _ => None,
        }
    }
}

/// Version and cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) version: Version,
    pub(super) cipher: Cipher,
}

impl Suite {
    /// Bytes between a record's header and its ciphertext: the explicit nonce of GCM in TLS 1.2.
    pub(super) fn explicit_bytes(self) -> usize {
        match (self.version, self.cipher) {
            (Version::Tls12, Cipher::Aes128Gcm | Cipher::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// Bytes of a record's protected part beside its content.
    pub(super) fn expansion_bytes(self) -> usize {
        let inner_type = usize::from(self.version == Version::Tls13);
        self.explicit_bytes() + inner_type + TAG_BYTES
    }

    /// Bytes of the traffic secrets of TLS 1.3.
    pub(super) fn secret_bytes(self) -> usize {
        if self.cipher == Cipher::Aes256Gcm { 48 } else { 32 }
    }

    /// The key derivation of TLS 1.3 with the suite's hash.
    fn hkdf(self) -> &'static dyn Hkdf {
        let suite = match self.cipher {
            Cipher::Aes128Gcm => &cipher_suite::TLS13_AES_128_GCM_SHA256,
            Cipher::Aes256Gcm => &cipher_suite::TLS13_AES_256_GCM_SHA384,
            Cipher::ChaCha20Poly1305 => &cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        };
        match suite {
            SupportedCipherSuite::Tls13(suite) => suite.hkdf_provider,
            SupportedCipherSuite::Tls12(_) => unreachable!("the suites above are of TLS 1.3"),
        }
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
    pub(super) fn expand_label(self, secret: &[u8], label: &[u8], output: &mut [u8]) {
        const PREFIX: &[u8] = b"tls13 ";
        let length = (output.len() as u16).to_be_bytes();
        let label_length = [(PREFIX.len() + label.len()) as u8];
        let info = [&length[..], &label_length, PREFIX, label, &[0]];
        let expander = self.hkdf().expander_for_okm(&OkmBlock::new(secret));
        expander.expand_slice(&info, output).expect("no key or secret is longer than HKDF allows");
    }
}
