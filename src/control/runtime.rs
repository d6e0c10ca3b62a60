//! The control thread's runtime: `tokio-uring` where the kernel allows rings, plain tokio where it
//! denies them.
//!
//! Both are current-thread runtimes with a local set, so tasks and libraries for tokio run on
//! either without a difference. Only file I/O differs ([`FileIo`]): a ring writes without blocking;
//! without a ring, tokio's blocking threads write.

use std::future::Future;
use std::io;

use tokio::task::LocalSet;

use crate::driver::uring::{self, UringError};

/// Submission entries of the control thread's ring.
const RING_ENTRIES: u32 = 32;

/// Runs the control thread's tasks.
pub(crate) enum Runtime {
    Ring(tokio_uring::Runtime),
    Plain(PlainRuntime),
}

/// A runtime without a ring.
pub(crate) struct PlainRuntime {
    /// Dropped first: its tasks may use the runtime while they are dropped.
    tasks: LocalSet,
    /// `None` only during the drop.
    tokio: Option<tokio::runtime::Runtime>,
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileIo {
    /// Through the control thread's ring.
    Ring,
    /// By threads that may block.
    Threads,
}

/// Why no runtime could be made.
#[derive(Debug)]
pub(crate) enum RuntimeError {
    /// Rings are allowed, but making this one failed: too little locked memory, or no descriptors.
    Ring(UringError),
    Tokio(io::Error),
}

impl std::fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Tokio(error) => {
                write!(f, "cannot set up the control thread's runtime: {error}")
            }
        }
    }
}

impl std::error::Error for RuntimeError {}

impl Runtime {
    /// Makes a runtime: with a ring if `wants_ring` (the shards use rings too) and the kernel
    /// allows it, otherwise without. Call it before the shards start, so that a lack of locked
    /// memory is reported before anything runs. The ring is small, because it only writes files.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(crate) fn new(wants_ring: bool) -> Result<Self, RuntimeError> {
        if !wants_ring {
            return PlainRuntime::new().map(Self::Plain).map_err(RuntimeError::Tokio);
        }
        // tokio-uring leaks memory and descriptors if its ring cannot be made, so probe first.
        if let Some(denial) = uring::denial() {
            tracing::info!(reason = %denial, "control thread runs without io_uring");
            return PlainRuntime::new().map(Self::Plain).map_err(RuntimeError::Tokio);
        }
        let ring = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES));
        ring.map(Self::Ring).map_err(|error| {
            let what = "cannot set up the control thread's ring";
            RuntimeError::Ring(UringError::explain(what, error))
        })
    }

    /// Runs a future, and the tasks it spawns, to completion.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Ring(ring) => ring.block_on(future),
            Self::Plain(plain) => plain.block_on(future),
        }
    }

    /// How tasks of this runtime write files.
    pub(crate) fn file_io(&self) -> FileIo {
        match self {
            Self::Ring(_) => FileIo::Ring,
            Self::Plain(_) => FileIo::Threads,
        }
    }

    /// System calls of this runtime beyond those of every thread, for the sandbox.
    pub(crate) fn system_calls(&self) -> &'static [i64] {
        match self {
            Self::Ring(_) => uring::SYSTEM_CALLS,
            Self::Plain(_) => &[],
        }
    }
}

impl PlainRuntime {
    fn new() -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { tasks: LocalSet::new(), tokio: Some(tokio) })
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let tokio = self.tokio.as_ref().expect("present until the drop");
        self.tasks.block_on(tokio, future)
    }
}

impl Drop for PlainRuntime {
    fn drop(&mut self) {
        self.tasks = LocalSet::new();
        if let Some(tokio) = self.tokio.take() {
            // A blocking thread may hang in a write to a dead disk; do not wait for it.
            tokio.shutdown_background();
        }
    }
}
