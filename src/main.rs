//! The `seawall` binary: command line in, exit code out.

#[global_allocator]
static ALLOCATOR: seawall::driver::allocator::Allocator = seawall::driver::allocator::Allocator;

fn main() -> std::process::ExitCode {
    seawall::cli::run()
}
