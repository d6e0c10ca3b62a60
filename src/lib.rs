//! Seawall: a WebSocket edge server for Linux. One binary, one event loop per core, on `io_uring`
//! or epoll.
//!
//! This text is the project's architecture. It follows a byte through the server, names what must
//! always hold, and says where things are.
//!
//! # The shape
//!
//! - A **shard** is a thread pinned to a core, with a ring, a listening socket, receive buffers
//!   and connections of its own. Shards share nothing on the way of a message. There may be more
//!   shards than cores: each ring has its own table of connections.
//! - The **control thread** answers operators, hears signals, and talks to shards by mail. It runs
//!   on `tokio-uring`, which is good at files and hosts the tokio libraries, and which may not own
//!   a client's socket: it has no multishot, no provided buffers and no cancellation (six system
//!   calls an echo against one, 4.7 KB of memory an idle connection against none). Where the
//!   kernel refuses rings it runs on tokio alone, and a thread writes its file
//!   (`control/runtime.rs`).
//!   The control thread keeps the numbers as well: a shard records into counters and histograms of
//!   its own, and for a reading is given empty histograms in exchange for those it has filled.
//! - The **protocol** is a pure state machine: bytes and a configuration in, events and bytes out.
//!   It never sees a descriptor, a clock or a thread.
//! - The **driver** moves bytes and knows no protocol. The missing edge between the two is the
//!   architecture; `tests/tidy` checks which room may import which. The engine that makes the
//!   drivers ([`driver::DriverFactory`]) is chosen once, in `server/engine.rs`: rings, or epoll
//!   where rings are refused. Shards are compiled for both, and the banner, `/v1/node`, metrics and
//!   the sandbox's list of system calls read what the chosen one says of itself. What follows is
//!   about rings; [`driver::epoll`] says how their completions are made from readiness.
//!
//! # The journey of a byte
//!
//! 1. By default sixteen one-shot accepts are armed on each shard's `SO_REUSEPORT` listener, each
//!    with storage for its own peer's address (a multishot accept has one storage for all, and its
//!    second connection overwrites the first one's address). A completion gives a socket: a direct
//!    descriptor, known to its ring only. The shard gives it a [slot](shard) and a generation, or
//!    hands it to a less loaded shard, before a byte is read.
//! 2. A request is received by itself; a connection that talks has one multishot receive armed.
//!    Bytes land in a buffer that the ring lends from a small, warm set; an idle connection holds
//!    none. The completion carries operation, slot and generation: with another generation, the
//!    buffer goes back, and that is all. A connection that has not said anything yet, or has been
//!    quiet for long, is *parked*: a poll, with a third of the kernel's memory, stands in for its
//!    receive, and one receive follows when it fires. Whatever is armed sees what came before it,
//!    so no change between the two loses a byte. Connections that fill whole buffers are received
//!    from in turn, one buffer each (`connections/bulk.rs`), and large messages a few at a time
//!    (`connections/rotation.rs`).
//!    On a listener with TLS, records are opened where they lie before a stage sees them, and what
//!    is queued is sealed as its send is built (`connections/transport.rs`, [`tls`]).
//! 3. The slot's stage says what bytes mean: a PROXY header, a request ([`proto::http`]), frames
//!    ([`proto::ws`]), or nothing any more. What follows a stage's end in the same bytes is passed
//!    on. A message that lies whole in the buffer is unmasked there and lent to the session (those
//!    of the echo are answered at once, `connections/plain_echo.rs`); only one that spans buffers
//!    is put together, in memory that grows with the bytes received, not with the length claimed.
//!    The buffer goes back in the same turn, unless it becomes the reply itself: an uncompressed
//!    echo that is long enough leaves from where it came in (`engine.reply_in_place_bytes_min`). A
//!    compressed message is inflated as it comes, with codecs of the shard's
//!    ([`proto::ws::deflate`]); a connection owns some only where its route says so.
//!    Before the upgrade, [`admission`] counts the client in by node, address and route, and checks
//!    its user, which is counted as its session opens: in tables of atomic words that all shards
//!    share. A client over a limit is rejected with a
//!    status and `Retry-After`, unless connections to be rejected already take an eighth of a
//!    shard's slots, or 4,096. Each message is taken out of the budgets of its connection and
//!    user, if there are any.
//!    A connection may use a quarter of a turn's effort before the others (`connections/work.rs`).
//!    What exceeds it is held, and continued behind them (`connections/backpressure.rs`): one
//!    message is inflated, compressed and cut into requests over as many turns as it takes.
//! 4. The upgrade consumes the HTTP stage. After the 101 no encoder, deadline or error page of
//!    HTTP is reachable for that connection: what can be refused is refused before, with a status;
//!    after it, with a close code. A decision is data, encoded afterwards
//!    ([`proto::http::Decision`]); one that is made outside the shards is awaited in a stage of its
//!    own (`shard/connections/asking.rs`).
//! 5. The [`session`] decides what a message means, and queues its answer in the slot's outbox,
//!    which exists only while it is not empty. What is compressed by itself is so now; what depends
//!    on the messages before it, when its send is built.
//! 6. At the end of the turn every outbox with no send in flight becomes one send, whatever the
//!    number of frames, and all of it leaves with the one `io_uring_enter` that waits for more.
//!    Where few do, their success makes no completion (`driver/uring/sends.rs`): a lone reply costs
//!    no second system call.
//!    Where the rest of a turn may be long, short output leaves ahead of it.
//!    When very many connections break, wake or fall quiet at once, most of that work is deferred
//!    (`connections/deferred.rs`), and the turn reaps the completions queued behind them.
//! 7. On a route of the hub, a request goes to its channel's *home*: the shard that the channel's
//!    name decides, this one or another ([`hub`]). The home appends a message to its log
//!    ([`hub::Log`]), which keeps the history, gives the message its position, and reports when
//!    it is to be delivered. The home answers the publisher and sends the message once to each
//!    shard with members, by mail; that shard hands a reference to the encoded frame to each
//!    member's outbox, or to the frames of several publications that go out at once
//!    (`outbox/batches.rs`). The hub deals in data ([`hub::Event`]), which the client's protocol
//!    encodes ([`session::protocol`]): once for each protocol and compression window in use. A
//!    member that is behind gets it from a backlog, where the channel's policy for slow readers
//!    acts, when its next send is built. A turn makes a bounded number of deliveries.
//! 8. The send's completion frees what was sent, records how long the answer took, and lets a
//!    paused connection read again.
//!
//! # What always holds
//!
//! Each is checked by a test, most of them after every run of `tests/simulation`:
//!
//! - Any split of the input gives the same events. Encoding then decoding is identity.
//! - A slot is freed only when the kernel holds nothing of it. No completion finds a wrong slot.
//! - Every receive buffer is lent, published or free; none stays lent over a turn, but those whose
//!   bytes are being sent on, and such a send never waits.
//! - An idle connection costs its slot: at most 128 bytes, asserted at compile time. Compression
//!   without context takeover adds nothing to it; contexts of connections stay within their budget.
//! - A message is never inflated past the limits, and nothing is allocated past them.
//! - No input holds a turn for more than a bounded effort, one message of the largest size
//!   included.
//! - Outbox bytes stay within their limits. Replies are never dropped: a connection that does not
//!   read is no longer read from, and closed (4413) when that lasts.
//! - Every refusal that is told and every failed WebSocket lingers: the answer is sent, writing is
//!   shut down, input is discarded up to a bound of bytes and time. A plain close would let a reset
//!   overtake the answer.
//! - Opened connections = open ones + closed ones by code. After a drain nothing is left, and every
//!   admission count has returned to zero.
//! - Past the bound of memory new work is refused, in a fixed order; nothing that exists is closed.
//! - A steady echo allocates nothing.
//! - The bytes counted are the bytes moved, and what readings took out adds up to what was
//!   recorded, also for a shard that has ended.
//! - Per channel, every member sees messages in their order, each once, with no gap that it was not
//!   told of, however often its connection is cut. One place of a channel holds one message.
//! - A client that comes back with a position, however it was read, gets every message published
//!   since, or an answer that it has to reload. Messages past their age are never served.
//! - No member of a channel outlives its connection, and no shard waits for another. Lists of
//!   members name living connections only.
//! - A connection that continues another takes its place: no client is rejected because of itself.
//! - Nothing that was revoked comes back: no ticket, grant or key, and no subscription whose right
//!   a reload has ended (`src/session/seawall/PROTOCOL.md` has the table). No reload turns
//!   authentication off unless an option says that this is meant.
//! - No input makes the process panic, spin, or grow without bound. Every table has a bound, a
//!   class in `/v1/memory` and an expiry that keeps up with any rate of new entries, on an idle
//!   server too: `shard/hub/accounts.rs` lists them.
//! - The control loop awaits nothing but its next event, and logging never waits: a signal is acted
//!   on at once beside a reload, a fetch of keys, or a standard error that nothing reads. Health
//!   and metrics are answered whatever else is connected to the admin address.
//!
//! **Options.** One table ([`config::file::table`]) names every option with its type, default,
//! unit, range, meaning and when to change it. From it come the structures a file is read into, the
//! flags, the variables of the environment, the range checks, what `seawall config` prints, and the
//! reference (`src/config/OPTIONS.md`); tests take each row through every layer and to both ends of
//! its range.
//!
//! **Events.** Shards queue what happens (`shard/events.rs`) for a consumer on an outer thread, and
//! count what it is too slow for; without one, they test a flag.
//!
//! **Another configuration.** A validated [`config::Config`] is immutable. SIGHUP makes a new one,
//! fitted to the old (`config::reload`): what only a start can change keeps its value, and a route
//! keeps the index by which connections know it. Shards get it by mail and use it from their next
//! event on; one with a mistake changes nothing. `config::reload` says what holds for values that
//! are read more than once during the life of a message or connection; `tests/reload_fuzz.rs`
//! checks it with random values of every option.
//!
//! Errors are handled by their cause: the peer's misbehaviour becomes a close code and a counter;
//! the world's errors drop the connection and are counted; our own mistakes assert. A shard that
//! panics ends the process with a report, after the others have drained: half a server would lose
//! half its clients in silence, and a supervisor restarts a whole one.
//!
//! # Where things are
//!
//! | room | what it is |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`config`] | what was written, validated |
//! | `guard` | what the process may do once it serves: user, files, system calls |
//! | [`auth`] | who a client is, and what it may do |
//! | [`admission`] | how many are let in, and how much each may do in a second |
//! | [`server`] | binds, starts, renews, reads and joins shards |
//! | [`driver`] | the kernel side: completions, sockets, buffers, memory |
//! | [`proto`] | the wire side: PROXY, HTTP, WebSocket; no sockets, no clock |
//! | [`hub`] | channels: homes, order, history, presence, members; no sockets |
//! | [`session`] | runs on a connection: echo, or a client of the hub in its protocol |
//! | [`tls`] | handshakes, records, certificates; no sockets, no clock |
//! | [`text`] | text from outside: JSON, read if plain or passed on unread; terminals and logs |
//! | [`web`] | what browsers get: client library and playground, as plain pages |
//! | [`shard`] | the only place where they meet: turns, connections, the hub's part, mail |
//! | [`metrics`] | counters, histograms, their forms |
//! | `control` | the control thread: admin address, signals, logs |
//!
//! `unsafe` lives in [`driver`], and behind the safe interface of [`proto::ws::deflate`] to zlib.
//!
//! What each room uses of the others:
//!
//! - `admission`: `proto`
//! - `auth`: `text`
//! - `cli`: `auth`, `config`, `control`, `driver`, `guard`, `server`, `text`, `tls`
//! - `config`: `admission`, `auth`, `driver`, `proto`, `tls`
//! - `control`: `admission`, `auth`, `config`, `driver`, `hub`, `metrics`, `proto`, `server`,
//!   `session`, `shard`, `text`
//! - `driver`: nothing
//! - `guard`: `config`, `driver`
//! - `hub`: `proto`
//! - `metrics`: `admission`, `driver`, `proto`
//! - `proto`: nothing
//! - `server`: `admission`, `config`, `driver`, `hub`, `metrics`, `session`, `shard`
//! - `session`: `admission`, `auth`, `hub`, `proto`, `text`
//! - `shard`: `admission`, `auth`, `config`, `driver`, `hub`, `metrics`, `proto`, `session`,
//!   `text`, `tls`, `web`
//! - `text`: nothing
//! - `tls`: nothing
//! - `web`: `proto`
//!
//! Within [`shard`], imports point downwards: the shard's turn, over the hub and its sessions, over
//! `connections` (slots, outboxes, receive state, timers, and every count of them, with a contract
//! at its head and invariants that debug builds check after each turn), over mail. Connections know
//! sessions as a trait, and the driver as a type parameter.
//!
//! A connection can be serialized to plain data and restored from it ([`shard::portable`]): the
//! seam for handing connections to a new process.
//!
//! One place is kept free: other logs than the one in memory behind [`hub::Log`].

pub mod admission;
pub mod auth;
pub mod cli;
pub mod config;
mod control;
pub mod driver;
mod guard;
pub mod hub;
pub mod metrics;
pub mod proto;
pub mod server;
pub mod session;
pub mod shard;
pub mod text;
pub mod tls;
pub mod web;
