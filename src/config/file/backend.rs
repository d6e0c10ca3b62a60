//! Options of applications that receive events and answer questions.

use super::table::section;

section! {
    /// An application that receives events and answers questions over HTTP
    /// (`src/backend/BACKEND.md`). It needs at least one of the two addresses.
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

    /// Address to which questions (hooks) are sent with POST; empty = none are asked. Calls of
    /// clients go there; routes and channels choose what else the application decides.
    hook_url: String = String::new(),
    "Set where the application decides who may connect, subscribe or publish, or answers calls.";

    /// Headers of a handshake that the application receives with the question `connect`, in
    /// lowercase.
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
    "Required. To replace a secret, add the new one, change the application, then remove the old \
     one.";

    /// File with the authorities that sign the application's certificate, as PEM; empty = the
    /// host's.
    ca_file: String = String::new(),
    "For `https://` with a private authority.";

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
}
