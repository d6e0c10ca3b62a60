//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::target::Url;

/// Load generator for WebSocket servers, and the bare echoes they are compared with.
///
/// Exit codes: 0 done; 1 the system or the server refused, or connections were lost; 2 wrong use;
/// 3 an echo was not what was sent.
#[derive(Debug, Parser)]
#[command(name = "seawall-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send messages and measure their echoes.
    Echo(EchoArgs),
    /// Open and close connections: handshakes per second.
    Connect(ConnectArgs),
    /// Hold idle connections and measure the server's memory.
    Hold(HoldArgs),
    /// Serve a bare TCP echo on io_uring, the limit of the comparisons.
    ServeUring(ServeUringArgs),
    /// Serve a bare TCP echo on epoll, the limit of the comparisons.
    ServeEpoll(ServeArgs),
}

/// What every load has.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// ws://HOST:PORT/PATH
    #[arg(value_parser = Url::parse)]
    pub url: Url,
    /// Load threads, each with a ring of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Connections being opened at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: u32,
    /// Seconds a connect, an upgrade or a close may take
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub timeout: f64,
    /// Congestion control of the generator's sockets ("default": the host's). A host that paces
    /// (BBR) adds timers to small messages
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    pub congestion: String,
    /// Process whose CPU time or memory is measured
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the results as a JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl CommonArgs {
    pub fn congestion(&self) -> Option<String> {
        Some(self.congestion.clone()).filter(|name| name != "default")
    }
}

#[derive(Debug, Args)]
pub struct EchoArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Open connections
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub size: u32,
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
    /// No handshake and no framing, for the bare echoes; messages have as many bytes as a frame
    #[arg(long)]
    pub raw: bool,
    /// Write the latencies as a percentile distribution in microseconds
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Connections per second in all (open loop); without it, `--parallel` at a time, one after
    /// the other
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Stop after so many connections
    #[arg(long)]
    pub connections: Option<u64>,
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
    /// Seconds to hold them
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub hold: f64,
    /// Numbers of connections to stop at and measure, rising; the last one replaces --connections
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    pub steps: Vec<u32>,
    /// Seconds of quiet before each measurement
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub settle: f64,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on
    pub address: SocketAddr,
    /// Congestion control of the listener's connections ("default": the host's)
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    pub congestion: String,
}

impl ServeArgs {
    pub fn congestion(&self) -> Option<&str> {
        Some(self.congestion.as_str()).filter(|name| *name != "default")
    }
}

#[derive(Debug, Args)]
pub struct ServeUringArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Receive buffers, a power of two
    #[arg(long, default_value_t = 256, value_parser = power_of_two)]
    pub buffers: u16,
    /// Bytes of a receive buffer
    #[arg(long, default_value_t = 16 * 1024, value_parser = buffer_size)]
    pub buffer_size: u32,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("seconds from 0 to 86400".to_owned()),
    }
}

fn power_of_two(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(value) if value.is_power_of_two() => Ok(value),
        _ => Err("a power of two up to 32768".to_owned()),
    }
}

fn buffer_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(value) if (1..=1 << 20).contains(&value) => Ok(value),
        _ => Err("bytes from 1 to 1048576".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ());
        assert!(parse("b echo ws://h/ --depth 4 --size 1024").is_ok());
        for bad in [
            "b echo ws://h/ --rate 10 --depth 2",
            "b echo ws://h/ --text --binary",
            "b echo ws://h/ --duration -1",
            "b echo http://h/",
            "b serve-uring 127.0.0.1:1 --buffers 3",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
