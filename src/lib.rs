//! Seawall: a WebSocket edge server for Linux. One binary, one event loop per core, on `io_uring`
//! or epoll.
//!
//! This text is the project's architecture. It follows a byte through the server, lists the
//! invariants, and describes the modules ("rooms") and what each may use.
//!
//! # The parts
//!
//! - A **shard** is a thread pinned to a core, with a ring, a listening socket, receive buffers
//!   and connections of its own. A message that stays on one shard touches no state shared between
//!   shards. There may be more shards than cores: each ring has its own table of connections.
//! - The **control thread** serves the admin address, handles signals, and communicates with shards
//!   by mail. It runs on `tokio-uring`, which is good at files and hosts the tokio libraries. It
//!   never owns a client's socket, because `tokio-uring` has no multishot operations, no provided
//!   buffers and no cancellation (an echo would take six system calls instead of one, an idle
//!   connection 4.7 KB of memory instead of none). Where the kernel denies rings, the control
//!   thread runs on tokio alone, and a thread writes its file (`control/runtime.rs`).
//!   The control thread also collects metrics: each shard records into counters and histograms of
//!   its own, and a reading exchanges its filled histograms for empty ones.
//! - An **outer thread** ([`outer`]) waits for other servers, where there are any. In a [`cluster`]
//!   it holds the connections to the engine that the nodes share, carries the commands of the
//!   shards' logs there, and their events back. For applications it sends events, and asks them the
//!   questions of shards ([`backend`], [`hooks`]).
//! - The **protocol** is a pure state machine: bytes and a configuration in, events and bytes out.
//!   It has no access to descriptors, clocks or threads.
//! - The **driver** moves bytes and contains no protocol code. Neither of the two imports the
//!   other: that separation is the core of the architecture, and `tests/tidy` checks which room may
//!   import which. The engine, which makes the drivers ([`driver::DriverFactory`]), is chosen once,
//!   in `server/engine.rs`: rings, or epoll where the kernel denies rings. Shards are compiled for
//!   both. The banner, `/v1/node`, metrics and the sandbox's list of system calls are filled from
//!   the facts that the chosen engine reports. The rest of this text describes rings;
//!   [`driver::epoll`] describes how it derives the same completions from readiness.
//!
//! # The journey of a byte
//!
//! 1. **Accept.** By default sixteen one-shot accepts are armed on each shard's `SO_REUSEPORT`
//!    listener, each with storage for its own peer's address. (A multishot accept has one storage
//!    for all, so its second connection would overwrite the first one's address.) A completion
//!    carries a socket: a direct descriptor, valid only within its ring. Before any byte is read,
//!    the shard either gives the socket a [slot](shard) and a generation, or hands it to a less
//!    loaded shard.
//! 2. **Receive.** A request is received by a single receive; an active connection has one
//!    multishot receive armed. Bytes arrive in a buffer that the ring lends from a small, warm set;
//!    an idle connection holds no buffer. The completion carries operation, slot and generation. If
//!    the generation is outdated, the buffer is returned and the completion ignored.
//!    A connection that has not sent anything yet, or has been quiet for long, is *parked*: instead
//!    of a receive it has a poll armed, which takes a third of the kernel memory. When the poll
//!    fires, one receive follows. A newly armed operation also reports input that arrived before
//!    it, so switching between the two loses no byte. Connections that fill whole buffers take
//!    turns, one buffer each (`connections/bulk.rs`), and large messages are received a few at a
//!    time (`connections/rotation.rs`).
//!    On a listener with TLS, records are decrypted in place before the stage gets them, and queued
//!    output is encrypted when its send is built (`connections/transport.rs`, [`tls`]). A turn
//!    advances two TLS handshakes, after the connections in use.
//! 3. **Parse.** The slot's stage determines how bytes are parsed: as a PROXY header, a request
//!    ([`proto::http`]), frames ([`proto::ws`]), or not at all once the input has ended. Bytes that
//!    follow the end of one stage are passed to the next. A message that lies whole in the buffer
//!    is unmasked there and lent to the session (messages of the echo are answered at once,
//!    `connections/plain_echo.rs`). Only a message that spans buffers is assembled in memory, which
//!    grows with the bytes received, not with the length that the client announced.
//!    The buffer is returned in the same turn, unless it becomes the reply itself: an uncompressed
//!    echo that is long enough is sent from its receive buffer (`engine.reply_in_place_bytes_min`).
//!    A compressed message is inflated as it arrives, with codecs that the shard's connections
//!    share ([`proto::ws::deflate`]); a connection owns codecs only if its route is configured so.
//!
//!    Before the upgrade, [`admission`] counts the client by node, address and route, and checks
//!    the count of its user, which is raised when its session opens. All shards share these counts
//!    in tables of atomic words. A client over a limit is rejected with a status and `Retry-After`;
//!    but while connections that are being rejected take an eighth of a shard's slots, or 4,096,
//!    further ones are dropped without an answer. Each message is charged to the rate budgets of
//!    its connection and its user, if they have any.
//!
//!    A connection may use a quarter of a turn's effort before others get theirs
//!    (`connections/work.rs`). Input beyond that is held and processed after theirs
//!    (`connections/backpressure.rs`): a single message is inflated, compressed and cut into
//!    requests over as many turns as it takes.
//! 4. **Upgrade.** The upgrade consumes the HTTP stage. After the 101, no encoder, deadline or
//!    error page of HTTP is reachable for that connection: everything that can be rejected is
//!    rejected before it, with a status; after it, with a close code. A decision is data, which is
//!    encoded in a second step ([`proto::http::Decision`]). The decision of an application is
//!    awaited in a stage of its own (`shard/connections/asking.rs`).
//! 5. **Handle.** The [`session`] handles the message, and queues its reply in the slot's outbox,
//!    which exists only while it is not empty. A message that is compressed independently of others
//!    is compressed now; one whose compression depends on the messages before it, when its send is
//!    built.
//! 6. **Send.** At the end of the turn, every outbox with no send in flight becomes one send,
//!    however many frames it has. All sends are submitted by the same `io_uring_enter` that waits
//!    for the next completions. In a turn with few sends, a successful one makes no completion
//!    (`driver/uring/sends.rs`), so a single reply costs no second system call. If the rest of the
//!    turn may take long, short output is submitted before it.
//!    When very many connections close, wake up or fall quiet at once, most of that work is
//!    deferred (`connections/deferred.rs`), and the turn reaps the completions queued behind them.
//! 7. **Publish.** On a route of the hub, a request goes to its channel's *home*: the shard that
//!    the channel's name hashes to, this one or another ([`hub`]). The home appends the message to
//!    its log ([`hub::Log`]), which keeps the history, assigns the message its position, and
//!    reports when it is to be delivered. The home replies to the publisher, and sends the message
//!    by mail, once to each shard with members of the channel. That shard queues a reference to the
//!    encoded frame in each member's outbox, or one to the frames of several publications that are
//!    delivered together (`outbox/batches.rs`). The hub handles data ([`hub::Event`]), which the
//!    client's protocol encodes ([`session::protocol`]): once for each protocol and compression
//!    window in use. A member that has fallen behind gets the message from its backlog when its
//!    next send is built; the channel's policy for slow readers applies there. A turn makes a
//!    bounded number of deliveries.
//! 8. **Complete.** The send's completion frees what was sent, records the turnaround time, and
//!    resumes reading if it was paused.
//!
//! # Invariants
//!
//! Each is checked by a test, most of them after every run of `tests/simulation`:
//!
//! - Any split of the input gives the same events. Encoding then decoding is identity.
//! - A slot is freed only when the kernel has no operation that refers to it. No completion is
//!   applied to a slot of another connection.
//! - Every receive buffer is lent, published or free. None stays lent beyond a turn, except buffers
//!   whose bytes are being sent; such a send never waits for the peer.
//! - An idle connection costs its slot: at most 128 bytes, asserted at compile time. Compression
//!   without context takeover adds nothing to it; contexts of connections stay within their budget.
//! - Neither inflation nor any other allocation exceeds its limit.
//! - No input occupies a turn beyond a bounded effort, not even a message of the largest size.
//! - Outbox bytes stay within their limits. Replies are never dropped: if a client does not read,
//!   reading from it pauses, and the connection is closed (4413) if that lasts.
//! - After every rejection with an answer and every failed WebSocket, the connection lingers: the
//!   answer is sent, the sending side is shut down, and input is discarded up to a limit of bytes
//!   and time. Closing at once would let a reset overtake the answer.
//! - Opened connections = open ones + closed ones by code. After a drain no connection remains, and
//!   every admission count has returned to zero.
//! - Above the memory limit new work is rejected, in a fixed order; no existing connection is
//!   closed.
//! - The loss of a link closes no client of a gateway while another link is there within
//!   `backend.hold_ms`. Each message of a client is delivered at least once, in order, and repeats
//!   are marked; those that are given up are counted. A record from a link that a session has left
//!   changes nothing, and a client stays a member of its channels on any link, or none.
//! - A steady echo allocates nothing.
//! - The bytes counted are the bytes moved, and the sum of all readings equals what was recorded,
//!   also for a shard that has ended.
//! - Every member of a channel receives its messages in order, each once, however often the
//!   connection breaks; a gap is always reported to the member. Each position of a channel has one
//!   message.
//! - A client that returns with a position, wherever it got that from, receives every message
//!   published since, or an answer that it has to reload. Messages past their age are never sent.
//! - No member of a channel outlives its connection, and no shard waits for another. Lists of
//!   members contain only open connections; in a cluster, those of a node that has died for
//!   `cluster.node_ttl_ms` more.
//! - A connection that continues another replaces it in all counts: a client is never rejected
//!   because of its own earlier connection.
//! - A revocation is final: no revoked ticket, grant or key becomes valid again, and no
//!   subscription whose right a reload has removed (`src/session/seawall/PROTOCOL.md` has the
//!   table). No reload turns authentication off unless an option allows it explicitly.
//! - No input makes the process panic, spin, or grow without bound. Every table has a maximum size,
//!   a class in `/v1/memory`, and an expiry that keeps up with any rate of new entries, also on an
//!   idle server: `shard/hub/accounts.rs` lists them.
//! - The control loop awaits nothing but its next event, and logging never blocks. So a signal is
//!   handled at once during a reload or a fetch of keys, and while standard error is not read. The
//!   admin address serves health and metrics whatever other connections it has.
//!
//! # Across the rooms
//!
//! **Options.** One table ([`config::file::table`]) defines every option with its type, default,
//! unit, range, meaning and when to change it. It generates the structures that a file is
//! deserialized into, the flags, the environment variables, the range checks, the output of
//! `seawall config`, and the reference (`src/config/OPTIONS.md`). Tests set each row through every
//! layer, and to both ends of its range.
//!
//! **Events.** What applications want to know ([`events`]) is configured for each route and
//! channel. Shards queue these events ([`backend::queue`]) for a consumer on another thread, which
//! sends them ([`backend::events`]), and count those that it is too slow for. An event that is not
//! wanted costs the test of a flag.
//!
//! **Hooks.** What an application decides or answers, a shard asks by an order to the outer thread
//! ([`backend::hook_line`]) and learns by mail; meanwhile it serves others. A desk for each
//! application ([`hooks::HookDesk`]) bounds, caches and shares questions. Outcomes name their
//! connection by its slot and generation, so a late one reaches no other connection. An answer
//! becomes an identity or a grant, which clients keep as tickets: a resumption asks nothing.
//!
//! **Gateway.** What clients of a gateway route send goes to an application over a few links, and
//! back ([`link`] is the wire format, `src/link/LINK.md` its document). A shard owns the sessions
//! of its connections (`shard/gateway`): it chooses the link, numbers messages, keeps them until
//! they are acknowledged, and moves sessions when a link is lost or drains. The outer thread owns
//! the links' sockets ([`backend::links`]): it joins the records that shards have queued, and
//! passes what arrives to shards by mail, in whole records. The application's acceptance is awaited
//! in the stage of an application's decision, so nothing of HTTP can follow the 101. Below the
//! shard's turn, `shard/layers.rs` passes each call of a connection to the layer of its session:
//! the hub or the gateway. A client that its application makes a member of channels has a session
//! of both meanwhile: that of the hub has an encoding of its own, the content of a publication
//! alone, which is made once for all such members.
//!
//! **Apps.** Clients that speak the Pusher protocol belong to an app ([`auth::PusherApp`]): its
//! backend signs what they may do, instead of tokens. [`session::pusher`] encodes and decodes, and
//! the session of the hub carries out. An app's channels are channels of the hub, with the app's id
//! before their names. Requests to the HTTP API of apps may come to an address for clients: the
//! shard receives them (stage `Forwarding`), and the control thread answers.
//!
//! **Reloads.** A validated [`config::Config`] is immutable. SIGHUP makes a new one and fits it to
//! the old one (`config::reload`): options that only take effect at the start keep their values,
//! and a route keeps the index by which connections refer to it. Shards get the new configuration
//! by mail and use it from their next event on; a configuration with an error changes nothing.
//! Certificate files that change, as they do when [`acme`] has brought a new certificate, start a
//! reload as well (`control/file_watch.rs`).
//! `config::reload` defines which value applies where one is read more than once during the life of
//! a message or connection; `tests/reload_fuzz.rs` checks that with random values of every option.
//!
//! **Errors** are handled by their cause: misbehaviour of the peer leads to a close code and a
//! counter; errors of the network or the kernel drop the connection and are counted; bugs of our
//! own fail an assertion. A shard that panics ends the process with a report, after the others have
//! drained: a server with a shard missing would lose part of its clients unnoticed, whereas a
//! supervisor restarts an ended process.
//!
//! # Rooms
//!
//! | room | content |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`cluster`] | channels of several nodes, over an engine that they share |
//! | [`config`] | options: read, merged and validated |
//! | `guard` | restrictions of the serving process: user, files, system calls |
//! | [`auth`] | identity and rights of clients |
//! | [`backend`] | applications: events and questions on their way to them; links to them |
//! | [`admission`] | limits: connections, and rates of messages and requests |
//! | [`server`] | binds listeners; starts, reconfigures, reads and joins shards |
//! | [`driver`] | the kernel side: completions, sockets, buffers, memory |
//! | [`events`] | the kinds of events, and who wants them |
//! | [`outer`] | the thread for what waits for other servers |
//! | [`hooks`] | questions to applications: their desks, as data; no sockets, no clock |
//! | [`link`] | the wire format of links to applications; no sockets, no clock |
//! | [`proto`] | the wire side: PROXY, HTTP, WebSocket; no sockets, no clock |
//! | [`hub`] | channels: homes, order, history, presence, members; no sockets |
//! | [`session`] | the application side of a connection: echo, or the protocol of a hub client |
//! | [`acme`] | orders certificates from an authority |
//! | [`tls`] | handshakes, records, certificates; no sockets, no clock |
//! | [`text`] | text from outside: JSON, parsed or passed through; terminals and logs |
//! | [`web`] | static pages: libraries for clients and applications, playground |
//! | [`shard`] | combines driver, protocol, sessions and hub: turns, connections, mail |
//! | [`metrics`] | counters, histograms, and their formats |
//! | `control` | the control thread: admin address, signals, logs |
//!
//! `unsafe` is confined to [`driver`], and to the safe wrapper of zlib in [`proto::ws::deflate`].
//!
//! What each room uses of the others:
//!
//! - `acme`: `tls`
//! - `admission`: `proto`
//! - `auth`: `events`, `text`
//! - `backend`: `auth`, `driver`, `events`, `hooks`, `hub`, `link`, `metrics`, `outer`, `proto`,
//!   `session`
//! - `cli`: `acme`, `auth`, `backend`, `cluster`, `config`, `control`, `driver`, `guard`,
//!   `link`, `server`, `text`, `tls`
//! - `cluster`: `driver`, `hub`, `metrics`, `outer`
//! - `config`: `acme`, `admission`, `auth`, `backend`, `cluster`, `driver`, `events`, `hooks`,
//!   `proto`, `tls`
//! - `control`: `acme`, `admission`, `auth`, `backend`, `cluster`, `config`, `driver`, `hub`,
//!   `link`, `metrics`, `proto`, `server`, `session`, `shard`, `text`, `tls`
//! - `driver`: nothing
//! - `events`: nothing
//! - `guard`: `config`, `driver`
//! - `hooks`: `auth`, `driver`, `hub`, `text`
//! - `hub`: `events`, `proto`
//! - `link`: `auth`, `driver`, `hub`, `text`
//! - `metrics`: `admission`, `driver`, `events`, `hooks`, `proto`, `tls`
//! - `outer`: nothing
//! - `proto`: nothing
//! - `server`: `admission`, `backend`, `cluster`, `config`, `driver`, `hub`, `metrics`, `outer`,
//!   `session`, `shard`
//! - `session`: `admission`, `auth`, `events`, `hooks`, `hub`, `proto`, `text`
//! - `shard`: `admission`, `auth`, `backend`, `config`, `driver`, `events`, `hooks`, `hub`,
//!   `link`, `metrics`, `proto`, `session`, `text`, `tls`, `web`
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
//! Behind [`hub::Log`] is the log in memory, or that of a [`cluster`], whose commands a thread of
//! its own carries to the engine that several nodes share. Such a log also has a [`hub::Roster`]:
//! the lists of members, joins and leaves are then those of all nodes.

pub mod acme;
pub mod admission;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod cluster;
pub mod config;
mod control;
pub mod driver;
pub mod events;
mod guard;
pub mod hooks;
pub mod hub;
pub mod link;
pub mod metrics;
pub mod outer;
pub mod proto;
pub mod server;
pub mod session;
pub mod shard;
pub mod text;
pub mod tls;
pub mod web;
