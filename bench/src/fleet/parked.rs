//! Connections that wait with a poll, like a server's parked ones: a poll takes a third of the
//! kernel memory of a receive. Each time it fires, one receive follows, and then another poll.

use std::io;

use io_uring::{opcode, squeue, types};

use super::Fleet;
use crate::buffers::GROUP;
use crate::client::Stage;
use crate::ring::Op;

impl Fleet {
    /// Waits for something to receive.
    pub(super) fn park(&mut self, slot: u32) -> io::Result<()> {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        self.push(slot, Op::Poll, opcode::PollAdd::new(types::Fixed(slot), events).build())
    }

    /// Receives the available bytes; if the poll failed, the receive reports the same error.
    pub(super) fn unpark(&mut self, slot: u32, result: i32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.connection.stage >= Stage::Ending || result == -libc::ECANCELED {
            state.receiving = false;
            return Ok(());
        }
        let entry = opcode::Recv::new(types::Fixed(slot), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(slot, Op::Receive, entry)
    }
}
