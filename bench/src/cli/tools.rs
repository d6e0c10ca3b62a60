//! Arguments of the bare echoes and of plots.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::{buffer_size, power_of_two};

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

#[derive(Debug, Args)]
pub struct PlotArgs {
    #[command(subcommand)]
    pub command: PlotCommand,
}

#[derive(Debug, Subcommand)]
pub enum PlotCommand {
    /// Latency by percentile, a curve for each .hgrm file.
    Percentiles(PercentilesArgs),
    /// A bar per value, for each JSON file.
    Bars(BarsArgs),
    /// One value by another, a line per group of JSON files.
    Lines(LinesArgs),
    /// A value over the time of a run, from samples in its JSON.
    Series(SeriesArgs),
}

/// Arguments of every plot.
#[derive(Debug, Args)]
pub struct PictureArgs {
    /// SVG file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[arg(long, default_value = "")]
    pub title: String,
    /// Label of the vertical axis, with the unit
    #[arg(long, value_name = "TEXT")]
    pub y_label: Option<String>,
    /// Divisor of all values, as 1e6 to show ns in ms
    #[arg(long, default_value_t = 1.0, value_name = "NUMBER")]
    pub divisor: f64,
}

#[derive(Debug, Args)]
pub struct PercentilesArgs {
    #[command(flatten)]
    pub picture: PictureArgs,
    /// NAME=FILE.hgrm; microseconds on a logarithmic axis
    #[arg(required = true, value_name = "NAME=FILE")]
    pub files: Vec<String>,
}

#[derive(Debug, Args)]
pub struct BarsArgs {
    #[command(flatten)]
    pub picture: PictureArgs,
    /// LABEL=KEY of the JSON; each is a bar for each file
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME=KEY,...")]
    pub keys: Vec<String>,
    /// Label of the horizontal axis
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub x_label: String,
    /// NAME=FILE.json
    #[arg(required = true, value_name = "NAME=FILE")]
    pub files: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LinesArgs {
    #[command(flatten)]
    pub picture: PictureArgs,
    /// Key of the horizontal axis
    #[arg(long, default_value = "connections", value_name = "KEY")]
    pub x: String,
    /// Label of the horizontal axis, with the unit
    #[arg(long, default_value = "connections", value_name = "TEXT")]
    pub x_label: String,
    /// Key of the vertical axis
    #[arg(long, value_name = "KEY")]
    pub y: String,
    /// NAME=FILE.json,FILE.json,…
    #[arg(required = true, value_name = "NAME=FILES")]
    pub files: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SeriesArgs {
    #[command(flatten)]
    pub picture: PictureArgs,
    /// Key of the samples: pairs of milliseconds and a value
    #[arg(long, default_value = "server_memory_series", value_name = "KEY")]
    pub key: String,
    /// NAME=FILE.json
    #[arg(required = true, value_name = "NAME=FILE")]
    pub files: Vec<String>,
}
