//! The outer thread: what waits for other servers runs there, apart from shards and from the
//! control thread, which runs at low priority and answers operators.
//!
//! It runs tokio at normal priority. Tasks stay on the thread, and so need not be `Send`. A task
//! that panics ends the process: what it served would be silent for ever, and a supervisor restarts
//! an ended process.

use std::future::Future;
use std::pin::Pin;
use std::thread;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type MakeTask = Box<dyn FnOnce() -> LocalFuture + Send>;

/// The way to the thread. It ends when all of these are dropped and all tasks have ended.
#[derive(Clone, Debug)]
pub struct OuterThread(mpsc::UnboundedSender<MakeTask>);

impl OuterThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start() -> Result<Self, String> {
        let failed = |error| format!("cannot start the outer thread: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (sender, made) = mpsc::unbounded_channel();
        let run = move || LocalSet::new().block_on(&runtime, run_tasks(made));
        thread::Builder::new().name("outer-0".into()).spawn(run).map_err(failed)?;
        Ok(Self(sender))
    }

    /// Runs a task on the thread, which is also where it is made.
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // The thread ends only after this sender; or else with the process.
        let _ = self.0.send(Box::new(move || Box::pin(make())));
    }
}

async fn run_tasks(mut made: mpsc::UnboundedReceiver<MakeTask>) {
    let mut tasks = JoinSet::new();
    let mut is_open = true;
    while is_open || !tasks.is_empty() {
        tokio::select! {
            task = made.recv(), if is_open => match task {
                Some(make) => { tasks.spawn_local(make()); }
                None => is_open = false,
            },
            Some(ended) = tasks.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    tracing::error!("a task of the outer thread failed by a bug; ending");
                    std::process::abort();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc as queues;

    #[test]
    fn tasks_run_on_one_thread_which_ends_after_them() {
        let outer = OuterThread::start().unwrap();
        let (report, reported) = queues::channel();
        let (go, wait) = tokio::sync::oneshot::channel();
        for task in 0..2 {
            let report = report.clone();
            outer
                .spawn(move || async move { report.send((task, thread::current().id())).unwrap() });
        }
        let ids: Vec<_> = (0..2).map(|_| reported.recv().unwrap()).collect();
        assert_eq!(ids[0].1, ids[1].1);
        outer.spawn(move || async move {
            let _: Result<(), _> = wait.await;
            report.send((2, thread::current().id())).unwrap();
        });
        drop(outer);
        go.send(()).unwrap();
        assert_eq!(reported.recv().unwrap().0, 2, "a task outlives the handle");
        assert!(reported.recv().is_err(), "the thread has ended");
    }
}
