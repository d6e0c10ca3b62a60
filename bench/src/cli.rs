//! The command line: arguments of all loads, and exit codes.

mod fanout;
mod hostile;
mod loads;
mod request;
mod tls;
mod tools;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::expect::Expectation;
use crate::target::Url;

pub use fanout::FanoutArgs;
pub use hostile::HostileArgs;
pub use loads::{
    ConnectArgs, DropKind, EchoArgs, HoldArgs, Policy, ReplayArgs, SlowArgs, StormArgs,
};
pub use request::RequestArgs;
pub use tls::TlsArgs;
pub use tools::{
    BarsArgs, LinesArgs, PercentilesArgs, PictureArgs, PlotArgs, PlotCommand, SeriesArgs,
    ServeArgs, ServeUringArgs,
};

/// Load generator for WebSocket servers, and the bare echoes they are compared with.
///
/// Exit codes: 0 done; 1 the system or server failed, or connections or messages were lost; 2
/// invalid command line; 3 an echo differed from its message; 4 a condition of --expect is not met.
#[derive(Debug, Parser)]
#[command(name = "seawall-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send messages and measure the latency of their echoes.
    Echo(EchoArgs),
    /// Open and close connections: handshakes per second, or churn.
    Connect(ConnectArgs),
    /// Hold idle connections, and measure the memory of server and kernel.
    Hold(HoldArgs),
    /// Drop all connections at once, and measure how fast they reconnect.
    Storm(StormArgs),
    /// Let some connections read slowly or not at all, and measure the effect on the others.
    Slow(SlowArgs),
    /// Run greedy clients beside well-behaved ones, and measure the effect on the latter.
    Hostile(HostileArgs),
    /// Publish to channels, and measure the delay of each delivery.
    Fanout(FanoutArgs),
    /// Send recorded frames with their timing.
    Replay(ReplayArgs),
    /// Draw results as SVG.
    Plot(PlotArgs),
    /// Serve a bare TCP echo on io_uring, the limit of the comparisons.
    ServeUring(ServeUringArgs),
    /// Serve a bare TCP echo on epoll, the limit of the comparisons.
    ServeEpoll(ServeArgs),
    /// Act as an application behind a gateway, which echoes on the links that a server dials.
    Gateway(ServeArgs),
}

/// Arguments of every load.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// ws://HOST:PORT/PATH or wss://HOST:PORT/PATH
    #[arg(value_parser = Url::parse)]
    pub url: Url,
    /// Load threads, each with one or more rings
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Connections being opened at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: u32,
    /// Timeout of a connect, an upgrade or a close (seconds)
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = values::seconds)]
    pub timeout: f64,
    /// Congestion control of the generator's sockets ("default": the host's). BBR paces with
    /// timers, which delays small messages
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    pub congestion: String,
    /// Process whose CPU time or memory to measure
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub request: RequestArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl CommonArgs {
    pub fn congestion(&self) -> Option<String> {
        Some(self.congestion.clone()).filter(|name| name != "default")
    }
}

/// Output files, and conditions on results.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write the results as a JSON object
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the latencies as a percentile distribution in microseconds
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write the latencies of each second (`HdrHistogram` interval log, nanoseconds)
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub histogram_log: Option<PathBuf>,
    /// Print a line per second on stderr, even if it is not a terminal
    #[arg(long, help_heading = "Results")]
    pub progress: bool,
    /// Exit with 4 unless this condition holds, as in 'p99<5ms', 'rate>=100k' or 'losses==0'; may
    /// be repeated. Names are p50, p90, p99, p99.9, max, rate, losses, errors, opened, and all keys
    /// of the JSON
    #[arg(
        long,
        help_heading = "Results",
        value_name = "CONDITION",
        value_parser = Expectation::parse
    )]
    pub expect: Vec<Expectation>,
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
        for good in [
            "b echo ws://h/ --depth 4 --size 1024",
            "b echo ws://h/ --size 20..1024 --deflate",
            "b hold ws://h/ --rings 64 --echo-share 1% --echo-seconds 3",
            "b connect ws://h/ --hold 3 --population 10",
            "b storm ws://h/ --policy backoff --base 0.5 --cap 20 --drop close",
            "b echo ws://h/ --expect p99<5ms --expect losses==0",
            "b fanout ws://h/ --subscribers 10 --rate 5 --batch 2 --size 40",
            "b fanout ws://h/ --dialect plain --window 8 --depth 3",
            "b fanout ws://h/ --api http://h:1 --api-key k",
            "b hostile ws://h/ --kind inflate-hub --greedy 3 --batches 2",
            "b echo ws://h/ --header X-A:b --header X-C:d --subprotocol e --token a --token b",
            "b hold ws://h/ --token-file tokens",
            "b hostile ws://h/ --kind mix --token a.b.c --expect bound<=1",
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
        }
        for bad in [
            "b echo ws://h/ --rate 10 --depth 2",
            "b echo ws://h/ --text --binary",
            "b echo ws://h/ --duration -1",
            "b echo ws://h/ --raw --deflate",
            "b echo ws://h/ --expect p99",
            "b connect ws://h/ --hold 3",
            "b connect ws://h/ --ramp 3",
            "b hold ws://h/ --echo-share 101%",
            "b hold ws://h/ --drain 3",
            "b storm ws://h/ --policy ticket",
            "b slow ws://h/ --share 0..1",
            "b echo http://h/",
            "b hostile ws://h/",
            "b hostile ws://h/ --kind polite",
            "b fanout ws://h/ --rate 5 --window 2",
            "b fanout ws://h/ --size 10",
            "b fanout ws://h/ --api ws://h/",
            "b fanout ws://h/ --api-key k",
            "b echo ws://h/ --header nothing",
            "b echo ws://h/ --token a --token-file b",
            "b serve-uring 127.0.0.1:1 --buffers 3",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
