//! Bounds the work of a shard in one turn, and of one connection in it.
//!
//! Work is measured as *effort*: the number of bytes that zlib-rs compresses at level 1 in the same
//! time, 2.5 ns each. Effort is counted, not measured with a clock, so that the same input always
//! has the same effort and tests can rely on it. A turn's limit is `turn_codec_bytes_max` (1 ms by
//! default), or as many frames as `turn_frames_max`. A connection may use a quarter of it, its
//! *share*, before other connections: the rest of its input is held (`backpressure.rs`) and
//! continued when all others have been served.
//!
//! Measured with `scripts/load-hostile.sh`, p99 of other connections beside one client that sends 1
//! MB/s of compressed messages: 1,052 ms without shares.

use crate::config::{self, Config};
use crate::session::hub::Budget;

/// A connection's share is one in this many of a turn.
const SHARE_ONE_IN: u64 = 4;
/// Bytes received or sent that cost one unit of effort: the kernel copies them, and received bytes
/// are unmasked, checked and copied once more.
const MOVED_BYTES: u64 = 4;
/// The effort of a hub client's request, in addition to its frame: it is parsed, decided and
/// answered.
pub(in crate::shard) const REQUEST_EFFORT: u64 = 800;
/// Bytes of replies that cost one unit of effort: they are formatted and copied.
pub(in crate::shard) const REPLY_BYTES: u64 = 4;
/// The effort of handling one hub mail.
pub(in crate::shard) const MAIL_EFFORT: u64 = 200;
/// The effort of examining a request for an upgrade.
pub(super) const HANDSHAKE_EFFORT: u64 = 2000;
/// The effort of verifying a token's signature.
pub(super) const TOKEN_EFFORT: u64 = 40_000;
/// The number of connections whose use is remembered for a turn.
const RECENT: usize = 64;

/// The effort that a connection has used in a turn.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    index: u32,
    turn: u32,
    effort: u64,
}

/// The effort of this turn, and of the current slice: the input of one connection, processed in one
/// go.
#[derive(Debug)]
pub(in crate::shard) struct Work {
    turn_max: u64,
    frame_effort: u64,
    turn: u32,
    spent: u64,
    /// The value of `spent` when the slice began.
    slice_began: u64,
    /// The effort that the slice's connection had used in this turn before.
    used_before: u64,
    /// Approximate: two connections may share an entry, and then overwrite each other's.
    recent: [Used; RECENT],
}

impl Work {
    pub(super) fn new(config: &Config) -> Self {
        let mut work = Self {
            turn_max: 0,
            frame_effort: 0,
            turn: 0,
            spent: 0,
            slice_began: 0,
            used_before: 0,
            recent: [Used::default(); RECENT],
        };
        work.apply_config(config);
        work
    }

    /// Switches to another configuration.
    pub(super) fn apply_config(&mut self, config: &Config) {
        self.turn_max = u64::from(config.engine.turn_codec_bytes_max);
        let frames_max = u64::from(config.engine.turn_frames_max).max(1);
        self.frame_effort = (self.turn_max / frames_max).max(1);
    }

    pub(in crate::shard) fn begin_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.spent = 0;
    }

    /// Returns the effort of this turn so far.
    pub(in crate::shard) fn spent_effort(&self) -> u64 {
        self.spent
    }

    /// Returns the limit of effort in a turn, which may be exceeded by one connection's share.
    pub(in crate::shard) fn turn_max(&self) -> u64 {
        self.turn_max
    }

    pub(in crate::shard) fn share_max(&self) -> u64 {
        (self.turn_max / SHARE_ONE_IN).max(1)
    }

    pub(in crate::shard) fn is_turn_spent(&self) -> bool {
        self.spent >= self.turn_max
    }

    /// Returns whether the turn has used half of its effort.
    pub(in crate::shard) fn is_half_spent(&self) -> bool {
        self.spent >= self.turn_max / 2
    }

    /// Returns the effort left in the turn.
    pub(super) fn turn_left(&self) -> u64 {
        self.turn_max.saturating_sub(self.spent)
    }

    /// Returns whether a connection has used its share of this turn.
    pub(super) fn has_used_share(&self, index: u32) -> bool {
        self.used_by(index) >= self.share_max()
    }

    /// Returns whether a connection has used the effort of moving this many bytes in this turn.
    pub(super) fn has_moved(&self, index: u32, bytes: usize) -> bool {
        self.used_by(index) >= bytes as u64 / MOVED_BYTES
    }

    fn used_by(&self, index: u32) -> u64 {
        let entry = self.recent[index as usize % RECENT];
        if entry.index == index && entry.turn == self.turn { entry.effort } else { 0 }
    }

    /// Begins a slice with new input of a connection.
    pub(super) fn begin_slice(&mut self, index: u32) {
        self.used_before = self.used_by(index);
        self.slice_began = self.spent;
    }

    /// Begins a slice with input that was held while others were served: it has a whole share.
    pub(super) fn begin_fresh_slice(&mut self) {
        self.used_before = 0;
        self.slice_began = self.spent;
    }

    pub(super) fn end_slice(&mut self, index: u32) {
        let effort = self.slice_used();
        self.recent[index as usize % RECENT] = Used { index, turn: self.turn, effort };
    }

    fn slice_used(&self) -> u64 {
        self.used_before + (self.spent - self.slice_began)
    }

    /// Returns whether the slice's connection has used its share.
    #[inline]
    pub(super) fn is_share_spent(&self) -> bool {
        self.slice_used() >= self.share_max()
    }

    /// Returns the effort left in the share.
    pub(super) fn share_left(&self) -> u64 {
        self.share_max().saturating_sub(self.slice_used())
    }

    /// Returns the budget of the slice's session, given the bytes already queued.
    pub(super) fn budget(&self, limits: &config::Limits, queued_bytes: usize) -> Budget {
        let requests_max = (self.share_left() / REQUEST_EFFORT).max(1) as u32;
        let reply_bytes_max = limits.outbox_high_bytes.saturating_sub(queued_bytes);
        Budget { requests_max, reply_bytes_max }
    }

    #[inline]
    pub(in crate::shard) fn spend(&mut self, effort: u64) {
        self.spent += effort;
    }

    #[inline]
    pub(super) fn spend_frame(&mut self) {
        self.spent += self.frame_effort;
    }

    #[inline]
    pub(super) fn spend_frames(&mut self, frames: u32) {
        self.spent += self.frame_effort * u64::from(frames);
    }

    /// Returns the number of frames until the slice's connection has used its share.
    #[inline]
    pub(super) fn frames_left(&self) -> u32 {
        self.share_left().div_ceil(self.frame_effort).min(u32::MAX.into()) as u32
    }

    /// Spends the effort of moving bytes.
    pub(in crate::shard) fn spend_moved(&mut self, bytes: usize) {
        self.spent += bytes as u64 / MOVED_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn work() -> Work {
        let file = File { shards: 1, ..File::default() };
        Work::new(&Config::validate(&file, 20_000, 1).unwrap())
    }

    #[test]
    fn share_counts_all_slices_of_a_turn() {
        let mut work = work();
        work.begin_turn();
        for slice in 0..4 {
            assert!(!work.has_used_share(7), "slice {slice}");
            work.begin_slice(7);
            work.spend(work.share_max() / 4);
            work.end_slice(7);
        }
        assert!(work.has_used_share(7));
        assert!(!work.has_used_share(8));
        work.begin_turn();
        assert!(!work.has_used_share(7), "the next turn has a share of its own");
    }

    #[test]
    fn turn_is_so_many_frames_or_so_many_codec_bytes() {
        let mut work = work();
        let frames_max = File::default().engine.turn_frames_max;
        work.begin_turn();
        (0..frames_max).for_each(|_| work.spend_frame());
        assert!(
            work.spent_effort() <= work.turn_max() && work.spent_effort() > work.turn_max() / 2
        );
    }
}
