//! The stages of a connection, from its first byte to the close of its socket.
//!
//! A stage limits what may be written: once it is [`Stage::Open`], the HTTP stage is gone, and with
//! it every way to write an HTTP answer.

use std::net::IpAddr;
use std::sync::Arc;

use super::link_opening::LinkOpening;
use crate::config::Config;
use crate::proto::http::Upgrade;
use crate::proto::ws;

/// A head that was received in pieces.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// All bytes received and not yet parsed.
    pub(super) bytes: Vec<u8>,
    /// The number of bytes scanned by earlier calls.
    pub(super) scanned: usize,
}

/// What finishing the handshake needs once the upgrade is decided.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) upgrade: Upgrade<'static>,
    /// The request's path, for the log.
    pub(super) path: Box<str>,
    pub(super) accepted_us: u32,
    /// When the application was asked, on the shards' clock (ns).
    pub(super) asked_ns: u64,
    /// The same as a time of issue (Unix, ms): a later revocation of the client counts.
    pub(super) asked_unix_ms: u64,
    /// The application has not answered yet.
    pub(super) is_open: bool,
    /// The session that an application behind a link decides on.
    pub(super) opening: Option<Box<LinkOpening>>,
    /// The configuration that the request was checked against.
    pub(super) config: Arc<Config>,
    /// Bytes received behind the request.
    pub(super) early: Vec<u8>,
}

impl Asking {
    /// Returns whether so much early input is held that nothing more is received before the
    /// decision.
    pub(super) fn is_full(&self) -> bool {
        self.early.len() >= self.config.limits.http.head_bytes_max
    }
}

/// A request that is answered by the control thread.
#[derive(Debug)]
pub(super) struct ForwardingState {
    pub(super) head: Box<[u8]>,
    pub(super) client: Option<IpAddr>,
    /// The body as far as it was received; empty once the request was sent.
    pub(super) body: Vec<u8>,
    pub(super) body_bytes: usize,
    pub(super) is_sent: bool,
    /// Bytes that were received beyond the request.
    pub(super) discarded: u64,
}

/// The stage of a connection. It only moves downwards in this list, and has either Finishing or
/// Lingering, and either Asking or Forwarding.
#[derive(Debug)]
pub(super) enum Stage {
    /// Awaits the PROXY header.
    Proxy { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// Awaits the request.
    Http { partial: Option<Box<Partial>>, accepted_us: u32 },
    /// The request is valid; its upgrade is being decided by the backend.
    Asking(Box<Asking>),
    /// The request is answered by the control thread, once its body was received.
    Forwarding(Box<ForwardingState>),
    /// An open WebSocket.
    Open(ws::Receiver),
    /// Our Close was queued; awaits the peer's.
    Closing { receiver: ws::Receiver, code: ws::CloseCode },
    /// Sends queued output, then closes the socket.
    Finishing,
    /// Sends queued output, then shuts writing down; discards input up to a limit.
    Lingering { discarded: u64 },
    /// Needs nothing more of the socket; it is closed when no operation refers to it.
    Ending,
}

impl Stage {
    /// Returns whether the connection counts as an open WebSocket: it is open or closing.
    pub(super) fn is_websocket(&self) -> bool {
        matches!(self, Stage::Open(_) | Stage::Closing { .. })
    }

    /// Returns whether the deadline of the handshake applies.
    #[inline]
    pub(super) fn is_handshake(&self) -> bool {
        matches!(
            self,
            Stage::Proxy { .. } | Stage::Http { .. } | Stage::Asking(_) | Stage::Forwarding(_)
        )
    }

    /// Returns the bytes of an unfinished request or message.
    #[inline]
    pub(super) fn partial_bytes(&self) -> usize {
        match self {
            Stage::Proxy { partial, .. } | Stage::Http { partial, .. } => {
                partial.as_ref().map_or(0, |partial| partial.bytes.capacity())
            }
            Stage::Asking(asking) => asking.early.capacity(),
            Stage::Forwarding(forwarding) => forwarding.head.len() + forwarding.body.capacity(),
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.partial_bytes(),
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => 0,
        }
    }

    /// Returns the order of stages in a connection's life. It only moves to a higher rank, so that
    /// no HTTP answer can follow a 101, and no message a Close.
    fn rank(&self) -> u8 {
        match self {
            Stage::Proxy { .. } => 0,
            Stage::Http { .. } => 1,
            Stage::Asking(_) | Stage::Forwarding(_) => 2,
            Stage::Open(_) => 3,
            Stage::Closing { .. } => 4,
            Stage::Finishing | Stage::Lingering { .. } => 5,
            Stage::Ending => 6,
        }
    }

    /// Returns whether a connection may move from this stage to another.
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
            path: "/".into(),
            accepted_us,
            asked_ns: 0,
            asked_unix_ms: 0,
            is_open: false,
            opening: None,
            config: Arc::new(Config::validate(&File::default(), 20_000, 1).unwrap()),
            early: Vec::new(),
        };
        let forwarding = Stage::Forwarding(Box::new(ForwardingState {
            head: Box::default(),
            client: None,
            body: Vec::new(),
            body_bytes: 0,
            is_sent: false,
            discarded: 0,
        }));
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
        assert!(!forwarding.may_precede(&stages[2]) && !stages[2].may_precede(&forwarding));
        assert!(stages[1].may_precede(&forwarding) && forwarding.may_precede(&stages[5]));
        let finishing = Stage::Finishing;
        assert!(!finishing.may_precede(&stages[5]) && !stages[5].may_precede(&finishing));
        assert!(finishing.may_precede(&Stage::Ending) && stages[4].may_precede(&finishing));
    }
}
