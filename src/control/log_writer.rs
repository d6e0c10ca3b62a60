//! Writes log lines to standard error: a bounded queue, and a thread that empties it.
//!
//! Logging never blocks. A line is dropped and counted (`seawall_log_lines_dropped_total`) if the
//! queue is full or the write fails; once the queue is empty again, the number of dropped lines is
//! logged. So a full pipe on standard error delays neither shards nor the control thread, and a
//! broken one ends nothing. In a serving process only this thread may write to standard error: any
//! other writer could block on it.

use std::collections::VecDeque;
use std::io;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum bytes of queued lines.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// How long the process waits at its end for queued lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two writes to a full descriptor in non-blocking mode.
const RETRY: Duration = Duration::from_millis(10);

/// A handle to the queue; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Signalled after a line is queued, and when the queue is empty.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// The thread is writing a line that it has removed from `lines`.
    is_writing: bool,
    has_thread: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic, and the log must
        // survive a panic in order to report it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes + line.len() > QUEUE_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // One complete line per entry: lines of two threads never mix.
        state.bytes += line.len();
        state.lines.push_back(line.into());
        drop(state);
        self.changed.notify_all();
    }

    /// Blocks until a line is queued, and removes it.
    fn wait_for_line(&self) -> Box<[u8]> {
        let mut state = self.lock();
        state.is_writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                debug_assert!(state.bytes >= line.len(), "queued lines are counted");
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes queued lines to `out` until the process ends.
    fn write_all_to(&self, out: &mut impl io::Write) {
        let mut reported = 0;
        loop {
            let line = self.wait_for_line();
            if write_line(out, &line).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                // Do not report it: the report would fail the same way.
                reported += 1;
            }
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > reported && self.lock().lines.is_empty() {
                let lines = dropped - reported;
                tracing::warn!(lines, "log lines dropped: standard error is read too slowly");
                reported = dropped;
            }
        }
    }
}

/// Writes a line whole, also to a descriptor in non-blocking mode.
fn write_line(out: &mut impl io::Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl LogWriter {
    /// Creates an empty queue. It stores lines until [`Self::start`].
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Starts the writer thread, unless it runs. Call it after the calling thread has been
    /// sandboxed: threads inherit that.
    pub(crate) fn start(&self) {
        if std::mem::replace(&mut self.0.lock().has_thread, true) {
            return;
        }
        let queue = self.0.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        if thread.spawn(move || queue.write_all_to(&mut io::stderr())).is_err() {
            // Without the thread nothing is logged; the server does not depend on it.
            self.0.lock().has_thread = false;
        }
    }

    /// Queues one or more whole lines.
    pub(crate) fn write_lines(&self, lines: &str) {
        self.0.push(lines.as_bytes());
    }

    /// Returns the number of lines dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, for at most a second: lines that nothing reads must not
    /// keep the process from ending.
    pub(crate) fn flush(&self) {
        self.start();
        let waits =
            |state: &mut State| state.has_thread && (state.is_writing || !state.lines.is_empty());
        // A timeout changes nothing: the process ends either way.
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH_TIMEOUT, waits);
    }

    /// Installs a panic hook that logs through this queue: the standard hook writes to standard
    /// error directly, and would block the panicking thread on a full pipe.
    pub(crate) fn report_panics(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| log.write_lines(&panic_report(panic))));
    }
}

/// Formats a panic as the standard hook does.
fn panic_report(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("{backtrace}"),
        _ => String::new(),
    };
    format!("thread '{name}' {panic}\n{backtrace}")
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A writer that blocks until a permit comes, and takes one line for each.
    struct Gate(mpsc::Receiver<io::Result<()>>, mpsc::Sender<Vec<u8>>);

    impl io::Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.0.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                // The test is over: block until the process ends.
                Err(_) => loop {
                    std::thread::park();
                },
            }
            let _ = self.1.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LogWriter, mpsc::Sender<io::Result<()>>, mpsc::Receiver<Vec<u8>>) {
        let log = LogWriter::new();
        log.0.lock().has_thread = true;
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let queue = log.0.clone();
        std::thread::spawn(move || queue.write_all_to(&mut Gate(permits, written)));
        (log, permit, lines)
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted_and_the_rest_is_written_in_order() {
        let (log, permit, lines) = gated();
        let line = |n: usize| format!("{n:1023}\n");
        let count = 3 * QUEUE_BYTES_MAX / 1024;
        (0..count).for_each(|n| log.write_lines(&line(n)));
        let kept = count - log.dropped() as usize;
        // The writer may have taken one out before it blocked.
        let most = QUEUE_BYTES_MAX / 1024;
        assert!(kept == most || kept == most + 1, "{kept} of {count}");
        let written: Vec<Vec<u8>> = (0..kept)
            .map(|_| {
                permit.send(Ok(())).unwrap();
                lines.recv().unwrap()
            })
            .collect();
        let expected: Vec<Vec<u8>> = (0..most).map(|n| line(n).into_bytes()).collect();
        assert!(written[..most] == expected, "the first that fit are kept, in order");
        // The extra line came when the writer took one out: no line comes twice or early.
        let is_later = |last: &Vec<u8>| (most..count).any(|n| *last == line(n).into_bytes());
        assert!(written[most..].iter().all(is_later));
        log.flush();
        let state = log.0.lock();
        assert_eq!((state.bytes, state.lines.len()), (0, 0));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_dropped_and_does_not_end_the_log() {
        let (log, permit, lines) = gated();
        permit.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        permit.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        permit.send(Ok(())).unwrap();
        log.write_lines("first\n");
        log.write_lines("second\n");
        assert_eq!(lines.recv().unwrap(), b"second\n");
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn a_flush_ends_though_nothing_is_read() {
        let (log, _permit, _lines) = gated();
        log.write_lines("unread\n");
        log.flush();
        assert_eq!(log.dropped(), 0);
    }
}
