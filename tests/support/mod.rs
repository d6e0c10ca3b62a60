//! What the tests from outside share: the server as a process, its numbers, and a client that
//! writes and reads raw bytes.

pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod scripted;
pub(crate) mod secrets;
pub(crate) mod tls;

pub(crate) use process::Server;
pub(crate) use raw::{Frame, Raw};

use std::time::{Duration, Instant};

/// Looks again and again until `is_so`; fails after two minutes, which a busy machine may need.
///
/// For what the server does in its own time: counters and descriptors follow a connection's end
/// by a turn.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
