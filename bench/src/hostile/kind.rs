//! The kinds of greedy clients: where each connects, what it offers, and whether it reads.

use clap::ValueEnum;

use crate::deflate::Offer;

/// What a greedy client does at the full speed that the server grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Empty pings.
    Pings,
    /// Pipelined echoes of one byte.
    Frames,
    /// Messages in fragments of one byte.
    Fragments,
    /// Compressed messages of a kilobyte that inflate to 1 MiB, echoed.
    Inflate,
    /// The same on the hub: blanks before a request.
    InflateHub,
    /// One message of `--large-bytes`, echoed again and again.
    Large,
    /// The same, compressed by both sides message by message.
    LargeCompressed,
    /// The same, compressed by the server with context takeover, at `--takeover-path`.
    LargeTakeover,
    /// Echoes of 64 KiB that are never read.
    Unread,
    /// Requests for the whole history of a channel, whose answers are never read.
    History,
    /// Frames full of `{}`; every second client reads the errors.
    Objects,
    /// A new channel with each publish, and with each subscribe and unsubscribe.
    Churn,
    /// Publications of 64 KiB to a channel that all greedy clients subscribe to.
    Publish,
    /// Subscribers of a busy channel that never read.
    Slow,
    /// Handshakes whose connections are closed at once, every second one by a reset.
    Handshakes,
    /// Handshakes with a token in the query: a forged one, and those of `--token`, in turn.
    Tokens,
    /// Subscribe and unsubscribe on a channel whose joins and leaves are watched.
    Joins,
    /// One of each of these in turn.
    Mix,
}

/// Which of the server's routes a kind needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The URL's own.
    Echo,
    /// An echo that keeps compression contexts.
    Takeover,
    Hub,
}

/// Connections that help greedy ones to take effect; they are not greedy themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Help {
    /// Fill a channel's history once.
    Fill,
    /// Fill the buffers of subscribers, then publish small messages at a steady rate.
    Publish,
    /// Watch joins and leaves.
    Watch,
}

impl Kind {
    /// All kinds but the mix.
    pub const SINGLE: [Self; 17] = [
        Self::Pings,
        Self::Frames,
        Self::Fragments,
        Self::Inflate,
        Self::InflateHub,
        Self::Large,
        Self::LargeCompressed,
        Self::LargeTakeover,
        Self::Unread,
        Self::History,
        Self::Objects,
        Self::Churn,
        Self::Publish,
        Self::Slow,
        Self::Handshakes,
        Self::Tokens,
        Self::Joins,
    ];

    /// The name on the command line.
    pub fn name(self) -> String {
        // No variant is hidden from the command line.
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub fn route(self) -> Route {
        match self {
            Self::LargeTakeover => Route::Takeover,
            Self::InflateHub
            | Self::History
            | Self::Objects
            | Self::Churn
            | Self::Publish
            | Self::Slow
            | Self::Tokens
            | Self::Joins => Route::Hub,
            _ => Route::Echo,
        }
    }

    pub fn offer(self) -> Option<Offer> {
        match self {
            Self::Inflate | Self::InflateHub | Self::LargeCompressed => Some(Offer::Alone),
            Self::LargeTakeover => Some(Offer::Takeover),
            _ => None,
        }
    }

    /// Whether this client stops reading once it is set up.
    pub fn is_unread(self, slot: u32) -> bool {
        match self {
            Self::Unread | Self::History | Self::Slow => true,
            Self::Objects => slot % 2 == 1,
            _ => false,
        }
    }

    /// Whether connections end as soon as they are open.
    pub fn is_fleeting(self) -> bool {
        matches!(self, Self::Handshakes | Self::Tokens)
    }

    /// How many connections help, and how.
    pub fn help(self) -> Option<(u32, Help)> {
        match self {
            Self::History => Some((1, Help::Fill)),
            Self::Slow => Some((1, Help::Publish)),
            Self::Joins => Some((10, Help::Watch)),
            _ => None,
        }
    }

    /// Messages before a greedy client begins: on the hub a welcome, and the answer to its first
    /// request if it has one.
    pub fn prelude(self) -> u64 {
        match self {
            Self::Publish | Self::Slow => 2,
            _ => u64::from(self.route() == Route::Hub),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_kind_once() {
        let listed: std::collections::BTreeSet<Kind> = Kind::SINGLE.into_iter().collect();
        let all: std::collections::BTreeSet<Kind> =
            Kind::value_variants().iter().copied().filter(|kind| *kind != Kind::Mix).collect();
        assert_eq!((listed.len(), &listed), (Kind::SINGLE.len(), &all));
        assert_eq!(Kind::InflateHub.name(), "inflate-hub");
    }
}
