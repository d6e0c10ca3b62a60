//! Options of applications that receive events, answer questions and exchange messages.

use serde::{Deserialize, Serialize};

use super::table::{Kind, OptionType, section};

section! {
    /// An application. It receives events and answers questions over HTTP
    /// (`src/backend/BACKEND.md`), and exchanges messages with clients over links. It needs at
    /// least one of `events_url`, `hook_url`, `links` and `accept_links`.
    Backend "backend" repeated true absent true;

    /// The name by which routes and channels refer to it.
    name: String = "app".into(),
    "Give each application its own.";

    /// Address to which events are sent with POST, as `https://` or `http://`; empty = none are
    /// sent.
    events_url: String = String::new(),
    "Set where the application wants to know what happens.";

    /// Kinds of events that are sent: `connected`, `disconnected`, `subscribed`, `unsubscribed`,
    /// `channel_occupied`, `channel_vacated`, `member_added`, `member_removed`, `published`,
    /// `node_lost`. A `[[channel]]` may choose others for its channels.
    events: Vec<String> = Vec::new(),
    "List only what the application uses: each event costs it a part of a request.";

    /// Address to which questions (hooks) are sent with POST; empty = they go over links, if the
    /// application has any. Calls of clients go there; routes and channels choose what else the
    /// application decides.
    hook_url: String = String::new(),
    "Set where the application decides who may connect, subscribe or publish, or answers calls.";

    /// Headers of a handshake that the application receives with the question `connect`, or with
    /// the record `open`, in lowercase.
    hook_headers: Vec<String> = ["cookie", "authorization", "user-agent", "accept-language"]
        .map(String::from)
        .to_vec(),
    "List what the application identifies clients by, and nothing else.";

    /// How long a question may take, waiting included; past it the client's request fails.
    hook_timeout_ms: u32 = 2_000 => "milliseconds" in 1..=60_000,
        because "no question could be answered",
    "Raise where the application is slow; keep it below `timeouts.handshake_timeout_ms` where it \
     decides on connections.";

    /// Questions under way to the application at once, from each node.
    hook_concurrency_max: u32 = 256 => "questions" in 1..=65_536,
        because "no question could be asked",
    "Set to what the application handles at once.";

    /// Questions that wait beyond that, from each node; past it they fail at once.
    hook_waiting_max: u32 = 1_024 => "questions" in 0..=1_000_000,
    "Lower where a late answer is worth less than an early error.";

    /// The longest time for which an answer is cached, if the application allows that with
    /// `cache_s`.
    hook_cache_max_s: u32 = 300 => "seconds" in 0..=86_400,
    "Lower to bound how long a withdrawn right may live on; 0 caches nothing.";

    /// Files with the secrets that sign requests (Standard Webhooks), each 24 to 64 bytes as base64
    /// after `whsec_`; other users must not have access. All of them sign, so that the application
    /// may verify with any.
    secret_files: Vec<String> = Vec::new(),
    "Required with `events_url` or `hook_url`. To replace a secret, add the new one, change the \
     application, then remove the old one.";

    /// File with the authorities that sign the application's certificate, as PEM; empty = the
    /// host's.
    ca_file: String = String::new(),
    "For `https://` or `wss://` with a private authority.";

    /// Memory for events that wait, on each node; past it, `published` events are dropped first and
    /// those of connections last, and the application receives `events_lost` with the counts.
    events_bytes_max: u64 = 64 << 20 => "bytes" in 1_048_576..=1_099_511_627_776,
    "Raise to bridge longer outages of the application.";

    /// How long a batch of events is sent again while the application fails; past it, the batch is
    /// dropped and counted.
    retry_for_s: u32 = 600 => "seconds" in 1..=86_400,
    "Raise together with `events_bytes_max`.";

    /// How long a channel has to stay without members before `channel_vacated` is sent.
    vacate_delay_ms: u32 = 5_000 => "milliseconds" in 0..=3_600_000,
    "Raise where clients reconnect slowly and the application should not notice.";

    /// Addresses of the application's WebSocket endpoints for links, as `wss://` or `ws://`; empty
    /// = none are dialed. Links carry the messages of routes with the handler `gateway`.
    links: Vec<String> = Vec::new(),
    "Set where the application exchanges messages with clients in a protocol of its own.";

    /// Links of each node to the application, spread over all addresses of all `links`; each of the
    /// `links` gets at least one.
    links_per_node: u32 = 4 => "links" in 1..=64,
        because "a link would never be dialed",
    "Set to at least the number of the application's instances.";

    /// File with the token that is sent as `Authorization: Bearer` when a link is dialed, on one
    /// line; other users must not have access. Empty = none is sent.
    link_token_file: String = String::new(),
    "Set where other programs can reach the application.";

    /// How long dialing a link may take until both sides have sent `hello`, and how long the
    /// application may be silent; past it, its sessions move to another link.
    link_timeout_ms: u32 = 5_000 => "milliseconds" in 1_000..=600_000,
        because "the application answers a ping each second",
    "Raise where the application pauses for longer, for example to collect garbage.";

    /// Bytes of records that wait for one link; past it, its clients are not read from.
    link_queue_bytes_max: u64 = 8 << 20 => "bytes" in 65_536..=1_073_741_824,
    "Raise for many clients that send large messages at once.";

    /// How long connected clients wait while no link is open; past it they are closed with 1013.
    /// 0 = at once. New clients get 503 meanwhile.
    hold_ms: u32 = 30_000 => "milliseconds" in 0..=3_600_000,
    "Set to the longest restart of the application that clients should not notice.";

    /// Sessions that move from a link that ended, or that drains, to others, each second and node.
    moves_per_s: u32 = 20_000 => "sessions per second" in 1..=1_000_000,
        because "no session could move",
    "Lower where opening a session costs the application much.";

    /// How long a session that moves from a draining link may wait for its acknowledgements.
    drain_ms: u32 = 10_000 => "milliseconds" in 0..=600_000,
    "Raise where the application handles single messages for longer.";

    /// Sessions that move to less loaded links although theirs is open, each second and node; 0 =
    /// none.
    rebalance_per_s: u32 = 0 => "sessions per second" in 0..=1_000_000,
    "Set where new instances should take over sessions of the others.";

    /// Which instance gets a session: `none` = one with a low load; `user` = the same one for all
    /// sessions of the user that a token names.
    affinity: AffinityRule = AffinityRule::None,
    "`user` where instances keep the state of users in memory.";

    /// Lets the application dial: it opens links with `GET /v1/link` on `admin.listen`.
    accept_links: bool = false,
    "Set where nodes cannot reach the application, but it can reach them.";

    /// Messages of a session that the application has not acknowledged; past it, the client is not
    /// read from.
    unacked_messages_max: u32 = 64 => "messages" in 1..=65_536,
        because "no message could be sent",
    "Lower where the application should get no work ahead; raise for long lines to it.";

    /// The same in bytes; one message of any length may always be under way.
    unacked_bytes_max: u32 = 256 << 10 => "bytes" in 1..=1 << 30,
        because "no message could be sent",
    "Raise for large messages; each node keeps the unacknowledged ones in memory.";
}

/// Which instance of an application gets a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityRule {
    /// One with a low load.
    #[default]
    None,
    /// The same one for all sessions of a user.
    User,
}

impl OptionType for AffinityRule {
    const KIND: Kind = Kind::Choice(&["none", "user"]);
}
