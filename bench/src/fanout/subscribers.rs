//! Subscribers: each has one channel, and knows the next message of each publisher.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use super::FanoutPlan;
use super::dialect::News;
use super::tag::{Finder, Tag};
use crate::bystanders::Times;
use crate::client::Stage;
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::recorder::{Recorder, nanoseconds};

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Limit for closing handshakes, which no measurement needs.
const CLOSE_NS: u64 = 2_000_000_000;

/// The subscribers of one worker.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub worker: usize,
    /// Number of the first one.
    pub first: u32,
    pub slots: u32,
    pub parallel: u32,
}

/// What one worker's subscribers received.
#[derive(Debug)]
pub struct Subscribed {
    pub first: u32,
    /// Deliveries, warm-up included.
    pub received: u64,
    /// Messages that had not arrived when a later one of the same stream did.
    pub skipped: u64,
    /// Messages that arrived after a later one, or twice.
    pub late: u64,
    /// Gaps that the server reported.
    pub gaps: u64,
    /// Per subscriber and stream, the number of the next message.
    pub next: Vec<u32>,
    pub latency: Histogram<u64>,
}

/// The load of one worker.
pub struct Subscribers {
    plan: FanoutPlan,
    share: Share,
    shared: Arc<Shared>,
    times: Arc<Times>,
    finder: Finder,
    streams: usize,
    asked: u32,
    opening: u32,
    live: u32,
    recorder: Option<Recorder>,
    from_ns: u64,
    until_ns: u64,
    close_until_ns: Option<u64>,
    result: Subscribed,
    failure: Option<Failure>,
}

impl Subscribers {
    pub fn new(plan: FanoutPlan, share: Share, shared: Arc<Shared>, times: Arc<Times>) -> Self {
        let streams = plan.streams();
        Self {
            plan,
            share,
            shared,
            times,
            finder: Finder::new(plan.size as usize),
            streams,
            asked: 0,
            opening: 0,
            live: 0,
            recorder: None,
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            close_until_ns: None,
            result: Subscribed {
                first: share.first,
                received: 0,
                skipped: 0,
                late: 0,
                gaps: 0,
                next: vec![0; share.slots as usize * streams],
                latency: nanoseconds(),
            },
            failure: None,
        }
    }

    pub fn finish(self) -> Result<Subscribed, Failure> {
        self.failure.map_or(Ok(self.result), Err)
    }

    fn channel(&self, slot: u32) -> u32 {
        (self.share.first + slot) % self.plan.channels
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.share.slots && self.opening < self.share.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    fn begin(&mut self, start_ns: u64) {
        self.from_ns = start_ns + self.plan.warmup_ns;
        self.until_ns = self.from_ns + self.plan.duration_ns;
        let mut recorder = Recorder::default();
        recorder.begin(start_ns, self.from_ns);
        self.recorder = Some(recorder);
    }

    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.shared.stop();
    }

    /// Records one delivery.
    fn take(&mut self, slot: u32, tag: Tag, now_ns: u64) {
        let channel = self.channel(slot);
        let stream = self.plan.stream_of(tag.publisher);
        if tag.channel != channel || stream >= self.streams {
            let text = format!("a subscriber of channel {channel} got a message of {tag:?}");
            return self.fail(Failure::Corrupt(text));
        }
        self.result.received += 1;
        let next = &mut self.result.next[slot as usize * self.streams + stream];
        if tag.number < *next {
            self.result.late += 1;
            self.shared.error();
        } else {
            self.result.skipped += u64::from(tag.number - *next);
            *next = tag.number + 1;
        }
        // The warm-up is shown but not measured.
        let measured = (self.from_ns..self.until_ns).contains(&tag.due_ns) || now_ns < self.from_ns;
        if let (true, Some(recorder)) = (measured, &mut self.recorder) {
            recorder.record(now_ns.saturating_sub(tag.due_ns), now_ns, &self.shared.feed);
        }
    }

    fn subscribed(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.times.ready.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn close_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        if let Some(recorder) = self.recorder.take() {
            self.result.latency = recorder.finish(now_ns, &self.shared.feed);
        }
        self.close_until_ns = Some(now_ns + CLOSE_NS);
        for slot in 0..self.asked {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(())
    }
}

impl Load for Subscribers {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        self.shared.done[self.share.worker].set(self.result.received);
        let poll_ns = now_ns + POLL_NS;
        if Times::passed(&self.times.close_ns, now_ns) {
            let Some(until_ns) = self.close_until_ns else {
                self.close_all(fleet, now_ns)?;
                return Ok(Turn::Until(poll_ns));
            };
            let over = self.live == 0 || now_ns >= until_ns;
            return Ok(if over { Turn::Done } else { Turn::Until(poll_ns) });
        }
        self.open_more(fleet, now_ns)?;
        match (&mut self.recorder, Times::known(&self.times.start_ns)) {
            (Some(recorder), _) => recorder.tick(now_ns, &self.shared.feed),
            (None, Some(start_ns)) => self.begin(start_ns),
            (None, None) => {}
        }
        Ok(Turn::Until(poll_ns))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        match self.plan.dialect.subscribe(self.channel(slot)) {
            Some(frame) => fleet.send_frame(slot, frame),
            None => self.subscribed(fleet, now_ns),
        }
    }

    fn heard(&mut self, fleet: &mut Fleet, slot: u32, text: &[u8], now_ns: u64) -> io::Result<()> {
        let mut rest = text;
        let mut found = false;
        while let Some((tag, after)) = self.finder.next(rest) {
            self.take(slot, tag, now_ns);
            found = true;
            rest = after;
        }
        if found {
            return Ok(());
        }
        match self.plan.dialect.parse_news(text) {
            News::Subscribed => self.subscribed(fleet, now_ns),
            News::Gap => {
                self.result.gaps += 1;
                Ok(())
            }
            News::Refused => {
                let text = String::from_utf8_lossy(&text[..text.len().min(200)]);
                self.fail(Failure::Failed(format!("subscription refused: {text}")));
                Ok(())
            }
            News::Other => Ok(()),
        }
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.live -= 1;
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        if self.close_until_ns.is_some() {
            return Ok(());
        }
        self.fail(match ending {
            Ending::Lost(fault) => Failure::lost(&fault),
            Ending::Clean => Failure::Failed("a subscriber was closed by the server".to_owned()),
        });
        Ok(())
    }
}
