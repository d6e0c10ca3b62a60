//! The client protocol of Pusher Channels, version 7, for its clients that exist already.
//!
//! Files: `connect` (the request), `request` and `encode` (messages), `content` (events as contents
//! of the hub), `names` (kinds of channels), `socket_id`, `codes`, `fuzz`. What the commands do is
//! in `session/hub/app.rs`: rights come with signatures, not with tokens.
//!
//! Facts about the protocol: its documentation, and the clients and servers of others, whose
//! behavior counts where the two differ.

mod codes;
mod connect;
mod content;
mod encode;
pub mod fuzz;
mod names;
mod request;
mod socket_id;

pub use codes::{APP_DISABLED, NOT_AUTHORIZED, OVER_CAPACITY, TLS_ONLY};
pub use connect::{ConnectFault, read_target, unknown_key};
pub use content::{EVENT_NAME_CHARS_MAX, data_of, event_of, is_reserved, make_content};
pub use names::{AppChannel, ChannelKind, shown_name, shown_user};
pub use socket_id::{parse_socket_id, socket_id};

use crate::hub::{EncodedEvent, Event, EventEncoder};
use crate::proto::ws::CloseCode;
use crate::session::protocol::{ClientProtocol, ClientRequest, Framing, Reply};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct PusherV7;

impl EventEncoder for PusherV7 {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        encode::encode_event(event)
    }
}

impl ClientProtocol for PusherV7 {
    fn subprotocol(&self) -> Option<&'static str> {
        None
    }

    fn framing(&self) -> Framing {
        Framing::WholeFrame
    }

    fn read_request<'f>(&self, request: &'f str) -> ClientRequest<'f> {
        request::read_request(request)
    }

    fn encode_reply(&self, reply: &Reply<'_>) -> Option<Vec<u8>> {
        encode::encode_reply(reply)
    }

    fn wire_code(&self, code: CloseCode) -> CloseCode {
        codes::to_wire(code)
    }
}
