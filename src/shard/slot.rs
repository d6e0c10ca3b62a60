//! A connection: everything that an idle one costs, in at most 128 bytes.
//!
//! What is rarer than a connection lives outside and only while needed: a request that came in
//! pieces, a partial message, an outbox. A stage says what may be written: once it is
//! [`Stage::Open`], the HTTP stage and with it every way to write an HTTP answer is gone.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::admission::Standing;
use crate::driver::{Input, Socket};
use crate::proto::ws;
use crate::shard::outbox::Outbox;

/// The longest Close: header, code and reason (RFC 6455 section 5.5).
const CLOSE_BYTES_MAX: usize = 2 + 125;

/// A head that came in pieces.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Everything received and not yet understood.
    pub(super) bytes: Vec<u8>,
    /// How far earlier looks went.
    pub(super) scanned: usize,
}

/// Where a connection stands. It only ever moves downwards.
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
    pub(super) fn is_handshake(&self) -> bool {
        matches!(self, Stage::Proxy { .. } | Stage::Http { .. })
    }
}

/// A peer's address in 18 bytes; all zero means none (a Unix socket).
///
/// A header may claim any address, also `[::]:0`. Read as none it would be trusted like a local
/// peer, so it is kept with port 1: the unspecified address has no port that means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerAddress {
    ip: [u8; 16],
    port: u16,
}

impl From<Option<SocketAddr>> for PeerAddress {
    fn from(address: Option<SocketAddr>) -> Self {
        let Some(address) = address else { return Self { ip: [0; 16], port: 0 } };
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let least = u16::from(ip.is_unspecified());
        Self { ip: ip.octets(), port: address.port().max(least) }
    }
}

impl PeerAddress {
    /// The address, if there is one.
    pub(super) fn get(self) -> Option<SocketAddr> {
        if self.ip == [0; 16] && self.port == 0 {
            return None;
        }
        let ip = IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical();
        Some(SocketAddr::new(ip, self.port))
    }

    /// The same peer known by another address, as a trusted proxy tells it.
    pub(super) fn with_ip(self, ip: Option<IpAddr>) -> Self {
        let Some(ip) = ip else { return self };
        let port = if self.get().is_some_and(|own| own.ip() == ip) { self.port } else { 0 };
        Self::from(Some(SocketAddr::new(ip, port)))
    }
}

/// The slot's place in the timer wheel.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimerLinks {
    pub(super) previous: u32,
    pub(super) next: u32,
    /// When it fires; [`crate::shard::timers::UNSET`] = it is in no list.
    pub(super) tick: u32,
}

/// What the kernel holds of us to tell of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    Nothing,
    /// A receive that goes on.
    Streaming,
    /// One receive.
    Once,
    /// A watch for something to be received.
    Watch,
}

/// Whether input is watched for rather than received, because the connection has said nothing yet
/// or has been quiet for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    No,
    /// When its turn comes.
    Soon,
    Yes,
}

/// Whether input is held, or a message is inflated or answered in part; see `reading.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    No,
    /// Not any more, or the connection fills whole buffers. It is received from in turn, one
    /// buffer at a time (`streams.rs`).
    Lately,
    /// Something has to happen before it can be continued.
    Waiting,
    /// Queued to be continued.
    Queued,
}

/// How much of the socket was taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teardown {
    Nothing,
    /// Shutdown of the writing side was asked for.
    Writing,
    /// The last operation, the socket's close, is under way.
    Socket,
}

/// A cancellation of what is armed, whose own completion comes before its target's or after.
///
/// It is not asked for again before both have come: while thousands were parked at once, targets
/// came many turns later, and every turn asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    Unasked,
    Asked,
    /// It has found its target, whose completion is to come.
    Found,
    /// The target has completed; its own completion is to come.
    Late,
}

impl Cancel {
    /// It has completed.
    pub(super) fn ran(&mut self, found: bool) {
        *self = match (*self, found) {
            (Self::Asked, true) => Self::Found,
            (Self::Asked, false) | (Self::Late, _) => Self::Unasked,
            (other, _) => other,
        };
    }

    /// What was armed has completed.
    pub(super) fn target_ended(&mut self) {
        *self = match *self {
            Self::Found => Self::Unasked,
            Self::Asked => Self::Late,
            other => other,
        };
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    /// What waits to be sent; none while nothing waits.
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    /// Stays at its highest value, as the next one does; the shard's counters have 64 bits.
    pub(super) messages_received: u32,
    pub(super) messages_sent: u32,
    pub(super) socket: Socket,
    pub(super) generation: u32,
    pub(super) timer: TimerLinks,
    /// When the connection was accepted; since its opening: when it was opened.
    pub(super) opened_tick: u32,
    /// When bytes last came in.
    pub(super) heard_tick: u32,
    /// When a message last came in.
    pub(super) message_tick: u32,
    /// When the next ping is due, or, with `pinged`, when the last was sent; in the closing
    /// stages: when the present one began.
    pub(super) stage_tick: u32,
    pub(super) peer: PeerAddress,
    pub(super) route: u16,
    pub(super) listener: u8,
    /// Operations that the kernel has not finished.
    pub(super) in_flight: u8,
    pub(super) armed: Armed,
    pub(super) parked: Parked,
    /// What is known of input that is yet to be received.
    pub(super) input: Input,
    /// Nothing is received until the outbox has drained, or held input was looked at.
    pub(super) paused: bool,
    pub(super) unfinished: Unfinished,
    /// Listed among those that wait until all outboxes together have drained.
    pub(super) throttled: bool,
    pub(super) cancel: Cancel,
    /// The receive waits for buffers, or for its turn.
    pub(super) held: bool,
    /// The peer has sent its FIN, or the socket has failed.
    pub(super) input_ended: bool,
    /// A reply leaves from the buffer that its message came in.
    pub(super) lending: bool,
    /// Queued to be flushed at the end of the turn.
    pub(super) dirty: bool,
    /// A ping is out.
    pub(super) pinged: bool,
    /// How it is counted among those that are let in.
    pub(super) standing: Standing,
    pub(super) teardown: Teardown,
}

impl Slot {
    /// Whether input is held, or a message is inflated or answered in part.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.unfinished, Unfinished::Waiting | Unfinished::Queued)
    }

    /// Whether the connection is received from in turn with others.
    pub(super) fn takes_turns(&self) -> bool {
        self.unfinished != Unfinished::No
    }

    /// Whether more input may come, and may be received now.
    pub(super) fn may_hear(&self) -> bool {
        !self.held && !self.input_ended && (self.input != Input::Unknown || !self.is_parting())
    }

    /// The peer's Close has come, and ours leaves with this turn. While more than that is queued,
    /// which may take long, input is taken in and discarded: closing a socket over unread bytes, a
    /// pong among them, would reset the connection and lose what is under way.
    fn is_parting(&self) -> bool {
        let queued = self.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        matches!(self.stage, Stage::Finishing) && queued <= CLOSE_BYTES_MAX
    }

    /// Whether the kernel holds something that does not end by itself.
    pub(super) fn is_cancellable(&self) -> bool {
        let sending = self.outbox.as_ref().is_some_and(|outbox| outbox.is_sending());
        self.armed != Armed::Nothing || sending
    }
}

const _: () = assert!(size_of::<Slot>() <= 128, "an idle connection costs at most 128 bytes");
const _: () = assert!(size_of::<Option<Slot>>() == size_of::<Slot>(), "a slab entry adds nothing");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_and_its_target_end_in_either_order() {
        let after = |steps: &[fn(&mut Cancel)]| {
            let mut cancel = Cancel::Asked;
            steps.iter().for_each(|step| step(&mut cancel));
            cancel
        };
        let (found, missed): (fn(&mut Cancel), fn(&mut Cancel)) =
            (|cancel| cancel.ran(true), |cancel| cancel.ran(false));
        let target: fn(&mut Cancel) = Cancel::target_ended;
        assert_eq!(after(&[found]), Cancel::Found, "not asked for again before its target ends");
        assert_eq!(after(&[found, target]), Cancel::Unasked);
        assert_eq!(after(&[target]), Cancel::Late, "nor before it has completed itself");
        assert_eq!(after(&[target, missed]), Cancel::Unasked);
        assert_eq!(after(&[target, found]), Cancel::Unasked);
        assert_eq!(after(&[missed]), Cancel::Unasked, "what it missed is there to be cancelled");
    }

    #[test]
    fn a_peer_address_survives_its_packing() {
        for text in ["1.2.3.4:5", "[2001:db8::1]:65535", "127.0.0.1:0", "0.0.0.0:0", "[::]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(PeerAddress::from(Some(address)).get(), Some(address));
        }
        assert_eq!(PeerAddress::from(None).get(), None);
        let claimed = PeerAddress::from(Some("[::]:0".parse().unwrap())).get().unwrap();
        assert!(claimed.ip().is_unspecified(), "a claimed address is never none");
    }

    #[test]
    fn a_proxied_client_loses_the_proxys_port() {
        let peer = PeerAddress::from(Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(peer.with_ip(Some("10.0.0.1".parse().unwrap())), peer);
        let client = peer.with_ip(Some("1.2.3.4".parse().unwrap()));
        assert_eq!(client.get(), Some("1.2.3.4:0".parse().unwrap()));
    }
}
