//! The body of the fuzz target of links.

use super::body::{check_state, decode_accept, decode_channel, decode_hello, decode_reject};
use super::wire::{LinkRecord, Records, append_record, sessions_of_many};
use crate::auth::check_channel;

/// Any bytes, as a message of an application.
///
/// # Panics
/// A record is not what its bytes are, or a body is accepted that must not be.
pub fn link_message(message: &[u8]) {
    let (mut again, mut is_whole) = (Vec::new(), true);
    for record in Records::new(message, 1 << 16) {
        match record {
            Ok(record) => {
                append_record(&mut again, &record);
                read_bodies(&record);
            }
            Err(_) => is_whole = false,
        }
    }
    assert!(message.starts_with(&again), "reading and writing is identity");
    assert_eq!(is_whole, again.len() == message.len(), "every byte belongs to a record");
}

/// Reads the body as that of each kind: which one it is for does not matter here.
fn read_bodies(record: &LinkRecord<'_>) {
    let LinkRecord { body, number, .. } = *record;
    if let Ok(hello) = decode_hello(body) {
        assert!(!hello.instance.is_empty() && hello.capacity > 0);
    }
    if let Ok(accept) = decode_accept(body, 1, &"app".into()) {
        let identity = accept.identity_after(None);
        let user = identity.as_ref().and_then(|identity| identity.user.as_deref());
        assert!(user.is_none_or(|user| (1..=256).contains(&user.len())));
    }
    if let Ok(reject) = decode_reject(body) {
        assert!(matches!(reject.status, 401 | 403 | 429 | 503) && !reject.message.is_empty());
    }
    if let Ok(state) = check_state(body) {
        assert!(state.len() <= 4096 && !state.contains(['\n', '\r']), "it is on one line");
        let read = serde_json::from_str::<serde_json::Value>(&state);
        assert!(read.is_ok(), "every reader can represent it");
    }
    if let Ok(channel) = decode_channel(body) {
        let is_valid = check_channel(channel).is_ok();
        assert!(body.starts_with(channel.as_bytes()), "the name is not changed");
        assert!(!is_valid || channel.len() == body.len(), "what is cut names no channel");
    }
    if let Some((sessions, payload)) = sessions_of_many(body, number) {
        assert_eq!(sessions.count() * super::SESSION_BYTES + payload.len(), body.len());
    }
}
