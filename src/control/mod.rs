//! The control thread: signals, the admin address, and the end of the server.
//!
//! It runs inside `tokio_uring::start`, which hosts the tokio libraries beside file I/O through a
//! ring of its own. It never owns a client's socket: it talks to shards by mail only.

mod admin;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_uring::Runtime;

use crate::driver::uring::UringError;
use crate::server::Server;
use crate::shard::mailbox::Mail;

/// Submission entries of the control thread's ring.
const RING_ENTRIES: u32 = 32;
/// How long shards may take to end after their deadline before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);
/// Longer than any process lives.
const NEVER: Duration = Duration::from_hours(24 * 365 * 30);

/// The control thread's runtime. Made before the shards, so that want of locked memory is told
/// before anything runs, and with a small ring: it moves files only.
///
/// # Errors
/// With cause and cure, when `io_uring` refuses one more ring.
pub(crate) fn runtime() -> Result<Runtime, UringError> {
    Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))
        .map_err(|error| UringError::explain("the control thread's ring cannot be set up", error))
}

/// Runs the server until a signal ends it, or a shard fails.
pub(crate) fn run(
    runtime: &Runtime,
    server: Server,
    admin: Option<std::net::TcpListener>,
) -> ExitCode {
    runtime.block_on(supervise(server, admin))
}

async fn supervise(mut server: Server, admin: Option<std::net::TcpListener>) -> ExitCode {
    let draining = Arc::new(AtomicBool::new(false));
    if let Some(listener) = admin {
        let state = admin::State::new(&server, draining.clone());
        tokio::spawn(async move {
            if let Err(error) = admin::serve(listener, state).await {
                tracing::error!(%error, "the admin address has stopped answering");
            }
        });
    }
    let watched = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = watched else {
        tracing::error!("cannot watch for signals");
        return ExitCode::FAILURE;
    };
    let deadline = Duration::from_millis(u64::from(server.config.drain.deadline_ms)) + GRACE;
    let overdue = tokio::time::sleep(NEVER);
    tokio::pin!(overdue);
    let mut failure = false;
    loop {
        let signalled = tokio::select! {
            ended = server.ended() => match ended {
                None => break,
                Some((_, Ok(()))) => continue,
                Some((shard, Err(error))) => {
                    // The other shards are told to go: half a server would lose half its clients
                    // in silence, and a supervisor restarts a whole one.
                    tracing::error!(shard, %error, "a shard has failed, the server ends");
                    failure = true;
                    "shard failure"
                }
            },
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = &mut overdue => {
                tracing::error!("shards did not end within the deadline; ending without them");
                return ExitCode::FAILURE;
            }
        };
        if draining.swap(true, Ordering::Relaxed) {
            tracing::warn!(cause = signalled, "dropping what is left");
            server.tell(|| Mail::Stop);
        } else {
            tracing::info!(cause = signalled, "draining; a second signal ends at once");
            server.tell(|| Mail::Drain);
            overdue.as_mut().reset(tokio::time::Instant::now() + deadline);
        }
    }
    server.join();
    tracing::info!("all connections are closed");
    if failure { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
