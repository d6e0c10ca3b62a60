//! One message for many receivers: each form of its frame is made once, when it is first needed.
//!
//! The frame is compressed without context, for it must mean the same to all. A receiver whose own
//! compressor remembers messages gets it too; its compressor does not know what the frame put into
//! the receiver's window, and so forgets everything. [`SharedMessage::frame`] must therefore be
//! called in the order in which frames leave: when a send is built, and for no frame that is
//! dropped afterwards.

use std::sync::{Arc, OnceLock};

use super::{Deflaters, Sending, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use crate::proto::ws::{DataKind, compressed_frame_header, frame_header};

const WINDOWS: usize = (WINDOW_BITS_MAX - WINDOW_BITS_MIN) as usize + 1;

/// A message, and the frames that were made of it.
#[derive(Debug)]
pub struct SharedMessage {
    kind: DataKind,
    /// The message as a plain frame.
    plain: Arc<[u8]>,
    payload_at: usize,
    /// As a compressed frame, by window; the plain one where it does not shrink.
    compressed: OnceLock<Box<[OnceLock<Arc<[u8]>>; WINDOWS]>>,
}

impl SharedMessage {
    /// Takes the message; a text must be UTF-8. Its memory serves to put the header before it.
    pub fn new(kind: DataKind, mut payload: Vec<u8>) -> Self {
        let (len, (header, payload_at)) =
            (payload.len(), frame_header(kind.opcode(), payload.len()));
        payload.extend_from_slice(&header[..payload_at]);
        payload.copy_within(..len, payload_at);
        payload[..payload_at].copy_from_slice(&header[..payload_at]);
        Self { kind, plain: (&*payload).into(), payload_at, compressed: OnceLock::new() }
    }

    /// The message.
    pub fn payload(&self) -> &[u8] {
        &self.plain[self.payload_at..]
    }

    /// The frame for a receiver without compression, or of a message too small to be compressed.
    pub fn plain(&self) -> &Arc<[u8]> {
        &self.plain
    }

    /// The frame for a receiver with compression. The level counts for the first of each window.
    pub fn frame(&self, sending: Sending, level: u8, deflaters: &mut Deflaters) -> &Arc<[u8]> {
        let window = sending.bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        let places = self.compressed.get_or_init(|| Box::new([const { OnceLock::new() }; WINDOWS]));
        let place = &places[usize::from(window - WINDOW_BITS_MIN)];
        let frame =
            place.get_or_init(|| match deflaters.compress_alone(window, level, self.payload()) {
                Some(bytes) => {
                    let (header, len) = compressed_frame_header(self.kind, bytes.len());
                    [&header[..len], bytes].concat().into()
                }
                None => self.plain.clone(),
            });
        if let Some(context) = sending.context.filter(|_| !Arc::ptr_eq(frame, &self.plain)) {
            deflaters.reset_context(context);
        }
        frame
    }
}
