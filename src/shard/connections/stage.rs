//! The stages of a connection, from its first byte to the close of its socket.
//!
//! A stage says what may be written: once it is [`Stage::Open`], the HTTP stage and with it every
//! way to write an HTTP answer is gone.

use std::sync::Arc;

use crate::auth::Identity;
use crate::config::Config;
use crate::proto::http::Upgrade;
use crate::proto::ws;

/// A head that came in pieces.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Everything received and not yet understood.
    pub(super) bytes: Vec<u8>,
    /// How far earlier looks went.
    pub(super) scanned: usize,
}

/// What finishes the handshake of a connection once its upgrade is decided.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) upgrade: Upgrade<'static>,
    /// Whom the request's token names.
    pub(super) identity: Option<Arc<Identity>>,
    /// The request's path, for the log.
    pub(super) path: Box<str>,
    pub(super) accepted_us: u32,
    /// What the request was checked against.
    pub(super) config: Arc<Config>,
    /// Bytes that came behind the request.
    pub(super) early: Vec<u8>,
}

impl Asking {
    /// Whether so much has come early that nothing more is received before the decision.
    pub(super) fn is_full(&self) -> bool {
        self.early.len() >= self.config.limits.http.head_bytes_max
    }
}

/// What a connection does. It only ever moves downwards in this list; of Finishing and Lingering,
/// it has one.
#[derive(Debug)]
pub(super) enum Stage {
    /// The PROXY header is awaited.
    Proxy { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// The request is awaited.
    Http { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// The request is right; whether it is upgraded is being decided elsewhere.
    Asking(Box<Asking>),
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
    /// Whether the connection counts as an open WebSocket: messages flow, or it is closing.
    pub(super) fn is_websocket(&self) -> bool {
        matches!(self, Stage::Open(_) | Stage::Closing { .. })
    }

    /// Whether the deadline of the handshake applies.
    #[inline]
    pub(super) fn is_handshake(&self) -> bool {
        matches!(self, Stage::Proxy { .. } | Stage::Http { .. } | Stage::Asking(_))
    }

    /// Bytes that an unfinished request or message holds.
    #[inline]
    pub(super) fn partial_bytes(&self) -> usize {
        match self {
            Stage::Proxy { partial, .. } | Stage::Http { partial, .. } => {
                partial.as_ref().map_or(0, |partial| partial.bytes.capacity())
            }
            Stage::Asking(asking) => asking.early.capacity(),
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.partial_bytes(),
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => 0,
        }
    }

    /// The order of stages in a connection's life: it moves to a higher rank only, so that no
    /// answer of HTTP can follow a 101, and no message a Close.
    fn rank(&self) -> u8 {
        match self {
            Stage::Proxy { .. } => 0,
            Stage::Http { .. } => 1,
            Stage::Asking(_) => 2,
            Stage::Open(_) => 3,
            Stage::Closing { .. } => 4,
            Stage::Finishing | Stage::Lingering { .. } => 5,
            Stage::Ending => 6,
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
    use crate::config::file::File;
    use crate::proto::http::{Compression, KEY_BYTES};

    #[test]
    fn stages_only_move_downwards() {
        let (partial, accepted_us, code) = (None, 0, ws::CloseCode::NORMAL);
        let (key, compression) = ([0; KEY_BYTES], Compression::default());
        let asking = Asking {
            upgrade: Upgrade { route: 0, key, subprotocol: None, compression },
            identity: None,
            path: "/".into(),
            accepted_us,
            config: Arc::new(Config::validate(&File::default(), 20_000, 1).unwrap()),
            early: Vec::new(),
        };
        let stages = [
            Stage::Proxy { partial: None, accepted_us },
            Stage::Http { partial, accepted_us },
            Stage::Asking(Box::new(asking)),
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
        assert!(!finishing.may_precede(&stages[5]) && !stages[5].may_precede(&finishing));
        assert!(finishing.may_precede(&Stage::Ending) && stages[4].may_precede(&finishing));
    }
}
