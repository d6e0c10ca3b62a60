//! What a crowd of hub clients keeps over a storm: a ticket, and the place in its channel.
//!
//! Each client subscribes to a channel with history. When all are dropped, a herald, which is not,
//! publishes to every channel; who comes back resumes with its ticket, and must get what it missed,
//! in order and once. Where the herald's messages come by is the server's business: by recovery,
//! or live to who was back before them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::wire::{masked, opcode};

const MASK: [u8; 4] = [0x6B, 0x1D, 0xE4, 0x92];
/// Requests in one frame of the herald.
const BATCH: usize = 64;

/// What the clients of a run share.
#[derive(Debug)]
pub struct Channels {
    /// The offset of each channel's last message that the server has acknowledged.
    heads: Vec<AtomicU64>,
    /// Messages that are published to each while the crowd is away.
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

/// What clients found when they were back.
#[derive(Debug, Default, Clone)]
pub struct Returned {
    /// Resumed, and told that nothing is missing.
    pub recovered: u64,
    /// Resumed, and told that something is missing, or refused; the first words of a refusal.
    pub unrecovered: u64,
    pub refusal: Option<String>,
    /// Messages that came after the drop.
    pub messages: u64,
    /// Messages that never came, and those that came twice.
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

/// What was heard on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is not there yet.
    No,
    /// It has its subscription, for the first time or again.
    Here,
}

#[derive(Debug, Default, Clone)]
struct Client {
    ticket: Box<str>,
    epoch: Box<str>,
    /// Of the last message it has; the place of its subscription before.
    offset: u64,
    /// It has subscribed once.
    known: bool,
}

/// The clients of one worker.
pub struct Returning {
    channels: Arc<Channels>,
    /// Number of the first client.
    first: u32,
    clients: Vec<Client>,
    /// Slot of the herald, which the first worker has.
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

    /// The crowd is dropped: now there is something to miss.
    pub fn proclaim(&self, fleet: &mut Fleet) -> io::Result<()> {
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

    /// Takes a text; `dropped`: the storm has begun.
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

    /// What was found, with what had not come until now.
    pub fn finish(mut self) -> Returned {
        for slot in 0..self.clients.len() {
            let head = self.channels.heads[self.channel(slot as u32)].load(Ordering::Acquire);
            self.returned.lost += head.saturating_sub(self.clients[slot].offset);
        }
        self.returned
    }
}
