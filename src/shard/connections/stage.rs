//! The stages of a connection, from its first byte to the close of its socket.
//!
//! A stage says what may be written: once it is [`Stage::Open`], the HTTP stage and with it every
//! way to write an HTTP answer is gone.

use crate::proto::ws;

/// A head that came in pieces.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Everything received and not yet understood.
    pub(super) bytes: Vec<u8>,
    /// How far earlier looks went.
    pub(super) scanned: usize,
}

/// What a connection does. It only ever moves downwards in this list; of Finishing and Lingering,
/// it has one.
#[derive(Debug)]
pub(super) enum Stage {
    /// The PROXY header is awaited.
    Proxy { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// The request is awaited.
    Http { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// WebSocket messages flow.
    Open(ws::Receiver),
    /// Our Close is sent; the peer's is awaited.
    Closing { receiver: ws::Receiver, code: ws::CloseCode },
    /// What is queued leaves, then the socket is closed.
    Finishing,
    /// What is queued leaves, then writing is shut down, and input is discarded up to a bound.
    Lingering { discarded: u64 },
    /// Nothing more is wanted of the socket; it is closed when the kernel holds nothing of it.
    Ending,
}

impl Stage {
    /// Whether a WebSocket is open, and so counted as such.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Stage::Open(_) | Stage::Closing { .. })
    }

    /// Whether the deadline of the handshake applies.
    #[inline]
    pub(super) fn is_handshake(&self) -> bool {
        matches!(self, Stage::Proxy { .. } | Stage::Http { .. })
    }

    /// Bytes that an unfinished request or message holds.
    #[inline]
    pub(super) fn partial_bytes(&self) -> usize {
        match self {
            Stage::Proxy { partial, .. } | Stage::Http { partial, .. } => {
                partial.as_ref().map_or(0, |partial| partial.bytes.capacity())
            }
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.partial_bytes(),
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => 0,
        }
    }

    /// How far it lies on the way of a connection.
    fn rank(&self) -> u8 {
        match self {
            Stage::Proxy { .. } => 0,
            Stage::Http { .. } => 1,
            Stage::Open(_) => 2,
            Stage::Closing { .. } => 3,
            Stage::Finishing | Stage::Lingering { .. } => 4,
            Stage::Ending => 5,
        }
    }

    /// Whether a connection may move from this stage to another: only ever downwards.
    pub(super) fn may_precede(&self, next: &Stage) -> bool {
        self.rank() < next.rank()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_move_downwards() {
        let (partial, accepted_us, code) = (None, 0, ws::CloseCode::NORMAL);
        let stages = [
            Stage::Proxy { partial: None, accepted_us },
            Stage::Http { partial, accepted_us },
            Stage::Open(ws::Receiver::new()),
            Stage::Closing { receiver: ws::Receiver::new(), code },
            Stage::Lingering { discarded: 0 },
            Stage::Ending,
        ];
        for (at, stage) in stages.iter().enumerate() {
            for (next, other) in stages.iter().enumerate() {
                assert_eq!(stage.may_precede(other), at < next, "{stage:?} before {other:?}");
            }
        }
        let finishing = Stage::Finishing;
        assert!(!finishing.may_precede(&stages[4]) && !stages[4].may_precede(&finishing));
        assert!(finishing.may_precede(&Stage::Ending) && stages[3].may_precede(&finishing));
    }
}
