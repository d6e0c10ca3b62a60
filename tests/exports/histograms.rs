//! `/v1/histograms`: figures, whole histograms that merge elsewhere, and distributions as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::Value;

use super::converse;
use crate::support::Server;
use crate::support::metrics::{get, get_with};

fn json(server: &Server, path: &str) -> Value {
    let answer = get_with(server.admin(), path, "");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    serde_json::from_str(&answer.body).expect("it is JSON")
}

fn decode_payload(detail: &Value) -> Histogram<u64> {
    let bytes = STANDARD.decode(detail["hdr"].as_str().expect("it is text")).expect("base64");
    Deserializer::new().deserialize(&mut bytes.as_slice()).expect("it is a histogram")
}

#[test]
fn the_list_has_figures_of_every_histogram() {
    let server = Server::start("");
    (0..3).for_each(|_| converse(&server, 40));
    let list = json(&server, "/v1/histograms");
    let list = list.as_array().expect("it is a list");
    let names: Vec<_> = list.iter().map(|one| one["name"].as_str().expect("a name")).collect();
    let known = [
        "accept_to_open",
        "turnaround",
        "turn",
        "wait",
        "batch",
        "rtt",
        "publish_to_delivery",
        "fanout",
        "engine_round_trip",
        "publish_to_arrival",
        "connect_hook",
        "subscribe_hook",
        "publish_hook",
        "call_hook",
        "link_round_trip",
        "tls_handshake",
        "send_queue_bytes",
    ];
    assert_eq!(names, known);
    let (open, turnaround) = (&list[0], &list[1]);
    assert_eq!((&open["count"], &open["unit"]), (&3.into(), &"nanoseconds".into()));
    assert_eq!(turnaround["count"], 120);
    assert_eq!(list[4]["unit"], "count");
    assert_eq!(list[16]["unit"], "bytes");
    let rising = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let rising = rising.map(|key| turnaround[key].as_u64().expect("a number"));
    assert!(rising[0] > 100 && rising.is_sorted(), "{turnaround}");
    assert!(turnaround["mean"].as_f64() > Some(0.0) && turnaround["stddev"].is_number());
}

#[test]
fn a_payload_holds_all_and_shards_add_up() {
    let server = Server::start("");
    (0..12).for_each(|_| converse(&server, 10));
    let whole = json(&server, "/v1/histograms/turnaround");
    let histogram = decode_payload(&whole);
    assert_eq!(histogram.len(), 120);
    for (key, value) in [
        ("max", histogram.max()),
        ("p50", histogram.value_at_quantile(0.5)),
        ("p99", histogram.value_at_quantile(0.99)),
    ] {
        assert_eq!(whole[key], value, "{key}");
    }
    let last = whole["percentiles"].as_array().and_then(|list| list.last()).expect("a list");
    assert_eq!((&last["count"], &last["value"]), (&120.into(), &whole["max"]));
    let mut sum = Histogram::new_from(&histogram);
    for shard in 0..2 {
        let part = json(&server, &format!("/v1/histograms/turnaround?shard={shard}"));
        sum.add(decode_payload(&part)).expect("they are of the same bounds");
    }
    assert_eq!(sum, histogram);
}

#[test]
fn a_distribution_is_text_for_plotters() {
    let server = Server::start("");
    converse(&server, 50);
    let by_name = get_with(server.admin(), "/v1/histograms/turnaround.hgrm", "");
    assert_eq!(by_name.header("content-type"), "text/plain; charset=utf-8");
    let by_accept = get_with(server.admin(), "/v1/histograms/turnaround", "Accept: text/plain\r\n");
    assert_eq!(by_accept.body, by_name.body);
    let text = by_name.body;
    assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
    assert!(text.contains("Total count    =           50]"), "{text}");
    let max = decode_payload(&json(&server, "/v1/histograms/turnaround")).max() as f64 / 1e3;
    assert!(text.contains(&format!("#[Max     = {max:12.3},")), "microseconds: {text}");
    let bytes = get(server.admin(), "/v1/histograms/send_queue_bytes.hgrm").1;
    let max = decode_payload(&json(&server, "/v1/histograms/send_queue_bytes")).max() as f64;
    assert!(bytes.contains(&format!("#[Max     = {max:12.3},")), "bytes: {bytes}");
}

#[test]
fn what_is_not_there_is_told() {
    let server = Server::start("");
    for (path, status, words) in [
        ("/v1/histograms/turnround", 404, "accept_to_open, turnaround, turn,"),
        ("/v1/histograms/turnround.hgrm", 404, "`turnround`"),
        ("/v1/histograms/turn?shard=2", 404, "shards are 0 to 1"),
        ("/v1/histograms?shard=2", 404, "shards are 0 to 1"),
        ("/v1/histograms?shard=one", 400, "shard=N"),
        ("/v1/histograms?what=1", 400, "shard=N"),
    ] {
        let (found, body) = get(server.admin(), path);
        assert_eq!(found, status, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).expect("it is JSON");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{path}: {message}");
    }
}

#[test]
fn switched_off_they_are_nowhere_and_counters_stay() {
    let server = Server::start("[metrics]\nhistograms = false\n");
    converse(&server, 30);
    let (status, body) = get(server.admin(), "/v1/histograms");
    assert!(status == 404 && body.contains("histograms are off"), "{body}");
    let (_, text) = get(server.admin(), "/metrics");
    assert!(!text.contains("_bucket"), "{text}");
    assert_eq!(server.metrics().get("messages_sent_total"), 30);
}
