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
    /// What the server speaks. With `nchan` and `plain`, `{channel}` in a path stands for the
    /// channel's name
    #[arg(long, value_enum, default_value_t = Dialect::Seawall)]
    pub dialect: Dialect,
    /// Connections that publish
    #[arg(long, default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PUBLISHERS_MAX)))]
    pub publishers: u32,
    /// Connections that subscribe, each to one channel, which they take in turn
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// Channels, to which each publisher publishes in turn; where the path says the channel, it has
    /// one of them
    #[arg(long, default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CHANNELS_MAX)))]
    pub channels: u32,
    /// Each publisher keeps to one channel, as it must where the path says it
    #[arg(long)]
    pub own_channel: bool,
    /// Messages per second of all publishers: an open loop, whose latency counts from the intended
    /// send time
    #[arg(long, conflicts_with_all = ["depth", "window"],
          value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Batches of each publisher without acknowledgement (closed loop)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub depth: u32,
    /// Messages at a time that some subscriber has not got (closed loop); 0 = no bound, and the
    /// server drops what subscribers cannot read in time
    #[arg(long, default_value_t = 0)]
    pub window: u64,
    /// Content bytes of a message, quotes included
    #[arg(long, default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(CONTENT_MIN as i64..=1 << 24))]
    pub size: u32,
    /// Messages that a publisher sends at once: in one frame, or one request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Path of publishers that are WebSockets, where it is not that of the URL
    #[arg(long, value_name = "PATH", conflicts_with = "api")]
    pub publish_path: Option<String>,
    /// Publish over HTTP, each publisher from a thread of its own: the server's API, or where the
    /// dialect is `nchan`, the path that takes posts
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub api: Option<Url>,
    /// Key of the API
    #[arg(long, value_name = "KEY", requires = "api")]
    pub api_key: Option<String>,
    /// The generator never sleeps, as if it were another host: a server on the same one then does
    /// not pay for waking it
    #[arg(long)]
    pub spin: bool,
    /// Lost, doubled or disordered messages are counted and do not fail the run
    #[arg(long)]
    pub allow_losses: bool,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of load before the measured ones
    #[arg(long, default_value_t = 2.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
}
