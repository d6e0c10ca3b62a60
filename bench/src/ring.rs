//! One thread's ring: a thin wrapper around the `io-uring` crate for a load loop, which pushes
//! operations, waits once, and takes a batch of completions.
//!
//! Connections are in the ring's table of direct descriptors, which the limit of open files bounds
//! per ring and not per process; so several rings hold more connections than one process may open.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, squeue, types};

/// The kind of an operation; with slot and generation it makes the completion's user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Accept = 1,
    Connect,
    Receive,
    Send,
    Close,
    Poll,
}

impl Op {
    fn from_bits(bits: u8) -> Option<Self> {
        [Self::Accept, Self::Connect, Self::Receive, Self::Send, Self::Close, Self::Poll]
            .into_iter()
            .find(|op| *op as u8 == bits)
    }
}

/// User data of an operation: 8 bits of kind, 24 of generation, 32 of slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub op: Op,
    /// Only its low 24 bits are encoded: a slot would have to be reused 16 million times during one
    /// operation to be mistaken.
    pub generation: u32,
    pub slot: u32,
}

/// The bits of a generation that a token encodes.
pub const GENERATION_MASK: u32 = 0x00FF_FFFF;

impl Token {
    pub fn new(op: Op, generation: u32, slot: u32) -> Self {
        Self { op, generation: generation & GENERATION_MASK, slot }
    }

    pub fn encode(self) -> u64 {
        u64::from(self.op as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub fn decode(bits: u64) -> Option<Self> {
        let op = Op::from_bits((bits >> 56) as u8)?;
        Some(Self { op, generation: (bits >> 32) as u32 & GENERATION_MASK, slot: bits as u32 })
    }
}

/// A completion, copied out of the queue so that the loop may push while it reads.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    pub token: Token,
    /// Length, or a negated errno.
    pub result: i32,
    /// The provided buffer that holds the received bytes.
    pub buffer: Option<u16>,
    /// Whether a multishot operation stays armed.
    pub more: bool,
}

/// Sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub struct RingSizes {
    pub submissions: u32,
    pub completions: u32,
    /// Entries in the table of direct descriptors; at most the limit of open files.
    pub files: u32,
}

/// A ring owned by the thread that made it.
pub struct Ring {
    submitter: Submitter<'static>,
    submissions: SubmissionQueue<'static>,
    completions: CompletionQueue<'static>,
}

impl Ring {
    /// Sets up a single-issuer ring with deferred task work and a sparse file table.
    ///
    /// # Errors
    /// When the kernel refuses io_uring, the sizes, or the table; the text names the remedy.
    pub fn new(sizes: RingSizes) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(sizes.completions)
            .build(sizes.submissions)
            .map_err(|error| explain(&error, "set up an io_uring"))?;
        // The registered ring descriptor belongs to the `Submitter`, so the ring is split once and
        // kept; a thread makes one ring and keeps it until the process ends.
        let ring: &'static mut IoUring = Box::leak(Box::new(ring));
        let (mut submitter, submissions, completions) = ring.split();
        // Saves a little per call. A thread may register sixteen rings; the others do without.
        match submitter.register_ring_fd() {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => return Err(error),
            _ => {}
        }
        submitter
            .register_files_sparse(sizes.files)
            .map_err(|error| explain(&error, "register the table of direct descriptors"))?;
        Ok(Self { submitter, submissions, completions })
    }

    /// Puts `file` into the table at `slot`; the table holds its own reference, so the process's
    /// descriptor is closed on return.
    pub fn install(&self, slot: u32, file: OwnedFd) -> io::Result<()> {
        self.submitter.register_files_update(slot, &[file.as_raw_fd()])?;
        drop(file);
        Ok(())
    }

    /// Queues an operation, submitting first when the queue is full.
    ///
    /// # Safety
    /// Memory that the entry points to must stay valid and unmoved until its completion.
    ///
    /// # Errors
    /// When the kernel does not accept the queue.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's duty, passed on.
            if unsafe { self.submissions.push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Submits the queue without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        self.submissions.sync();
        let outcome = self.submitter.submit();
        self.submissions.sync();
        tolerate(outcome)
    }

    /// Submits the queue and waits for one completion, at most `limit`.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.submissions.sync();
        let outcome = match limit {
            None => self.submitter.submit_and_wait(1),
            Some(limit) => {
                let span = types::Timespec::from(limit);
                let args = types::SubmitArgs::new().timespec(&span);
                self.submitter.submit_with_args(1, &args)
            }
        };
        self.submissions.sync();
        tolerate(outcome)
    }

    /// Has the kernel write to `signal` when completions come, for a thread with several rings.
    pub fn watch(&self, signal: &impl AsRawFd) -> io::Result<()> {
        self.submitter.register_eventfd(signal.as_raw_fd())
    }

    /// Whether the kernel has completions for this ring, or this ring submissions for the kernel.
    pub fn has_work(&mut self) -> (bool, bool) {
        self.submissions.sync();
        self.completions.sync();
        let incoming = !self.completions.is_empty()
            || self.submissions.taskrun()
            || self.submissions.cq_overflow();
        (incoming, !self.submissions.is_empty())
    }

    /// Moves all available completions into `into`, which is cleared first.
    pub fn reap(&mut self, into: &mut Vec<Completion>) {
        into.clear();
        self.completions.sync();
        for entry in &mut self.completions {
            let Some(token) = Token::decode(entry.user_data()) else { continue };
            into.push(Completion {
                token,
                result: entry.result(),
                buffer: cqueue::buffer_select(entry.flags()),
                more: cqueue::more(entry.flags()),
            });
        }
        self.completions.sync();
    }

    /// Completions that the kernel had to store elsewhere; if there are any, the queue is too
    /// small.
    pub fn overflow_count(&self) -> u32 {
        self.completions.overflow()
    }

    pub(crate) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }
}

/// A wait that ends by its timeout, by a signal, or because completions must be taken first is not
/// an error.
fn tolerate(outcome: io::Result<usize>) -> io::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

fn explain(error: &io::Error, doing: &str) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => "io_uring is denied; see sysctl kernel.io_uring_disabled and seccomp",
        Some(libc::ENOSYS) => "this kernel has no io_uring; use 6.1 or newer",
        Some(libc::EINVAL) => "this kernel lacks a flag; use 6.1 or newer",
        Some(libc::ENOMEM) => "raise `ulimit -l` or use fewer threads",
        Some(libc::EMFILE) => "raise `ulimit -n` or hold fewer connections in each ring",
        _ => "no known remedy",
    };
    io::Error::new(error.kind(), format!("cannot {doing}: {error} ({remedy})"))
}

/// Sets `RECVSEND_POLL_FIRST` on a receive, for which the crate has no setter: without it a receive
/// that finds no buffer fails at once although the socket has no data either.
pub fn poll_first(entry: squeue::Entry) -> squeue::Entry {
    const POLL_FIRST: u8 = 1;
    const IOPRIO_OFFSET: usize = 2;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // The flag is in the low byte of `ioprio`, which on a big-endian machine is the second one.
    const LOW_BYTE: usize = if cfg!(target_endian = "big") { 1 } else { 0 };
    let mut entry = entry;
    // SAFETY: `Entry` is `#[repr(C)]` over the kernel's 64-byte `io_uring_sqe` (asserted above), in
    // which `ioprio` is the u16 at offset 2.
    unsafe {
        *(&raw mut entry).cast::<u8>().add(IOPRIO_OFFSET + LOW_BYTE) |= POLL_FIRST;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_encoding() {
        for op in [Op::Accept, Op::Connect, Op::Receive, Op::Send, Op::Close, Op::Poll] {
            for (generation, slot) in [(0, 0), (1, u32::MAX), (GENERATION_MASK, 7)] {
                let token = Token::new(op, generation, slot);
                assert_eq!(Token::decode(token.encode()), Some(token));
            }
        }
        assert_eq!(Token::decode(0), None);
    }

    #[test]
    fn a_generation_wraps_at_24_bits() {
        assert_eq!(Token::new(Op::Send, GENERATION_MASK + 2, 0).generation, 1);
    }

    #[test]
    fn a_wait_ends_by_its_limit() {
        let sizes = RingSizes { submissions: 4, completions: 8, files: 1 };
        let mut ring = Ring::new(sizes).unwrap();
        let start = std::time::Instant::now();
        ring.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        let mut reaped = Vec::new();
        ring.reap(&mut reaped);
        assert!(reaped.is_empty());
        assert_eq!(ring.overflow_count(), 0);
    }
}
