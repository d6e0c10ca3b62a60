//! The histogram log: appends the histograms of each interval to a file.
//!
//! An [`Appender`] writes the file, so a slow disk never blocks the control thread. An existing
//! file is continued under a new header with its own start time: readers apply each header to the
//! lines that follow it. An interval that could not be written is merged into the next one.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::appender::Appender;
use super::runtime::FileIo;
use crate::metrics::interval_log;
use crate::server::Collector;

/// Minimum time between two error logs about the same file.
const ERROR_LOG_INTERVAL: Duration = Duration::from_mins(1);
/// Limit for the last write at the end of the process.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The log's file, open for appending.
#[derive(Debug)]
pub(crate) struct HistogramLog {
    file: std::fs::File,
    path: PathBuf,
    /// The file ends within a line, as after a crash: a line feed must come first.
    is_torn: bool,
}

/// A running log: the task that writes it, and how to stop that.
pub(super) struct Writing {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

struct Writer {
    log: HistogramLog,
    appender: Appender,
    collector: Arc<Collector>,
    errors: Arc<AtomicU64>,
    begun: Instant,
    /// Start of the current interval, relative to `begun`.
    start: Duration,
    /// Header still to be written before any line.
    header: String,
    error_logged_at: Option<Instant>,
}

/// Opens the file of `metrics.histogram_log`; an empty name means no log.
///
/// Without `follows_link` a symbolic link is rejected: another user may own its folder, and root
/// would write to the link's target.
///
/// # Errors
/// With the reason and the remedy.
pub(crate) fn open(
    path: &str,
    recorded: bool,
    follows_link: bool,
) -> Result<Option<HistogramLog>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    if !recorded {
        return Err("metrics.histogram_log needs metrics.histograms = true".to_owned());
    }
    let path = PathBuf::from(path);
    let open = || -> io::Result<(std::fs::File, bool)> {
        let flags = if follows_link { 0 } else { libc::O_NOFOLLOW };
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).append(true).read(true).custom_flags(flags).open(&path)?;
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok((file, last != *b"\n"))
    };
    match open() {
        Ok((file, is_torn)) => Ok(Some(HistogramLog { file, path, is_torn })),
        Err(error) => Err(format!(
            "metrics.histogram_log: cannot open {} for appending: {error} (create its folder, \
             writable for this user, or remove the key for no log)",
            path.display()
        )),
    }
}

impl HistogramLog {
    /// Writes a header, then starts the task that appends each interval's histograms. Failed writes
    /// are counted in `errors`.
    ///
    /// # Errors
    /// When the file's descriptor cannot be duplicated.
    pub(super) async fn start(
        self,
        file_io: FileIo,
        collector: Arc<Collector>,
        every: Duration,
        errors: Arc<AtomicU64>,
    ) -> io::Result<Writing> {
        collector.keep_intervals().await;
        let header = interval_log::format_header(SystemTime::now());
        let writer = Writer {
            appender: Appender::new(&self.file, file_io)?,
            header: if self.is_torn { format!("\n{header}") } else { header },
            log: self,
            collector,
            errors,
            begun: Instant::now(),
            start: Duration::ZERO,
            error_logged_at: None,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(writer.run(every, stopped));
        Ok(Writing { stop, task })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Writing {
    /// Writes the last, shorter interval. Call it after all shards have ended.
    pub(super) async fn finish(self) {
        // The task ends by itself only after a failure that it has logged.
        let _ = self.stop.send(());
        if tokio::time::timeout(LAST_WRITE_TIMEOUT, self.task).await.is_err() {
            tracing::warn!(
                "last write to the histogram log timed out; its final interval may be missing"
            );
        }
    }
}

impl Writer {
    async fn run(mut self, every: Duration, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval_at(self.begun + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.append(String::new()).await;
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopped => true,
            };
            self.write_interval().await;
            if last {
                return;
            }
        }
    }

    async fn write_interval(&mut self) {
        let recorded = self.collector.take_interval().await;
        let end = self.begun.elapsed();
        let length = end.saturating_sub(self.start);
        if self.append(interval_log::format_interval(&recorded, self.start, length)).await {
            self.start = end;
        } else {
            self.collector.return_interval(&recorded).await;
        }
    }

    /// Appends lines, after the header if it is still to be written. Returns whether they are in
    /// the file.
    async fn append(&mut self, lines: String) -> bool {
        let text = format!("{}{lines}", self.header);
        if text.is_empty() {
            return true;
        }
        // The file is in append mode, so the length is needed only to undo a partial write.
        let before = self.log.file.metadata().map(|file| file.len());
        let (written, result) = self.appender.append(text.into_bytes()).await;
        let Err(error) = result else {
            self.header.clear();
            return true;
        };
        self.report_error(&error);
        if written > 0
            && let Err(error) = before.and_then(|len| self.log.file.set_len(len))
        {
            // Some lines are in the file, the last one perhaps in part: end it, and do not repeat
            // any.
            self.report_error(&error);
            "\n".clone_into(&mut self.header);
            return true;
        }
        false
    }

    fn report_error(&mut self, error: &io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.error_logged_at.is_none_or(|at| at.elapsed() >= ERROR_LOG_INTERVAL) {
            self.error_logged_at = Some(Instant::now());
            tracing::error!(
                path = %self.log.path().display(),
                %error,
                "cannot write the histogram log; keeping its data for the next interval"
            );
        }
    }
}
