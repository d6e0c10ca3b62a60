//! Links: the wire format in which a node and an application exchange messages of many clients. No
//! sockets, no clock.
//!
//! `LINK.md` is the document of the format. Files: `wire` (records), `body` (what records that
//! describe something carry, as JSON), `fuzz`.

mod body;
pub mod fuzz;
mod wire;

pub use body::{
    AcceptBody, BackendHello, BodyError, HelloLimits, NodeHello, OpenBody, OpenRequest, RejectBody,
    check_state, decode_accept, decode_channel, decode_hello, decode_reject, encode_left,
    encode_node_hello, encode_open,
};
pub use wire::{
    CLOSE_REASON_BYTES_MAX, HEADER_BYTES, LINK_SUBPROTOCOL, LINK_VERSION, LinkRecord, LinkSession,
    RecordFlags, RecordKind, Records, SESSION_BYTES, WireError, append_record, sessions_of_many,
};
