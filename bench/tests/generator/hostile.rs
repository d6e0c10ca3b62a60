//! Greedy clients against an echo whose behaviour is known. Those that need a hub are run against
//! the real server by its own tests.

use crate::run::bench;
use crate::server::{Behaviour, TestServer};

const FEW: &[&str] = &["--connections", "3", "--rate", "60", "--greedy", "2", "--batches", "2"];
const SHORT: &[&str] = &["--warmup", "0.1", "--duration", "0.3", "--settle", "0.1"];

#[test]
fn greedy_clients_send_what_they_may_and_the_others_are_measured_in_both_phases() {
    let server = TestServer::start(Behaviour::default());
    let pid = std::process::id().to_string();
    let kind = ["--kind", "fragments", "--server-pid", &pid];
    let run = bench("hostile", &server.url(), &[&kind, FEW, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("greedy"), run.count("greedy_ready")), (2, 2), "{:#}", run.json);
    assert_eq!(run.count("greedy_batches"), 4, "{:#}", run.json);
    // A message of 8,192 fragments each; all have their first echo before the run ends.
    assert!(server.lengths()[&8192] >= 2, "{:?}", server.lengths());
    assert!(run.count("greedy_messages") >= 2, "{:#}", run.json);
    assert!(run.count("greedy_sent_bytes") >= 4 * 8192 * 7, "{:#}", run.json);
    // 60 a second are 18 in each measured time, at least.
    assert!(run.count("alone_count") >= 17, "{:#}", run.json);
    assert!(run.count("beside_count") >= 17, "{:#}", run.json);
    assert_eq!((run.count("others_lost"), run.count("unanswered")), (0, 0), "{:#}", run.json);
    assert!(run.number("rss_peak_bytes") >= run.number("rss_before_bytes"));
}

#[test]
fn the_bound_and_the_ratio_are_conditions() {
    let server = TestServer::start(Behaviour::default());
    let kind = ["--kind", "pings", "--expect", "bound<=100%"];
    let generous = ["--bound-ms", "100000"];
    let run = bench("hostile", &server.url(), &[&kind, FEW, SHORT, &generous]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.count("bound_ns"), 100_000_000_000, "{:#}", run.json);
    let (alone, beside) = (run.number("alone_p99_ns"), run.number("beside_p99_ns"));
    assert!((run.number("p99_ratio") - beside / alone).abs() < 1e-9, "{:#}", run.json);

    // No echo comes within a nanosecond, or a thousandth of what it took alone.
    let impossible = ["--bound-ms", "0.000001", "--bound-times", "0.001"];
    let run = bench("hostile", &server.url(), &[&kind, FEW, SHORT, &impossible]);
    assert_eq!(run.code(), Some(4), "{}", run.stderr());
    assert!(run.stderr().contains("not met: bound<=100%"), "{}", run.stderr());
}

#[test]
fn clients_that_are_closed_are_counted_by_code_and_come_back() {
    // The others send fewer messages than that on each connection.
    let closing = Behaviour { close_at: Some((100, 4413)), ..Behaviour::default() };
    let server = TestServer::start(closing);
    let kind = ["--kind", "large", "--large-bytes", "20", "--batches", "1000"];
    let others = ["--connections", "3", "--rate", "60", "--greedy", "2"];
    let run = bench("hostile", &server.url(), &[&kind, &others, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert!(run.count("greedy_closed_with_4413") >= 2, "{:#}", run.json);
    assert!(run.count("greedy_opened") > 2, "they come back: {:#}", run.json);
    assert_eq!(run.count("others_lost"), 0, "{:#}", run.json);
}

#[test]
fn handshakes_are_counted_and_what_the_server_declines_fails_the_run() {
    let server = TestServer::start(Behaviour::default());
    let run = bench("hostile", &server.url(), &[&["--kind", "handshakes"], FEW, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("greedy_opened"), run.count("greedy_batches")), (4, 4));
    assert_eq!((run.count("greedy_ended"), run.count("greedy_rejected")), (0, 0));

    let run = bench("hostile", &server.url(), &[&["--kind", "inflate"], FEW, SHORT]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("declined permessage-deflate"), "{}", run.stderr());
}

#[test]
fn memory_past_its_bound_stops_the_greedy_clients() {
    let server = TestServer::start(Behaviour::default());
    let pid = std::process::id().to_string();
    let kind = ["--kind", "frames", "--server-pid", &pid, "--memory-max", "1"];
    let run = bench("hostile", &server.url(), &[&kind, FEW, SHORT]);
    assert_eq!(run.code(), Some(4), "{}", run.stderr());
    assert!(run.stderr().contains("passed 1 bytes (--memory-max)"), "{}", run.stderr());
}
