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
    /// Open connections
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Payload bytes of a message: `20`, a range `20..1024`, or sizes with weights
    /// `20:90,1024:9,16384:1`
    #[arg(long, default_value = "20", value_name = "BYTES", value_parser = Sizes::parse)]
    pub size: Sizes,
    /// Messages in flight on each connection (closed loop)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,
    /// Messages per second in all: an open loop, whose latency counts from the intended send time
    #[arg(long, conflicts_with = "depth", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds of load before the measured ones
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
    /// Offer permessage-deflate without context takeover, and compress where the server agrees;
    /// text is then made of words, as JSON is
    #[arg(long)]
    pub deflate: bool,
    /// No handshake and no framing, for the bare echoes; messages have as many bytes as a frame.
    /// Needs one fixed size
    #[arg(long, conflicts_with = "deflate")]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections per second in all (open loop); without it, `--parallel` at a time, one after
    /// the other
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Seconds in which the rate rises evenly from 0; they are part of the warm-up
    #[arg(long, value_name = "S", value_parser = seconds, requires = "rate")]
    pub ramp: Option<f64>,
    /// Stop after so many connections
    #[arg(long)]
    pub connections: Option<u64>,
    /// Churn: keep `--population` connections, each of which is closed after so many seconds and
    /// opened again
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
    /// Seconds of load before the measured ones
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub warmup: f64,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Open connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Rings, shared out to the threads; without it, as few as hold the connections. A ring holds
    /// at most as many as the limit of open files
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub rings: Option<u32>,
    /// Wait for what comes by a one-shot poll, and not by a receive that stays armed: a quiet
    /// connection then takes less of the kernel's memory on this side, and a busy one more time
    #[arg(long)]
    pub park: bool,
    /// Offer permessage-deflate without context takeover
    #[arg(long)]
    pub deflate: bool,
    /// Offer it so that the server may keep a context
    #[arg(long, requires = "greet", conflicts_with_all = ["deflate", "echo_share"])]
    pub takeover: bool,
    /// Each connection sends a message when it is open, and counts as open when the echo has come
    #[arg(long)]
    pub greet: bool,
    /// Seconds to hold them
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub hold: f64,
    /// Numbers of connections to stop at and measure, rising; the last one replaces --connections
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    pub steps: Vec<u32>,
    /// Seconds of quiet before each measurement
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub settle: f64,
    /// After the hold, so many of the connections send a message each second, all in turn
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub echo_share: Option<f64>,
    /// Seconds of these messages
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds,
          requires = "echo_share")]
    pub echo_seconds: f64,
    /// Payload bytes of these messages, and of the greeting
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub size: u32,
    /// At the end, tell the process of --server-pid to end (SIGTERM), and watch for at most so
    /// many seconds how it closes the connections
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

/// When dropped connections try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Always after the same delay.
    Fixed,
    /// After a random time up to a bound that doubles with each attempt (full jitter).
    Backoff,
    /// The same, as clients of Seawall's hub: each has a subscription, comes back with its ticket,
    /// and must get what was published meanwhile.
    Resume,
}

#[derive(Debug, Args)]
pub struct StormArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections that are dropped and come back
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// How they are dropped
    #[arg(long, value_enum, default_value_t = DropKind::Reset)]
    pub drop: DropKind,
    /// When they try again
    #[arg(long, value_enum, default_value_t = Policy::Backoff)]
    pub policy: Policy,
    /// Seconds before each attempt (policy fixed)
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub delay: f64,
    /// Seconds up to which the first attempt waits (policies backoff and resume)
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub base: f64,
    /// Seconds up to which any attempt waits (policies backoff and resume)
    #[arg(long, default_value_t = 30.0, value_name = "S", value_parser = seconds)]
    pub cap: f64,
    /// Path of the hub, where the crowd connects (policy resume)
    #[arg(long, default_value = "/ws", value_name = "PATH")]
    pub hub_path: String,
    /// Channels, of which each connection has one (policy resume)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub channels: u32,
    /// Messages published to each channel when all are dropped (policy resume)
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub missed: u32,
    /// Seconds after the drop until which all must be back
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub limit: f64,
    /// Connections that are not dropped and go on sending messages
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
    /// Seconds after all are back
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
    /// Share of them that reads slowly
    #[arg(long, default_value = "10%", value_name = "SHARE", value_parser = share)]
    pub share: f64,
    /// Bytes per second that each slow one reads; 0 = it stops reading
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub read_rate: u32,
    /// Messages per second that each slow one sends
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub slow_rate: u64,
    /// Messages per second of all others
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub size: u32,
    /// Bytes of the kernel's receive buffer of the generator's sockets; 0 = the kernel's choice,
    /// which may take megabytes before a slow reader is felt
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub receive_buffer: u32,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub duration: f64,
    /// Seconds in which the slow ones read everything at the end, to learn how they were ended
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
