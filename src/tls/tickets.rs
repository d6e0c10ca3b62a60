//! Tickets by which clients resume sessions.
//!
//! One maker of tickets serves all shards, so that a client resumes with any of them. Without
//! configured keys it is that of rustls, which changes its keys every six hours and forgets them
//! after twelve. With configured keys, all nodes that have them resume each other's sessions; the
//! first key seals, all open, so that keys are changed by writing a new one first.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use super::suite::TAG_BYTES;

/// Bytes of a configured key.
pub const TICKET_KEY_BYTES: usize = 32;
/// How long a ticket sealed with a configured key is good for, as clients are informed (s).
const LIFETIME_S: u32 = 12 * 60 * 60;

/// Makes tickets with keys of this process only.
///
/// # Errors
/// There is no randomness.
pub fn random_tickets() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    Ticketer::new()
}

/// Makes tickets with configured keys, of which there is at least one.
pub fn shared_tickets(keys: &[[u8; TICKET_KEY_BYTES]]) -> Arc<dyn ProducesTickets> {
    assert!(!keys.is_empty(), "shared tickets need a key");
    let expand = |key: &[u8; TICKET_KEY_BYTES]| {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key);
        LessSafeKey::new(key.expect("the key has its algorithm's length"))
    };
    Arc::new(SharedTickets { keys: keys.iter().map(expand).collect() })
}

struct SharedTickets {
    keys: Vec<LessSafeKey>,
}

impl std::fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedTickets").field("keys", &self.keys.len()).finish()
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        // The cipher forgives a nonce that comes twice: nodes draw theirs independently.
        let nonce = Nonce::assume_unique_for_key(nonce);
        let content = &mut ticket[NONCE_LEN..];
        let tag = self.keys[0].seal_in_place_separate_tag(nonce, Aad::empty(), content).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let mut content = sealed.to_vec();
            let len = key.open_in_place(nonce, Aad::empty(), &mut content).ok()?.len();
            content.truncate(len);
            Some(content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_key_seals_and_all_open() {
        let [old, new] = [[1; TICKET_KEY_BYTES], [2; TICKET_KEY_BYTES]];
        let ticket = shared_tickets(&[old]).encrypt(b"session").unwrap();
        assert_eq!(shared_tickets(&[new, old]).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(shared_tickets(&[new]).decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_ticket_opens_nothing() {
        let tickets = shared_tickets(&[[7; TICKET_KEY_BYTES]]);
        let ticket = tickets.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {at}");
        }
        assert_eq!(tickets.decrypt(&ticket[..NONCE_LEN]), None);
        assert_eq!(tickets.decrypt(b""), None);
    }
}
