//! The client protocol `seawall.v1`: a text message holds one or more JSON objects, each with a
//! `type`. `PROTOCOL.md` specifies it.

mod encode;
pub mod fuzz;
mod plain;
mod request;

use crate::hub::{EncodedEvent, Event, EventEncoder};
use crate::session::protocol::{ClientProtocol, ClientRequest, Framing, Reply};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct SeawallV1;

impl EventEncoder for SeawallV1 {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        Some(encode::encode_event(event))
    }
}

impl ClientProtocol for SeawallV1 {
    fn subprotocol(&self) -> Option<&'static str> {
        Some("seawall.v1")
    }

    fn framing(&self) -> Framing {
        Framing::JsonObjects
    }

    fn read_request<'f>(&self, request: &'f str) -> ClientRequest<'f> {
        request::read_request(request)
    }

    fn read_plain_request<'f>(&self, frame: &'f [u8]) -> Option<(ClientRequest<'f>, usize)> {
        plain::read_plain(frame)
    }

    fn encode_reply(&self, reply: &Reply<'_>) -> Option<Vec<u8>> {
        encode::encode_reply(reply)
    }
}
