//! The hub: its limits, and rules for channels.

use super::table::{ANY, Kind, OptionType, section};
use crate::auth::{Access, OnFailure, SlowReader};

impl OptionType for Access {
    const KIND: Kind = Kind::Choice(&["anyone", "authenticated", "token", "server", "backend"]);
}

impl OptionType for OnFailure {
    const KIND: Kind = Kind::Choice(&["reject", "allow"]);
}

impl OptionType for SlowReader {
    const KIND: Kind = Kind::Choice(&["close", "drop_oldest", "latest"]);
}

section! {
    /// Rules for the channels that a pattern matches. Without any, and without keys for tokens: one
    /// with these defaults. A channel that no pattern matches is forbidden, unless a token grants
    /// it.
    Channel "channel" repeated true absent true;

    /// A channel's name, or a prefix and `*`, as in `chat:*`. A name takes precedence over every
    /// prefix, and a longer prefix over a shorter one.
    pattern: String = "*".into(),
    "Write one section per kind of channel.";

    /// Who may subscribe: `anyone`, `authenticated` (a token names a user), `token` (a token grants
    /// it), `server` (only the API) or `backend` (a token grants it, or the application says so
    /// when it is asked).
    subscribe: Access = Access::Anyone,
    "`token` or `backend` where your application decides for each channel; `authenticated` for \
     signed-in users only.";

    /// Who may publish, in the same terms, except that with `backend` the application is asked
    /// about each publish, whatever a token grants.
    publish: Access = Access::Anyone,
    "`server` where clients only listen; `backend` to moderate.";

    /// What happens to a publish that the application should decide on while it does not answer:
    /// `reject` (error `unavailable`) or `allow`.
    on_failure: OnFailure = OnFailure::Reject,
    "`allow` where an unchecked message is better than none.";

    /// Name of the `[[backend]]` that receives events of these channels and decides on them; empty
    /// = the only one, if there is exactly one.
    backend: String = String::new(),
    "Set where several applications share the server.";

    /// Kinds of events of these channels that are sent, instead of those of the backend: empty =
    /// as the backend says; `["none"]` = none.
    events: Vec<String> = Vec::new(),
    "Set where one kind of channel needs other events, such as `published` for an audit.";

    /// Messages that a channel keeps for clients that reconnect; 0 = none.
    history: u32 = 100 => "messages" in 0..=ANY,
    "Raise to cover longer absences at your rate of messages; 0 for messages that are worthless a \
     second later.";

    /// How long messages are kept. Not 0 where there is `history`.
    history_ttl_s: u32 = 300 => "seconds" in 0..=ANY,
    "Set to the longest absence after which clients should still miss nothing.";

    /// Lets clients list a channel's members and subscribe to joins and leaves.
    presence: bool = true,
    "Switch off for channels with very many members where no client needs the list.";

    /// Policy for clients that read too slowly: `close` = the connection is closed; `drop_oldest` =
    /// its oldest queued messages are dropped, and the gap is reported; `latest` = only the newest
    /// message is kept.
    slow_reader: SlowReader = SlowReader::DropOldest,
    "The default keeps readers connected, and they can fetch what they missed from the history; \
     `latest` for states of which only the newest matters; `close` where a gap is worse than \
     a reconnect.";

    /// Members of one channel; past it: `limit`. 0 = no bound.
    members_max: u32 = 0 => "members" in 0..=ANY,
    "Set where a channel is a room with a fixed number of seats.";

    /// Bytes of one message's content; past it: `too_large`. If set, at most
    /// `limits.message_bytes_max`.
    message_bytes_max: u32 = 64 * 1024 => "bytes" in 1..=1 << 30,
        because "nothing could be published",
    "Set to the largest content that your application publishes.";

    /// Publishes of one connection to one channel; past it: `rate_limited`. 0 = no bound.
    rate: u32 = 0 => "publishes per second" in 0..=ANY,
    "Set where clients publish, to what people can type or your application needs.";
}

section! {
    /// Channels, history and presence: bounds for all channels together.
    Hub "hub" repeated false;

    /// Serves a playground at `/`, and the client library at `/seawall.js`.
    playground: bool = true,
    "Switch off where the address is public and your own pages ship the library.";

    /// Subscriptions of one connection; past it: `limit`.
    channels_per_connection_max: u32 = 128 => "channels" in 1..=1_000_000,
    "Raise for clients that follow very many channels.";

    /// Unanswered requests of one connection; past it, reading from it pauses.
    pending_requests_max: u32 = 256 => "requests" in 1..=1_000_000,
    "Raise for clients that send many requests at once over long lines.";

    /// Memory for the history of all channels of the node; past it, the least recently used
    /// channels lose theirs first.
    history_bytes_max: u64 = 256 << 20 => "bytes" in 0..=ANY,
    "Set to the memory that history may take.";

    /// Channels of the node, divided by shards; past it, the channel without members that is
    /// nearest to expiry is evicted with its history; if all have members: `limit`.
    channels_max: u32 = 1_000_000 => "channels" in 1..=1 << 30,
    "Raise where more are in use at once; each costs about 400 bytes, and its messages.";

    /// A channel with neither members nor messages expires after this time, or after its
    /// `history_ttl_s` if that is longer.
    channel_ttl_s: u32 = 60 => "seconds" in 0..=ANY,
    "Raise where clients return late and should find the channel's positions still valid.";

    /// Messages sent to a returning subscriber; where more are missing, none are sent, and it has
    /// to reload.
    recover_messages_max: u32 = 1000 => "messages" in 0..=ANY,
    "Raise together with `history` where clients would rather read much than reload.";

    /// The same in bytes. It also bounds a page of history or presence.
    recover_bytes_max: u64 = 4 << 20 => "bytes" in 0..=ANY,
    "Raise where messages are large.";

    /// Members in one answer, at most and by default.
    presence_page_max: u32 = 100 => "members" in 1..=1_000_000,
    "Raise where lists of members are always shown whole.";

    /// Messages in one answer, at most and by default.
    history_page_max: u32 = 100 => "messages" in 1..=1_000_000,
    "Raise where clients read whole histories at once.";

    /// Keys of publishes that the node remembers, so that a repeated publish takes effect once;
    /// past it, the user, connection or API key with the most keys loses its oldest ones.
    idempotency_keys_max: u32 = 100_000 => "keys" in 0..=ANY,
    "Set to at least the publishes with keys in `idempotency_ttl_s` seconds.";

    /// How long keys are remembered.
    idempotency_ttl_s: u32 = 300 => "seconds" in 0..=ANY,
    "Raise where publishers retry for longer.";

    /// With keys: time for a connection without a token to authenticate; past it: close 4408.
    auth_timeout_ms: u32 = 10_000 => "milliseconds" in 1..=ANY,
        because "clients that never authenticate would hold their places for ever",
    "Raise for clients that fetch a token only after connecting, over slow lines.";
}
