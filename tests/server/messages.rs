//! Messages on an open connection: cut anywhere, pipelined, half-closed, slow.

use std::io::Write;
use std::time::Duration;

use crate::support::raw::{
    self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, close, request, text,
};
use crate::support::{Frame, Raw, Server, wait_until};

#[test]
fn frames_in_the_request_s_segment_are_not_lost() {
    let server = Server::start("");
    let mut client = Raw::connect(server.address());
    client.send(&[request(), text("one"), text("two"), raw::frame(FIN | PING, b"p")].concat());
    client.switched();
    assert_eq!(client.frame(), Frame::text("one"));
    assert_eq!(client.frame(), Frame::text("two"));
    assert_eq!(client.frame(), Frame { first: FIN | PONG, payload: b"p".to_vec() });
    // A frame begun in the segment and ended in the next one.
    let mut client = Raw::connect(server.address());
    let begun = text("cut in the middle");
    client.send(&[&request()[..], &begun[..9]].concat());
    client.switched();
    client.send(&begun[9..]);
    assert_eq!(client.frame(), Frame::text("cut in the middle"));
}

#[test]
fn request_and_frames_may_come_byte_by_byte() {
    let server = Server::start("");
    let mut client = Raw::connect(server.address());
    let long = "ä".repeat(100);
    let bytes = [request(), text(&long), close(1000)].concat();
    for byte in bytes {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_micros(100));
    }
    client.switched();
    assert_eq!(client.frame(), Frame::text(&long));
    assert_eq!(client.frame().close_code(), 1000);
    client.end();
}

#[test]
fn a_header_may_be_cut_before_a_message_that_is_whole() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    // Large enough to be answered in place, had the header come with it.
    for message in ["x".repeat(20), "y".repeat(600), "z".repeat(60_000)] {
        let frame = text(&message);
        for cut in 1..14 {
            client.send(&frame[..cut]);
            std::thread::sleep(Duration::from_millis(5));
            client.send(&frame[cut..]);
            assert_eq!(client.frame(), Frame::text(&message), "cut after {cut} bytes");
        }
    }
}

#[test]
fn echoes_still_arrive_after_a_half_close() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    let messages: Vec<String> = (0..2000).map(|n| format!("{n}:{}", "x".repeat(n % 300))).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(text).collect();
    client.send(&bytes);
    client.half_close();
    for message in &messages {
        assert_eq!(client.frame(), Frame::text(message));
    }
    client.end();
}

#[test]
fn messages_before_a_close_are_answered_before_it() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    let big = vec![b'b'; 1 << 20];
    let close = raw::frame(FIN | CLOSE, &[&3001_u16.to_be_bytes()[..], b"bye"].concat());
    // Nothing counts after a Close (RFC 6455 5.5.1).
    let after = text("too late");
    client.send(&[raw::frame(FIN | BINARY, &big), text("last"), close, after].concat());
    assert_eq!(client.frame(), Frame { first: FIN | BINARY, payload: big });
    assert_eq!(client.frame(), Frame::text("last"));
    assert_eq!(client.frame().close_code(), 3001);
    // RFC 6455 7.1.1: the server ends the TCP connection.
    client.end();
}

/// 4 MiB in fragments of 64 bytes and an empty last one, as senders make it that end a message
/// only when nothing is left: one more than 2^16 frames.
#[test]
fn a_message_may_have_65_537_fragments() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let fragment = [b'f'; 64];
        let mut bytes = raw::frame(TEXT, &fragment);
        (1..65_536).for_each(|_| bytes.extend(raw::frame(CONTINUATION, &fragment)));
        bytes.extend(raw::frame(FIN | CONTINUATION, b""));
        writer.write_all(&bytes).unwrap();
    });
    assert_eq!(client.frame(), Frame::text(vec![b'f'; 4 << 20]));
    sender.join().unwrap();
}

#[test]
fn a_ping_between_fragments_is_answered_before_the_message() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    client.send(&raw::frame(TEXT, b"one "));
    client.send(&raw::frame(FIN | PING, &[7; 125]));
    assert_eq!(client.frame(), Frame { first: FIN | PONG, payload: vec![7; 125] });
    client.send(&raw::frame(FIN | CONTINUATION, b"message"));
    assert_eq!(client.frame(), Frame::text("one message"));
}

/// Who does not read is not read from: memory stays bounded, and nothing is lost.
#[test]
fn a_reader_that_rests_loses_nothing_and_holds_little() {
    let limits = "[limits]\noutbox_bytes_max = 262_144\nmessage_bytes_max = 65_536\n";
    let few_buffers = "[engine]\nbuffer_bytes = 4096\nbuffer_memory_bytes = 524_288\n";
    for engine in ["", few_buffers] {
        let server = Server::start(&format!("{limits}{engine}"));
        let mut client = Raw::open(server.address());
        let mut writer = client.stream.try_clone().unwrap();
        let message = |n: u32| [&n.to_be_bytes()[..], &vec![n as u8; 65_000]].concat();
        let sender = std::thread::spawn(move || {
            for n in 0..600 {
                writer.write_all(&raw::frame(FIN | BINARY, &message(n))).unwrap();
            }
        });
        wait_until("reading pauses", || server.metrics().get("read_pauses_total") > 0);
        std::thread::sleep(Duration::from_millis(300));
        for n in 0..600 {
            assert!(client.frame().payload == message(n), "message {n} comes back");
        }
        sender.join().unwrap();
        let metrics = server.metrics();
        assert_eq!(metrics.get("slow_reader_closes_total"), 0);
        if engine == few_buffers {
            // The queue up to its mark, a message, and what was on its way when reading stopped.
            let most = 2 * 262_144 + 65_536 + 10 + 2 * 262_144;
            let peak = metrics.get("outbox_peak_bytes");
            assert!(peak <= most, "{peak} of {most}");
        }
    }
}

/// The deadline of the last answer counts from the last byte that the peer took, not from its
/// FIN: a slow line is not a dead one.
#[test]
fn a_slow_reader_gets_all_that_was_queued_before_its_close() {
    let server = Server::start(
        "[timeouts]\nlinger_timeout_ms = 300\n[[listener]]\nsend_buffer_bytes = 65_536\n",
    );
    for half_close in [false, true] {
        let mut client = Raw::open(server.address());
        let message = vec![b's'; 6 << 20];
        let mut writer = client.stream.try_clone().unwrap();
        let bytes = raw::frame(FIN | BINARY, &message);
        let sender = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            if half_close {
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            } else {
                writer.write_all(&close(1000)).unwrap();
            }
        });
        let mut received = Vec::new();
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let count = std::io::Read::read(&mut client.stream, &mut chunk).unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&chunk[..count]);
            std::thread::sleep(Duration::from_millis(40));
        }
        sender.join().unwrap();
        let close = if half_close { 0 } else { 4 };
        assert_eq!(received.len(), 10 + message.len() + close, "half-close: {half_close}");
    }
}

/// The first byte of a huge page makes two megabytes resident, and takes milliseconds on some
/// hosts, so no table and no message may lie in one, whatever the host is set to. What a message
/// has left goes back to the system.
#[test]
fn messages_lie_in_small_pages_and_their_memory_is_returned() {
    let server = Server::start("shards = 2\n");
    let memory_kib = |what: &str| {
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid()));
        let maps = maps.expect("the server lives");
        let line = maps.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the kernel counts pages")
    };
    let idle_kib = memory_kib("Rss:");
    let mut client = Raw::open(server.address());
    for len in [100, 100_000, 1 << 20, 3 << 20, 15 << 20] {
        client.send(&raw::frame(FIN | BINARY, &vec![7; len]));
        assert_eq!(client.frame().payload.len(), len);
        assert_eq!(memory_kib("AnonHugePages:"), 0, "after a message of {len} bytes");
    }
    wait_until("the messages' memory is returned", || memory_kib("Rss:") < idle_kib + 4096);
}
