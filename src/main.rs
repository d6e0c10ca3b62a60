//! The `seawall` binary: command line in, exit code out.

fn main() -> std::process::ExitCode {
    seawall::cli::run()
}
