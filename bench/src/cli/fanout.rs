//! The arguments of `fanout`.

use clap::Args;

use super::CommonArgs;
use super::values::seconds;
use crate::fanout::Dialect;
use crate::fanout::api::parse_url;
use crate::fanout::tag::{CHANNELS_MAX, CONTENT_MIN, PUBLISHERS_MAX};
use crate::target::Url;

#[derive(Debug, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Protocol of the server. With `nchan` and `plain`, `{channel}` in a path is replaced by the
    /// channel's name
    #[arg(long, value_enum, default_value_t = Dialect::Seawall)]
    pub dialect: Dialect,
    /// Connections that publish
    #[arg(long, default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PUBLISHERS_MAX)))]
    pub publishers: u32,
    /// Connections that subscribe, each to one channel, in turn
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// Channels, to which each publisher publishes in turn; if the path contains the channel, a
    /// publisher has one of them
    #[arg(long, default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CHANNELS_MAX)))]
    pub channels: u32,
    /// Give each publisher one channel, as is necessary if the path contains it
    #[arg(long)]
    pub own_channel: bool,
    /// Messages per second of all publishers: an open loop, whose latency counts from the intended
    /// send time
    #[arg(long, conflicts_with_all = ["depth", "window"],
          value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Unacknowledged batches per publisher at most (closed loop)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub depth: u32,
    /// Messages in flight to subscribers at most (closed loop); 0 = no limit, and the server drops
    /// messages that subscribers cannot read in time
    #[arg(long, default_value_t = 0)]
    pub window: u64,
    /// Content bytes of a message, quotes included
    #[arg(long, default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(CONTENT_MIN as i64..=1 << 24))]
    pub size: u32,
    /// Messages per batch: in one frame, or one request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Path of WebSocket publishers, if it differs from that of the URL
    #[arg(long, value_name = "PATH", conflicts_with = "api")]
    pub publish_path: Option<String>,
    /// Publish over HTTP, each publisher from a thread of its own: to the server's API, or with
    /// dialect `nchan` to the path that accepts posts
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub api: Option<Url>,
    /// API key
    #[arg(long, value_name = "KEY", requires = "api")]
    pub api_key: Option<String>,
    /// Never sleep, as if the generator were on another host: then a server on the same host does
    /// not pay for waking it
    #[arg(long)]
    pub spin: bool,
    /// Count lost, duplicate or reordered messages without failing the run
    #[arg(long)]
    pub allow_losses: bool,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of warm-up
    #[arg(long, default_value_t = 2.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
}
