//! The output queue of one connection, and its memory.
//!
//! An outbox exists only while it is not empty. Small frames of a turn are appended to a pooled
//! chunk, so that they are sent as one segment; a large message keeps its own memory and is not
//! copied. Bytes given to the driver are in a [`Batch`] and inaccessible until it is returned;
//! everything behind it is still in the outbox. A message whose compressed form depends on earlier
//! messages is kept uncompressed until its send is built, and everything queued after it waits
//! behind it.
//!
//! A [`Mark`] records up to which byte the replies to one turn's input reach, so that the time from
//! input to completed send is measured exactly, however sends are split.
//!
//! Every change of an outbox counts its bytes in [`Pools`], so that the sum over all outboxes is
//! always correct.

mod batches;
mod pools;
mod sealing;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::driver::batch::Bounds;
use crate::driver::{Batch, Segment};
use crate::proto::ws::deflate::{Compressed, Compressing, Deflaters, Sending};
use crate::proto::ws::{self, DataKind, Payload};
use batches::PiecePart;
pub(in crate::shard) use batches::{Piece, PieceBuilder};
use pools::CHUNK_BYTES;
pub(in crate::shard) use pools::Pools;
pub(in crate::shard) use sealing::Seal;

/// The maximum number of marks of one outbox; further replies join the last mark.
const MARKS_MAX: usize = 64;

/// The type of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(in crate::shard) enum Marked {
    /// Replies to input.
    Reply,
    /// A publication.
    Delivery,
    /// A publication, to the last of its receivers in this shard.
    LastDelivery,
}

/// The part of a batch that a send has taken.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Taken {
    pub(in crate::shard) wire_bytes: usize,
    /// The bytes of the outbox that were sent with them.
    pub(in crate::shard) queued_bytes: usize,
}

/// Messages whose time of sending is recorded: replies to the input of one turn, or publications.
#[derive(Clone, Debug)]
struct Mark {
    /// The position behind the last of these messages, counted from the outbox's beginning.
    end: u64,
    at_ns: u64,
    messages: u32,
    what: Marked,
    /// For a [`Piece`]: its publications that are not yet sent, instead of `at_ns` and `messages`.
    piece: Option<Arc<[PiecePart]>>,
}

/// A message that is still to be compressed, or an entry behind one.
#[derive(Debug)]
enum Pending {
    Message(DataKind, Vec<u8>),
    /// A long message, compressed in part.
    Compressing(DataKind, Box<Compressing>),
    /// Frames that are ready to be sent.
    Frames(Segment),
    /// The entries before it are a reply to input of this time.
    Mark(u64),
}

/// The queue of one connection, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(in crate::shard) struct OutboxState {
    frames: Vec<u8>,
    pending: Vec<PendingState>,
    marks: Vec<MarkState>,
}

/// See [`Pending`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum PendingState {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Frames(Vec<u8>),
    /// The age of the input (ns).
    Mark(u64),
}

/// See [`Mark`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct MarkState {
    /// Counted from the next byte to be sent.
    end: u64,
    age_ns: u64,
    messages: u32,
    what: Marked,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(in crate::shard) struct Outbox {
    waiting: VecDeque<Segment>,
    /// Empty and available, or `None` while the driver has it.
    batch: Option<Box<Batch>>,
    marks: VecDeque<Mark>,
    /// Messages that are compressed when their send is built, and everything queued after the first
    /// of them: frames must be sent in the order of their messages.
    pending: VecDeque<Pending>,
    /// The bytes of `pending`.
    pending_bytes: usize,
    /// Bytes that are not yet sent, including those with the driver.
    bytes: usize,
    queued_total: u64,
    sent_total: u64,
    /// When bytes were last sent, or the first were queued.
    progress_tick: u32,
    /// A send took less than it was given.
    is_backed_up: bool,
    /// A piece was queued since the outbox is in use.
    has_had_pieces: bool,
}

impl Outbox {
    /// Makes an empty outbox with an empty batch.
    pub(in crate::shard) fn new() -> Self {
        Self { batch: Some(Box::default()), ..Self::default() }
    }

    /// Prepares an empty outbox for use, beginning now.
    pub(in crate::shard) fn begin_use(&mut self, tick: u32) {
        debug_assert!(self.is_empty() && !self.is_sending() && self.marks.is_empty());
        (self.queued_total, self.sent_total) = (0, 0);
        self.progress_tick = tick;
        (self.is_backed_up, self.has_had_pieces) = (false, false);
    }

    /// Returns when bytes were last sent, or the first were queued.
    pub(in crate::shard) fn progress_tick(&self) -> u32 {
        self.progress_tick
    }

    /// Records that bytes were sent.
    pub(in crate::shard) fn note_progress(&mut self, tick: u32) {
        self.progress_tick = tick;
    }

    /// Returns the bytes that are not yet sent.
    pub(in crate::shard) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether everything was sent.
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns whether the driver has a batch of this outbox.
    pub(in crate::shard) fn is_sending(&self) -> bool {
        self.batch.is_none()
    }

    /// Queues a copy of bytes.
    pub(in crate::shard) fn queue_copy(&mut self, pools: &mut Pools, parts: [&[u8]; 2]) {
        let len = parts[0].len() + parts[1].len();
        let fits = match self.tail_mut() {
            Some(tail) => tail.capacity() - tail.len() >= len,
            None => false,
        };
        if !fits {
            self.push(Segment::Owned(pools.take_chunk(len)));
        }
        if let Some(tail) = self.tail_mut() {
            tail.extend_from_slice(parts[0]);
            tail.extend_from_slice(parts[1]);
        }
        self.count_bytes(pools, len);
    }

    /// Queues what `write` appends to the memory at the queue's end, about `bytes` bytes. Allowed
    /// only while no message is queued to be compressed.
    #[inline]
    pub(in crate::shard) fn append_with(
        &mut self,
        pools: &mut Pools,
        bytes: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(self.pending.is_empty(), "replies do not overtake messages to compress");
        let has_room = match self.waiting.back() {
            Some(Segment::Owned(tail)) => tail.capacity() - tail.len() >= bytes,
            _ => false,
        };
        if !has_room {
            self.waiting.push_back(Segment::Owned(pools.take_chunk(bytes)));
        }
        let Some(Segment::Owned(tail)) = self.waiting.back_mut() else { return };
        let before = tail.len();
        write(tail);
        let len = tail.len() - before;
        debug_assert!(len > 0, "an empty segment would never complete");
        self.count_bytes(pools, len);
    }

    /// Queues a copy of a few bytes after which no more are expected, in memory of their size:
    /// otherwise a thousand pings of one turn would touch a thousand chunks.
    pub(in crate::shard) fn queue_small(&mut self, pools: &mut Pools, bytes: &[u8]) {
        match self.tail_mut() {
            Some(tail) if tail.capacity() - tail.len() >= bytes.len() => {
                tail.extend_from_slice(bytes);
            }
            _ => self.push(Segment::Owned(bytes.to_vec())),
        }
        self.count_bytes(pools, bytes.len());
    }

    /// Returns the memory at the queue's end that is being filled.
    fn tail_mut(&mut self) -> Option<&mut Vec<u8>> {
        match (self.pending.back_mut(), self.waiting.back_mut()) {
            (Some(Pending::Frames(Segment::Owned(tail))), _)
            | (None, Some(Segment::Owned(tail))) => Some(tail),
            _ => None,
        }
    }

    fn push(&mut self, segment: Segment) {
        if self.pending.is_empty() {
            self.waiting.push_back(segment);
        } else {
            self.pending.push_back(Pending::Frames(segment));
        }
    }

    /// Queues a message that is compressed when its send is built.
    pub(in crate::shard) fn queue_uncompressed(
        &mut self,
        pools: &mut Pools,
        kind: DataKind,
        payload: Payload<'_>,
    ) {
        debug_assert!(!payload.is_empty(), "an empty message is not compressed");
        let bytes = match payload {
            Payload::Owned(bytes) if bytes.len() > CHUNK_BYTES / 2 => bytes,
            payload => {
                let mut chunk = pools.take_chunk(payload.len());
                chunk.extend_from_slice(payload.as_slice());
                chunk
            }
        };
        let len = bytes.len();
        self.pending.push_back(Pending::Message(kind, bytes));
        self.count_bytes(pools, len);
    }

    /// Returns whether messages are queued to be compressed.
    pub(in crate::shard) fn has_uncompressed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Compresses queued messages, and makes them and the frames behind them ready to be sent,
    /// until this many bytes are ready or the compressors' allowance is used up.
    pub(in crate::shard) fn compress_queued(
        &mut self,
        pools: &mut Pools,
        ready_bytes_max: usize,
        deflaters: &mut Deflaters,
        sending: Sending,
        level: u8,
    ) {
        let mut pending = std::mem::take(&mut self.pending);
        while self.bytes - self.pending_bytes < ready_bytes_max
            && deflaters.has_allowance()
            && let Some(next) = pending.pop_front()
        {
            match next {
                Pending::Message(kind, bytes) if Compressing::is_for(bytes.len()) => {
                    let begun = Box::new(Compressing::new(bytes));
                    pending.push_front(Pending::Compressing(kind, begun));
                }
                Pending::Message(kind, bytes) => {
                    self.uncount_pending(pools, bytes.len());
                    if let Some(compressed) = deflaters.compress(sending, level, &bytes) {
                        let (header, len) = ws::compressed_frame_header(kind, compressed.len());
                        self.queue_copy(pools, [&header[..len], compressed]);
                        pools.recycle_segment(Segment::Owned(bytes));
                    } else {
                        self.queue_plain_frame(pools, kind, bytes);
                    }
                }
                Pending::Compressing(kind, begun) => {
                    let len = begun.message_len();
                    match begun.compress_more(deflaters, sending, level) {
                        Compressed::Unfinished(rest) => {
                            pending.push_front(Pending::Compressing(kind, Box::new(rest)));
                        }
                        Compressed::Whole { message, output } => {
                            self.uncount_pending(pools, len);
                            pools.recycle_segment(Segment::Owned(message));
                            let (header, len) = ws::compressed_frame_header(kind, output.len());
                            self.queue_frame(pools, &header[..len], Payload::Owned(output));
                        }
                        Compressed::Useless(message) => {
                            self.uncount_pending(pools, len);
                            self.queue_plain_frame(pools, kind, message);
                        }
                    }
                }
                Pending::Frames(segment) => self.queue_ready(pools, segment),
                Pending::Mark(at_ns) => self.mark_reply(at_ns),
            }
        }
        // A mark applies to the bytes that were made ready last.
        while let Some(Pending::Mark(at_ns)) =
            pending.pop_front_if(|next| matches!(next, Pending::Mark(_)))
        {
            self.mark_reply(at_ns);
        }
        self.pending = pending;
    }

    /// Makes everything ready to be sent without compressing it, because compression for a
    /// connection that ends would take time from others. Every receiver accepts uncompressed
    /// messages (RFC 7692 6).
    pub(in crate::shard) fn skip_compression(&mut self, pools: &mut Pools) {
        for next in std::mem::take(&mut self.pending) {
            match next {
                Pending::Message(kind, bytes) => {
                    self.uncount_pending(pools, bytes.len());
                    self.queue_plain_frame(pools, kind, bytes);
                }
                Pending::Compressing(kind, begun) => {
                    self.uncount_pending(pools, begun.message_len());
                    self.queue_plain_frame(pools, kind, begun.into_message());
                }
                Pending::Frames(segment) => self.queue_ready(pools, segment),
                Pending::Mark(at_ns) => self.mark_reply(at_ns),
            }
        }
    }

    fn uncount_pending(&mut self, pools: &mut Pools, len: usize) {
        self.uncount_bytes(pools, len);
        self.pending_bytes -= len;
    }

    fn queue_ready(&mut self, pools: &mut Pools, segment: Segment) {
        self.uncount_pending(pools, segment.len());
        self.count_bytes(pools, segment.len());
        self.waiting.push_back(segment);
    }

    fn queue_plain_frame(&mut self, pools: &mut Pools, kind: DataKind, bytes: Vec<u8>) {
        let (header, len) = ws::frame_header(kind.opcode(), bytes.len());
        self.queue_frame(pools, &header[..len], Payload::Owned(bytes));
    }

    /// Queues a frame; a payload with memory of its own is not copied.
    pub(in crate::shard) fn queue_frame(
        &mut self,
        pools: &mut Pools,
        header: &[u8],
        payload: Payload<'_>,
    ) {
        match payload {
            Payload::Owned(bytes) if bytes.len() > CHUNK_BYTES / 2 => {
                self.queue_copy(pools, [header, &[]]);
                let len = bytes.len();
                self.push(Segment::Rest(bytes));
                self.count_bytes(pools, len);
            }
            payload => self.queue_copy(pools, [header, payload.as_slice()]),
        }
    }

    /// Queues a frame that is shared with other outboxes.
    pub(in crate::shard) fn queue_shared(&mut self, pools: &mut Pools, frame: Arc<[u8]>) {
        let len = frame.len();
        self.push(Segment::Shared(frame));
        self.count_bytes(pools, len);
    }

    fn uncount_bytes(&mut self, pools: &mut Pools, len: usize) {
        self.bytes -= len;
        pools.uncount_queued(len);
    }

    #[inline]
    fn count_bytes(&mut self, pools: &mut Pools, len: usize) {
        pools.count_queued(len);
        self.bytes += len;
        if self.pending.is_empty() {
            self.queued_total += len as u64;
        } else {
            self.pending_bytes += len;
        }
    }

    /// Marks the last queued message as a reply to input received at `at_ns`.
    pub(in crate::shard) fn mark_reply(&mut self, at_ns: u64) {
        if !self.pending.is_empty() {
            return self.pending.push_back(Pending::Mark(at_ns));
        }
        self.set_mark(at_ns, Marked::Reply, 1);
    }

    /// Marks what [`Self::append_with`] has queued as this many replies to input received at
    /// `at_ns`.
    #[inline]
    pub(in crate::shard) fn mark_replies(&mut self, at_ns: u64, messages: u32) {
        debug_assert!(self.pending.is_empty(), "messages to compress have marks of their own");
        self.set_mark(at_ns, Marked::Reply, messages);
    }

    /// Queues a copy of bytes before all others: the rest of a reply to input received at `at_ns`.
    pub(in crate::shard) fn queue_first(&mut self, pools: &mut Pools, bytes: &[u8], at_ns: u64) {
        debug_assert!(!self.is_sending(), "a send in flight is not overtaken");
        let mut chunk = pools.take_chunk(bytes.len());
        chunk.extend_from_slice(bytes);
        self.waiting.push_front(Segment::Rest(chunk));
        pools.count_queued(bytes.len());
        self.bytes += bytes.len();
        self.queued_total += bytes.len() as u64;
        for mark in &mut self.marks {
            mark.end += bytes.len() as u64;
        }
        let end = self.sent_total + bytes.len() as u64;
        let what = Marked::Reply;
        self.marks.push_front(Mark { end, at_ns, messages: 1, what, piece: None });
    }

    /// Fills a batch with bytes to be sent; `None` if nothing is queued or a batch is in flight.
    #[expect(
        clippy::inline_always,
        reason = "each engine has a copy: calls cost 5 % of a delivery"
    )]
    #[inline(always)]
    pub(in crate::shard) fn take_batch(&mut self, bounds: Bounds) -> Option<Box<Batch>> {
        if self.waiting.is_empty() && self.batch.as_ref().is_none_or(|batch| batch.is_empty()) {
            return None;
        }
        let mut batch = self.batch.take()?;
        let waiting_bytes = self.bytes - self.pending_bytes - batch.bytes();
        batch.fill_from(&mut self.waiting, waiting_bytes, bounds);
        Some(batch)
    }

    /// Returns whether nothing follows this batch, it contains no piece, which is recorded at its
    /// completion, and the peer has taken everything sent so far: then its completion requires no
    /// further action.
    pub(in crate::shard) fn is_last_batch(&self, batch: &Batch) -> bool {
        self.bytes == batch.bytes()
            && batch.offers_all()
            && !self.is_backed_up
            && !self.has_had_pieces
    }

    /// Takes the batch back after a send. `left` receives each mark whose messages are all sent:
    /// its type, the time of its messages (ns), and their number.
    pub(in crate::shard) fn complete_send(
        &mut self,
        mut batch: Box<Batch>,
        taken: Taken,
        pools: &mut Pools,
        left: impl FnMut(Marked, u64, u32),
    ) {
        debug_assert!(self.batch.is_none(), "at most one batch is in flight");
        self.is_backed_up |= taken.wire_bytes < batch.offered_bytes();
        if taken.wire_bytes == batch.bytes() {
            batch.finish(|segment| pools.recycle_segment(segment));
        } else {
            batch.advance(taken.wire_bytes, |segment| pools.recycle_segment(segment));
        }
        self.batch = Some(batch);
        self.uncount_bytes(pools, taken.queued_bytes);
        self.sent_total += taken.queued_bytes as u64;
        self.pass_marks(pools, left);
    }

    /// Drops all output that is not yet being sent. The rest of a frame that was sent in part
    /// stays, so that the next output starts at a frame boundary.
    pub(in crate::shard) fn drop_unsent(&mut self, pools: &mut Pools) {
        let has_begun = |front: &mut Segment| matches!(front, Segment::Rest(_) | Segment::Tail(_));
        let mut kept = self.waiting.pop_front_if(has_begun);
        let dropped = self.waiting.iter().map(Segment::len).sum::<usize>() + self.pending_bytes;
        self.waiting.drain(..).for_each(|segment| pools.recycle_segment(segment));
        self.waiting.extend(kept.take());
        self.clear_pending(pools);
        self.uncount_bytes(pools, dropped);
        self.queued_total = self.sent_total + self.bytes as u64;
        while self.marks.pop_back_if(|mark| mark.end > self.queued_total).is_some() {}
    }

    fn clear_pending(&mut self, pools: &mut Pools) {
        for entry in self.pending.drain(..) {
            if let Pending::Message(_, bytes) | Pending::Frames(Segment::Owned(bytes)) = entry {
                pools.recycle_segment(Segment::Owned(bytes));
            }
        }
        self.pending_bytes = 0;
    }

    /// Takes the batch back after its send has failed, and drops all queued output.
    pub(in crate::shard) fn fail_send(&mut self, mut batch: Box<Batch>, pools: &mut Pools) {
        batch.finish(|segment| pools.recycle_segment(segment));
        self.batch = Some(batch);
        self.clear(pools);
    }

    /// Serializes the queue; `None` while the driver has a batch, or a message is compressed in
    /// part.
    pub(in crate::shard) fn serialize(&self, now_ns: u64) -> Option<OutboxState> {
        let mut frames = Vec::with_capacity(self.bytes - self.pending_bytes);
        self.batch.as_ref()?.slices().for_each(|bytes| frames.extend_from_slice(bytes));
        self.waiting.iter().for_each(|segment| frames.extend_from_slice(segment.as_slice()));
        let pending = self.pending.iter().map(|entry| match entry {
            Pending::Message(DataKind::Text, bytes) => Some(PendingState::Text(bytes.clone())),
            Pending::Message(DataKind::Binary, bytes) => Some(PendingState::Binary(bytes.clone())),
            Pending::Compressing(..) => None,
            Pending::Frames(segment) => Some(PendingState::Frames(segment.as_slice().to_vec())),
            Pending::Mark(at_ns) => Some(PendingState::Mark(now_ns.saturating_sub(*at_ns))),
        });
        let pending = pending.collect::<Option<Vec<_>>>()?;
        Some(OutboxState { frames, pending, marks: self.mark_states(now_ns) })
    }

    /// Restores what [`Self::serialize`] has returned; the outbox must be empty.
    pub(in crate::shard) fn restore(
        &mut self,
        pools: &mut Pools,
        state: &OutboxState,
        now_ns: u64,
    ) {
        debug_assert!(self.is_empty() && !self.is_sending(), "only an empty outbox is restored");
        if !state.frames.is_empty() {
            // They may start within a frame.
            self.push(Segment::Rest(state.frames.clone()));
            self.count_bytes(pools, state.frames.len());
        }
        let marks = state.marks.iter().map(|mark| Mark {
            end: mark.end,
            at_ns: now_ns.saturating_sub(mark.age_ns),
            messages: mark.messages,
            what: mark.what,
            piece: None,
        });
        self.marks.extend(marks);
        for entry in &state.pending {
            let (entry, len) = match entry {
                PendingState::Text(bytes) => {
                    (Pending::Message(DataKind::Text, bytes.clone()), bytes.len())
                }
                PendingState::Binary(bytes) => {
                    (Pending::Message(DataKind::Binary, bytes.clone()), bytes.len())
                }
                PendingState::Frames(bytes) => {
                    (Pending::Frames(Segment::Owned(bytes.clone())), bytes.len())
                }
                PendingState::Mark(age_ns) => (Pending::Mark(now_ns.saturating_sub(*age_ns)), 0),
            };
            self.pending.push_back(entry);
            self.count_bytes(pools, len);
        }
    }

    /// Drops everything; no batch may be in flight.
    pub(in crate::shard) fn clear(&mut self, pools: &mut Pools) {
        debug_assert!(!self.is_sending(), "a batch in flight cannot be dropped");
        self.uncount_bytes(pools, self.bytes);
        self.waiting.drain(..).for_each(|segment| pools.recycle_segment(segment));
        self.clear_pending(pools);
        if let Some(batch) = &mut self.batch {
            batch.finish(|segment| pools.recycle_segment(segment));
        }
        self.marks.clear();
        (self.queued_total, self.sent_total) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
