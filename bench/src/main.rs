//! Command line -> run -> exit code.

use std::process::ExitCode;

use clap::Parser as _;

use seawall_bench::cli::{Cli, Command};
use seawall_bench::crew::Failure;
use seawall_bench::{bare, gateway, plot, run};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Echo(args) => run::echo(&args),
        Command::Connect(args) => run::connect(&args),
        Command::Hold(args) => run::hold(&args),
        Command::Storm(args) => run::storm(&args),
        Command::Slow(args) => run::slow(&args),
        Command::Hostile(args) => run::hostile(&args),
        Command::Fanout(args) => run::fanout(&args),
        Command::Replay(args) => run::replay(&args),
        Command::Plot(args) => plot::plot(&args),
        Command::ServeUring(args) => bare::listen(args.serve.address, args.serve.congestion())
            .and_then(|listener| {
                bare::uring::serve(listener, args.buffers, args.buffer_size as usize)
            })
            .map_err(Failure::from),
        Command::ServeEpoll(args) => bare::listen(args.address, args.congestion())
            .and_then(|listener| bare::epoll::serve(&listener))
            .map_err(Failure::from),
        Command::Gateway(args) => bare::listen(args.address, args.congestion())
            .and_then(|listener| {
                gateway::serve(&listener, &format!("bench-{}", std::process::id()))
            })
            .map_err(Failure::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("seawall-bench: {}", failure.text());
            ExitCode::from(failure.exit_code())
        }
    }
}
