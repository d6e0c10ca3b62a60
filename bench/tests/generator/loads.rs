//! Each load against a server whose behaviour is known.

use crate::run::{bench, temporary};
use crate::server::{Behaviour, TestServer};

#[test]
fn sizes_follow_their_range_and_their_weights() {
    let server = TestServer::start(Behaviour::default());
    let short = ["--connections", "4", "--warmup", "0", "--duration", "0.8", "--verify"];
    let run = bench("echo", &server.url(), &[&short, &["--size", "20..29"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    let lengths: Vec<usize> = server.lengths().into_keys().collect();
    assert_eq!(lengths, (20..=29).collect::<Vec<_>>());

    let server = TestServer::start(Behaviour::default());
    let run =
        bench("echo", &server.url(), &[&short, &["--size", "20:90,300:9,5000:1", "--binary"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    let lengths = server.lengths();
    assert_eq!(lengths.keys().copied().collect::<Vec<_>>(), [20, 300, 5000], "{lengths:?}");
    let total: usize = lengths.values().sum();
    let share = lengths[&20] as f64 / total as f64;
    assert!(total > 500 && (0.82..0.97).contains(&share), "{lengths:?}");
}

#[test]
fn churn_keeps_its_population_turning() {
    let server = TestServer::start(Behaviour::default());
    let churn = ["--hold", "0.3", "--population", "9", "--warmup", "0", "--duration", "1.5"];
    let run = bench("connect", &server.url(), &[&churn]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    // Nine connections of 0.3 s are 30 a second; none lives shorter, so there cannot be more.
    let count = run.count("count");
    assert!((15..=54).contains(&count), "{count}");
    assert_eq!(run.count("failed"), 0);
    assert!(server.clean_closes() as u64 >= count, "{} closes", server.clean_closes());
}

#[test]
fn a_rate_may_rise_slowly() {
    let server = TestServer::start(Behaviour::default());
    let ramp = ["--rate", "200", "--ramp", "1", "--warmup", "0", "--duration", "1"];
    let run = bench("connect", &server.url(), &[&ramp]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    // The ramp is warm-up, whatever --warmup says: the measured second has the full rate.
    assert!((150..=201).contains(&run.count("count")), "{:#}", run.json);
    // Half of the ramp's 200 connections came as well, and were closed.
    assert!((200..=310).contains(&server.clean_closes()), "{}", server.clean_closes());
}

#[test]
fn several_rings_of_one_thread_hold_and_talk() {
    let server = TestServer::start(Behaviour { ping: true, ..Behaviour::default() });
    let hold = ["--connections", "50", "--rings", "7", "--hold", "0.2", "--settle", "0.1"];
    let talk = ["--echo-share", "40%", "--echo-seconds", "1"];
    let run = bench("hold", &server.url(), &[&hold, &talk]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("alive"), run.count("rings")), (50, 7));
    assert_eq!((run.count("echoes"), run.count("unanswered")), (20, 0));
    assert_eq!(run.count("latency_count"), 20);
    assert_eq!(run.count("pings"), 50);
    assert_eq!((run.count("pings_min_each"), run.count("pings_max_each")), (1, 1));
}

#[test]
fn connections_that_wait_by_a_poll_greet_talk_and_answer() {
    let server = TestServer::start(Behaviour { ping: true, ..Behaviour::default() });
    let hold = ["--connections", "50", "--rings", "3", "--hold", "0.2", "--settle", "0.1"];
    let talk = ["--echo-share", "40%", "--echo-seconds", "1", "--size", "3000"];
    let run = bench("hold", &server.url(), &[&hold, &talk, &["--park", "--greet"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("alive"), server.pongs()), (50, 50));
    assert_eq!((run.count("echoes"), run.count("unanswered")), (20, 0));
    // A greeting each, and the messages of a second.
    assert_eq!(server.lengths().into_iter().collect::<Vec<_>>(), [(3000, 70)]);
    assert_eq!(server.clean_closes(), 50);
}

#[test]
fn held_connections_that_are_lost_are_counted_and_fail_the_run() {
    let closing = Behaviour { close_at: Some((1, 1013)), ..Behaviour::default() };
    let server = TestServer::start(closing);
    let hold = ["--connections", "20", "--hold", "0.1", "--settle", "0.1"];
    let talk = ["--echo-share", "25%", "--echo-seconds", "1"];
    let run = bench("hold", &server.url(), &[&hold, &talk]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("the server closed with 1013"), "{}", run.stderr());
    assert_eq!((run.count("lost"), run.count("alive")), (5, 15), "{:#}", run.json);
    assert_eq!(run.count("unanswered"), 5);
}

#[test]
fn a_drain_ends_the_server_and_tells_who_was_not_closed() {
    // The process that is told to end is another one, so nobody closes the connections.
    let mut victim = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let server = TestServer::start(Behaviour::default());
    let pid = victim.id().to_string();
    let hold = ["--connections", "8", "--hold", "0.1", "--settle", "0.1", "--server-pid", &pid];
    let run = bench("hold", &server.url(), &[&hold, &["--drain", "0.5"]]);
    let status = victim.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("8 connections were not closed by the drain"), "{:#}", run.json);
    assert_eq!((run.count("alive"), run.count("drained"), run.count("lost")), (8, 0, 0));
}

const STORM: &[&str] = &[
    "--connections",
    "20",
    "--survivors",
    "4",
    "--survivor-rate",
    "200",
    "--before",
    "0.3",
    "--after",
    "0.3",
];

#[test]
fn a_storm_counts_refusals_honours_retry_after_and_times_the_comeback() {
    // Connections 24 to 28 are the first five that come back.
    let server = TestServer::start(Behaviour { busy: Some((24, 29)), ..Behaviour::default() });
    let policy = ["--policy", "fixed", "--delay", "0.1", "--limit", "20"];
    let run = bench("storm", &server.url(), &[STORM, &policy]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("back"), run.count("refused_503")), (20, 5), "{:#}", run.json);
    assert_eq!(run.count("attempts"), 25);
    // Half are back after the delay; the refused ones had to wait a second more.
    assert!(run.ms("back_p50_ns") >= 100.0, "{:#}", run.json);
    assert!(run.ms("back_all_ns") >= 1_100.0, "{:#}", run.json);
    assert!(run.number("back_p50_ns") < run.number("back_all_ns"));
    for phase in ["before", "during", "after"] {
        assert!(run.count(&format!("latency_{phase}_count")) > 20, "{:#}", run.json);
    }
    assert_eq!((run.count("survivors_lost"), run.count("unanswered")), (0, 0));
}

#[test]
fn a_storm_with_closes_and_backoff_comes_back_spread() {
    let server = TestServer::start(Behaviour::default());
    let policy = ["--drop", "close", "--policy", "backoff", "--base", "1", "--limit", "20"];
    let run = bench("storm", &server.url(), &[STORM, &policy]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("back"), run.count("attempts")), (20, 20));
    // All of them and the survivors are closed at the end, the crowd once before.
    assert_eq!(server.clean_closes(), 20 + 24);
    let series = run.json["back_series"].as_array().unwrap();
    let (first, last) = (series[0][0].as_f64().unwrap(), run.ms("back_all_ns"));
    assert!(last - first > 200.0, "twenty random times in a second: {first} to {last}");
}

#[test]
fn a_crowd_that_does_not_come_back_fails_the_run() {
    let server = TestServer::start(Behaviour { busy: Some((24, 999)), ..Behaviour::default() });
    let policy = ["--policy", "fixed", "--delay", "0.1", "--limit", "1"];
    let run = bench("storm", &server.url(), &[STORM, &policy]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("20 connections were not back"), "{}", run.stderr());
    assert_eq!(run.count("back"), 0);
    assert!(run.json["back_p50_ns"].is_null() && run.count("refused") >= 20, "{:#}", run.json);
}

#[test]
fn how_slow_readers_are_ended_is_found_at_last() {
    // Only the slow ones send so many messages.
    let closing = Behaviour { close_at: Some((20, 4413)), ..Behaviour::default() };
    let server = TestServer::start(closing);
    let pid = std::process::id().to_string();
    let load = ["--connections", "10", "--share", "30%", "--slow-rate", "60", "--rate", "40"];
    let times = ["--duration", "1.5", "--settle", "1", "--size", "500", "--server-pid", &pid];
    let run = bench("slow", &server.url(), &[&load, &times]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("slow"), run.count("slow_ended")), (3, 3), "{:#}", run.json);
    assert_eq!(run.count("slow_closed_with_4413"), 3, "{:#}", run.json);
    assert_eq!(run.count("slow_echoed"), 3 * 19, "what they had not read is read at last");
    assert_eq!((run.count("others_lost"), run.count("unanswered")), (0, 0));
    assert_eq!(run.count("latency_count"), 60);
    assert!(run.number("anon_peak_bytes") >= run.number("anon_before_bytes"));
    assert!(run.json["server_memory_series"].as_array().unwrap().len() > 5);
}

#[test]
fn a_little_reading_keeps_a_connection_alive() {
    let server = TestServer::start(Behaviour::default());
    let load = ["--connections", "4", "--share", "50%", "--slow-rate", "20", "--read-rate", "200"];
    let times = ["--duration", "1.2", "--settle", "0.5", "--size", "100", "--rate", "20"];
    let run = bench("slow", &server.url(), &[&load, &times]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("slow_open"), run.count("slow_ended")), (2, 0), "{:#}", run.json);
    assert_eq!(run.count("slow_echoed"), run.count("slow_sent"), "{:#}", run.json);
}

/// A recording of two connections over 0.6 seconds.
const RECORDING: &str = r#"# two connections
{"at_ms": 0, "connection": 7, "text": "hello", "expect_reply": true}
{"at_ms": 100, "connection": 9, "base64": "AAECAw==", "expect_reply": true}
{"at_ms": 300, "connection": 7, "text": "nobody waits for the answer"}
{"at_ms": 600, "connection": 9, "text": "bye", "expect_reply": true}
"#;

#[test]
fn a_replay_keeps_the_times_and_measures_replies() {
    let recording = temporary("jsonl");
    std::fs::write(&recording, RECORDING).unwrap();
    let file = ["--file", recording.to_str().unwrap()];
    let server = TestServer::start(Behaviour { delay_ms: 20, ..Behaviour::default() });
    let run = bench("replay", &server.url(), &[&file, &["--threads", "2"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("sent"), run.count("replies")), (4, 3), "{:#}", run.json);
    assert_eq!(run.count("other_messages"), 1);
    assert_eq!((run.count("latency_count"), run.count("lag_count")), (3, 4));
    assert!(run.ms("latency_p50_ns") >= 19.9, "{:#}", run.json);
    assert_eq!(server.lengths().into_keys().collect::<Vec<_>>(), [3, 4, 5, 27]);
    let slowly = 4.0 / run.number("per_second");
    assert!(slowly >= 0.6, "{slowly} s at the recorded speed");

    let server = TestServer::start(Behaviour { silent_at: Some(2), ..Behaviour::default() });
    let fast = ["--speed", "6", "--wait", "0.5"];
    let run = bench("replay", &server.url(), &[&file, &fast]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("1 frames got no reply"), "{}", run.stderr());
    assert_eq!((run.count("unanswered"), run.count("replies")), (1, 2), "{:#}", run.json);

    std::fs::write(&recording, "{\"at_ms\": 1}").unwrap();
    let wrong = bench("replay", &server.url(), &[&file]);
    assert_eq!(wrong.code(), Some(2), "{}", wrong.stderr());
    assert!(wrong.stderr().contains("line 1: connection"), "{}", wrong.stderr());
    let _ = std::fs::remove_file(&recording);
}
