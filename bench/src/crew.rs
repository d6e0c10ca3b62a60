//! The threads of a run, and the state they share with the measuring thread.
//!
//! A worker is a ring with its load; a thread drives one or more workers.
//!
//! Workers publish their counts once a turn; the measuring thread reads counts and CPU time at the
//! same moment, so that a late wake-up shifts both alike.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Fault, Traffic};
use crate::fleet::{Clock, Fleet, Load, drive};
use crate::recorder::Feed;
use crate::sys::raise_priority;

/// The error of a load that receives unrequested messages.
pub const MORE_ECHOES: &str = "received more messages than were sent; is this path an echo?";

/// Why a run failed; determines the exit code.
#[derive(Debug)]
pub enum Failure {
    /// The system or the server failed: exit code 1.
    Failed(String),
    /// Arguments contradict each other: exit code 2.
    Usage(String),
    /// An echo differed from its message: exit code 3.
    Corrupt(String),
    /// A condition of `--expect` is not met: exit code 4.
    Unmet(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Corrupt(_) => 3,
            Self::Unmet(_) => 4,
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Corrupt(text) | Self::Unmet(text) => {
                text
            }
        }
    }

    /// A connection was lost that the run needs.
    pub fn lost(fault: &Fault) -> Self {
        match fault {
            Fault::Corrupt(text) => Self::Corrupt(text.clone()),
            other => Self::Failed(format!("a connection was lost: {other}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A counter on a cache line of its own: one thread writes it every turn.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// State that all threads of a run share.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    /// Units of work done, by worker.
    pub done: Vec<Counter>,
    /// Connections open now.
    pub open: AtomicUsize,
    /// Faults so far: connections lost or refused, messages without an answer.
    pub errors: AtomicU64,
    /// Seconds of each worker, for progress and log.
    pub feed: Feed,
    /// Start of the load; 0 until all connections are open.
    start_ns: AtomicU64,
    stop: AtomicBool,
    /// Threads whose load is over; they live until they are joined, because the CPU time of a
    /// thread that has ended can no longer be read.
    finished: AtomicUsize,
    threads: AtomicUsize,
    leave: AtomicBool,
}

impl Shared {
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(),
            done: (0..workers).map(|_| Counter::default()).collect(),
            open: AtomicUsize::new(0),
            errors: AtomicU64::new(0),
            feed: Feed::default(),
            threads: AtomicUsize::new(workers),
            start_ns: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            finished: AtomicUsize::new(0),
            leave: AtomicBool::new(false),
        })
    }

    pub fn done_sum(&self) -> u64 {
        self.done.iter().map(Counter::get).sum()
    }

    pub fn set_start(&self, at_ns: u64) {
        self.start_ns.store(at_ns, Ordering::Release);
    }

    pub fn start(&self) -> Option<u64> {
        Some(self.start_ns.load(Ordering::Acquire)).filter(|at_ns| *at_ns != 0)
    }

    /// Ends the run early after a failure.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether the load of every worker is over.
    pub fn finished(&self) -> bool {
        self.finished.load(Ordering::Acquire) == self.threads.load(Ordering::Acquire)
    }

    /// Counts one more fault.
    pub fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// The share of thread `thread` in `total` things.
pub fn share(total: usize, thread: usize, threads: usize) -> usize {
    total / threads + usize::from(thread < total % threads)
}

/// Running workers.
pub struct Crew<T> {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<T, Failure>>>,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `threads` workers; one that fails stops the run.
    pub fn start<W>(shared: &Arc<Shared>, threads: usize, work: W) -> io::Result<Self>
    where
        W: Fn(usize) -> Result<T, Failure> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        shared.threads.store(threads, Ordering::Release);
        let start_one = |thread: usize| {
            let (work, shared) = (Arc::clone(&work), Arc::clone(shared));
            std::thread::Builder::new().name(format!("load-{thread}")).spawn(move || {
                let outcome = work(thread);
                if outcome.is_err() {
                    shared.stop();
                }
                shared.finished.fetch_add(1, Ordering::AcqRel);
                while !shared.leave.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                outcome
            })
        };
        let started = (0..threads).map(start_one).collect::<io::Result<_>>()?;
        Ok(Self { shared: Arc::clone(shared), threads: started })
    }

    /// Waits for all threads; returns the first failure, with a corrupt echo before any other.
    pub fn join(self) -> Result<Vec<T>, Failure> {
        self.shared.leave.store(true, Ordering::Release);
        let mut results = Vec::new();
        let mut failure: Option<Failure> = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(result)) => results.push(result),
                Ok(Err(found)) => match (&failure, &found) {
                    (None, _) | (Some(Failure::Failed(_)), Failure::Corrupt(_)) => {
                        failure = Some(found);
                    }
                    _ => {}
                },
                Err(_) => {
                    failure =
                        Some(Failure::Failed("a load thread panicked (see above)".to_owned()));
                }
            }
        }
        failure.map_or(Ok(results), Err)
    }
}

/// How workers are distributed over threads.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// This many threads, in turn.
    Even(usize),
    /// The first worker, which measures the effect of the others, has a thread of its own with
    /// priority; this many threads share the rest.
    FirstAlone(usize),
}

impl Spread {
    fn threads(self, workers: usize) -> usize {
        match self {
            Self::Even(threads) => threads.min(workers),
            Self::FirstAlone(others) => (1 + others).min(workers),
        }
    }

    fn is_first(self, thread: usize) -> bool {
        matches!(self, Self::FirstAlone(_)) && thread == 0
    }

    fn workers_of(self, thread: usize, workers: usize) -> Vec<usize> {
        let threads = self.threads(workers);
        match self {
            Self::Even(_) => (thread..workers).step_by(threads).collect(),
            Self::FirstAlone(_) if thread == 0 => vec![0],
            Self::FirstAlone(_) => (thread..workers).step_by(threads - 1).collect(),
        }
    }
}

/// A worker after its run.
pub struct Ran<L> {
    pub load: L,
    /// Completions that overflowed its queue.
    pub overflow_count: u32,
    pub traffic: Traffic,
}

impl<L: Load + Send + 'static> Crew<Vec<Ran<L>>> {
    /// Starts the workers that `make` makes, one for each of `shared.done`, on the threads of
    /// `spread`. `make` runs on the worker's thread, because a ring belongs to the thread that
    /// makes it.
    pub fn of_workers<M>(shared: &Arc<Shared>, spread: Spread, make: M) -> io::Result<Self>
    where
        M: Fn(usize) -> io::Result<(Fleet, L)> + Send + Sync + 'static,
    {
        let workers = shared.done.len();
        let clock = shared.clock;
        Self::start(shared, spread.threads(workers), move |thread| {
            if spread.is_first(thread)
                && let Err(error) = raise_priority()
            {
                eprintln!(
                    "seawall-bench: the measuring thread has no priority over the load \
                     ({error}): run it as root, or its latencies are partly the load's own"
                );
            }
            let own = spread.workers_of(thread, workers);
            let mut pairs = own.into_iter().map(&make).collect::<io::Result<Vec<_>>>()?;
            drive(&mut pairs, clock)?;
            let ran = pairs.into_iter().map(|(fleet, load)| Ran {
                load,
                overflow_count: fleet.overflow_count(),
                traffic: fleet.traffic(),
            });
            Ok(ran.collect())
        })
    }

    /// Waits for all workers.
    pub fn join_workers(self) -> Result<Vec<Ran<L>>, Failure> {
        Ok(self.join()?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_thread() {
        for (spread, threads) in [
            (Spread::Even(3), vec![vec![0, 3, 6], vec![1, 4], vec![2, 5]]),
            (Spread::FirstAlone(1), vec![vec![0], vec![1, 2, 3, 4, 5, 6]]),
            (Spread::FirstAlone(2), vec![vec![0], vec![1, 3, 5], vec![2, 4, 6]]),
        ] {
            assert_eq!(spread.threads(7), threads.len());
            let given = (0..threads.len()).map(|thread| spread.workers_of(thread, 7));
            assert_eq!(given.collect::<Vec<_>>(), threads, "{spread:?}");
        }
        assert_eq!(Spread::FirstAlone(4).threads(2), 2);
    }

    #[test]
    fn shares_add_up() {
        for (total, threads) in [(10, 3), (2, 4), (0, 1), (5_000, 2)] {
            let shares: Vec<usize> = (0..threads).map(|t| share(total, t, threads)).collect();
            assert_eq!(shares.iter().sum::<usize>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_failing_worker_stops_the_run_and_corruption_comes_first() {
        let shared = Shared::new(3);
        let crew = Crew::start(&shared, 3, |thread| match thread {
            0 => Err::<(), _>(Failure::Failed("lost".to_owned())),
            1 => Err(Failure::Corrupt("byte 3".to_owned())),
            _ => Ok(()),
        });
        let failure = crew.unwrap().join().unwrap_err();
        assert_eq!((failure.exit_code(), failure.text()), (3, "byte 3"));
        assert!(shared.stopped() && shared.finished());
    }
}
