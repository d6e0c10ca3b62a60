//! One run of the generator as a process, and what it left.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// The result of one run of the generator.
pub(crate) struct Run {
    output: Output,
    pub(crate) json: Value,
}

impl Run {
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        let value = self.json[key].as_f64();
        value.unwrap_or_else(|| panic!("no {key} in {:#}: {}", self.json, self.stderr()))
    }

    pub(crate) fn count(&self, key: &str) -> u64 {
        let value = self.json[key].as_u64();
        value.unwrap_or_else(|| panic!("no {key} in {:#}: {}", self.json, self.stderr()))
    }

    pub(crate) fn ms(&self, key: &str) -> f64 {
        self.number(key) / 1e6
    }
}

/// A path for a file that no other run uses.
pub(crate) fn temporary(ending: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("seawall-bench-{}-{number}.{ending}", std::process::id());
    std::env::temp_dir().join(name)
}

pub(crate) fn bench(mode: &str, url: &str, arguments: &[&[&str]]) -> Run {
    let file = temporary("json");
    let output = Command::new(env!("CARGO_BIN_EXE_seawall-bench"))
        .args([mode, url, "--json"])
        .arg(&file)
        .args(arguments.concat())
        .output()
        .expect("the generator starts");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    Run { output, json: serde_json::from_str(&text).unwrap_or(Value::Null) }
}
