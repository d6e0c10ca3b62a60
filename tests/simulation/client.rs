//! Simulated clients: good, slow, rude and broken ones, each with what it must be given.

use std::collections::VecDeque;
use std::fmt;
use std::io::Cursor;

use seawall::driver::sim::{Network, Peer};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::codec::Codec;

const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What those that compress offer.
const OFFERS: [&str; 5] = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
    "x-other, permessage-deflate; unknown, permessage-deflate; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover; server_max_window_bits=\"15\"",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Sends a Close and expects one.
    Close,
    /// Sends a FIN without a Close, and still expects every echo.
    Fin,
    /// Breaks the connection at some moment.
    Reset,
    /// Stays until the test ends it.
    Hold,
    /// Sends garbage instead of frames.
    Garbage,
    /// Sends no request that could be understood.
    BadRequest,
    /// Sends nothing.
    Silent,
    /// Sends and never reads.
    Stall,
}

/// What a client is going to do.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    end: End,
    messages: usize,
    size_max: u64,
    /// Reads only this many bytes per step.
    slow: bool,
    /// Offers to compress, and does so as it is answered.
    offer: Option<&'static str>,
}

impl Behaviour {
    pub(crate) fn draw(network: &Network) -> Self {
        let end = match network.random_below(12) {
            0..5 => End::Close,
            5..7 => End::Fin,
            7 => End::Reset,
            8 => End::Garbage,
            9 => End::BadRequest,
            10 => End::Silent,
            _ => End::Stall,
        };
        // Who never reads cannot know what was agreed on.
        let offers = end != End::Stall && network.random_below(2) == 0;
        Self {
            offer: offers.then(|| OFFERS[network.random_below(OFFERS.len() as u64) as usize]),
            end,
            messages: if end == End::Stall { 200 } else { network.random_below(12) as usize },
            size_max: [20, 130, 3000, 60_000][network.random_below(4) as usize],
            slow: network.random_below(4) == 0,
        }
    }

    fn plain(end: End, messages: usize) -> Self {
        Self { end, messages, size_max: 1000, slow: false, offer: None }
    }

    pub(crate) fn echo(messages: usize) -> Self {
        Self::plain(End::Close, messages)
    }

    /// Offers to compress whatever it sends.
    pub(crate) fn compress(messages: usize) -> Self {
        Self { size_max: 30_000, offer: Some(OFFERS[1]), ..Self::echo(messages) }
    }

    pub(crate) fn hold() -> Self {
        Self::plain(End::Hold, 0)
    }

    pub(crate) fn stall(messages: usize) -> Self {
        Self::plain(End::Stall, messages)
    }

    /// Whether its FIN may come before the 101.
    pub(crate) fn may_leave_first(&self) -> bool {
        self.end == End::Fin
    }

    pub(crate) fn silent() -> Self {
        Self::plain(End::Silent, 0)
    }
}

pub(crate) struct Client {
    peer: Peer,
    behaviour: Behaviour,
    /// Bytes still to be sent, in pieces.
    outgoing: VecDeque<u8>,
    expected: VecDeque<(OpCode, Vec<u8>)>,
    incoming: Vec<u8>,
    codec: Option<Codec>,
    /// Its messages are in `outgoing`, as far as they have not left.
    planned: bool,
    upgraded: bool,
    answered: Option<u16>,
    closed: Option<u16>,
    echoes: usize,
    deaf: bool,
    gone: bool,
    finished: bool,
    ended: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { behaviour, upgraded, answered, closed, echoes, .. } = self;
        write!(
            f,
            "{behaviour:?}: upgraded {upgraded}, answered {answered:?}, closed {closed:?}, \
             {echoes} echoes, {} expected, {} to send",
            self.expected.len(),
            self.outgoing.len()
        )
    }
}

pub(crate) fn frame(network: &Network, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 0x7E);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 0x7F);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let key = (network.random_below(1 << 32) as u32).to_be_bytes();
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

impl Client {
    pub(crate) fn connect(network: &Network, shard: u16, behaviour: Behaviour) -> Self {
        let address = ([127, 0, 0, 1], 1000 + network.random_below(60_000) as u16).into();
        let peer = network.connect(shard, 0, Some(address));
        let mut client = Self {
            peer,
            behaviour,
            outgoing: VecDeque::new(),
            expected: VecDeque::new(),
            incoming: Vec::new(),
            codec: None,
            planned: false,
            upgraded: false,
            answered: None,
            closed: None,
            echoes: 0,
            deaf: false,
            gone: false,
            finished: false,
            ended: false,
        };
        client.plan(network);
        client
    }

    fn plan(&mut self, network: &Network) {
        match self.behaviour.end {
            End::Silent => return,
            End::BadRequest => {
                let bad: [&[u8]; 4] = [
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                    b"GET /echo HTTP/1.1\r\nHost: sim\r\n\r\n",
                    b"POST /echo HTTP/1.1\r\nHost: sim\r\nContent-Length: 3\r\n\r\nabc",
                    b"GET /missing HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\nleft over",
                ];
                return self.outgoing.extend(bad[network.random_below(4) as usize]);
            }
            _ => self.outgoing.extend(REQUEST.as_bytes()),
        }
        if let Some(offer) = self.behaviour.offer {
            self.outgoing.extend(format!("Sec-WebSocket-Extensions: {offer}\r\n\r\n").bytes());
        } else {
            self.outgoing.extend(b"\r\n");
            self.plan_messages(network);
        }
    }

    fn plan_messages(&mut self, network: &Network) {
        self.planned = true;
        for _ in 0..self.behaviour.messages {
            self.plan_message(network);
        }
        match self.behaviour.end {
            End::Close => {
                self.outgoing.extend(frame(network, 0x88, &1000_u16.to_be_bytes()));
            }
            End::Garbage => self.outgoing.extend([0xFF; 40]),
            _ => {}
        }
    }

    fn plan_message(&mut self, network: &Network) {
        let len = network.random_below(self.behaviour.size_max) as usize;
        let text = network.random_below(2) == 0;
        let payload: Vec<u8> = if text {
            "aé€😀".chars().cycle().take(len / 3).collect::<String>().into_bytes()
        } else {
            (0..len).map(|_| network.random_below(256) as u8).collect()
        };
        let mut opcode: u8 = if text { 1 } else { 2 };
        let mut sent = payload.clone();
        if let Some(codec) = self.codec.as_mut().filter(|_| network.random_below(4) > 0) {
            opcode |= 0x40;
            sent = codec.pack(&payload);
        }
        let mut pieces: Vec<&[u8]> = vec![&sent];
        if network.random_below(3) == 0 {
            let (one, two) = sent.split_at(network.random_below(sent.len() as u64 + 1) as usize);
            pieces = vec![one, two];
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            let first = if index == 0 { opcode } else { 0 } | if index == last { 0x80 } else { 0 };
            self.outgoing.extend(frame(network, first, piece));
            if index != last && network.random_below(2) == 0 {
                self.outgoing.extend(frame(network, 0x89, b"between"));
                self.expected.push_back((OpCode::Control(Control::Pong), b"between".to_vec()));
            }
        }
        let opcode = OpCode::Data(if text { Data::Text } else { Data::Binary });
        self.expected.push_back((opcode, payload));
    }

    /// Sends a little, reads a little.
    pub(crate) fn act(&mut self, network: &Network, seed: u64) {
        if self.gone {
            return;
        }
        if self.behaviour.end == End::Reset && network.random_below(60) == 0 {
            return self.vanish();
        }
        let most = if network.random_below(3) == 0 { 1 + network.random_below(40) } else { 8192 };
        let len = self.outgoing.len().min(most as usize);
        // Nothing can follow a FIN.
        if len > 0 && !self.ended && network.random_below(4) > 0 {
            let bytes: Vec<u8> = self.outgoing.drain(..len).collect();
            self.peer.write(&bytes);
        }
        let all = self.outgoing.is_empty() && (self.planned || self.answered.is_some());
        if all && self.behaviour.end == End::Fin && !self.finished {
            self.finished = true;
            self.peer.send_fin();
        }
        if self.behaviour.end == End::Stall {
            self.peer.set_window(2000);
            if self.peer.was_closed() {
                self.peer.send_reset();
                self.gone = true;
            }
            return;
        }
        if self.deaf {
            return;
        }
        let most = if self.behaviour.slow { 700 } else { usize::MAX };
        self.peer.set_window(if self.behaviour.slow { 1500 } else { usize::MAX });
        self.incoming.extend(self.peer.read(most));
        self.understand(network, seed);
        let cut = self.peer.was_lost();
        if self.peer.is_ended() && (self.incoming.is_empty() || cut) && !self.ended {
            self.ended = true;
            self.peer.send_fin();
        }
    }

    fn understand(&mut self, network: &Network, seed: u64) {
        if !self.upgraded && self.answered.is_none() {
            let Some(end) = self.incoming.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8(self.incoming.drain(..end + 4).collect()).unwrap();
            let status: u16 = head[9..12].parse().unwrap();
            if status == 101 {
                self.upgraded = true;
                self.codec = Codec::agreed(&head);
                assert!(self.codec.is_none() || self.behaviour.offer.is_some(), "seed {seed}");
                if !self.planned {
                    self.plan_messages(network);
                }
            } else {
                self.answered = Some(status);
            }
        }
        if self.answered.is_some() {
            self.incoming.clear();
            return;
        }
        while let Some((opcode, compressed, mut payload)) = self.next_frame(seed) {
            if let Some(codec) = self.codec.as_mut().filter(|_| compressed) {
                let len = self.expected.front().map_or(0, |(_, payload)| payload.len());
                payload = codec.unpack(&payload, len);
            }
            self.take(network, seed, opcode, payload);
        }
    }

    /// Parses with the field's codec: anything but a frame (such as HTTP) fails here.
    fn next_frame(&mut self, seed: u64) -> Option<(OpCode, bool, Vec<u8>)> {
        let mut cursor = Cursor::new(&self.incoming);
        let parsed = FrameHeader::parse(&mut cursor);
        let (header, len) =
            parsed.unwrap_or_else(|error| panic!("seed {seed}: not a frame: {error}"))?;
        let start = cursor.position() as usize;
        assert!(header.mask.is_none() && header.is_final, "seed {seed}");
        let may = self.codec.is_some() && matches!(header.opcode, OpCode::Data(_));
        assert!(!header.rsv1 || may, "seed {seed}: compressed, but not agreed on");
        let end = start + len as usize;
        if self.incoming.len() < end {
            return None;
        }
        let payload = self.incoming[start..end].to_vec();
        self.incoming.drain(..end);
        Some((header.opcode, header.rsv1, payload))
    }

    fn take(&mut self, network: &Network, seed: u64, opcode: OpCode, payload: Vec<u8>) {
        assert!(self.closed.is_none(), "seed {seed}: no frame follows a Close");
        match opcode {
            OpCode::Control(Control::Ping) => {
                if !self.finished {
                    self.outgoing.extend(frame(network, 0x8A, &payload));
                }
            }
            OpCode::Control(Control::Close) => {
                self.closed = Some(u16::from_be_bytes([payload[0], payload[1]]));
                // Those that end with a Close of their own have sent or planned it already.
                if self.behaviour.end == End::Hold {
                    self.outgoing.extend(frame(network, 0x88, &payload[..2]));
                }
            }
            opcode => {
                let expected = self.expected.pop_front();
                assert_eq!(
                    Some((opcode, payload)),
                    expected,
                    "seed {seed}: echoes come whole and in order"
                );
                self.echoes += 1;
            }
        }
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        let len = (text.len() as u16).to_be_bytes();
        let header = if text.len() < 126 {
            vec![0x81, 0x80 | len[1], 0, 0, 0, 0]
        } else {
            vec![0x81, 0x80 | 0x7E, len[0], len[1], 0, 0, 0, 0]
        };
        let frame = [&header, text.as_bytes()].concat();
        self.peer.write(&frame);
        self.expected.push_back((OpCode::Data(Data::Text), text.into()));
    }

    /// Sends a header that promises 60,000 bytes, and fewer than that.
    pub(crate) fn send_part_of_a_message(&mut self, len: usize) {
        self.peer.write(&[0x82, 0x80 | 0x7E, 0xEA, 0x60, 0, 0, 0, 0]);
        self.peer.write(&vec![7; len]);
    }

    /// Reads little at a time from now on.
    pub(crate) fn slow_down(&mut self) {
        self.behaviour.slow = true;
    }

    /// Whether everything that was asked for came, and then this Close.
    pub(crate) fn has_all_until(&self, code: u16) -> bool {
        self.expected.is_empty() && self.closed == Some(code)
    }

    pub(crate) fn write_raw(&mut self, bytes: &[u8]) {
        self.peer.write(bytes);
        self.behaviour.end = End::Garbage;
    }

    pub(crate) fn leave(&mut self) {
        if self.upgraded {
            self.outgoing.extend([0x88, 0x82, 0, 0, 0, 0, 3, 0xE8]);
        }
        self.behaviour.end = End::Close;
    }

    /// Breaks the connection.
    pub(crate) fn vanish(&mut self) {
        self.peer.send_reset();
        self.gone = true;
    }

    pub(crate) fn has_every_echo(&self) -> bool {
        self.expected.is_empty()
    }

    pub(crate) fn go_deaf(&mut self) {
        self.deaf = true;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.gone || self.ended || (self.behaviour.end == End::Hold && self.upgraded)
    }

    /// Whether the client got what it had a right to.
    pub(crate) fn check(&self, seed: u64, cut_short: bool) {
        let lossy = matches!(self.behaviour.end, End::Reset | End::Stall | End::Garbage);
        if self.gone || lossy || cut_short || self.answered == Some(503) || self.peer.was_lost() {
            return;
        }
        let context = format!("seed {seed}: {self:?}");
        match self.behaviour.end {
            End::Silent => assert_eq!(self.answered, Some(408), "{context}"),
            End::BadRequest => {
                assert!(matches!(self.answered, Some(400 | 404 | 405 | 426)), "{context}");
            }
            End::Close => {
                assert!(self.expected.is_empty(), "{context}");
                assert!(matches!(self.closed, Some(1000 | 1001)), "{context}");
            }
            _ => assert!(self.expected.is_empty() || self.closed.is_some(), "{context}"),
        }
        assert!(!self.peer.was_reset(), "{context}: closed over unread bytes");
    }
}
