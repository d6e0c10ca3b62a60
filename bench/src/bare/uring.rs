//! The bare io_uring echo: multishot accept, multishot receive into provided buffers, and one send
//! per receive, directly from the receive buffer.
//!
//! One send is in flight per connection, because two might overtake each other; later input waits
//! in its buffer. A receive that found no buffer is armed again when a buffer of any connection is
//! returned.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};

use crate::buffers::{Buffers, GROUP};
use crate::ring::{Completion, Op, Ring, RingSizes, Token, poll_first};

/// Direct descriptors, thus connections.
const CONNECTIONS: u32 = 19_000;

/// Bytes received and not yet sent back.
struct Waiting {
    buffer: u16,
    start: usize,
    end: usize,
}

#[derive(Default)]
struct Connection {
    queue: VecDeque<Waiting>,
    sending: bool,
    receiving: bool,
    /// The peer has ended or failed: close once the kernel has no operation on it.
    ended: bool,
}

struct Echo {
    ring: Ring,
    buffers: Buffers,
    connections: Vec<Connection>,
    /// Connections whose receive found no buffer.
    starved: Vec<u32>,
    listener: TcpListener,
    /// Whether the accept is armed; a full table ends it until a connection closes.
    accepting: bool,
}

/// Serves until the process ends.
pub fn serve(listener: TcpListener, buffer_count: u16, buffer_size: usize) -> io::Result<()> {
    let sizes = RingSizes { submissions: 4096, completions: 32_768, files: CONNECTIONS };
    let ring = Ring::new(sizes)?;
    let buffers = Buffers::new(&ring, buffer_count, buffer_size)?;
    let connections = (0..CONNECTIONS).map(|_| Connection::default()).collect();
    let mut echo =
        Echo { ring, buffers, connections, starved: Vec::new(), listener, accepting: false };
    echo.accept()?;
    let mut reaped = Vec::new();
    loop {
        echo.ring.wait(None)?;
        echo.ring.reap(&mut reaped);
        for completion in &reaped {
            echo.complete(completion)?;
        }
    }
}

impl Echo {
    fn accept(&mut self) -> io::Result<()> {
        self.accepting = true;
        let entry = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd()))
            .allocate_file_index(true)
            .build()
            .user_data(Token::new(Op::Accept, 0, 0).encode());
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(&entry) }
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.connections[slot as usize].receiving = true;
        let entry = opcode::RecvMulti::new(types::Fixed(slot), GROUP).build();
        let entry = poll_first(entry).user_data(Token::new(Op::Receive, 0, slot).encode());
        // SAFETY: the entry points to no memory; the buffers live as long as the process.
        unsafe { self.ring.push(&entry) }
    }

    fn complete(&mut self, completion: &Completion) -> io::Result<()> {
        let slot = completion.token.slot;
        match completion.token.op {
            Op::Accept => self.accepted(completion),
            Op::Receive => self.received(slot, completion),
            Op::Send => self.sent(slot, completion.result),
            Op::Close if !self.accepting => self.accept(),
            Op::Close | Op::Connect | Op::Poll => Ok(()),
        }
    }

    fn accepted(&mut self, completion: &Completion) -> io::Result<()> {
        if completion.result >= 0 {
            let slot = completion.result as u32;
            self.connections[slot as usize] = Connection::default();
            self.receive(slot)?;
        }
        match completion.result {
            _ if completion.more => Ok(()),
            full if full == -libc::ENFILE => {
                self.accepting = false;
                Ok(())
            }
            _ => self.accept(),
        }
    }

    fn received(&mut self, slot: u32, completion: &Completion) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        if !completion.more {
            connection.receiving = false;
        }
        if let Some(buffer) = completion.buffer {
            let end = completion.result.max(0) as usize;
            if end == 0 {
                self.buffers.give_back(buffer);
            } else {
                connection.queue.push_back(Waiting { buffer, start: 0, end });
            }
            if !connection.sending {
                self.send(slot)?;
            }
        }
        let connection = &mut self.connections[slot as usize];
        match completion.result {
            bytes if bytes > 0 && !completion.more => self.receive(slot)?,
            bytes if bytes > 0 => {}
            starved if starved == -libc::ENOBUFS => self.starved.push(slot),
            _ => connection.ended = true,
        }
        self.close_when_idle(slot)
    }

    fn send(&mut self, slot: u32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        let Some(waiting) = connection.queue.front() else { return Ok(()) };
        connection.sending = true;
        // SAFETY: `start` is at most `end`, which the kernel gave as bytes in this buffer.
        let address = unsafe { self.buffers.address(waiting.buffer).add(waiting.start) };
        let len = (waiting.end - waiting.start) as u32;
        let entry = opcode::Send::new(types::Fixed(slot), address, len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(Token::new(Op::Send, 0, slot).encode());
        // SAFETY: the buffer is given back only when this send has completed.
        unsafe { self.ring.push(&entry) }
    }

    fn sent(&mut self, slot: u32, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        connection.sending = false;
        if result < 0 {
            connection.ended = true;
            for waiting in std::mem::take(&mut connection.queue) {
                self.buffers.give_back(waiting.buffer);
            }
        } else if let Some(front) = connection.queue.front_mut() {
            front.start += result as usize;
            if front.start == front.end {
                self.buffers.give_back(front.buffer);
                connection.queue.pop_front();
            }
        }
        self.send(slot)?;
        self.feed_starved()?;
        self.close_when_idle(slot)
    }

    fn feed_starved(&mut self) -> io::Result<()> {
        for slot in std::mem::take(&mut self.starved) {
            if !self.connections[slot as usize].receiving {
                self.receive(slot)?;
            }
        }
        Ok(())
    }

    fn close_when_idle(&mut self, slot: u32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        if !connection.ended || connection.sending {
            return Ok(());
        }
        if connection.receiving {
            // A failed send with a receive armed: the shutdown makes the receive end.
            let entry = opcode::Shutdown::new(types::Fixed(slot), libc::SHUT_RDWR)
                .build()
                .user_data(Token::new(Op::Close, 0, slot).encode());
            // SAFETY: the entry points to no memory.
            return unsafe { self.ring.push(&entry) };
        }
        connection.ended = false;
        let entry = opcode::Close::new(types::Fixed(slot))
            .build()
            .user_data(Token::new(Op::Close, 0, slot).encode());
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(&entry) }
    }
}
