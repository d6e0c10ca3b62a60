//! What the control thread runs on: `tokio-uring` where the kernel grants rings, and tokio alone
//! where it refuses them.
//!
//! Both are current-thread runtimes with a local set, so tasks and the tokio libraries cannot
//! distinguish them. Only files differ: a ring writes them without blocking, and without one
//! tokio's threads do ([`FileIo`]).

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
    /// Dropped first: its tasks may need the runtime at their end.
    tasks: LocalSet,
    /// `None` only while it is dropped.
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

/// No runtime can be made.
#[derive(Debug)]
pub(crate) enum RuntimeError {
    /// Rings are allowed, and this one failed: locked memory or descriptors are short.
    Ring(UringError),
    Tokio(io::Error),
}

impl std::fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Tokio(error) => {
                write!(f, "the control thread's runtime cannot be set up: {error}")
            }
        }
    }
}

impl std::error::Error for RuntimeError {}

impl Runtime {
    /// Chooses by what the kernel allows. To be called before the shards are made, so that a lack
    /// of locked memory is reported before anything runs. The ring is small: it moves files only.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(crate) fn new() -> Result<Self, RuntimeError> {
        // tokio-uring does not clean up after a ring that failed, so a small one is tried first.
        if let Some(refusal) = uring::refusal() {
            tracing::info!(reason = %refusal, "the control thread runs without io_uring");
            return PlainRuntime::new().map(Self::Plain).map_err(RuntimeError::Tokio);
        }
        let ring = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES));
        ring.map(Self::Ring).map_err(|error| {
            let what = "the control thread's ring cannot be set up";
            RuntimeError::Ring(UringError::explain(what, error))
        })
    }

    /// Runs a future, and the tasks it spawns, until it is done.
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

    /// System calls beyond those of every thread.
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
        let tokio = self.tokio.as_ref().expect("it is there until it is dropped");
        self.tasks.block_on(tokio, future)
    }
}

impl Drop for PlainRuntime {
    fn drop(&mut self) {
        self.tasks = LocalSet::new();
        if let Some(tokio) = self.tokio.take() {
            // A thread may be stuck in a write to a dead disk, and the process must end all the
            // same.
            tokio.shutdown_background();
        }
    }
}
