//! Publishing against a hub whose faults are known.

use crate::run::bench;
use crate::server::hub::{Script, TestHub};

const FEW: &[&str] = &["--subscribers", "6", "--channels", "2", "--rate", "200"];
const SHORT: &[&str] = &["--warmup", "0.1", "--duration", "0.9"];

#[test]
fn every_delivery_is_counted_and_a_known_delay_shows() {
    let hub = TestHub::start(Script { delay_ms: 20, ..Script::default() });
    let slow = ["--subscribers", "6", "--channels", "2", "--rate", "20", "--threads", "2"];
    let run = bench("fanout", &hub.url("/ws"), &[&slow, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    // 18 messages in 0.9 s, each to three of the six.
    assert!((51..=57).contains(&run.count("latency_count")), "{:#}", run.json);
    assert!((20.0..45.0).contains(&run.ms("latency_p50_ns")), "{:#}", run.json);
    assert_eq!((run.count("losses"), run.count("disordered")), (0, 0));
    assert_eq!(run.count("unacknowledged"), 0);
}

#[test]
fn an_open_loop_counts_from_the_intended_time() {
    // The hub takes 20 ms for each of 100 messages a second: they queue.
    let hub = TestHub::start(Script { delay_ms: 20, ..Script::default() });
    let run = bench("fanout", &hub.url("/ws"), &[&["--subscribers", "2", "--rate", "100"], SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert!(run.ms("latency_p99_ns") > 300.0, "{:#}", run.json);
    assert_eq!(run.count("losses"), 0, "what comes late is not lost: {:#}", run.json);
}

#[test]
fn one_message_lost_doubled_or_swapped_is_found() {
    let cases = [
        (Script { lose: Some(101), ..Script::default() }, (1, 0), "1 deliveries were lost"),
        (Script { swap: Some(101), ..Script::default() }, (0, 1), "1 doubled or out of order"),
        (Script { double: Some(101), ..Script::default() }, (0, 1), "1 doubled or out of order"),
    ];
    for (script, faults, text) in cases {
        let hub = TestHub::start(script);
        let run = bench("fanout", &hub.url("/ws"), &[FEW, SHORT]);
        assert_eq!(run.code(), Some(1), "{script:?}: {}", run.stderr());
        assert!(run.stderr().contains(text), "{script:?}: {}", run.stderr());
        assert_eq!((run.count("losses"), run.count("disordered")), faults, "{script:?}");
    }
}

#[test]
fn the_last_message_of_all_is_missed_and_may_be_allowed() {
    // 20 messages to one subscriber.
    let hub = TestHub::start(Script { lose: Some(20), ..Script::default() });
    let load = ["--subscribers", "1", "--rate", "20", "--warmup", "0", "--duration", "1"];
    let run = bench("fanout", &hub.url("/ws"), &[&load, &["--allow-losses"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("losses"), run.count("lag_count")), (1, 20), "{:#}", run.json);
    let hub = TestHub::start(Script { lose: Some(20), ..Script::default() });
    let run = bench("fanout", &hub.url("/ws"), &[&load, &["--expect", "losses==0"]]);
    assert_eq!(run.code(), Some(4), "{}", run.stderr());
}

#[test]
fn a_refused_publish_fails_the_run() {
    let hub = TestHub::start(Script { refuse: Some(30), ..Script::default() });
    let run = bench("fanout", &hub.url("/ws"), &[FEW, SHORT]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("1 publishes were refused"), "{}", run.stderr());
}

#[test]
fn closed_loops_wait_for_acknowledgements_or_deliveries() {
    for arguments in [["--depth", "4"], ["--window", "2"]] {
        let hub = TestHub::start(Script { delay_ms: 2, ..Script::default() });
        let load = ["--subscribers", "5", "--publishers", "3", "--batch", "2"];
        let run = bench("fanout", &hub.url("/ws"), &[&load, &arguments, SHORT]);
        assert_eq!(run.code(), Some(0), "{arguments:?}: {}", run.stderr());
        // Deliveries of a message hold up the hub for 2 ms, whoever published it.
        let published = run.count("published");
        assert!((20..=1_400).contains(&published), "{arguments:?}: {:#}", run.json);
        assert_eq!(run.count("losses"), 0);
    }
}

#[test]
fn an_api_is_published_to_in_batches() {
    let hub = TestHub::start(Script::default());
    let load = ["--subscribers", "3", "--channels", "3", "--publishers", "2", "--rate", "200"];
    let api = ["--batch", "10", "--api", &hub.api(), "--api-key", "secret"];
    let run = bench("fanout", &hub.url("/ws"), &[&load, &api, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert!((160..=200).contains(&run.count("published")), "{:#}", run.json);
    // A second of 200 messages in tens.
    assert!((16..=22).contains(&hub.requests()), "{} requests", hub.requests());
    let hub = TestHub::start(Script { refuse: Some(30), ..Script::default() });
    let api = ["--batch", "10", "--api", &hub.api()];
    let run = bench("fanout", &hub.url("/ws"), &[&load, &api, SHORT]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("1 publishes were refused: 200"), "{}", run.stderr());
}

#[test]
fn a_plain_broadcast_is_bound_to_paths() {
    let hub = TestHub::start(Script { plain: true, ..Script::default() });
    let url = hub.url("/all/{channel}");
    let load = ["--subscribers", "6", "--channels", "2", "--publishers", "4", "--rate", "200"];
    let plain = ["--dialect", "plain", "--batch", "2"];
    let run = bench("fanout", &url, &[&load, &plain, SHORT]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    // Two publishers and three subscribers on each path.
    assert!((520..=560).contains(&run.count("latency_count")), "{:#}", run.json);
    assert_eq!(run.count("losses"), 0);
    for (bad, text) in [
        (vec!["--dialect", "plain"], "has no acknowledgements"),
        (vec!["--dialect", "nchan", "--channels", "2"], "use more --publishers"),
    ] {
        let run = bench("fanout", &hub.url("/all"), &[&bad]);
        assert_eq!(run.code(), Some(2), "{bad:?}: {}", run.stderr());
        assert!(run.stderr().contains(text), "{bad:?}: {}", run.stderr());
    }
}

#[test]
fn clients_that_resume_get_what_they_missed_or_the_run_fails() {
    let storm = ["--connections", "20", "--survivors", "2", "--survivor-rate", "50"];
    let times = ["--before", "0.3", "--after", "0.3", "--base", "0.5", "--limit", "20"];
    let resume = ["--policy", "resume", "--channels", "3", "--missed", "4"];
    let hub = TestHub::start(Script::default());
    let run = bench("storm", &hub.url("/echo"), &[&storm, &times, &resume]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!((run.count("back"), run.count("recovered")), (20, 20), "{:#}", run.json);
    assert_eq!((run.count("missed_came"), run.count("missed_lost")), (80, 0), "{:#}", run.json);

    let hub = TestHub::start(Script { forget: true, ..Script::default() });
    let run = bench("storm", &hub.url("/echo"), &[&storm, &times, &resume]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert!(run.stderr().contains("did not get what they missed"), "{}", run.stderr());
    assert_eq!(run.count("unrecovered"), 20);
    assert!(run.count("missed_lost") > 0, "{:#}", run.json);
}
