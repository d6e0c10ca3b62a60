//! Each load from its arguments to its report: start the crew, measure, join, publish.

mod connect;
mod echo;
mod hold;

pub use connect::connect;
pub use echo::echo;
pub use hold::hold;

use std::sync::Arc;
use std::time::Duration;

use crate::cli::CommonArgs;
use crate::client::Terms;
use crate::cpu::CpuSample;
use crate::crew::{Failure, Shared};
use crate::report::Report;
use crate::sheet::{Shape, Sheet};
use crate::target::CONNECTIONS_PER_SOURCE;
use crate::upgrade::Upgrade;

/// The measuring thread sleeps in pieces of this, to notice a failed worker.
const NAP: Duration = Duration::from_millis(20);

/// Server and generator at one moment.
struct Moment {
    done: u64,
    wall_ns: u64,
    own: CpuSample,
    server: Option<CpuSample>,
}

impl Moment {
    fn take(shared: &Shared, server_pid: Option<u32>) -> Result<Self, Failure> {
        let server = server_pid.map(CpuSample::take).transpose()?;
        let own = CpuSample::take(std::process::id())?;
        Ok(Self { done: shared.done_sum(), wall_ns: shared.clock.now_ns(), own, server })
    }

    /// Rows that every load with a measured time has; `unit` in the singular.
    fn report(&self, from: &Self, report: &mut Report, unit: &str, bytes: Option<usize>) {
        let count = self.done - from.done;
        let span_ns = (self.wall_ns - from.wall_ns).max(1);
        let rate = count as f64 * 1e9 / span_ns as f64;
        report.row(&format!("{unit}s"), count.to_string(), "count", count);
        report.row(&format!("{unit}s per second"), format!("{rate:.0}"), "per_second", rate);
        if let (Some(now), Some(before)) = (&self.server, &from.server) {
            report.server(&now.since(before), count, unit, bytes);
        }
        report.generator(&self.own.since(&from.own));
    }
}

/// Waits until a time of the run's clock.
fn sleep_until(shared: &Shared, at_ns: u64) {
    loop {
        let left = at_ns.saturating_sub(shared.clock.now_ns());
        if left == 0 || shared.stopped() {
            return;
        }
        std::thread::sleep(NAP.min(Duration::from_nanos(left)));
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn sources(connections: usize) -> u32 {
    connections.div_ceil(CONNECTIONS_PER_SOURCE) as u32
}

fn terms(common: &CommonArgs, shape: Shape, verify: bool) -> Arc<Terms> {
    let upgrade = Upgrade::new(&common.url.authority, &common.url.path);
    Arc::new(Terms { upgrade, sheet: Sheet::new(shape), verify })
}
