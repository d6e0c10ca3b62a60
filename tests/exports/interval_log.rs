//! The histogram log, read back by two libraries that did not write it together: what all of its
//! intervals add up to is what the server said in the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::{Value, json};

use super::{Folder, converse};
use crate::support::metrics::get;
use crate::support::process::command;
use crate::support::{Server, wait_until};

fn config(path: &str) -> String {
    format!("[metrics]\nhistogram_log = \"{path}\"\nhistogram_log_interval_s = 1\n")
}

/// By tag: the sum of all intervals, and how many there are.
fn read(path: &str) -> BTreeMap<String, (Histogram<u64>, usize)> {
    let text = std::fs::read(path).expect("there is a log");
    let mut sums: BTreeMap<String, (Histogram<u64>, usize)> = BTreeMap::new();
    for entry in IntervalLogIterator::new(&text) {
        let LogEntry::Interval(interval) = entry.expect("every line is understood") else {
            continue;
        };
        let bytes = STANDARD.decode(interval.encoded_histogram()).expect("it is base64");
        let part: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).expect("it is a histogram");
        assert!(!part.is_empty(), "what is empty has no line");
        let tag = interval.tag().expect("every line has a tag").as_str().to_owned();
        match sums.get_mut(&tag) {
            Some((sum, intervals)) => {
                sum.add(part).expect("all are of the same bounds");
                *intervals += 1;
            }
            None => {
                sums.insert(tag, (part, 1));
            }
        }
    }
    sums
}

fn read_by_python(path: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".cache/venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/check.sh --install", python.display());
    let script = root.join("tests/exports/read_log.py");
    let output = Command::new(python).arg(script).arg(path).output().expect("it can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Ends a server and gives what `/v1/histograms` said last, by name.
fn end(mut server: Server) -> BTreeMap<String, Value> {
    let list: Vec<Value> =
        serde_json::from_str(&get(server.admin(), "/v1/histograms").1).expect("it is JSON");
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
    list.into_iter().map(|one| (one["name"].as_str().expect("a name").to_owned(), one)).collect()
}

#[test]
fn two_readers_find_what_the_server_said() {
    let folder = Folder::new();
    let path = folder.file("seawall.hlog");
    let server = Server::start(&config(&path));
    wait_until("messages were logged in several intervals", || {
        converse(&server, 200);
        read(&path).get("turnaround").is_some_and(|(_, intervals)| *intervals >= 2)
    });
    // These are in the last interval, which the end cuts short.
    converse(&server, 150);
    let told = end(server);
    let sums = read(&path);
    let figures = |histogram: &Histogram<u64>| {
        json!({
            "count": histogram.len(),
            "p50": histogram.value_at_quantile(0.5),
            "p99": histogram.value_at_quantile(0.99),
            "p99.9": histogram.value_at_quantile(0.999),
            "max": histogram.max(),
        })
    };
    // Without clients these do not change; turns continue to the end.
    for name in ["turnaround", "accept_to_open", "send_queue_bytes"] {
        let (found, told) = (figures(&sums[name].0), &told[name]);
        for key in ["count", "p50", "p99", "p99.9", "max"] {
            assert_eq!(found[key], told[key], "{key} of {name}");
        }
    }
    for name in ["turn", "wait", "batch"] {
        assert!(sums[name].0.len() >= told[name]["count"].as_u64().unwrap(), "{name}");
    }
    let python = read_by_python(&path);
    assert_eq!(python.as_object().expect("an object").len(), sums.len());
    for (name, (sum, _)) in &sums {
        assert_eq!(python[name], figures(sum), "{name}");
    }
}

#[test]
fn a_log_that_is_there_is_continued() {
    let folder = Folder::new();
    let path = folder.file("seawall.hlog");
    for messages in [30, 70] {
        let server = Server::start(&config(&path));
        converse(&server, messages);
        assert_eq!(end(server)["turnaround"]["count"], messages);
    }
    assert_eq!(read(&path)["turnaround"].0.len(), 100);
    let text = std::fs::read_to_string(&path).expect("it is text");
    assert_eq!(text.matches("#[StartTime: ").count(), 2, "{text}");
    assert_eq!(text.matches("#[BaseTime: ").count(), 2);
    assert_eq!(text.matches("\"StartTimestamp\",").count(), 2);
    assert_eq!(read_by_python(&path)["turnaround"]["count"], 100);
}

#[test]
fn a_full_disk_is_told_once_and_stops_nothing() {
    let mut server = Server::start(&config("/dev/full"));
    wait_until("two writes have failed", || {
        converse(&server, 10);
        server.metrics().get("interval_log_errors_total") >= 2
    });
    converse(&server, 10);
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
    assert_eq!(server.log().matches("cannot write the histogram log").count(), 1);
}

#[test]
fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    for (config, words) in [
        (config("/nowhere/seawall.hlog"), "create its folder"),
        (config("/tmp"), "cannot open /tmp"),
        (config("/tmp/x") + "histograms = false\n", "needs metrics.histograms = true"),
    ] {
        let (mut command, file) = command(&["--listen", "127.0.0.1:0", "--admin", ""], &config);
        let output = command.output().expect("the server can be started");
        let said = String::from_utf8(output.stderr).expect("messages are text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("metrics.histogram_log") && said.contains(words), "{said}");
        std::fs::remove_file(file).expect("it was written");
    }
}
