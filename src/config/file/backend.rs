//! Options of applications that receive events.

use super::table::section;

section! {
    /// An application that receives events over HTTP (`src/backend/BACKEND.md`).
    Backend "backend" repeated true absent true;

    /// The name by which routes and channels refer to it.
    name: String = "app".into(),
    "Give each application its own.";

    /// Address to which events are sent with POST, as `https://` or `http://`.
    events_url: String = String::new(),
    "Required.";

    /// Kinds of events that are sent: `connected`, `disconnected`, `subscribed`, `unsubscribed`,
    /// `channel_occupied`, `channel_vacated`, `member_added`, `member_removed`, `published`. A
    /// `[[channel]]` may choose others for its channels.
    events: Vec<String> = Vec::new(),
    "List only what the application uses: each event costs it a part of a request.";

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
