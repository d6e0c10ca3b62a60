//! The arguments of `hostile`.

use clap::Args;

use super::CommonArgs;
use super::values::{factor, seconds};
use crate::hostile::Kind;

#[derive(Debug, Args)]
pub struct HostileArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Behaviour of the greedy clients
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Well-behaved connections, whose echoes are measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Echoes per second of all well-behaved connections: an open loop, whose latency counts from
    /// the intended send time
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Payload bytes of these echoes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub size: u32,
    /// Greedy clients; default: a tenth of `--connections`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub greedy: Option<u32>,
    /// Batches, or handshakes, of each greedy client at most; the run then also waits until all are
    /// sent. 0 = no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub batches: u64,
    /// Path of the hub
    #[arg(long, default_value = "/ws", value_name = "PATH")]
    pub hub_path: String,
    /// Path of an echo with context takeover
    #[arg(long, default_value = "/takeover", value_name = "PATH")]
    pub takeover_path: String,
    /// Payload bytes of a large message
    #[arg(long, default_value_t = 15_000_000, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    pub large_bytes: u32,
    /// Limit of the well-behaved p99 beside greedy clients: this multiple of the p99 alone, or
    /// `--bound-ms` if that is more
    #[arg(long, default_value_t = 3.0, value_name = "FACTOR", value_parser = factor)]
    pub bound_times: f64,
    /// See `--bound-times`
    #[arg(long, default_value_t = 2.0, value_name = "MS", value_parser = factor)]
    pub bound_ms: f64,
    /// Server memory (resident bytes) above which the greedy clients are stopped, and the run fails
    /// with exit code 4
    #[arg(long, default_value_t = 4 << 30, value_name = "BYTES")]
    pub memory_max: u64,
    /// Measured seconds without greedy clients, and then beside them
    #[arg(long, default_value_t = 5.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of warm-up
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
    /// Seconds at the end in which greedy clients that did not read receive queued bytes, to learn
    /// how they were closed
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub settle: f64,
}
