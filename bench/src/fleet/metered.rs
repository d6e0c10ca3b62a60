//! Connections from which only as many bytes are read as a load requests.

use std::io;

use io_uring::{opcode, squeue, types};

use super::Fleet;
use crate::buffers::GROUP;
use crate::client::Stage;
use crate::ring::{Op, poll_first};

impl Fleet {
    /// Stops reading from a connection, until [`Fleet::read_at_most`] or [`Fleet::resume`].
    pub fn meter(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        state.metered = true;
        if state.receiving { self.cancel(slot, Op::Receive) } else { Ok(()) }
    }

    /// Reads once from a metered connection, at most `bytes`.
    pub fn read_at_most(&mut self, slot: u32, bytes: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.receiving || !matches!(state.connection.stage, Stage::Open) {
            return Ok(());
        }
        state.receiving = true;
        let len = bytes.min(self.plan.buffer_size as u32);
        let entry = opcode::Recv::new(types::Fixed(slot), std::ptr::null_mut(), len)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(slot, Op::Receive, poll_first(entry))
    }

    /// Whether the server has ended a metered connection whose last bytes are unread.
    pub fn is_cut(&self, slot: u32) -> bool {
        let state = &self.slots[slot as usize];
        state.cut && state.metered
    }

    /// Makes a metered connection an ordinary one again.
    pub fn resume(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        let was = std::mem::take(&mut state.metered);
        let alive = (Stage::Upgrading..Stage::Ending).contains(&state.connection.stage);
        if was && alive && !state.receiving { self.receive(slot) } else { Ok(()) }
    }
}
