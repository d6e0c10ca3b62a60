//! The inflaters of a shard, and messages on their way through them.
//!
//! A message is inflated as its bytes come in, and everything is checked on the way: its size, how
//! much larger it gets than what was sent, and that a text is UTF-8. So a bomb is refused within
//! one step of 64 KiB behind its limit, and no memory past the limit is ever asked for.
//!
//! A message that lies whole in the input is inflated at once, with an inflater kept for that, into
//! memory kept for that. One that comes in parts leases an inflater of the pool until it ends. If
//! all are leased, its compressed bytes wait; at its end at the latest they are inflated like a
//! message that is whole. So no message waits for another connection, and what it costs is memory
//! within the limits of unfinished messages.
//!
//! A peer that reaches back past the window it agreed to is refused where its context shows it:
//! within one step the output serves as well, so it depends on how its bytes come. No harm comes of
//! either, and a strict zlib (`INFLATE_STRICT`) is not what is shipped.
//!
//! The owner bounds how much is inflated at once by an *allowance*: a message that exceeds it is
//! suspended between two steps of 64 KiB, keeps its inflater (one more than the pool leases out, if
//! need be), and continues with [`Inflating::resume_inflation`]. Without the allowance, a buffer of
//! 64 KiB full of messages with the highest ratio inflated to 57 MiB: 4 ms for inflating, and 24 ms
//! for compressing the echo.

use std::num::NonZeroU32;

use slab::Slab;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::inflated::{Inflated, STEP_BYTES};
use super::{CameTo, Flow, TAIL, WINDOW_BITS_MAX, Work, index_of, zlib};
use crate::proto::ws::{DataKind, ProtocolError, utf8};

/// Messages up to this size may inflate by any ratio: short runs of zeros are no attack.
const RATIO_FROM_BYTES: usize = 1 << 20;
/// Final blocks within one message, each of which makes the inflater start again. No client needs
/// more than one for each flush.
const FINAL_BLOCKS_MAX: u32 = 64;
/// Memory for whole messages that is kept between them (bytes).
const SCRATCH_KEPT_BYTES: usize = 64 * 1024;
/// What one zlib-rs inflater takes (bytes).
const POOLED_BYTES: u64 = 47_680;
/// A final, empty block: where it ends the stream, all before it was whole blocks.
const FINAL_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Bounds on inflating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflateLimits {
    /// Inflaters that messages in parts may lease at the same time.
    pub leases_max: usize,
    /// A message of more than 1 MiB may be so many times larger than what was sent; 0 = no bound.
    pub ratio_max: u32,
}

/// Inflates what a shard receives.
pub struct Inflaters {
    limits: InflateLimits,
    idle: Vec<Inflate>,
    leased: usize,
    /// For messages that are whole: never leased.
    at_once: Option<Inflate>,
    /// With the memory that each counts for.
    own: Slab<Option<(zlib::Inflate, u64)>>,
    own_bytes: u64,
    scratch: Inflated,
    clock: fn() -> u64,
    work: Work,
    /// Bytes that may be inflated until it is set again, give or take a step.
    allowance: usize,
}

impl std::fmt::Debug for Inflaters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (leased, own) = (self.leased, self.own.len());
        f.debug_struct("Inflaters")
            .field("leased", &leased)
            .field("own", &own)
            .finish_non_exhaustive()
    }
}

impl Inflaters {
    /// Other limits, from the next message on.
    pub fn set_limits(&mut self, limits: InflateLimits) {
        self.limits = limits;
    }

    /// Makes none yet. `clock` returns the time in ns, for [`Work::spent_ns`].
    pub fn new(limits: InflateLimits, clock: fn() -> u64) -> Self {
        Self {
            limits,
            idle: Vec::new(),
            leased: 0,
            at_once: None,
            own: Slab::new(),
            own_bytes: 0,
            scratch: Inflated::default(),
            clock,
            work: Work::default(),
            allowance: usize::MAX,
        }
    }

    /// Sets how many bytes may be inflated from now on. A message that needs more is suspended.
    pub fn set_allowance(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    /// Whether there is an allowance.
    pub(in crate::proto::ws) fn is_bounded(&self) -> bool {
        self.allowance != usize::MAX
    }

    /// What was done so far.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Inflaters of the pool that messages hold.
    pub fn leased_count(&self) -> usize {
        self.leased
    }

    /// Connections that keep a context on either side.
    pub fn own_count(&self) -> usize {
        self.own.len()
    }

    /// Bytes of memory of the inflaters that connections own. Their windows, which come with the
    /// first message, count as there.
    pub fn own_bytes(&self) -> u64 {
        self.own_bytes
    }

    /// Bytes of memory of the pool.
    pub fn pool_bytes(&self) -> u64 {
        let count = self.idle.len() + self.leased + usize::from(self.at_once.is_some());
        count as u64 * POOLED_BYTES + self.scratch.bytes.capacity() as u64
    }

    pub(super) fn open_context(&mut self, bits: Option<u8>) -> u32 {
        let made = bits.and_then(|bits| {
            let one = zlib::Inflate::new(bits)?;
            let bytes = one.held_bytes() as u64 + (1 << bits);
            Some((one, bytes))
        });
        self.own_bytes += made.as_ref().map_or(0, |(_, bytes)| *bytes);
        self.own.insert(made) as u32
    }

    pub(super) fn close_context(&mut self, index: usize) {
        self.own_bytes -= self.own.remove(index).map_or(0, |(_, bytes)| bytes);
    }

    /// Gives back what only large messages and busy times needed.
    pub fn trim(&mut self) {
        if self.scratch.bytes.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Inflated::default();
        }
        self.idle.truncate(self.idle.len() / 2);
    }

    /// Inflates a whole message into memory kept for that, which [`Self::whole_message`] returns.
    /// Returns the message if the allowance does not suffice.
    pub(in crate::proto::ws) fn inflate_whole(
        &mut self,
        payload: &[u8],
        kind: DataKind,
        context: Option<NonZeroU32>,
        bytes_max: usize,
    ) -> Result<Option<Box<Inflating>>, ProtocolError> {
        let into = std::mem::take(&mut self.scratch);
        let mut message = Inflating::new(kind, context);
        message.into = Inflated { filled: 0, ..into };
        let result = message.feed_input(payload, true, self, bytes_max);
        if message.suspended {
            return result.map(|()| Some(Box::new(message)));
        }
        self.scratch = message.into;
        result.map(|()| None)
    }

    /// The message that [`Self::inflate_whole`] has just inflated.
    pub(in crate::proto::ws) fn whole_message(&mut self) -> &mut [u8] {
        &mut self.scratch.bytes[..self.scratch.filled]
    }

    fn own_context(&mut self, context: Option<NonZeroU32>) -> Option<&mut zlib::Inflate> {
        let own = self.own.get_mut(index_of(context?))?;
        own.as_mut().map(|(own, _)| own)
    }

    fn lease_inflater(&mut self) -> Option<Inflate> {
        if self.leased >= self.limits.leases_max {
            return None;
        }
        self.leased += 1;
        Some(reset_or_new(self.idle.pop()))
    }

    fn take_back(&mut self, lease: Option<Inflate>) {
        if let Some(lease) = lease {
            self.leased -= 1;
            self.idle.push(lease);
        }
    }

    fn take_at_once(&mut self) -> Inflate {
        reset_or_new(self.at_once.take())
    }
}

fn reset_or_new(kept: Option<Inflate>) -> Inflate {
    match kept {
        Some(mut kept) => {
            kept.reset(false);
            kept
        }
        None => Inflate::new(false, WINDOW_BITS_MAX),
    }
}

/// What one message is inflated with.
enum Engine<'e> {
    Pooled(&'e mut Inflate),
    Own(&'e mut zlib::Inflate),
}

impl Engine<'_> {
    fn inflate_step(&mut self, input: &[u8], output: &mut [u8]) -> Flow {
        match self {
            Engine::Own(own) => own.step(input, output),
            Engine::Pooled(pooled) => {
                let before = (pooled.total_in(), pooled.total_out());
                let came_to = match pooled.decompress(input, output, InflateFlush::SyncFlush) {
                    Ok(Status::StreamEnd) => CameTo::FinalBlock,
                    Ok(_) => CameTo::Pause,
                    Err(_) => CameTo::Failure,
                };
                let read = (pooled.total_in() - before.0) as usize;
                let written = (pooled.total_out() - before.1) as usize;
                Flow { read, written, came_to }
            }
        }
    }

    /// Continues after a final block. `history`: the message so far.
    fn continue_stream(&mut self, history: &[u8]) -> Option<()> {
        match self {
            Engine::Own(own) => own.continue_stream(),
            Engine::Pooled(pooled) => {
                pooled.reset(false);
                let window = history.len().min(1 << WINDOW_BITS_MAX);
                pooled.set_dictionary(&history[history.len() - window..]).ok()?;
            }
        }
        Some(())
    }

    /// Whether all that was inflated were whole blocks. A pooled inflater is of no more use after.
    fn is_whole(&mut self) -> bool {
        match self {
            Engine::Own(own) => own.is_between_blocks(),
            Engine::Pooled(_) => {
                let came_to = CameTo::FinalBlock;
                let end = Flow { read: FINAL_BLOCK.len(), written: 0, came_to };
                self.inflate_step(&FINAL_BLOCK, &mut [0]) == end
            }
        }
    }
}

/// A compressed message that is coming in.
pub(in crate::proto::ws) struct Inflating {
    kind: DataKind,
    context: Option<NonZeroU32>,
    into: Inflated,
    text: utf8::Progress,
    /// Compressed bytes received.
    received_bytes: usize,
    /// Those of them that were inflated.
    used_bytes: usize,
    /// Those of them that wait for an inflater or for another allowance, from `waiting_at` on.
    waiting: Vec<u8>,
    waiting_at: usize,
    lease: Option<Inflate>,
    /// All of its bytes have come.
    last: bool,
    /// The allowance was used up before its bytes were.
    suspended: bool,
    /// The last step filled its room: the inflater may hold more.
    flushing: bool,
    /// A final block has ended where the input did.
    ended: bool,
    final_blocks: u32,
}

impl std::fmt::Debug for Inflating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (received, inflated) = (self.received_bytes, self.into.filled);
        write!(f, "Inflating({received} bytes into {inflated})")
    }
}

impl Inflating {
    pub(in crate::proto::ws) fn new(kind: DataKind, context: Option<NonZeroU32>) -> Self {
        Self {
            kind,
            context,
            into: Inflated::default(),
            text: utf8::Progress::default(),
            received_bytes: 0,
            used_bytes: 0,
            waiting: Vec::new(),
            waiting_at: 0,
            lease: None,
            last: false,
            suspended: false,
            flushing: false,
            ended: false,
            final_blocks: 0,
        }
    }

    /// Compressed bytes received.
    pub(in crate::proto::ws) fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// The heap bytes held, a lease not counted: that is the pool's.
    pub(in crate::proto::ws) fn heap_bytes(&self) -> usize {
        // Reserved memory costs nothing before it is touched.
        size_of::<Self>() + self.into.bytes.len() + self.waiting.capacity()
    }

    /// Whether it needs another allowance rather than more input.
    pub(in crate::proto::ws) fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Whether its last bytes have come and were inflated.
    pub(in crate::proto::ws) fn is_whole(&self) -> bool {
        self.last && !self.suspended
    }

    /// Takes the next compressed bytes in; `last`: the message ends with them. It must not be
    /// suspended.
    pub(in crate::proto::ws) fn feed_input(
        &mut self,
        input: &[u8],
        last: bool,
        inflaters: &mut Inflaters,
        bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        debug_assert!(!self.suspended, "what came before has to be inflated first");
        self.received_bytes += input.len();
        self.last = last;
        self.inflate_input(input, inflaters, bytes_max)
    }

    /// Continues a suspended message.
    pub(in crate::proto::ws) fn resume_inflation(
        &mut self,
        inflaters: &mut Inflaters,
        bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        debug_assert!(self.suspended, "there is nothing to resume");
        self.suspended = false;
        self.inflate_input(&[], inflaters, bytes_max)
    }

    fn inflate_input(
        &mut self,
        input: &[u8],
        inflaters: &mut Inflaters,
        bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        let began_ns = (inflaters.clock)();
        let before = self.into.filled;
        let result = self.inflate_with(input, inflaters, bytes_max);
        let inflated = self.into.filled - before;
        let work = &mut inflaters.work;
        work.spent_ns += (inflaters.clock)().saturating_sub(began_ns);
        work.bytes_before += input.len() as u64;
        work.bytes_after += inflated as u64;
        work.effort += effort_of(input.len(), inflated);
        match result {
            Ok(()) => work.messages += u64::from(self.is_whole()),
            Err(ProtocolError::MessageTooBig | ProtocolError::InflateRatio) => work.bombs += 1,
            Err(_) => {}
        }
        result
    }

    /// The message, which has ended.
    pub(in crate::proto::ws) fn into_bytes(mut self) -> Vec<u8> {
        self.into.bytes.truncate(self.into.filled);
        self.into.bytes
    }

    /// Gives back what was leased.
    pub(in crate::proto::ws) fn let_go(&mut self, inflaters: &mut Inflaters) {
        inflaters.take_back(self.lease.take());
    }

    fn inflate_with(
        &mut self,
        input: &[u8],
        inflaters: &mut Inflaters,
        bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        if self.into.filled > bytes_max {
            // The limit was lowered during the message.
            return Err(ProtocolError::MessageTooBig);
        }
        let ratio_max = inflaters.limits.ratio_max;
        let mut rules = Rules { bytes_max, ratio_max, allowance: inflaters.allowance };
        if let Some(own) = inflaters.own_context(self.context) {
            let result = self.run_all(&mut Engine::Own(own), input, &mut rules);
            inflaters.allowance = rules.allowance;
            return result;
        }
        if self.lease.is_none() && !self.last {
            self.lease = inflaters.lease_inflater();
            if self.lease.is_none() {
                inflaters.work.waits += u64::from(self.waiting.is_empty());
                self.waiting.extend_from_slice(input);
                return Ok(());
            }
        }
        let (mut engine, is_leased) = match self.lease.take() {
            Some(lease) => (lease, true),
            None if inflaters.allowance == 0 => {
                self.waiting.extend_from_slice(input);
                self.suspended = true;
                return Ok(());
            }
            None => (inflaters.take_at_once(), false),
        };
        let result = self.run_all(&mut Engine::Pooled(&mut engine), input, &mut rules);
        inflaters.allowance = rules.allowance;
        if is_leased || self.suspended {
            inflaters.leased += usize::from(!is_leased);
            self.lease = Some(engine);
        } else {
            inflaters.at_once = Some(engine);
        }
        if self.is_whole() || result.is_err() {
            self.let_go(inflaters);
        }
        result
    }

    /// What has waited, what has come, and what RFC 7692 7.2.2 puts behind the last of it.
    fn run_all(
        &mut self,
        engine: &mut Engine<'_>,
        input: &[u8],
        rules: &mut Rules,
    ) -> Result<(), ProtocolError> {
        let waiting = std::mem::take(&mut self.waiting);
        let waiting_at = std::mem::take(&mut self.waiting_at);
        let used = self.run_inflater(engine, &waiting[waiting_at..], rules)?;
        if self.suspended {
            (self.waiting, self.waiting_at) = (waiting, waiting_at + used);
            self.waiting.extend_from_slice(input);
            return Ok(());
        }
        let used = self.run_inflater(engine, input, rules)?;
        if self.suspended {
            self.waiting.extend_from_slice(&input[used..]);
            return Ok(());
        }
        if !self.last {
            return Ok(());
        }
        rules.allowance = rules.allowance.max(1);
        // An empty message has no bytes where its sender flushes twice in a row. One that ends with
        // a final block has said already that it ends, and some senders leave it at that.
        if self.received_bytes > 0 && !self.ended {
            self.run_inflater(engine, &TAIL, rules)?;
            if !engine.is_whole() {
                return Err(ProtocolError::InflateFailed);
            }
        } else if self.ended {
            engine.continue_stream(&[]);
        }
        self.check_ratio(rules)?;
        match self.kind {
            DataKind::Text if !self.text.is_complete(self.into.filled()) => {
                Err(ProtocolError::TextNotUtf8)
            }
            _ => Ok(()),
        }
    }

    /// Runs the inflater until the input is used, or the allowance is, which suspends the message.
    /// Returns how much of the input was used.
    fn run_inflater(
        &mut self,
        engine: &mut Engine<'_>,
        input: &[u8],
        rules: &mut Rules,
    ) -> Result<usize, ProtocolError> {
        let mut rest = input;
        loop {
            if rest.is_empty() && (self.ended || !self.flushing) {
                return Ok(input.len());
            }
            if rules.allowance == 0 {
                self.suspended = true;
                return Ok(input.len() - rest.len());
            }
            if std::mem::take(&mut self.ended) {
                self.final_blocks += 1;
                let more = self.final_blocks <= FINAL_BLOCKS_MAX;
                let continued = more.then(|| engine.continue_stream(self.into.filled())).flatten();
                continued.ok_or(ProtocolError::InflateFailed)?;
            }
            let room = self.into.reserve_room(rest.len(), rules.bytes_max);
            let full = room.is_empty();
            let mut beyond = [0];
            let output = if full { &mut beyond } else { room };
            let offered = output.len();
            let flow = engine.inflate_step(rest, output);
            if full && flow.written > 0 {
                return Err(ProtocolError::MessageTooBig);
            }
            self.into.filled += flow.written;
            self.used_bytes += flow.read;
            rules.allowance = rules.allowance.saturating_sub(flow.written.max(flow.read));
            rest = &rest[flow.read..];
            self.ended = flow.came_to == CameTo::FinalBlock;
            self.flushing = flow.written == offered;
            self.check_text()?;
            if self.into.filled.is_multiple_of(STEP_BYTES) {
                self.check_ratio(rules)?;
            }
            let stuck = flow.read == 0 && flow.written == 0 && !rest.is_empty();
            if flow.came_to == CameTo::Failure || (stuck && !self.ended) {
                return Err(ProtocolError::InflateFailed);
            }
        }
    }

    /// How large the message gets by what was used of it. Looked at where it does not depend on how
    /// the input was cut.
    fn check_ratio(&self, rules: &Rules) -> Result<(), ProtocolError> {
        let filled = self.into.filled;
        let most = self.used_bytes.saturating_mul(rules.ratio_max as usize);
        if rules.ratio_max > 0 && filled > RATIO_FROM_BYTES && filled > most {
            return Err(ProtocolError::InflateRatio);
        }
        Ok(())
    }

    fn check_text(&mut self) -> Result<(), ProtocolError> {
        if self.kind == DataKind::Text && !self.text.check_text(self.into.filled()) {
            return Err(ProtocolError::TextNotUtf8);
        }
        Ok(())
    }
}

/// What a message may come to, and how much of it now.
struct Rules {
    bytes_max: usize,
    ratio_max: u32,
    allowance: usize,
}

/// What it costs to inflate so many bytes to so many, see [`Work::effort`]: measured at 0.8 ns a
/// byte of text and 0.5 µs a message.
fn effort_of(read: usize, written: usize) -> u64 {
    (200 + read.max(written) / 3) as u64
}
