//! The hub's rows: its bounds, and what holds for which channels.

use super::table::{Kind, OptionType, section};
use crate::auth::{Access, SlowReader};

impl OptionType for Access {
    const KIND: Kind = Kind::Choice(&["anyone", "authenticated", "token", "server"]);
}

impl OptionType for SlowReader {
    const KIND: Kind = Kind::Choice(&["close", "drop_oldest", "latest"]);
}

section! {
    /// What holds for the channels of a pattern. Without any, and without keys for tokens: one
    /// with these defaults. A channel that matches none is forbidden, but where a token grants it.
    Channel "channel" repeated true absent true;

    /// A channel's name, or the beginning of names and `*`, as in `chat:*`. A name beats every
    /// beginning, and a longer beginning a shorter one.
    pattern: String = "*".into(),
    "One section for each kind of channel.";

    /// Who may subscribe: `anyone`, `authenticated` (a token names a user), `token` (a token grants
    /// it) or `server` (only the API does it).
    subscribe: Access = Access::Anyone,
    "`token` where your backend decides for each channel; `authenticated` for members only.";

    /// Who may publish: the same words.
    publish: Access = Access::Anyone,
    "`server` where clients only listen.";

    /// Messages that a channel keeps for clients that come back; 0 = none.
    history: u32 = 100,
    "Raise to cover longer absences at your rate of messages; 0 for what is worthless a second \
     later.";

    /// How long it keeps them.
    history_ttl_s: u32 = 300,
    "About the longest absence after which clients should still miss nothing.";

    /// Lets clients request a channel's members, and subscribe to its joins and leaves.
    presence: bool = true,
    "Switch off for channels with very many members where no client needs the list.";

    /// A reader that does not keep up: `close` its connection; `drop_oldest` = drop the oldest of
    /// what waits for it, and report the gap; `latest` = keep the newest message only.
    slow_reader: SlowReader = SlowReader::DropOldest,
    "The default keeps readers connected, and they can fetch what they missed from the history; \
     `latest` for states of which only the last counts; `close` where a client with a gap is \
     worse than one that starts over.";

    /// Members of one channel; past it: `limit`. 0 = no bound.
    members_max: u32 = 0,
    "Set where a channel is a room with so many seats.";

    /// Bytes of one message's content; past it: `too_large`.
    message_bytes_max: u32 = 64 * 1024,
    "Set to the largest content that your application publishes.";

    /// Publishes of one connection to one of these channels; past it: `rate_limited`. 0 = no
    /// bound.
    rate: u32 = 0,
    "Set where clients publish, to what people can type or your application needs.";
}

section! {
    /// Channels, history and presence: bounds of all channels together.
    Hub "hub" repeated false;

    /// Serves a playground at `/`, and the client library at `/seawall.js`.
    playground: bool = true,
    "Switch off where the address is public and your own pages carry the library.";

    /// Subscriptions of one connection; past it: `limit`.
    channels_per_connection_max: u32 = 128,
    "Raise for clients that follow very many channels.";

    /// Requests of one connection that wait for their answers; past it: reading from it stops.
    pending_requests_max: u32 = 256,
    "Raise for clients that send many requests at once over long lines.";

    /// Memory for the history of all channels of the node; past it, those that were least recently
    /// used lose theirs first.
    history_bytes_max: u64 = 256 << 20,
    "Set to the memory that history may take.";

    /// Channels of the node, divided by shards; past it, the channel without members that is
    /// nearest to being forgotten makes room, with its history; where all have members: `limit`.
    channels_max: u32 = 1_000_000,
    "Raise where more are in use at once; each costs about 400 bytes, and its messages.";

    /// A channel with neither members nor messages is forgotten after this time, or after its
    /// `history_ttl_s` if that is longer.
    channel_ttl_s: u32 = 60,
    "Longer where clients come back late and should find the channel's positions still counting.";

    /// Messages that a returning subscriber is sent at most; where more are missing, none are,
    /// and it has to reload.
    recover_messages_max: u32 = 1000,
    "Raise together with `history` where clients would rather read much than reload.";

    /// The same in bytes. A page of history or presence has no more, either.
    recover_bytes_max: u64 = 4 << 20,
    "Raise where messages are large.";

    /// Members in one answer: the most, and the default.
    presence_page_max: u32 = 100,
    "Raise where lists of members are always shown whole.";

    /// Messages in one answer: the most, and the default.
    history_page_max: u32 = 100,
    "Raise where clients read whole histories at once.";

    /// Keys of publishes that the node remembers, so that a repeated one takes effect once; past
    /// it, the user, connection or API key with the most keys loses its oldest ones.
    idempotency_keys_max: u32 = 100_000,
    "At least the publishes with keys in `idempotency_ttl_s` seconds.";

    /// How long it remembers them.
    idempotency_ttl_s: u32 = 300,
    "Longer than publishers keep repeating.";

    /// Where there are keys: a connection without a token must authenticate within this time; past
    /// it: close 4408.
    auth_timeout_ms: u32 = 10_000,
    "Longer for clients that fetch a token only after connecting, over slow lines.";
}
