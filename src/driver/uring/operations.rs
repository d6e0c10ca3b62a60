//! Submission entries: one function per operation, with flags that the io-uring crate lacks.
//!
//! The caller of a function with an address keeps that memory alive until the operation's final
//! completion.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::probe::SEND_VECTORIZED;
use crate::driver::token::Op;
use crate::driver::{Batch, Completion, Socket, TcpInfo, Token};

/// `IORING_RECVSEND_POLL_FIRST`: poll before the first attempt.
const POLL_FIRST: u8 = 1;
/// Offset of `ioprio` in a submission entry (`struct io_uring_sqe`).
const IOPRIO_OFFSET: usize = 2;

const _: () = assert!(size_of::<Entry>() == 64, "the entry is the kernel's own structure");

/// Converts a result into a length or an errno.
pub(super) fn to_result(result: i32) -> Result<usize, i32> {
    if result < 0 { Err(-result) } else { Ok(result as usize) }
}

fn fixed(socket: Socket) -> types::Fixed {
    types::Fixed(socket.0)
}

pub(super) fn accept(
    listener: RawFd,
    address: &mut libc::sockaddr_storage,
    len: &mut libc::socklen_t,
    user_data: u64,
) -> Entry {
    opcode::Accept::new(types::Fd(listener), (&raw mut *address).cast(), len)
        .file_index(Some(types::DestinationSlot::auto_target()))
        .build()
        .user_data(user_data)
}

/// Makes a receive poll before its first attempt: otherwise an empty buffer ring would fail it at
/// once, even if the socket has no data.
pub(super) fn poll_first(mut entry: Entry) -> Entry {
    // SAFETY: the entry is the 64-byte structure of the kernel, in which `ioprio` is the half-word
    // at offset 2, low byte first.
    unsafe { *(&raw mut entry).cast::<u8>().add(IOPRIO_OFFSET) |= POLL_FIRST };
    entry
}

/// A receive that stays armed (multishot).
pub(super) fn receive(socket: Socket, group: u16, user_data: u64) -> Entry {
    poll_first(opcode::RecvMulti::new(fixed(socket), group).build().user_data(user_data))
}

/// A receive of available bytes into one buffer. Waits if there are none.
pub(super) fn receive_once(socket: Socket, group: u16, bytes: u32, user_data: u64) -> Entry {
    opcode::Recv::new(fixed(socket), std::ptr::null_mut(), bytes)
        .buf_group(group)
        .build()
        .flags(Flags::BUFFER_SELECT)
        .user_data(user_data)
}

/// A poll that completes when the socket has input.
pub(super) fn watch(socket: Socket, user_data: u64) -> Entry {
    opcode::PollAdd::new(fixed(socket), (libc::POLLIN | libc::POLLRDHUP) as u32)
        .build()
        .user_data(user_data)
}

/// One send of the rest of the batch.
///
/// Without `MSG_WAITALL`, unless it is quiet: short sends show that a slow reader makes progress.
pub(super) fn send(socket: Socket, batch: &mut Batch, vectorized: bool, user_data: u64) -> Entry {
    let (flags, entry_flags) = if batch.is_quiet {
        (libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT, Flags::SKIP_SUCCESS)
    } else {
        (libc::MSG_NOSIGNAL, Flags::empty())
    };
    if batch.segment_count() == 1 {
        let bytes = batch.offered_slices().next().expect("there is one segment");
        return opcode::Send::new(fixed(socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(flags)
            .build()
            .flags(entry_flags)
            .user_data(user_data);
    }
    let mut vectors = std::mem::take(&mut batch.vectors);
    vectors.clear();
    let vector = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // The length of all slices is known, so that they need no check of capacity each.
    if batch.offers_all() {
        vectors.extend(batch.slices().map(vector));
    } else {
        vectors.extend(batch.offered_slices().map(vector));
    }
    batch.vectors = vectors;
    if vectorized {
        let count = batch.vectors.len() as u32;
        return opcode::Send::new(fixed(socket), batch.vectors.as_ptr().cast(), count)
            .ioprio(SEND_VECTORIZED)
            .flags(flags)
            .build()
            .flags(entry_flags)
            .user_data(user_data);
    }
    let header = batch.header.get_or_insert_with(|| {
        // SAFETY: all-zero is a valid message header: no name, no vectors, no control data.
        Box::new(unsafe { std::mem::zeroed() })
    });
    header.msg_iov = batch.vectors.as_mut_ptr();
    header.msg_iovlen = batch.vectors.len() as _;
    opcode::SendMsg::new(fixed(socket), &raw const **header)
        .flags(flags as u32)
        .build()
        .flags(entry_flags)
        .user_data(user_data)
}

/// A send that takes as much as there is room for: it never waits, so its memory is returned soon.
pub(super) fn send_now(socket: Socket, address: *const u8, len: usize, user_data: u64) -> Entry {
    opcode::Send::new(fixed(socket), address, len as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        .build()
        .user_data(user_data)
}

pub(super) fn cancel_one(target: u64, user_data: u64) -> Entry {
    opcode::AsyncCancel::new(target).build().user_data(user_data)
}

pub(super) fn cancel_listener(listener: RawFd, user_data: u64) -> Entry {
    opcode::AsyncCancel2::new(types::CancelBuilder::fd(types::Fd(listener)).all())
        .build()
        .user_data(user_data)
}

pub(super) fn shutdown(socket: Socket, user_data: u64) -> Entry {
    opcode::Shutdown::new(fixed(socket), libc::SHUT_WR).build().user_data(user_data)
}

pub(super) fn close(socket: Socket, user_data: u64) -> Entry {
    opcode::Close::new(fixed(socket)).build().user_data(user_data)
}

pub(super) fn read_event(event: RawFd, count: &mut u64) -> Entry {
    opcode::Read::new(types::Fd(event), (&raw mut *count).cast(), 8)
        .build()
        .user_data(Op::Bell.pack(0))
}

/// A success is silent; a failure completes as an operation of its own kind, with the shard.
pub(super) fn doorbell(ring: RawFd, shard: u16) -> Entry {
    opcode::MsgRingData::new(types::Fd(ring), 0, Op::Doorbell.pack(0), None)
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(Op::DoorbellSent.pack(shard.into()))
}

pub(super) fn pass(ring: RawFd, socket: Socket, arrives_as: u64, user_data: u64) -> Entry {
    opcode::MsgRingSendFd::new(
        types::Fd(ring),
        fixed(socket),
        types::DestinationSlot::auto_target(),
        arrives_as,
    )
    .build()
    .user_data(user_data)
}

pub(super) fn install_descriptor(socket: Socket, user_data: u64) -> Entry {
    opcode::FixedFdInstall::new(fixed(socket), 0).build().user_data(user_data)
}

/// Reads TCP statistics from the descriptor that [`install_descriptor`] made, and closes it.
pub(super) fn complete_measure(token: Token, result: i32) -> Completion {
    let result = to_result(result).and_then(|descriptor| {
        // SAFETY: the kernel has just installed this descriptor for us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) };
        TcpInfo::read(descriptor.as_fd())
    });
    Completion::Measured { token, result }
}

/// Descriptors that become sockets, and the memory in which the kernel writes their places.
pub(super) struct Adoption {
    token: Token,
    numbers: Box<[RawFd]>,
    /// Closed once the ring holds its own references, or has rejected them.
    _descriptors: Vec<OwnedFd>,
}

impl Adoption {
    pub(super) fn new(descriptors: Vec<OwnedFd>, token: Token) -> Self {
        let numbers = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        Self { token, numbers, _descriptors: descriptors }
    }

    pub(super) fn numbers(&mut self) -> &mut [RawFd] {
        &mut self.numbers
    }

    /// `result`: how many were taken, or an errno if none was.
    pub(super) fn complete(self, result: i32) -> Completion {
        let taken = usize::try_from(result).unwrap_or(0);
        let failure = match result {
            errno if errno < 0 => Some(-errno),
            // The kernel reports why it stopped only if it took none; the table was full.
            _ if taken < self.numbers.len() => Some(libc::ENFILE),
            _ => None,
        };
        let sockets = self.numbers.iter().take(taken).map(|place| Socket(*place as u32)).collect();
        Completion::Adopted { token: self.token, sockets, failure }
    }
}

/// `numbers` must stay in place until the operation has completed.
pub(super) fn adopt(numbers: &mut [RawFd], user_data: u64) -> Entry {
    // IORING_FILE_INDEX_ALLOC: the kernel chooses free places and writes them over the descriptors.
    let count = numbers.len() as u32;
    opcode::FilesUpdate::new(numbers.as_mut_ptr(), count).offset(-1).build().user_data(user_data)
}
