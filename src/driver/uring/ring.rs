//! One ring, and its only system call.
//!
//! The crate forgets a registered ring descriptor with each new `Submitter`, so the ring is split
//! once, and its three parts live beside it.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Flags;
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, squeue};
use io_uring::{opcode, register::Restriction, types};

use super::{Features, UringOptions};
use crate::driver::Wait;

/// `IORING_REGISTER_ENABLE_RINGS` and `IORING_REGISTER_RING_FDS`, allowed after the restriction.
const REGISTER_AFTERWARDS: [u8; 3] = [12, 20, 21];
/// After at least this many completions, the kernel may have more: it runs at most twenty deferred
/// completions per call (`IO_LOCAL_TW_DEFAULT_MAX`).
pub(super) const REPORTED_AT_ONCE: u32 = 16;
const ENTER_NO_IOWAIT: u32 = EnterFlags::NO_IOWAIT.bits();

pub(super) struct Ring {
    /// The parts borrow from `ring`, which is dropped after them; see [`Drop`].
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions_queue: ManuallyDrop<SubmissionQueue<'static>>,
    completions_queue: ManuallyDrop<CompletionQueue<'static>>,
    ring: *mut IoUring,
    /// Completions that [`Ring::look_ahead`] has shown.
    seen: VecDeque<cqueue::Entry>,
    /// Entries that found no room in the queue.
    backlog: VecDeque<squeue::Entry>,
    no_iowait: u32,
    pub(super) enters: u64,
    pub(super) submissions: u64,
    pub(super) completions: u64,
}

impl Ring {
    /// Makes a disabled, restricted ring; nothing can be submitted before [`Ring::enable`].
    pub(super) fn new(entries: u32, completions: u32, features: Features) -> io::Result<Self> {
        let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
        builder
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(completions);
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        let ring = Box::into_raw(Box::new(builder.build(entries)?));
        // SAFETY: `ring` points into a box that lives until `Drop`, where the parts are dropped
        // first. The reference is the only one ever made.
        let (submitter, submissions_queue, completions_queue) = unsafe { (*ring).split() };
        Ok(Self {
            submitter: ManuallyDrop::new(submitter),
            submissions_queue: ManuallyDrop::new(submissions_queue),
            completions_queue: ManuallyDrop::new(completions_queue),
            ring,
            seen: VecDeque::new(),
            backlog: VecDeque::new(),
            no_iowait: if features.no_iowait { ENTER_NO_IOWAIT } else { 0 },
            enters: 0,
            submissions: 0,
            completions: 0,
        })
    }

    /// Restricts the ring to the engine's operations and enables it; the calling thread becomes its
    /// single issuer.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.submitter.register_restrictions(&mut allowed_operations())?;
        self.submitter.register_enable_rings()?;
        self.submitter.register_ring_fd()
    }

    pub(super) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    pub(super) fn descriptor(&self) -> RawFd {
        // SAFETY: the box is alive, and reading the descriptor does not disturb the parts.
        unsafe { (*self.ring).as_raw_fd() }
    }

    pub(super) fn entries(&self) -> u32 {
        self.submissions_queue.capacity() as u32
    }

    pub(super) fn overflows(&self) -> u64 {
        u64::from(self.completions_queue.overflow())
    }

    /// Queues an entry; submits a full queue first. Entries that the kernel still does not take (it
    /// may be short of memory) wait here for a later turn.
    pub(super) fn push(&mut self, entry: &squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(entry) {
            return;
        }
        self.submissions_queue.sync();
        // The turn's own `enter` meets and reports the same error.
        let _ = self.call_enter(0, 0, None);
        self.submissions_queue.sync();
        self.push_backlog();
        if !(self.backlog.is_empty() && self.try_push(entry)) {
            self.backlog.push_back(entry.clone());
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries are made by `operations`, and point to memory that the driver keeps until
        // their completion.
        unsafe { self.submissions_queue.push(entry) }.is_ok()
    }

    /// Queues waiting entries in order, as far as there is room.
    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits the queue, and waits as requested.
    pub(super) fn enter(
        &mut self,
        wait: Wait,
        now_ns: u64,
        options: &UringOptions,
    ) -> io::Result<()> {
        self.push_backlog();
        self.submissions_queue.sync();
        self.completions_queue.sync();
        let is_ready = !self.seen.is_empty() || !self.completions_queue.is_empty();
        let busy = is_ready || !self.backlog.is_empty();
        let wait = if busy { Wait::No } else { wait };
        let timeout = match wait {
            Wait::No => return self.enter_quietly(0, None),
            Wait::Forever => None,
            Wait::Until(deadline) => Some(deadline.saturating_sub(now_ns)),
        };
        let mut args = types::SubmitArgs::new();
        let mut want = 1;
        if options.min_wait_us > 0 && options.features.min_wait {
            args = args.min_wait_usec(options.min_wait_us);
            want = options.min_wait_completions.max(1);
        }
        let timespec;
        if let Some(ns) = timeout {
            timespec =
                types::Timespec::new().sec(ns / 1_000_000_000).nsec((ns % 1_000_000_000) as u32);
            args = args.timespec(&timespec);
        }
        self.enter_quietly(want, Some(&args))
    }

    /// Calls `io_uring_enter`; conditions that a later call resolves are not errors.
    fn enter_quietly(
        &mut self,
        want: u32,
        args: Option<&types::SubmitArgs<'_, '_>>,
    ) -> io::Result<()> {
        let result = self.call_enter(want, EnterFlags::GETEVENTS.bits(), args);
        self.submissions_queue.sync();
        self.completions_queue.sync();
        match result {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The deadline passed; a signal arrived; completions must be taken first; memory is
                // short. Entries that were not submitted stay queued.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn call_enter(
        &mut self,
        want: u32,
        flags: u32,
        args: Option<&types::SubmitArgs<'_, '_>>,
    ) -> io::Result<()> {
        let queued = self.submissions_queue.len() as u32;
        self.enters += 1;
        let flags = flags | if want > 0 { self.no_iowait } else { 0 };
        // SAFETY: the arguments, where given, live across the call and are of the type that
        // EXT_ARG announces.
        let submitted = unsafe {
            match args {
                Some(args) => self.submitter.enter(
                    queued,
                    want,
                    flags | EnterFlags::EXT_ARG.bits(),
                    Some(args),
                ),
                None => self.submitter.enter::<libc::sigset_t>(queued, want, flags, None),
            }
        }?;
        self.submissions += submitted as u64;
        Ok(())
    }

    /// Takes the next completion.
    pub(super) fn reap_completion(&mut self) -> Option<cqueue::Entry> {
        let entry = self.seen.pop_front().or_else(|| self.completions_queue.next())?;
        self.completions += 1;
        Some(entry)
    }

    /// Whether the kernel has taken everything that was queued, and all completions that this has
    /// led to at once are in the queue.
    pub(super) fn has_submitted_all(&self) -> bool {
        let is_submitted = self.backlog.is_empty() && self.submissions_queue.is_empty();
        is_submitted && !self.submissions_queue.cq_overflow()
    }

    /// Shows the completions that are ready, before they are taken.
    pub(super) fn look_ahead(&mut self, mut see: impl FnMut(&cqueue::Entry)) {
        for entry in &mut *self.completions_queue {
            see(&entry);
            self.seen.push_back(entry);
        }
    }

    /// Gives back memory that a burst needed.
    pub(super) fn trim(&mut self) {
        self.seen.shrink_to(64);
    }

    /// Whether no completion is ready.
    pub(super) fn is_drained(&mut self) -> bool {
        self.completions_queue.sync();
        self.seen.is_empty() && self.completions_queue.is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: each part is dropped once, before the ring that it borrows from, and is not used
        // afterwards.
        unsafe {
            ManuallyDrop::drop(&mut self.completions_queue);
            ManuallyDrop::drop(&mut self.submissions_queue);
            ManuallyDrop::drop(&mut self.submitter);
            drop(Box::from_raw(self.ring));
        }
    }
}

/// All operations that the engine may submit.
fn allowed_operations() -> Vec<Restriction> {
    let operations = [
        opcode::Accept::CODE,
        opcode::RecvMulti::CODE,
        opcode::PollAdd::CODE,
        opcode::Send::CODE,
        opcode::SendMsg::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
        opcode::Shutdown::CODE,
        opcode::MsgRingData::CODE,
        opcode::Read::CODE,
        opcode::FixedFdInstall::CODE,
        opcode::FilesUpdate::CODE,
    ];
    let flags = Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    operations
        .into_iter()
        .map(Restriction::sqe_op)
        .chain(REGISTER_AFTERWARDS.into_iter().map(Restriction::register_op))
        .chain([Restriction::sqe_flags_allowed(flags.bits())])
        .collect()
}
