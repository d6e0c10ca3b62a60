//! Sends of bytes that were prepared once for many connections, and that may be long.

use std::io;
use std::sync::Arc;

use super::Fleet;
use crate::client::Outgoing;

/// Bytes of one send: the kernel copies them without a break, and nothing else runs on the core
/// meanwhile, the connections whose latency is measured included.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// How many of the bytes that are left go into the next send; the rest follows its completion.
pub(super) fn send_len(outgoing: &Outgoing, bytes: &[u8]) -> usize {
    match outgoing {
        Outgoing::Shared(_) => bytes.len().min(SEND_BYTES_MAX),
        _ => bytes.len(),
    }
}

impl Fleet {
    /// Sends prepared bytes on an open connection: masked frames, one or many.
    pub fn send_shared(&mut self, slot: u32, frames: Arc<[u8]>) -> io::Result<()> {
        self.slots[slot as usize].connection.send_shared(frames);
        self.flush(slot)
    }

    /// Whether something that was asked for is not yet with the kernel.
    pub fn is_sending(&self, slot: u32) -> bool {
        self.slots[slot as usize].outgoing.is_some()
    }

    /// Whether permessage-deflate was agreed.
    pub fn is_deflated(&self, slot: u32) -> bool {
        self.slots[slot as usize].connection.is_deflated()
    }
}
