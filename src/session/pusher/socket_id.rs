//! Socket ids: the ids of connections as two numbers, as servers' libraries require them.

use crate::hub::ConnectionId;

/// Returns the socket id of a connection.
pub fn socket_id(id: ConnectionId) -> String {
    let ConnectionId { node, shard, session, serial } = id;
    let first = u64::from(node) << 16 | u64::from(shard);
    let second = u64::from(session) << 32 | u64::from(serial);
    format!("{first}.{second}")
}

/// Returns the connection with this socket id.
pub fn parse_socket_id(text: &str) -> Option<ConnectionId> {
    let (first, second) = text.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(second) {
        return None;
    }
    let (first, second) = (first.parse::<u64>().ok()?, second.parse::<u64>().ok()?);
    Some(ConnectionId {
        node: u32::try_from(first >> 16).ok()?,
        shard: first as u16,
        session: (second >> 32) as u32,
        serial: second as u32,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_text_is_no_socket_id() {
        for text in
            ["", ".", "1", "1.", ".1", "+1.1", "1.-1", "1.1.1", "a.b", "1.99999999999999999999"]
        {
            assert_eq!(parse_socket_id(text), None, "{text}");
        }
        assert_eq!(parse_socket_id("281474976710656.0"), None, "a node has 32 bits");
    }

    proptest! {
        #[test]
        fn ids_come_back(node: u32, shard: u16, session: u32, serial: u32) {
            let id = ConnectionId { node, shard, session, serial };
            prop_assert_eq!(parse_socket_id(&socket_id(id)), Some(id));
        }
    }
}
