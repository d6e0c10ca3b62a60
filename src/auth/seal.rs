//! Seals data that clients keep for the server, so that they can neither read nor modify it.
//!
//! A sealed text is base64url of: version, key id (4 bytes), nonce (12 bytes), ciphertext and tag.
//! The cipher is AES-256-GCM-SIV (RFC 8452) with random nonces. Plain GCM would be limited to 2^32
//! tickets per key, and a repeated nonce would break it; with SIV a repeated nonce only reveals
//! whether two tickets are equal. The purpose is bound into the tag: no grant opens as a ticket.

use std::cell::RefCell;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: u8 = 1;
const ID_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + ID_BYTES;
/// Size of the longest label and a head (bytes).
const AAD_BYTES_MAX: usize = 14 + HEAD_BYTES;
/// A capacity that suffices for the ticket of most clients, before its encoding as text (bytes).
const SEALED_BYTES: usize = 384;
/// Longer texts are rejected without decoding (bytes).
const SEALED_BYTES_MAX: usize = 64 * 1024;
/// Nonces that a thread draws at once.
const NONCES_AT_ONCE: usize = 32;
/// Size of a key (bytes).
pub const SEAL_KEY_BYTES: usize = 32;

/// Creates a key from the kernel's random bytes.
pub fn random_seal_key() -> [u8; SEAL_KEY_BYTES] {
    let mut key = [0; SEAL_KEY_BYTES];
    rand::fill(&mut key).expect("the kernel gives random bytes");
    key
}

/// The purpose of a sealed text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Ticket,
    Grant,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Ticket => b"seawall ticket",
            Self::Grant => b"seawall grant",
        }
    }
}

/// Why a sealed text is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    Malformed,
    /// Its key is no longer in use, or belongs to another cluster.
    UnknownKey,
    Tampered,
    Expired,
}

impl SealError {
    /// Returns one word for counters and logs.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Tampered => "tampered",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "invalid ticket; send the server's ticket unchanged",
            Self::UnknownKey => {
                "unknown ticket key; reconnect without a ticket (and give all servers behind one \
                 address the same resume.keys)"
            }
            Self::Tampered => "the ticket was changed; reconnect without it",
            Self::Expired => "the ticket has expired; reconnect without it",
        })
    }
}

impl std::error::Error for SealError {}

/// Random nonces, drawn together: drawing each by itself took a tenth of a handshake.
struct Nonces {
    drawn: [[u8; NONCE_LEN]; NONCES_AT_ONCE],
    left: usize,
}

thread_local! {
    static NONCES: RefCell<Nonces> = const {
        RefCell::new(Nonces { drawn: [[0; NONCE_LEN]; NONCES_AT_ONCE], left: 0 })
    };
}

impl Nonces {
    /// Returns the next nonce; none is returned twice.
    fn take_nonce(&mut self) -> [u8; NONCE_LEN] {
        if self.left == 0 {
            rand::fill(self.drawn.as_flattened_mut()).expect("the kernel gives random bytes");
            self.left = NONCES_AT_ONCE;
        }
        self.left -= 1;
        self.drawn[self.left]
    }
}

struct SealKey {
    id: [u8; ID_BYTES],
    key: LessSafeKey,
}

/// Seals with the first key, and opens with all keys.
pub struct Sealer {
    keys: Vec<SealKey>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

impl Sealer {
    /// Creates a sealer with these keys; with a random one if there are none.
    pub fn new(keys: &[[u8; SEAL_KEY_BYTES]]) -> Self {
        if keys.is_empty() {
            return Self { keys: vec![seal_key(&random_seal_key())] };
        }
        Self { keys: keys.iter().map(seal_key).collect() }
    }

    /// Seals what `write_plain` appends to the buffer, in place.
    pub(super) fn seal(&self, purpose: Purpose, write_plain: impl FnOnce(&mut Vec<u8>)) -> String {
        // The first key seals; the others only open, so that keys can be rotated.
        let SealKey { id, key } = &self.keys[0];
        let nonce = NONCES.with_borrow_mut(Nonces::take_nonce);
        let mut sealed = Vec::with_capacity(SEALED_BYTES);
        sealed.push(VERSION);
        sealed.extend_from_slice(id);
        let (aad, aad_len) = authenticated(purpose, &sealed);
        sealed.extend_from_slice(&nonce);
        write_plain(&mut sealed);
        let (nonce, plain) =
            (Nonce::assume_unique_for_key(nonce), &mut sealed[HEAD_BYTES + NONCE_LEN..]);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(&aad[..aad_len]), plain)
            .expect("a ticket is not too long for the cipher");
        sealed.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    pub(super) fn open(&self, purpose: Purpose, text: &str) -> Result<Vec<u8>, SealError> {
        if text.len() > SEALED_BYTES_MAX {
            return Err(SealError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        let tag_bytes = AES_256_GCM_SIV.tag_len();
        if bytes.len() < HEAD_BYTES + NONCE_LEN + tag_bytes || bytes[0] != VERSION {
            return Err(SealError::Malformed);
        }
        let (head, rest) = bytes.split_at(HEAD_BYTES);
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        let key = self.keys.iter().find(|key| key.id == head[1..]);
        let SealKey { key, .. } = key.ok_or(SealError::UnknownKey)?;
        let (aad, aad_len) = authenticated(purpose, head);
        let aad = Aad::from(&aad[..aad_len]);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Malformed)?;
        let mut sealed = sealed.to_vec();
        let plain =
            key.open_in_place(nonce, aad, &mut sealed).map_err(|_| SealError::Tampered)?.len();
        sealed.truncate(plain);
        Ok(sealed)
    }
}

/// Returns the purpose and the head: data that is authenticated but not encrypted.
fn authenticated(purpose: Purpose, head: &[u8]) -> ([u8; AAD_BYTES_MAX], usize) {
    let (label, mut aad) = (purpose.label(), [0; AAD_BYTES_MAX]);
    let len = label.len() + head.len();
    aad[..label.len()].copy_from_slice(label);
    aad[label.len()..len].copy_from_slice(head);
    (aad, len)
}

fn seal_key(key: &[u8; SEAL_KEY_BYTES]) -> SealKey {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"seawall seal key");
    context.update(key);
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&context.finish().as_ref()[..ID_BYTES]);
    let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("the key has the cipher's length");
    SealKey { id, key: LessSafeKey::new(key) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_nonce_is_used_twice() {
        let mut used = HashSet::new();
        for _ in 0..3 * NONCES_AT_ONCE {
            assert!(used.insert(NONCES.with_borrow_mut(Nonces::take_nonce)));
        }
    }
}
