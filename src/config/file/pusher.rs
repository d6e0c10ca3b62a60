//! Apps of the Pusher protocol.

use super::secret::Secret;
use super::table::{ANY, section};

section! {
    /// An app whose clients speak the Pusher protocol on routes with `handler = "pusher"`. Its
    /// channels are channels of the hub with the app's id and a colon before their names; other
    /// clients need a `[[channel]]` for them.
    App "app" repeated true absent true;

    /// Its id, in the paths of its HTTP API: 1 to 35 characters of `A-Z a-z 0-9 _ -`.
    id: String = String::new(),
    "Take over the id that the application's backend uses now.";

    /// Its key, which clients send when they connect: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    key: String = String::new(),
    "Take over the key that the application's clients use now.";

    /// The secret with which the app's backend signs: at least 8 bytes.
    secret: Secret = Secret::default(),
    "`secret_file` keeps it out of the file, the command line and the environment.";

    /// File with the secret; other users must not have access. A trailing newline is ignored.
    secret_file: String = String::new(),
    "For secrets that are mounted as files.";

    /// Lets clients send events to the other members of private and presence channels.
    client_events: bool = true,
    "Switch off where only the backend should publish.";

    /// Client events of one connection; past it: error 4301. 0 = no limit.
    client_events_per_s: u32 = 10 => "events per second" in 0..=ANY,
    "Raise for games and cursors, which send many small events.";

    /// Longest data of an event; past it: error 4301, or status 413.
    event_bytes_max: u32 = 10_240 => "bytes" in 1..=16 << 20,
    "Raise where a self-hosted server allowed more; `limits.message_bytes_max` bounds client \
     events too.";

    /// Connections in one presence channel; past it the subscription fails. At most
    /// `hub.presence_page_max`.
    presence_members_max: u32 = 100 => "connections" in 1..=100_000,
    "Raise for large rooms: each new member receives the list of all.";

    /// Connections of the app on this node; past it: close 4100. 0 = no limit.
    connections_max: u32 = 0 => "connections" in 0..=ANY,
    "Set where one app must leave room for the others.";

    /// After this time without a message, clients ping the server.
    activity_timeout_s: u32 = 120 => "seconds" in 1..=3_600,
    "Lower to have clients notice a broken network sooner; each ping costs a message.";

    /// Closes connections without TLS (4000), after which clients try TLS.
    tls_only: bool = false,
    "Set where clients reach this server directly, on listeners with and without TLS.";

    /// Address of the webhook, to which events of the app's channels are sent with POST, as
    /// `https://` or `http://`; empty = none are sent.
    webhook_url: String = String::new(),
    "Set where the app's backend wants to know what happens.";

    /// Kinds of events that are sent: `channel_occupied`, `channel_vacated`, `member_added`,
    /// `member_removed`, `client_event`, `cache_miss`; empty = all. In a cluster only the last two
    /// are supported.
    webhook_events: Vec<String> = Vec::new(),
    "List only what the backend uses: each client event costs it a part of a request.";

    /// File with the authorities that sign the certificate of `webhook_url`, as PEM; empty = the
    /// host's.
    webhook_ca_file: String = String::new(),
    "For `https://` with a private authority.";

    /// How long a webhook is sent again while the backend does not accept it; past it, its events
    /// are dropped and counted.
    webhook_retry_for_s: u32 = 600 => "seconds" in 1..=86_400,
    "Raise to bridge longer outages of the backend.";

    /// How long a channel has to stay without members before `channel_vacated` is sent.
    webhook_vacate_delay_ms: u32 = 5_000 => "milliseconds" in 0..=3_600_000,
    "Raise where clients reconnect slowly and the backend should not notice.";
}
