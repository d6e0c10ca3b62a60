//! What a run leaves behind: exit codes of conditions, the interval log, progress, pictures.

use std::process::Command;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::run::{bench, temporary};
use crate::server::{Behaviour, TestServer};

const SHORT: &[&str] = &["--connections", "4", "--warmup", "0", "--duration", "0.3"];

#[test]
fn conditions_decide_the_exit_code_and_all_that_fail_are_told() {
    let server = TestServer::start(Behaviour::default());
    let run = |conditions: &[&str]| bench("echo", &server.url(), &[SHORT, conditions]);
    let met = ["--expect", "p99<30s", "--expect", "losses==0", "--expect", "opened>=4"];
    let met = run(&met);
    assert_eq!(met.code(), Some(0), "{}", met.stderr());
    let failing =
        ["--expect", "p50<1ns", "--expect", "rate>1", "--expect", "count<=0", "--expect", "xy<1"];
    let failed = run(&failing);
    assert_eq!(failed.code(), Some(4), "{}", failed.stderr());
    let lines: Vec<String> = failed.stderr().lines().map(str::to_owned).collect();
    let not_met: Vec<&String> = lines.iter().filter(|line| line.contains("not met: ")).collect();
    assert_eq!(not_met.len(), 3, "{lines:?}");
    assert!(not_met[0].contains("p50<1ns: latency_p50_ns is "), "{lines:?}");
    assert!(failed.number("count") > 0.0, "the figures are there all the same");
    let wrong = run(&["--expect", "p99<"]);
    assert_eq!(wrong.code(), Some(2), "{}", wrong.stderr());
}

#[test]
fn a_failed_condition_comes_before_losses_and_after_corruption() {
    let silent = TestServer::start(Behaviour { silent_at: Some(2), ..Behaviour::default() });
    let both = bench("echo", &silent.url(), &[SHORT, &["--expect", "losses==0"]]);
    assert_eq!(both.code(), Some(4), "{}", both.stderr());
    assert!(both.stderr().contains("messages got no echo"), "{}", both.stderr());
    let allowed = bench("echo", &silent.url(), &[SHORT, &["--expect", "losses<=100"]]);
    assert_eq!(allowed.code(), Some(1), "{}", allowed.stderr());
    let corrupt = TestServer::start(Behaviour { corrupt_at: Some(2), ..Behaviour::default() });
    let found = bench("echo", &corrupt.url(), &[SHORT, &["--verify", "--expect", "p99<1ns"]]);
    assert_eq!(found.code(), Some(3), "{}", found.stderr());
}

#[test]
fn the_interval_log_is_read_by_others_and_adds_up_to_the_report() {
    let server = TestServer::start(Behaviour { delay_ms: 5, ..Behaviour::default() });
    let log = temporary("hlog");
    let path = log.to_str().unwrap();
    let times = ["--warmup", "0.4", "--duration", "2.2", "--histogram-log", path];
    let run = bench("echo", &server.url(), &[&["--connections", "4"], &times]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    let text = std::fs::read(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let mut sum = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3).unwrap();
    let (mut lengths_s, mut starts) = (Vec::new(), 0);
    for entry in IntervalLogIterator::new(&text) {
        match entry.unwrap() {
            LogEntry::Interval(interval) => {
                lengths_s.push(interval.duration().as_secs_f64());
                let bytes = base64(interval.encoded_histogram());
                let one: Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                assert!(one.is_empty() || one.min() >= 4_900_000, "the delay is in each second");
                sum.add(one).unwrap();
            }
            LogEntry::StartTime(_) => starts += 1,
            LogEntry::BaseTime(_) => {}
        }
    }
    assert_eq!(starts, 1);
    assert!(lengths_s.len() >= 3, "{lengths_s:?}");
    assert!(lengths_s[..2].iter().all(|s| (s - 1.0).abs() < 1e-3), "{lengths_s:?}");
    assert_eq!(sum.len(), run.count("latency_count"));
    assert_eq!(sum.value_at_quantile(0.99), run.count("latency_p99_ns"));
}

fn base64(text: &str) -> Vec<u8> {
    use ::base64::Engine as _;
    ::base64::prelude::BASE64_STANDARD.decode(text).unwrap()
}

#[test]
fn progress_is_a_line_a_second_and_only_where_it_is_wanted() {
    let server = TestServer::start(Behaviour::default());
    let times = ["--connections", "3", "--warmup", "0", "--duration", "2.5"];
    let loud = bench("echo", &server.url(), &[&times, &["--progress"]]);
    let text = loud.stderr();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("3 connections")).collect();
    assert!((2..=5).contains(&lines.len()), "{text}");
    assert!(lines.iter().any(|line| line.contains("p99 ") && line.contains("0 errors")), "{text}");
    let quiet = bench("echo", &server.url(), &[SHORT]);
    assert_eq!(quiet.stderr(), "");
}

#[test]
fn results_become_pictures() {
    let server = TestServer::start(Behaviour::default());
    let (hgrm, json, svg) = (temporary("hgrm"), temporary("json"), temporary("svg"));
    let path = hgrm.to_str().unwrap();
    let run = bench("echo", &server.url(), &[SHORT, &["--hgrm", path]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    std::fs::write(&json, run.json.to_string()).unwrap();
    let draw = |arguments: &[&str], file: &std::path::Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_seawall-bench"))
            .args(["plot", arguments[0], "--out"])
            .arg(&svg)
            .args(["--title", "A picture"])
            .args(&arguments[1..])
            .arg(format!("one={}", file.display()))
            .output()
            .unwrap();
        let text = std::fs::read_to_string(&svg).unwrap_or_default();
        let _ = std::fs::remove_file(&svg);
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text, error) = draw(&["percentiles"], &hgrm);
    assert_eq!(code, Some(0), "{error}");
    for part in ["<svg", "A picture", "percentile", "99%", "one"] {
        assert!(text.contains(part), "no {part}");
    }
    let keys = ["bars", "--keys", "latency_p50_ns,latency_p99_ns", "--y-label", "latency (ns)"];
    let (code, text, error) = draw(&keys, &json);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("latency (ns)") && text.contains("latency_p99_ns"));
    let (code, text, error) = draw(&["lines", "--y", "per_second"], &json);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("connections") && text.contains("per_second"));
    let (code, _, error) = draw(&["bars", "--keys", "nonesuch"], &json);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("has no number nonesuch"), "{error}");
    let _ = std::fs::remove_file(&hgrm);
    let _ = std::fs::remove_file(&json);
}
