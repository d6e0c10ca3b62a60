//! Timers of connections, one for each, in a hashed wheel of lists that are linked through the
//! slots.
//!
//! Setting and unsetting take a few writes and no memory; the ring only gets the wheel's next
//! deadline, as the timeout of its wait. A tick is [`TICK_MS`]; a timer further away than one round
//! of the wheel stays in its list when the round passes. Timers fire late, never early.

use slab::Slab;

/// Length of a tick (ms).
pub(in crate::shard) const TICK_MS: u64 = 50;
/// Length of a tick (ns).
pub(in crate::shard) const TICK_NS: u64 = TICK_MS * 1_000_000;
/// The tick of a timer that is not set.
pub(in crate::shard) const UNSET: u32 = u32::MAX;

const BUCKETS: usize = 2048;
const NONE: u32 = u32::MAX;

/// Returns the tick of a time.
pub(super) fn tick_of(now_ns: u64) -> u32 {
    (now_ns / TICK_NS) as u32
}

/// Converts a duration to ticks, rounded up.
pub(in crate::shard) fn ticks(duration_ms: u32) -> u32 {
    u64::from(duration_ms).div_ceil(TICK_MS) as u32
}

/// The links of one timer in the wheel.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimerLinks {
    previous: u32,
    next: u32,
    /// When it fires; [`UNSET`] = it is not in a list.
    tick: u32,
}

impl TimerLinks {
    /// Makes a timer that is not set.
    pub(super) const fn unset() -> Self {
        Self { previous: NONE, next: NONE, tick: UNSET }
    }

    /// Returns whether the timer is set.
    pub(super) fn is_set(&self) -> bool {
        self.tick != UNSET
    }
}

/// An object with a timer.
pub(super) trait Timed {
    fn timer(&self) -> &TimerLinks;
    fn timer_mut(&mut self) -> &mut TimerLinks;
}

/// The timers of one shard.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    occupied: [u64; BUCKETS / 64],
    /// All timers at or before this tick have fired.
    passed: u32,
    set: usize,
}

impl Wheel {
    /// Makes a wheel that starts at `now_tick`.
    pub(super) fn new(now_tick: u32) -> Self {
        Self {
            heads: Box::new([NONE; BUCKETS]),
            occupied: [0; BUCKETS / 64],
            passed: now_tick,
            set: 0,
        }
    }

    /// Sets the slot's timer, replacing an earlier setting. A tick that has passed fires next.
    pub(super) fn set(&mut self, slots: &mut Slab<impl Timed>, index: u32, tick: u32) {
        debug_assert!(tick != UNSET, "a timer is set to a tick");
        let tick = tick.clamp(self.passed + 1, UNSET - 1);
        if slots[index as usize].timer().tick == tick {
            return;
        }
        self.unset(slots, index);
        let bucket = tick as usize % BUCKETS;
        let next = std::mem::replace(&mut self.heads[bucket], index);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        if next != NONE {
            slots[next as usize].timer_mut().previous = index;
        }
        let timer = slots[index as usize].timer_mut();
        (timer.previous, timer.next, timer.tick) = (NONE, next, tick);
        self.set += 1;
    }

    /// Unsets the slot's timer, if it is set.
    pub(super) fn unset(&mut self, slots: &mut Slab<impl Timed>, index: u32) {
        let timer = *slots[index as usize].timer();
        if timer.tick == UNSET {
            return;
        }
        slots[index as usize].timer_mut().tick = UNSET;
        self.set -= 1;
        if timer.next != NONE {
            slots[timer.next as usize].timer_mut().previous = timer.previous;
        }
        if timer.previous != NONE {
            slots[timer.previous as usize].timer_mut().next = timer.next;
            return;
        }
        let bucket = timer.tick as usize % BUCKETS;
        self.heads[bucket] = timer.next;
        if timer.next == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
    }

    /// Returns whether a timer may be due at `now_tick`.
    #[inline]
    pub(super) fn may_be_due(&self, now_tick: u32) -> bool {
        self.passed < now_tick
    }

    /// Unsets timers that are due at `now_tick` and returns their slots, at most `most` of them.
    /// Returns whether more are due.
    pub(super) fn take_expired(
        &mut self,
        slots: &mut Slab<impl Timed>,
        now_tick: u32,
        most: usize,
        fired: &mut Vec<u32>,
    ) -> bool {
        let round = self.passed.saturating_add(BUCKETS as u32);
        let last = now_tick.min(round);
        while self.passed < last {
            let bucket = (self.passed + 1) as usize % BUCKETS;
            let mut index = self.heads[bucket];
            while index != NONE {
                let timer = *slots[index as usize].timer();
                if timer.tick <= now_tick {
                    if fired.len() >= most {
                        return true;
                    }
                    self.unset(slots, index);
                    fired.push(index);
                }
                index = timer.next;
            }
            self.passed += 1;
        }
        // After a jump of more than a round, every list was visited once.
        self.passed = self.passed.max(now_tick);
        false
    }

    /// Returns the next tick at which a timer may be due.
    pub(super) fn next_tick(&self) -> Option<u32> {
        if self.set == 0 {
            return None;
        }
        let start = (self.passed + 1) as usize % BUCKETS;
        let (word, bit) = (start / 64, start % 64);
        for step in 0..=BUCKETS / 64 {
            let at = (word + step) % (BUCKETS / 64);
            let mut bits = self.occupied[at];
            if step == 0 {
                bits &= u64::MAX << bit;
            }
            if bits != 0 {
                let bucket = at * 64 + bits.trailing_zeros() as usize;
                let ahead = (bucket + BUCKETS - start) % BUCKETS;
                return Some(self.passed + 1 + ahead as u32);
            }
        }
        None
    }
}
