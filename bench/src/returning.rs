//! State that hub clients keep over a storm: a ticket, and the position in their channel.
//!
//! Each client subscribes to a channel with history. When all are dropped, a herald, which is not
//! dropped, publishes to every channel; a client that reconnects resumes with its ticket, and must
//! receive the missed messages, in order and once. The server may deliver the herald's messages by
//! recovery, or live to clients that are back already.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::wire::{masked, opcode};

const MASK: [u8; 4] = [0x6B, 0x1D, 0xE4, 0x92];
/// Requests in one frame of the herald.
const BATCH: usize = 64;

/// State shared by the clients of a run.
#[derive(Debug)]
pub struct Channels {
    /// The offset of each channel's last message that the server acknowledged.
    heads: Vec<AtomicU64>,
    /// Messages published to each channel while the clients are disconnected.
    missed: u32,
}

impl Channels {
    pub fn new(count: u32, missed: u32) -> Arc<Self> {
        Arc::new(Self { heads: (0..count).map(|_| AtomicU64::new(0)).collect(), missed })
    }

    fn name(index: usize) -> String {
        format!("storm:{index}")
    }
}

/// What clients found after reconnecting.
#[derive(Debug, Default, Clone)]
pub struct Returned {
    /// Resumed, with all messages recovered.
    pub recovered: u64,
    /// Resumed with messages missing, or refused; the reason of the first refusal.
    pub unrecovered: u64,
    pub refusal: Option<String>,
    /// Messages received after the drop.
    pub messages: u64,
    /// Messages never received, and those received twice.
    pub lost: u64,
    pub doubled: u64,
}

impl Returned {
    pub fn add(&mut self, other: Self) {
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.refusal = self.refusal.take().or(other.refusal);
        self.messages += other.messages;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }
}

/// What was received on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The connection is not ready.
    No,
    /// It has its subscription, new or resumed.
    Here,
}

#[derive(Debug, Default, Clone)]
struct Client {
    ticket: Box<str>,
    epoch: Box<str>,
    /// Offset of its last message; before that, the position of its subscription.
    offset: u64,
    /// Whether it has subscribed once.
    known: bool,
}

/// The clients of one worker.
pub struct Returning {
    channels: Arc<Channels>,
    /// Number of the first client.
    first: u32,
    clients: Vec<Client>,
    /// Slot of the herald, in the first worker.
    herald: Option<u32>,
    returned: Returned,
}

fn frame(text: &str) -> Box<[u8]> {
    masked(0x80 | opcode::TEXT, MASK, text.as_bytes()).into()
}

impl Returning {
    pub fn new(channels: Arc<Channels>, first: u32, slots: u32, herald: bool) -> Self {
        let clients = vec![Client::default(); slots as usize];
        let herald = herald.then_some(slots);
        Self { channels, first, clients, herald, returned: Returned::default() }
    }

    pub fn herald(&self) -> Option<u32> {
        self.herald
    }

    fn channel(&self, slot: u32) -> usize {
        (self.first + slot) as usize % self.channels.heads.len()
    }

    /// Publishes the messages that the dropped clients miss.
    pub fn publish_missed(&self, fleet: &mut Fleet) -> io::Result<()> {
        let Some(slot) = self.herald else { return Ok(()) };
        let each = |channel: usize| {
            let name = Channels::name(channel);
            (0..self.channels.missed).map(move |number| {
                json!({"type": "publish", "channel": name, "content": number}).to_string()
            })
        };
        let all: Vec<String> = (0..self.channels.heads.len()).flat_map(each).collect();
        for batch in all.chunks(BATCH) {
            fleet.send_frame(slot, frame(&batch.join("\n")))?;
        }
        Ok(())
    }

    /// Handles a text; `dropped`: the storm has begun.
    pub fn heard(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        text: &[u8],
        dropped: bool,
    ) -> io::Result<Arrival> {
        let mut arrival = Arrival::No;
        for said in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
            let said = said.unwrap_or_default();
            if Some(slot) == self.herald {
                arrival = self.herald_heard(&said);
            } else if self.client_heard(fleet, slot, &said, dropped)? == Arrival::Here {
                arrival = Arrival::Here;
            }
        }
        Ok(arrival)
    }

    fn herald_heard(&self, said: &Value) -> Arrival {
        if said["type"] == "welcome" {
            return Arrival::Here;
        }
        let channel = said["channel"].as_str().and_then(|name| name.strip_prefix("storm:"));
        let channel = channel.and_then(|index| index.parse::<usize>().ok());
        let head = channel.and_then(|index| self.channels.heads.get(index));
        if let (Some(head), Some(offset)) = (head, said["offset"].as_u64()) {
            head.fetch_max(offset, Ordering::AcqRel);
        }
        Arrival::No
    }

    fn client_heard(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        said: &Value,
        dropped: bool,
    ) -> io::Result<Arrival> {
        let name = Channels::name(self.channel(slot));
        let client = &mut self.clients[slot as usize];
        let text = |key: &str| said[key].as_str().unwrap_or_default().into();
        match said["type"].as_str().unwrap_or_default() {
            "welcome" if client.known => {
                let place = json!({"epoch": client.epoch, "offset": client.offset});
                let request = json!({"type": "resume", "ticket": client.ticket,
                                     "positions": {name: place}});
                fleet.send_frame(slot, frame(&request.to_string()))?;
            }
            "welcome" => {
                client.ticket = text("ticket");
                let request = json!({"type": "subscribe", "channel": name});
                fleet.send_frame(slot, frame(&request.to_string()))?;
            }
            "subscribed" => {
                client.epoch = text("epoch");
                client.offset = said["offset"].as_u64().unwrap_or(0);
                client.known = true;
                return Ok(Arrival::Here);
            }
            "resumed" => {
                client.ticket = text("ticket");
                if said["channels"][&name]["recovered"] == true {
                    self.returned.recovered += 1;
                } else {
                    self.unrecovered(said);
                }
                return Ok(Arrival::Here);
            }
            "error" => {
                self.unrecovered(said);
                return Ok(Arrival::Here);
            }
            "message" if dropped => self.message(slot, said["offset"].as_u64().unwrap_or(0)),
            _ => {}
        }
        Ok(Arrival::No)
    }

    fn unrecovered(&mut self, said: &Value) {
        self.returned.unrecovered += 1;
        self.returned.refusal.get_or_insert_with(|| said.to_string());
    }

    fn message(&mut self, slot: u32, offset: u64) {
        let last = &mut self.clients[slot as usize].offset;
        self.returned.messages += 1;
        if offset <= *last {
            self.returned.doubled += 1;
            return;
        }
        self.returned.lost += offset - *last - 1;
        *last = offset;
    }

    /// Returns the results, with the messages that did not arrive.
    pub fn finish(mut self) -> Returned {
        for slot in 0..self.clients.len() {
            let head = self.channels.heads[self.channel(slot as u32)].load(Ordering::Acquire);
            self.returned.lost += head.saturating_sub(self.clients[slot].offset);
        }
        self.returned
    }
}
