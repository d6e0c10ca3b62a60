//! Sends of long byte sequences that were prepared once for many connections.

use std::io;
use std::sync::Arc;

use super::Fleet;
use crate::client::Outgoing;

/// Bytes of one send: the kernel copies them in one go, during which the core runs nothing else,
/// not even the measured connections.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Length of the next send; the rest follows its completion.
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

    /// Whether requested bytes are not yet with the kernel.
    pub fn is_sending(&self, slot: u32) -> bool {
        self.slots[slot as usize].outgoing.is_some()
    }

    /// Whether permessage-deflate was agreed.
    pub fn is_deflated(&self, slot: u32) -> bool {
        self.slots[slot as usize].connection.is_deflated()
    }
}
