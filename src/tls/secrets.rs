//! The secrets of one direction of a connection, and how the next ones follow from them.
//!
//! They are plain data, so that an idle connection costs no more than their bytes. They are cleared
//! when they are dropped, and appear in no `Debug` output.

use aws_lc_rs::aead::{LessSafeKey, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::Iv;
use zeroize::{Zeroize as _, Zeroizing};

use super::suite::{Cipher, IV_BYTES, KEY_BYTES_MAX, SECRET_BYTES_MAX, Suite};

/// A traffic secret of TLS 1.3, from which keys are derived.
pub(super) type TrafficSecret = Zeroizing<[u8; SECRET_BYTES_MAX]>;

/// The number of one record. Each is handed out once, and used up by sealing or opening a record,
/// so that no nonce serves twice under one key.
pub(super) struct RecordNumber(u64);

impl RecordNumber {
    pub(super) fn into_u64(self) -> u64 {
        self.0
    }
}

/// What protects one direction.
pub(super) struct DirectionSecrets {
    key: [u8; KEY_BYTES_MAX],
    iv: [u8; IV_BYTES],
    /// The key's number, from 0 on: see [`super::keys`].
    generation: u32,
    /// All zero in TLS 1.2, which never changes its keys.
    secret: [u8; SECRET_BYTES_MAX],
    next_record: u64,
}

impl DirectionSecrets {
    /// What a handshake gave away. `None`: a cipher that is not supported here.
    pub(super) fn new(
        next_record: u64,
        keys: &ConnectionTrafficSecrets,
        secret: &TrafficSecret,
    ) -> Option<(Cipher, Self)> {
        let (cipher, key, iv) = match keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::ChaCha20Poly1305, key, iv)
            }
            _ => return None,
        };
        let mut secrets = Self {
            key: [0; KEY_BYTES_MAX],
            iv: [0; IV_BYTES],
            generation: 0,
            secret: **secret,
            next_record,
        };
        secrets.key[..key.as_ref().len()].copy_from_slice(key.as_ref());
        secrets.iv.copy_from_slice(iv.as_ref());
        Some((cipher, secrets))
    }

    /// Derives key and IV from a traffic secret; records count from 0.
    pub(super) fn derive(suite: Suite, secret: &TrafficSecret) -> Self {
        let mut secrets = Self {
            key: [0; KEY_BYTES_MAX],
            iv: [0; IV_BYTES],
            generation: 0,
            secret: **secret,
            next_record: 0,
        };
        let secret = &secret[..suite.secret_bytes()];
        let key_bytes = suite.cipher.algorithm().key_len();
        suite.expand_label(secret, b"key", &mut secrets.key[..key_bytes]);
        suite.expand_label(secret, b"iv", &mut secrets.iv);
        secrets
    }

    /// Moves on to the next keys (RFC 8446 section 7.2).
    pub(super) fn update(&mut self, suite: Suite) {
        let mut next = TrafficSecret::new([0; SECRET_BYTES_MAX]);
        let length = suite.secret_bytes();
        suite.expand_label(&self.secret[..length], b"traffic upd", &mut next[..length]);
        let generation = self.generation.wrapping_add(1);
        *self = Self::derive(suite, &next);
        self.generation = generation;
    }

    /// The number of the next record, which is used up with it.
    pub(super) fn take_number(&mut self) -> RecordNumber {
        let number = self.next_record;
        self.next_record = number.checked_add(1).expect("keys change long before numbers run out");
        RecordNumber(number)
    }

    /// How many records the present key has protected.
    pub(super) fn records(&self) -> u64 {
        self.next_record
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn iv(&self) -> Iv {
        Iv::from(self.iv)
    }

    /// The key in the form that seals and opens, of some 600 bytes.
    pub(super) fn expand_key(&self, cipher: Cipher) -> LessSafeKey {
        let algorithm = cipher.algorithm();
        let key = UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]);
        LessSafeKey::new(key.expect("the key has its algorithm's length"))
    }
}

#[cfg(test)]
impl DirectionSecrets {
    pub(super) fn copy_for_tests(&self) -> Self {
        Self {
            key: self.key,
            iv: self.iv,
            generation: self.generation,
            secret: self.secret,
            next_record: self.next_record,
        }
    }

    /// Continues as if so many records had been protected.
    pub(super) fn skip_for_tests(&mut self, records: u64) {
        self.next_record += records;
    }
}

impl Drop for DirectionSecrets {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
        self.secret.zeroize();
    }
}
