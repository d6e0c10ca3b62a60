//! The arguments of each load.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::CommonArgs;
use super::values::{factor, seconds, share};
use crate::sizes::Sizes;

#[derive(Debug, Args)]
pub struct EchoArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Payload bytes of a message: `20`, a range `20..1024`, or sizes with weights
    /// `20:90,1024:9,16384:1`
    #[arg(long, default_value = "20", value_name = "BYTES", value_parser = Sizes::parse)]
    pub size: Sizes,
    /// Messages in flight on each connection (closed loop)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,
    /// Messages per second of all connections: an open loop, whose latency counts from the intended
    /// send time
    #[arg(long, conflicts_with = "depth", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of warm-up
    #[arg(long, default_value_t = 2.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
    /// Send text messages (the default)
    #[arg(long, conflicts_with = "binary")]
    pub text: bool,
    /// Send binary messages
    #[arg(long)]
    pub binary: bool,
    /// Compare every byte of every echo; the run fails at the first difference
    #[arg(long)]
    pub verify: bool,
    /// Offer permessage-deflate without context takeover, and compress if the server agrees; text
    /// then consists of words, similar to JSON
    #[arg(long)]
    pub deflate: bool,
    /// No handshake and no framing, for the bare echoes; messages have the length of their frames.
    /// Needs one fixed size
    #[arg(long, conflicts_with = "deflate")]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections per second in total (open loop); default: `--parallel` at a time (closed loop)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Seconds in which the rate rises linearly from 0; part of the warm-up
    #[arg(long, value_name = "S", value_parser = seconds, requires = "rate")]
    pub ramp: Option<f64>,
    /// Stop after this many connections
    #[arg(long)]
    pub connections: Option<u64>,
    /// Churn: keep `--population` connections, each of which is closed after this many seconds and
    /// reopened
    #[arg(long, value_name = "S", value_parser = seconds, requires = "population",
          conflicts_with_all = ["rate", "connections"])]
    pub hold: Option<f64>,
    /// Connections of a churn
    #[arg(long, value_name = "N", requires = "hold",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub population: Option<u32>,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of warm-up
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Rings, distributed over the threads; default: as few as hold the connections. A ring holds
    /// at most as many as the limit of open files
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub rings: Option<u32>,
    /// Wait for input with a one-shot poll instead of an armed receive: quiet connections then take
    /// less kernel memory on this side, busy ones more CPU time
    #[arg(long)]
    pub park: bool,
    /// Offer permessage-deflate without context takeover
    #[arg(long)]
    pub deflate: bool,
    /// Offer permessage-deflate with context takeover by the server
    #[arg(long, requires = "greet", conflicts_with_all = ["deflate", "echo_share"])]
    pub takeover: bool,
    /// Send a message on each connection once it is open; it counts as open when the echo arrives
    #[arg(long)]
    pub greet: bool,
    /// Seconds to hold the connections
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub hold: f64,
    /// Rising numbers of connections at which to pause and measure; the last replaces --connections
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    pub steps: Vec<u32>,
    /// Seconds of quiet before each measurement
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub settle: f64,
    /// After the hold, this share of the connections sends a message each second, in turn
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub echo_share: Option<f64>,
    /// Seconds of these messages
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds,
          requires = "echo_share")]
    pub echo_seconds: f64,
    /// Payload bytes of these messages, and of the greeting
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub size: u32,
    /// At the end, send SIGTERM to the process of --server-pid, and watch for at most this many
    /// seconds how it closes the connections
    #[arg(long, value_name = "S", value_parser = seconds, requires = "server_pid")]
    pub drain: Option<f64>,
}

/// How connections are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DropKind {
    /// TCP resets, as when a network or a host dies.
    Reset,
    /// WebSocket closing handshakes.
    Close,
}

/// When dropped connections reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Always after the same delay.
    Fixed,
    /// After a random time up to a bound that doubles with each attempt (full jitter).
    Backoff,
    /// Backoff as clients of Seawall's hub: each has a subscription, reconnects with its ticket,
    /// and must receive the messages published meanwhile.
    Resume,
}

#[derive(Debug, Args)]
pub struct StormArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections that are dropped and reconnect
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// How they are dropped
    #[arg(long, value_enum, default_value_t = DropKind::Reset)]
    pub drop: DropKind,
    /// When they reconnect
    #[arg(long, value_enum, default_value_t = Policy::Backoff)]
    pub policy: Policy,
    /// Seconds before each attempt (policy fixed)
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub delay: f64,
    /// Longest delay of the first attempt in seconds (policies backoff and resume)
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub base: f64,
    /// Longest delay of any attempt in seconds (policies backoff and resume)
    #[arg(long, default_value_t = 30.0, value_name = "S", value_parser = seconds)]
    pub cap: f64,
    /// Path of the hub, to which the dropped clients connect (policy resume)
    #[arg(long, default_value = "/ws", value_name = "PATH")]
    pub hub_path: String,
    /// Channels, of which each connection has one (policy resume)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub channels: u32,
    /// Messages published to each channel after the drop (policy resume)
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub missed: u32,
    /// Seconds after the drop in which all must reconnect
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub limit: f64,
    /// Connections that are not dropped, and keep sending messages
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub survivors: u32,
    /// Messages per second of all survivors
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub survivor_rate: u64,
    /// Payload bytes of a survivor's message
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub size: u32,
    /// Seconds before the drop
    #[arg(long, default_value_t = 3.0, value_name = "S", value_parser = seconds)]
    pub before: f64,
    /// Seconds after all have reconnected
    #[arg(long, default_value_t = 3.0, value_name = "S", value_parser = seconds)]
    pub after: f64,
}

#[derive(Debug, Args)]
pub struct SlowArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Open connections
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    pub connections: u32,
    /// Share of slow connections
    #[arg(long, default_value = "10%", value_name = "SHARE", value_parser = share)]
    pub share: f64,
    /// Bytes per second that each slow connection reads; 0 = none
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub read_rate: u32,
    /// Messages per second that each slow connection sends
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub slow_rate: u64,
    /// Messages per second of all other connections
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub size: u32,
    /// Kernel receive buffer of the generator's sockets (bytes); 0 = the kernel's choice, which may
    /// buffer megabytes before the server notices a slow reader
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub receive_buffer: u32,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds at the end in which slow connections read everything, to learn how they were closed
    #[arg(long, default_value_t = 5.0, value_name = "S", value_parser = seconds)]
    pub settle: f64,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Frames to send, one JSON object a line, in the order of time:
    /// `{"at_ms": 12.5, "connection": 3, "text": "hi", "expect_reply": true}`, with "base64"
    /// instead of "text" for a binary message. Blank lines and lines that begin with # are skipped
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// How much faster than recorded
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", value_parser = factor)]
    pub speed: f64,
    /// Seconds to wait for replies after the last frame
    #[arg(long, default_value_t = 5.0, value_name = "S", value_parser = seconds)]
    pub wait: f64,
}
