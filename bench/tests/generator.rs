//! The generator itself, run as a process against servers whose behaviour is known: what was
//! injected must be in its figures, and what went wrong in its exit code.

#[path = "generator/deflate.rs"]
mod deflate;
#[path = "generator/fanout.rs"]
mod fanout;
#[path = "generator/hostile.rs"]
mod hostile;
#[path = "generator/loads.rs"]
mod loads;
#[path = "generator/results.rs"]
mod results;
#[path = "generator/run.rs"]
mod run;
mod server;
#[path = "generator/tls.rs"]
mod tls;
#[path = "generator/wrong.rs"]
mod wrong;

use run::bench;
use server::{Behaviour, TestServer};

const OPEN_LOOP: &[&str] = &["--connections", "4", "--rate", "1000"];
const CLOSED_LOOP: &[&str] = &["--connections", "4"];
const TWO_SECONDS: &[&str] = &["--warmup", "0.2", "--duration", "1.8"];

#[test]
fn an_open_loop_shows_the_stall_that_a_closed_loop_hides() {
    // 300 ms of 1,800 are one message in six of an even schedule, and four of a closed loop.
    let stall = Behaviour { stall_ms: Some((700, 300)), ..Behaviour::default() };
    let server = TestServer::start(stall);
    let open = bench("echo", &server.url(), &[OPEN_LOOP, TWO_SECONDS]);
    assert_eq!(open.code(), Some(0), "{}", open.stderr());
    assert!(open.ms("latency_p99_ns") > 200.0, "{:#}", open.json);
    assert!(open.ms("latency_p90_ns") > 60.0, "{:#}", open.json);
    assert!((1_750.0..=1_850.0).contains(&open.number("count")), "{:#}", open.json);

    let server = TestServer::start(stall);
    let closed = bench("echo", &server.url(), &[CLOSED_LOOP, TWO_SECONDS]);
    assert_eq!(closed.code(), Some(0), "{}", closed.stderr());
    assert!(closed.number("count") > 1_000.0, "too few messages to hide in: {:#}", closed.json);
    assert!(closed.ms("latency_max_ns") > 200.0, "the stall was not met: {:#}", closed.json);
    assert!(closed.ms("latency_p99_ns") < 100.0, "{:#}", closed.json);
}

#[test]
fn a_known_delay_is_in_the_histogram() {
    let server = TestServer::start(Behaviour { delay_ms: 30, ..Behaviour::default() });
    let run = bench("echo", &server.url(), &[CLOSED_LOOP, &["--warmup", "0", "--duration", "1"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert!((30.0..60.0).contains(&run.ms("latency_p50_ns")), "{:#}", run.json);
    let most = 4.0 * 1_000.0 / 30.0;
    assert!(run.number("count") <= most + 4.0, "{:#}", run.json);
    assert_eq!(run.count("unanswered"), 0);
}

#[test]
fn a_corrupt_echo_is_found_only_by_verification() {
    let corrupt = Behaviour { corrupt_at: Some(50), ..Behaviour::default() };
    let short = ["--warmup", "0", "--duration", "0.5", "--size", "300"];
    let server = TestServer::start(corrupt);
    let found = bench("echo", &server.url(), &[CLOSED_LOOP, &short, &["--verify"]]);
    assert_eq!(found.code(), Some(3), "{}", found.stderr());
    assert!(found.stderr().contains("echo differs at byte 299"), "{}", found.stderr());
    assert!(found.json.is_null(), "a corrupt run has no figures");

    let server = TestServer::start(corrupt);
    let blind = bench("echo", &server.url(), &[CLOSED_LOOP, &short]);
    assert_eq!(blind.code(), Some(0), "{}", blind.stderr());
}

#[test]
fn every_size_and_depth_is_verified_over_threads() {
    let server = TestServer::start(Behaviour::default());
    for size in ["0", "1", "125", "126", "65535", "65536", "300000"] {
        for (depth, kind) in [("1", "--text"), ("7", "--binary")] {
            let shape = ["--size", size, "--depth", depth, kind, "--verify", "--threads", "2"];
            let short = ["--connections", "3", "--warmup", "0", "--duration", "0.15"];
            let run = bench("echo", &server.url(), &[&shape, &short]);
            assert_eq!(run.code(), Some(0), "{size} {depth} {kind}: {}", run.stderr());
            assert!(run.number("count") > 0.0, "{size} {depth} {kind}: {:#}", run.json);
        }
    }
}

#[test]
fn connections_are_opened_closed_and_counted() {
    let server = TestServer::start(Behaviour::default());
    let run = bench(
        "connect",
        &server.url(),
        &[&["--connections", "200", "--parallel", "8", "--warmup", "0", "--duration", "20"]],
    );
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.count("count"), 200);
    assert_eq!(run.count("failed"), 0);
    assert_eq!(server.clean_closes(), 200);
    let open = ["--rate", "200", "--warmup", "0", "--duration", "1"];
    let run = bench("connect", &server.url(), &[&open]);
    assert!((150.0..=200.0).contains(&run.number("count")), "{:#}", run.json);
}

#[test]
fn held_connections_answer_pings_and_are_counted_alive() {
    let server = TestServer::start(Behaviour { ping: true, ..Behaviour::default() });
    let pid = std::process::id().to_string();
    let steps = ["--steps", "20,60", "--hold", "0.3", "--settle", "0.1", "--server-pid", &pid];
    let run = bench("hold", &server.url(), &[&steps]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.count("alive"), 60);
    assert_eq!(server.pongs(), 60);
    assert!(run.number("anon_before_bytes") > 0.0);
    assert!(run.number("open_cpu_ns_each") > 0.0);
    assert_eq!(run.json["anon_growth_each_bytes"], run.json["anon_each_20_to_60_bytes"]);
    assert!(run.number("anon_growth_each_bytes").is_finite());
}

#[test]
fn what_goes_wrong_is_in_the_exit_code_and_the_text() {
    let closing =
        TestServer::start(Behaviour { close_at: Some((20, 1001)), ..Behaviour::default() });
    let refusing = TestServer::start(Behaviour { refuse: true, ..Behaviour::default() });
    let gone = "ws://127.0.0.1:1/".to_owned();
    let short: &[&str] = &["--connections", "2", "--warmup", "0", "--duration", "0.5"];
    let cases = [
        ("echo", closing.url(), short, 1, "the server closed with 1001"),
        ("echo", refusing.url(), short, 1, "answered 404 instead of 101"),
        ("echo", gone.clone(), short, 1, "Connection refused"),
        ("hold", gone.clone(), &["--connections", "2"][..], 1, "Connection refused"),
        ("hold", closing.url(), &["--connections", "2", "--hold", "0.1"][..], 0, ""),
        ("storm", gone.clone(), &["--connections", "2"][..], 1, "Connection refused"),
        ("slow", gone.clone(), &["--connections", "2"][..], 1, "Connection refused"),
        ("fanout", gone.clone(), &["--subscribers", "2"][..], 1, "Connection refused"),
        ("hostile", gone.clone(), &["--kind", "frames"][..], 1, "Connection refused"),
        ("connect", gone, &["--connections", "2"][..], 1, "2 connections failed"),
        ("echo", "http://x/".to_owned(), short, 2, "must begin with ws://"),
    ];
    for (mode, url, arguments, code, text) in cases {
        let run = bench(mode, &url, &[arguments]);
        assert_eq!(run.code(), Some(code), "{mode} {url}: {}", run.stderr());
        assert!(run.stderr().contains(text), "{mode} {url}: {}", run.stderr());
    }
}

#[test]
fn messages_without_echo_are_counted_and_fail_the_run() {
    let server = TestServer::start(Behaviour { silent_at: Some(100), ..Behaviour::default() });
    let run = bench("echo", &server.url(), &[OPEN_LOOP, &["--warmup", "0", "--duration", "0.5"]]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    // 500 messages in turn over 4 connections; each connection echoes 99 of its 125.
    assert_eq!(run.count("unanswered"), 4 * 26, "{:#}", run.json);
    assert!(run.ms("latency_max_ns") > 4_000.0, "their age is in the figures: {:#}", run.json);
}
