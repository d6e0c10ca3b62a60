//! Publishers that are WebSocket connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dialect::Answer;
use super::{Press, Pressed};
use crate::bystanders::Times;
use crate::client::Stage;
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};

/// How often the worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Batches per turn: acknowledgements are handled between turns.
const BURST: usize = 256;

/// The load of the worker that drives all publishers.
pub struct Publishers {
    press: Press,
    shared: Arc<Shared>,
    times: Arc<Times>,
    parallel: u32,
    asked: u32,
    opening: u32,
    live: u32,
    begun: bool,
    closed: bool,
    failure: Option<Failure>,
}

impl Publishers {
    pub fn new(press: Press, shared: Arc<Shared>, times: Arc<Times>, parallel: u32) -> Self {
        Self {
            press,
            shared,
            times,
            parallel,
            asked: 0,
            opening: 0,
            live: 0,
            begun: false,
            closed: false,
            failure: None,
        }
    }

    pub fn finish(self) -> Result<Pressed, Failure> {
        self.failure.map_or_else(|| Ok(self.press.finish()), Err)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.press.plan().publishers && self.opening < self.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    fn publish(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let Some(start_ns) = Times::known(&self.times.start_ns) else {
            return Ok(now_ns + POLL_NS);
        };
        if !std::mem::replace(&mut self.begun, true) {
            self.press.begin(start_ns);
        }
        if now_ns < start_ns {
            return Ok(start_ns);
        }
        let dialect = self.press.plan().dialect;
        for _ in 0..BURST {
            let Some(batch) = self.press.take(now_ns) else {
                return Ok(self.press.next_ns(now_ns));
            };
            fleet.send_frame(batch.publisher, dialect.publish(&batch.messages))?;
        }
        Ok(now_ns)
    }
}

impl Load for Publishers {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        let poll_ns = now_ns + POLL_NS;
        if Times::passed(&self.times.close_ns, now_ns) {
            if !std::mem::replace(&mut self.closed, true) {
                for slot in 0..self.asked {
                    if fleet.stage(slot) == Stage::Open {
                        fleet.close(slot, now_ns)?;
                    }
                }
            }
            return Ok(if self.live == 0 { Turn::Done } else { Turn::Until(poll_ns) });
        }
        self.open_more(fleet, now_ns)?;
        let next_ns = self.publish(fleet, now_ns)?;
        let over = self.press.is_over(now_ns);
        Ok(Turn::Until(if over { poll_ns } else { next_ns.min(poll_ns) }))
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.times.ready.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn heard(&mut self, _: &mut Fleet, slot: u32, text: &[u8], _: u64) -> io::Result<()> {
        let dialect = self.press.plan().dialect;
        for line in text.split(|byte| *byte == b'\n') {
            match dialect.parse_answer(line) {
                Answer::Published => self.press.acknowledged(slot, 1),
                Answer::Refused => self.press.refused(slot, 1, line),
                Answer::Other => {}
            }
        }
        Ok(())
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.live -= 1;
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        if !self.closed {
            self.failure = Some(match ending {
                Ending::Lost(fault) => Failure::lost(&fault),
                Ending::Clean => Failure::Failed("a publisher was closed by the server".to_owned()),
            });
            self.shared.stop();
        }
        Ok(())
    }
}
