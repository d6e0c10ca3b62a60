//! Progress of a run: a line per second on stderr, and the interval log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::cli::OutputArgs;
use crate::crew::Shared;
use crate::recorder::{Interval, nanoseconds};
use crate::report::duration;

const NAP: Duration = Duration::from_millis(50);
const SECOND_NS: u64 = 1_000_000_000;
/// The log's column of maxima is in milliseconds, as other tools expect.
const NS_PER_MS: f64 = 1e6;

/// The monitoring thread; it ends with [`Monitor::finish`] or on drop.
pub struct Monitor {
    shared: Arc<Shared>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Monitor {
    /// Starts monitoring if the command line requests it.
    ///
    /// # Errors
    /// When the log cannot be written: reported before the run instead of after it.
    pub fn start(shared: &Arc<Shared>, output: &OutputArgs) -> io::Result<Self> {
        let progress = output.progress || io::stderr().is_terminal();
        let over = Arc::new(AtomicBool::new(false));
        let mut monitor =
            Self { shared: Arc::clone(shared), over: Arc::clone(&over), thread: None };
        let log = output.histogram_log.as_deref().map(create).transpose()?;
        if !progress && log.is_none() {
            return Ok(monitor);
        }
        shared.feed.want();
        let shared = Arc::clone(shared);
        let work = move || watch(&shared, &over, progress, log);
        monitor.thread =
            Some(std::thread::Builder::new().name("load-monitor".to_owned()).spawn(work)?);
        Ok(monitor)
    }

    /// Takes the workers' last intervals, once they have ended.
    pub fn finish(mut self) -> io::Result<()> {
        self.over.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(io::Error::other("the monitor panicked (see above)")),
        }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Intervals of all workers by their start.
#[derive(Default)]
struct Seconds(BTreeMap<u64, Second>);

struct Second {
    end_ns: u64,
    measured: bool,
    latency: Histogram<u64>,
}

impl Seconds {
    fn add(&mut self, interval: &Interval) {
        let second = self.0.entry(interval.begin_ns).or_insert_with(|| Second {
            end_ns: interval.end_ns,
            measured: interval.measured,
            latency: nanoseconds(),
        });
        // The last second of a worker ends with its work.
        second.end_ns = second.end_ns.max(interval.end_ns);
        if let Some(latency) = &interval.latency {
            // All histograms come from `nanoseconds`.
            second.latency.add(latency).expect("same bounds");
        }
    }
}

fn watch(
    shared: &Shared,
    over: &AtomicBool,
    progress: bool,
    log: Option<BufWriter<File>>,
) -> io::Result<()> {
    let begun = SystemTime::now();
    let begun_ns = shared.clock.now_ns();
    let mut seconds = Seconds::default();
    let (mut shown_ns, mut done) = (begun_ns, 0);
    loop {
        // Read this before the feed: then intervals pushed before the end are taken.
        let last = over.load(Ordering::Acquire);
        let now_ns = shared.clock.now_ns();
        if last || now_ns >= shown_ns + SECOND_NS {
            let fresh = shared.feed.take();
            fresh.iter().for_each(|interval| seconds.add(interval));
            if progress && !last {
                let since_ns = now_ns - shown_ns;
                let now_done = shared.done_sum();
                let rate = (now_done.saturating_sub(done)) as f64 * 1e9 / since_ns as f64;
                done = now_done;
                show(shared, now_ns - begun_ns, rate, &fresh);
            }
            shown_ns = now_ns;
        }
        if last {
            break;
        }
        std::thread::sleep(NAP);
    }
    match log {
        Some(file) => write_log(file, &seconds, begun, begun_ns),
        None => Ok(()),
    }
}

fn show(shared: &Shared, at_ns: u64, rate: f64, fresh: &[Interval]) {
    let mut latency = nanoseconds();
    for found in fresh.iter().filter_map(|interval| interval.latency.as_ref()) {
        latency.add(found).expect("same bounds");
    }
    let shown = |quantile: f64| match latency.len() {
        0 => "-".to_owned(),
        _ => duration(latency.value_at_quantile(quantile)),
    };
    let (open, errors) =
        (shared.open.load(Ordering::Relaxed), shared.errors.load(Ordering::Relaxed));
    let line = format!(
        "{:>5.0} s  {open} connections  {rate:.0}/s  p50 {}  p99 {}  {errors} errors\n",
        at_ns as f64 / 1e9,
        shown(0.5),
        shown(0.99)
    );
    // A closed stderr must not stop the load.
    let _ = io::stderr().write_all(line.as_bytes());
}

fn create(path: &Path) -> io::Result<BufWriter<File>> {
    File::create(path).map(BufWriter::new).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}

/// Writes the measured seconds in order. They are kept until the end, because a worker may still be
/// in an earlier second; each takes the memory of a histogram, and an hour has 3,600.
fn write_log(
    mut file: BufWriter<File>,
    seconds: &Seconds,
    begun: SystemTime,
    begun_ns: u64,
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[seawall-bench latencies in ns; the column of maxima in ms]")
        .with_start_time(begun)
        .with_base_time(begun)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut file, &mut serializer)?;
    for (begin_ns, second) in seconds.0.iter().filter(|(_, second)| second.measured) {
        let begin = Duration::from_nanos(begin_ns.saturating_sub(begun_ns));
        let span = Duration::from_nanos(second.end_ns - begin_ns);
        log.write_histogram(&second.latency, begin, span, None)
            .map_err(|error| io::Error::other(format!("the histogram log: {error}")))?;
    }
    drop(log);
    file.flush()
}
