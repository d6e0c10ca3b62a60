//! What each form of requests carries, and which answers it accepts.

use hyper::StatusCode;

use super::encode::{self, EventSource};
use super::outbox::{BATCH_BYTES_MAX, Part};
use super::pusher;
use crate::backend::form::RequestForm;
use crate::backend::queue::Happening;

impl RequestForm {
    /// Returns whether the form has words for an event.
    pub(super) fn carries(&self, event: &Happening) -> bool {
        match self {
            Self::Standard(_) => event.kind().is_for_backends(),
            Self::Pusher(_) => pusher::carries(event),
        }
    }

    /// Encodes an event that the form carries.
    pub(super) fn encode_event(&self, id: &str, time_ms: u64, event: &Happening) -> String {
        match self {
            Self::Standard(_) => encode::encode_event(id, time_ms, event),
            Self::Pusher(_) => pusher::encode_event(event),
        }
    }

    /// Encodes the body of a batch. `None`: it has nothing to send, because the form has no report
    /// of losses.
    pub(super) fn encode_batch(
        &self,
        source: &EventSource,
        lane: usize,
        parts: &[Part],
        time_ms: u64,
    ) -> Option<String> {
        match self {
            Self::Standard(_) => Some(encode::encode_batch(source, lane, parts, time_ms)),
            Self::Pusher(_) => pusher::encode_batch(parts, time_ms),
        }
    }

    /// Encodes the body of a request that shows only whether the application accepts it.
    pub(in crate::backend) fn encode_test(&self, id: &str, time_ms: u64) -> String {
        match self {
            Self::Standard(_) => {
                let event = format!(r#"{{"id":"{id}","type":"test","time":{time_ms}}}"#);
                format!(r#"{{"node":"doctor","incarnation":"doctor","events":[{event}]}}"#)
            }
            Self::Pusher(_) => pusher::encode_events(time_ms, &[]),
        }
    }

    /// Returns the longest batch (bytes); a single longer event is a batch by itself.
    pub(super) fn batch_bytes_max(&self) -> usize {
        match self {
            Self::Standard(_) => BATCH_BYTES_MAX,
            Self::Pusher(_) => pusher::BATCH_BYTES_MAX,
        }
    }

    /// Returns whether a batch that got this status, which does not accept it, is sent again.
    pub(super) fn is_temporary(&self, status: StatusCode) -> bool {
        match self {
            Self::Standard(_) => {
                status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::REQUEST_TIMEOUT
                            | StatusCode::TOO_EARLY
                            | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            // Backends of apps expect repetitions also while their handler is missing or does not
            // know the secret. But a body that is not acceptable never will be: resending it would
            // keep others of its lane waiting.
            Self::Pusher(_) => !matches!(
                status,
                StatusCode::BAD_REQUEST
                    | StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::UNSUPPORTED_MEDIA_TYPE
                    | StatusCode::UNPROCESSABLE_ENTITY
            ),
        }
    }
}
