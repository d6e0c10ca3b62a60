//! The histogram log: what each interval recorded, appended to a file.
//!
//! An [`Appender`] writes the file, so no disk makes the control thread wait. A file that is there
//! already is continued, under a header of its own time: readers take each header for the lines
//! that follow it. What could not be written becomes part of the next interval.

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

/// Between two complaints about the same file.
const COMPLAINT: Duration = Duration::from_mins(1);
/// How long the last write may take before the process ends without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log's file, open for appending.
#[derive(Debug)]
pub(crate) struct HistogramLog {
    file: std::fs::File,
    path: PathBuf,
    /// The file ends within a line, as a crash leaves it.
    torn: bool,
}

/// The task that writes the log.
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
    /// Where the present interval begins, from `begun`.
    start: Duration,
    /// Still to be written before all else.
    header: String,
    complained_at: Option<Instant>,
}

/// Opens the file named by `metrics.histogram_log`; an empty name means none. Without
/// `follows_link` a symbolic link is rejected: its folder may belong to another user, and what it
/// leads to would be written to as root.
///
/// # Errors
/// With cause and cure.
pub(crate) fn open(
    path: &str,
    recorded: bool,
    follows_link: bool,
) -> Result<Option<HistogramLog>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    if !recorded {
        return Err(
            "metrics.histogram_log needs metrics.histograms = true: there would be nothing \
                    to log"
                .to_owned(),
        );
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
        Ok((file, torn)) => Ok(Some(HistogramLog { file, path, torn })),
        Err(error) => Err(format!(
            "metrics.histogram_log: cannot open {} for appending: {error} (its folder must exist \
             and be writable for this user; or leave the key out for no log)",
            path.display()
        )),
    }
}

impl HistogramLog {
    /// Starts the log: a header now, and the histograms of each interval from then on. Failed
    /// writes are counted in `errors`.
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
        let header = interval_log::header(SystemTime::now());
        let writer = Writer {
            appender: Appender::new(&self.file, file_io)?,
            header: if self.torn { format!("\n{header}") } else { header },
            log: self,
            collector,
            errors,
            begun: Instant::now(),
            start: Duration::ZERO,
            complained_at: None,
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
    /// Writes the last, shorter interval. To be called when all shards have ended.
    pub(super) async fn finish(self) {
        // The task may have ended by itself, which it does only by a mistake it has told of.
        let _ = self.stop.send(());
        if tokio::time::timeout(PATIENCE, self.task).await.is_err() {
            tracing::warn!("the end of the histogram log could not be written in time");
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
        if self.append(interval_log::interval(&recorded, self.start, length)).await {
            self.start = end;
        } else {
            self.collector.give_back(&recorded).await;
        }
    }

    /// Appends lines, after the header if that is still to come; tells whether they are in the
    /// file.
    async fn append(&mut self, lines: String) -> bool {
        let text = format!("{}{lines}", self.header);
        if text.is_empty() {
            return true;
        }
        // The file is opened for appending; this is to undo a part of a write only.
        let before = self.log.file.metadata().map(|file| file.len());
        let (written, result) = self.appender.append(text.into_bytes()).await;
        let Err(error) = result else {
            self.header.clear();
            return true;
        };
        self.complain(&error);
        if written > 0
            && let Err(error) = before.and_then(|len| self.log.file.set_len(len))
        {
            // Lines are in the file, the last one perhaps in part: end it, and do not repeat them.
            self.complain(&error);
            "\n".clone_into(&mut self.header);
            return true;
        }
        false
    }

    fn complain(&mut self, error: &io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            self.complained_at = Some(Instant::now());
            tracing::error!(
                path = %self.log.path().display(),
                %error,
                "cannot write the histogram log; what was recorded is kept for the next interval"
            );
        }
    }
}
