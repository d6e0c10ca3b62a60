//! The batches in flight, and sends whose success makes no completion.
//!
//! A lone message cost two system calls: one that sent the reply and returned at once with its
//! completion, and one that waited for more. A *quiet* send takes what there is room for without
//! waiting, and completes only if that was less than all (`IOSQE_CQE_SKIP_SUCCESS`, `MSG_WAITALL`,
//! `MSG_DONTWAIT`). The kernel has finished it, one way or the other, when the call that submits it
//! returns; a failure is among the completions by then, and without one it has succeeded.
//!
//! Tried and rejected: reporting successes behind the completions that are ready. In turns that end
//! before that they were never reported, and their connections could not send.

use crate::driver::{Batch, Socket};

/// See the module.
#[derive(Debug)]
pub(super) struct Sends {
    /// By socket. Room is reserved for all, and becomes resident as sockets are used.
    batches: Vec<Option<Box<Batch>>>,
    /// The serial number of the last quiet send.
    serial: u32,
    /// Quiet sends that wait to be submitted: socket and serial number.
    queued: Vec<(u32, u32)>,
}

impl Sends {
    pub(super) fn new(sockets_max: usize) -> Self {
        Self { batches: Vec::with_capacity(sockets_max), serial: 0, queued: Vec::new() }
    }

    /// Holds the batch of a send that is about to be queued.
    pub(super) fn begin_send(&mut self, socket: Socket, mut batch: Box<Batch>) -> &mut Batch {
        let index = socket.0 as usize;
        if self.batches.len() <= index {
            self.batches.resize_with(index + 1, || None);
        }
        batch.left_ns = None;
        batch.serial = 0;
        if batch.is_quiet {
            // Zero is the serial number of sends that are not quiet.
            self.serial = self.serial.wrapping_add(1).max(1);
            batch.serial = self.serial;
            self.queued.push((socket.0, self.serial));
        }
        let place = &mut self.batches[index];
        assert!(place.is_none(), "at most one send is in flight on a socket");
        place.insert(batch)
    }

    /// Whether a send is in flight on the socket.
    pub(super) fn has_send(&self, socket: Socket) -> bool {
        self.batches.get(socket.0 as usize).is_some_and(Option::is_some)
    }

    /// Whether quiet sends wait to be submitted.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Notes that the send on a socket has a completion: it is not one that succeeds quietly.
    pub(super) fn note_completion(&mut self, socket: u32) {
        if let Some(batch) = &mut self.batches[socket as usize] {
            batch.serial = 0;
        }
    }

    /// Takes out the quiet sends that have succeeded, once all were submitted at `now_ns` and their
    /// failures noted.
    pub(super) fn conclude_quiet(&mut self, now_ns: u64, mut succeeded: impl FnMut(Box<Batch>)) {
        for (socket, serial) in self.queued.drain(..) {
            let place = &mut self.batches[socket as usize];
            if let Some(mut batch) = place.take_if(|batch| batch.serial == serial) {
                batch.left_ns = Some(now_ns);
                succeeded(batch);
            }
        }
    }

    /// A send has completed; `None`: there was none.
    pub(super) fn complete_send(&mut self, socket: u32) -> Option<Box<Batch>> {
        self.batches[socket as usize].take()
    }

    /// Leaks what the kernel may still read.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.batches));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(sends: &mut Sends, socket: u32, is_quiet: bool) {
        let mut batch = Box::<Batch>::default();
        batch.is_quiet = is_quiet;
        sends.begin_send(Socket(socket), batch);
    }

    /// What has succeeded quietly: when it left.
    fn conclude(sends: &mut Sends, now_ns: u64) -> Vec<Option<u64>> {
        let mut left = Vec::new();
        sends.conclude_quiet(now_ns, |batch| left.push(batch.left_ns()));
        left
    }

    #[test]
    fn quiet_sends_succeed_once_they_are_submitted_unless_they_have_failed() {
        let mut sends = Sends::new(4);
        for socket in 0..3 {
            begin(&mut sends, socket, true);
        }
        begin(&mut sends, 3, false);
        assert!(sends.has_queued());
        sends.note_completion(1);
        assert_eq!(conclude(&mut sends, 7), [Some(7), Some(7)]);
        assert!(!sends.has_queued() && !sends.has_send(Socket(0)) && !sends.has_send(Socket(2)));
        assert!(sends.has_send(Socket(1)) && sends.has_send(Socket(3)), "these have completions");
        assert_eq!(sends.complete_send(1).unwrap().left_ns(), None);
    }

    #[test]
    fn a_send_completes_once() {
        let mut sends = Sends::new(1);
        begin(&mut sends, 0, true);
        sends.note_completion(0);
        assert!(conclude(&mut sends, 1).is_empty());
        assert!(sends.complete_send(0).is_some() && sends.complete_send(0).is_none());
        begin(&mut sends, 0, true);
        assert_eq!(conclude(&mut sends, 2), [Some(2)]);
    }
}
