//! Metrics as other programs read them: Prometheus, the tools of `HdrHistogram`, and operators. The
//! values themselves are tested in `simulation` and `server`; here, that they arrive.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod admin;
mod histograms;
mod interval_log;
mod prometheus;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use support::raw::close;
use support::{Raw, Server, wait_until};

/// A folder of this test alone, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-exports-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("the folder is new");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A failed clean-up must not fail the test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Opens, echoes this many messages and closes.
pub(crate) fn converse(server: &Server, messages: usize) {
    let mut client = Raw::open(server.address());
    (0..messages).for_each(|n| client.echo(&format!("{n} {}", "x".repeat(n % 300))));
    client.send(&close(1000));
    assert_eq!(client.frame().close_code(), 1000);
    client.end();
    wait_until("the connection is closed", || server.metrics().get("connections_open") == 0);
}
