//! `replay`: sends recorded frames with their timing.
//!
//! The file has one JSON object a line, in the order of time:
//!
//! ```json
//! {"at_ms": 0, "connection": 1, "text": "{\"join\":\"room\"}", "expect_reply": true}
//! {"at_ms": 12.5, "connection": 2, "base64": "AAEC"}
//! ```
//!
//! `at_ms` counts from the start of the recording, `connection` is any number, `text` makes a text
//! message and `base64` a binary one. A frame with `expect_reply` waits for the next message on its
//! connection that no earlier frame waits for, and its latency counts from when it was due. Blank
//! lines and lines that begin with `#` are skipped.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::client::Stage;
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::recorder::{Recorder, nanoseconds};
use crate::sheet::Noise;
use crate::wire::{self, opcode};

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Limit for closing handshakes.
const CLOSE_NS: u64 = 2_000_000_000;

/// One recorded frame, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Time since the start, at the recorded speed.
    pub at_ns: u64,
    /// Numbered densely from 0 in the order of their first frames.
    pub connection: u32,
    /// With header and mask.
    pub bytes: Box<[u8]>,
    pub expect_reply: bool,
}

/// A whole recording.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub frames: Vec<Frame>,
    pub connections: u32,
}

impl Recording {
    /// Reads the lines of a file.
    ///
    /// # Errors
    /// When a line does not have the format; the text names it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let mut noise = Noise::new(1);
        let mut frames: Vec<Frame> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = |why: &str| format!("line {}: {why}", index + 1);
            let value: Value =
                serde_json::from_str(line).map_err(|error| place(&error.to_string()))?;
            let at_ms = value["at_ms"].as_f64().filter(|ms| (0.0..=1e10).contains(ms));
            let at_ms = at_ms.ok_or_else(|| place("at_ms must be a number from 0"))?;
            let at_ns = (at_ms * 1e6) as u64;
            if frames.last().is_some_and(|last| last.at_ns > at_ns) {
                return Err(place("at_ms goes backwards; sort the lines by it"));
            }
            let number = value["connection"].as_u64();
            let number = number.ok_or_else(|| place("connection must be a whole number"))?;
            let next = numbers.len() as u32;
            let connection = *numbers.entry(number).or_insert(next);
            let (code, payload) = payload(&value).map_err(|why| place(&why))?;
            let mask = (noise.next() as u32).to_le_bytes();
            let bytes = wire::masked(code, mask, &payload).into();
            let expect_reply = value["expect_reply"].as_bool().unwrap_or(false);
            frames.push(Frame { at_ns, connection, bytes, expect_reply });
        }
        Ok(Self { frames, connections: numbers.len() as u32 })
    }
}

fn payload(value: &Value) -> Result<(u8, Vec<u8>), String> {
    match (value["text"].as_str(), value["base64"].as_str()) {
        (Some(text), None) => Ok((opcode::TEXT, text.as_bytes().to_vec())),
        (None, Some(text)) => match BASE64_STANDARD.decode(text) {
            Ok(bytes) => Ok((opcode::BINARY, bytes)),
            Err(error) => Err(format!("base64: {error}")),
        },
        _ => Err("needs either text or base64, as a string".to_owned()),
    }
}

/// One worker's part of the run: the frames of its connections.
#[derive(Debug, Clone)]
pub struct ReplayPlan {
    pub worker: usize,
    /// With `connection` as the slot.
    pub frames: VecDeque<Frame>,
    pub slots: u32,
    pub parallel: u32,
    pub speed: f64,
    /// Limit for replies after the last frame of the recording.
    pub end_ns: u64,
    pub wait_ns: u64,
}

/// What one worker measured.
#[derive(Debug)]
pub struct ReplayResult {
    pub latency: Histogram<u64>,
    /// Delay of sends after they were due.
    pub lateness: Histogram<u64>,
    pub sent: u64,
    pub replies: u64,
    /// Messages that no frame waited for.
    pub others: u64,
    /// Frames without a reply, and frames whose connection was lost.
    pub unanswered: u64,
    pub unsent: u64,
    pub lost: Vec<String>,
}

/// The load of one worker.
pub struct Replay {
    plan: ReplayPlan,
    shared: Arc<Shared>,
    asked: u32,
    opening: u32,
    live: u32,
    waiting: Vec<VecDeque<u64>>,
    begun: bool,
    closing_until_ns: Option<u64>,
    recorder: Recorder,
    result: ReplayResult,
    failure: Option<Failure>,
}

impl Replay {
    pub fn new(plan: ReplayPlan, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            asked: 0,
            opening: 0,
            live: 0,
            waiting: vec![VecDeque::new(); plan.slots as usize],
            begun: false,
            closing_until_ns: None,
            recorder: Recorder::default(),
            result: ReplayResult {
                latency: nanoseconds(),
                lateness: nanoseconds(),
                sent: 0,
                replies: 0,
                others: 0,
                unanswered: 0,
                unsent: 0,
                lost: Vec::new(),
            },
            failure: None,
            plan,
        }
    }

    pub fn finish(self) -> Result<ReplayResult, Failure> {
        self.failure.map_or(Ok(self.result), Err)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.plan.slots && self.opening < self.plan.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    fn scaled(&self, recorded_ns: u64) -> u64 {
        (recorded_ns as f64 / self.plan.speed) as u64
    }

    /// Sends due frames; returns the time of the next one.
    fn send_due(&mut self, fleet: &mut Fleet, start_ns: u64, now_ns: u64) -> io::Result<u64> {
        while let Some(frame) = self.plan.frames.front() {
            let due_ns = start_ns + self.scaled(frame.at_ns);
            if due_ns > now_ns {
                return Ok(due_ns);
            }
            let Some(frame) = self.plan.frames.pop_front() else { break };
            if fleet.stage(frame.connection) != Stage::Open {
                self.result.unsent += 1;
                self.shared.error();
                continue;
            }
            self.result.sent += 1;
            self.result.lateness.saturating_record(now_ns - due_ns);
            if frame.expect_reply {
                self.waiting[frame.connection as usize].push_back(due_ns);
            }
            fleet.send_frame(frame.connection, frame.bytes)?;
        }
        self.shared.done[self.plan.worker].set(self.result.sent);
        Ok(u64::MAX)
    }

    fn leave(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        for since_ns in self.waiting.iter_mut().flat_map(std::mem::take) {
            self.result.unanswered += 1;
            self.shared.error();
            self.recorder.record(now_ns - since_ns, now_ns, &self.shared.feed);
        }
        let recorder = std::mem::take(&mut self.recorder);
        self.result.latency = recorder.finish(now_ns, &self.shared.feed);
        self.closing_until_ns = Some(now_ns + CLOSE_NS);
        for slot in 0..self.plan.slots {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(())
    }
}

impl Load for Replay {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        let poll_ns = now_ns + POLL_NS;
        if let Some(until_ns) = self.closing_until_ns {
            let over = self.live == 0 || now_ns >= until_ns;
            return Ok(if over { Turn::Done } else { Turn::Until(poll_ns) });
        }
        self.open_more(fleet, now_ns)?;
        let Some(start_ns) = self.shared.start() else { return Ok(Turn::Until(poll_ns)) };
        if start_ns > now_ns {
            return Ok(Turn::Until(start_ns));
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.recorder.begin(start_ns, start_ns);
        }
        self.recorder.tick(now_ns, &self.shared.feed);
        let next_ns = self.send_due(fleet, start_ns, now_ns)?;
        let end_ns = start_ns + self.scaled(self.plan.end_ns);
        let quiet = self.waiting.iter().all(VecDeque::is_empty);
        let over = now_ns >= end_ns && (quiet || now_ns >= end_ns + self.plan.wait_ns);
        if self.plan.frames.is_empty() && over {
            self.leave(fleet, now_ns)?;
        }
        let next_ns = if self.plan.frames.is_empty() { poll_ns } else { next_ns };
        Ok(Turn::Until(next_ns))
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn messages(&mut self, _: &mut Fleet, slot: u32, count: u32, now_ns: u64) -> io::Result<()> {
        for _ in 0..count {
            match self.waiting[slot as usize].pop_front() {
                Some(since_ns) => {
                    self.result.replies += 1;
                    self.recorder.record(now_ns - since_ns, now_ns, &self.shared.feed);
                }
                None => self.result.others += 1,
            }
        }
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.live -= 1;
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        if self.closing_until_ns.is_some() {
            return Ok(());
        }
        self.shared.error();
        let why = match &ending {
            Ending::Lost(fault) => fault.to_string(),
            Ending::Clean => "closed by the server".to_owned(),
        };
        if self.shared.start().is_none() {
            self.failure = Some(Failure::Failed(format!("a connection was lost: {why}")));
            self.shared.stop();
        }
        self.result.lost.push(why);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_frames_with_dense_connections() {
        let text = "# recorded\n\n{\"at_ms\":0,\"connection\":70,\"text\":\"hi\"}\n\
                    {\"at_ms\":1.5,\"connection\":9,\"base64\":\"AAEC\",\"expect_reply\":true}\n\
                    {\"at_ms\":1.5,\"connection\":70,\"text\":\"\"}\n";
        let recording = Recording::parse(text).unwrap();
        assert_eq!(recording.connections, 2);
        let seen: Vec<(u64, u32, u8, usize, bool)> = recording
            .frames
            .iter()
            .map(|f| (f.at_ns, f.connection, f.bytes[0], f.bytes.len(), f.expect_reply))
            .collect();
        let expected =
            [(0, 0, 0x81, 8, false), (1_500_000, 1, 0x82, 9, true), (1_500_000, 0, 0x81, 6, false)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_wrong_line_is_named_with_its_cure() {
        let line = |fields: &str| Recording::parse(&format!("{{{fields}}}")).unwrap_err();
        assert!(line("\"connection\":1,\"text\":\"\"").starts_with("line 1: at_ms"));
        assert!(line("\"at_ms\":0,\"text\":\"\"").contains("connection"));
        assert!(line("\"at_ms\":0,\"connection\":1").contains("either text or base64"));
        assert!(line("\"at_ms\":0,\"connection\":1,\"base64\":\"?\"").contains("base64"));
        let back = "{\"at_ms\":2,\"connection\":1,\"text\":\"\"}\n\
                    {\"at_ms\":1,\"connection\":1,\"text\":\"\"}";
        assert!(Recording::parse(back).unwrap_err().starts_with("line 2: at_ms goes backwards"));
        assert!(Recording::parse("x").unwrap_err().starts_with("line 1:"));
    }
}
