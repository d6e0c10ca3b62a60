//! Compression on real sockets: bombs, replies by the worth of compressing them, and what an idle
//! connection costs.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::raw::{self, BINARY, CONTINUATION, FIN, TEXT, request_with};
use crate::support::{Frame, Raw, Server, wait_until};

/// The bit of a compressed message.
const COMPRESSED: u8 = 0x40;
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const ROUTES: &str = "[[route]]\npath = \"/shared\"\n\
    [[route]]\npath = \"/takeover\"\ncompression = \"takeover\"\n\
    [[route]]\npath = \"/off\"\ncompression = \"off\"\n";

fn open(server: &Server, path: &str, compresses: bool) -> Raw {
    let mut client = Raw::connect(server.address());
    client.send(&request_with(path, OFFER));
    let head = client.head();
    assert_eq!(head.contains("\r\nSec-WebSocket-Extensions: permessage-deflate"), compresses);
    client
}

/// This many MiB of zeros, compressed.
fn zeros(mebibytes: usize) -> Vec<u8> {
    let mut compress = Compress::new_with_window_bits(Compression::best(), false, 12);
    let mut out = Vec::with_capacity((mebibytes << 11) + 1024);
    let block = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        compress.compress_vec(&block, &mut out, FlushCompress::None).unwrap();
    }
    compress.compress_vec(&[], &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync).unwrap();
    out
}

#[test]
fn bombs_of_a_gibibyte_are_refused_with_flat_memory() {
    let bomb = zeros(1 << 10);
    assert!(bomb.len() < 1100 << 10, "{} bytes", bomb.len());
    let frames = |cut: usize| {
        let (front, back) = bomb.split_at(cut);
        let front = raw::frame(BINARY | COMPRESSED, front);
        [front, raw::frame(FIN | CONTINUATION, back)].concat()
    };
    let attacks = [("/shared", 100), ("/shared", 200_000), ("/takeover", 1000)];
    let attacks = attacks.map(|(path, cut)| (path, frames(cut)));
    for (limits, reason) in [
        ("[limits]\n", "compressed message inflates"),
        ("[limits]\ninflate_ratio_max = 0\nmessage_bytes_max = 2097152\n", "message larger"),
    ] {
        let server = Server::start(&format!("{limits}{ROUTES}"));
        let mut refused = 0;
        let before = server.anonymous_kib();
        for _ in 0..5 {
            for (path, frames) in &attacks {
                let mut client = open(&server, path, true);
                // The Close may arrive before everything is sent.
                let _ = std::io::Write::write_all(&mut client.stream, frames);
                let close = client.frame();
                assert_eq!(close.close_code(), 1009);
                let text = String::from_utf8_lossy(&close.payload[2..]).into_owned();
                assert!(text.starts_with(reason), "{text}");
                refused += 1;
            }
        }
        // Buffers that 15 MiB of input have touched, and a message of 16 MiB at most.
        let grown = server.anonymous_kib().saturating_sub(before);
        assert!(grown < 64 << 10, "{grown} KiB more after {refused} GiB");
        assert_eq!(server.metrics().get("inflate_bombs_total"), refused);
        wait_until("every context and inflater is given back", || {
            let metrics = server.metrics();
            metrics.get("compression_contexts") + metrics.get("inflaters_leased") == 0
        });
    }
}

#[test]
fn a_reply_is_compressed_where_that_is_worth_it() {
    let server = Server::start(ROUTES);
    let long = "{\"a\":1,\"b\":2}".repeat(500);
    let noise: Vec<u8> = (0..4000_u32)
        .map(|n| (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for path in ["/shared", "/takeover"] {
        let mut client = open(&server, path, true);
        // Sent plain, and worth compressing.
        client.send(&raw::text(&long));
        let frame = client.frame();
        assert_eq!(frame.first, FIN | TEXT | COMPRESSED);
        assert!(frame.payload.len() < long.len() / 10);
        assert_eq!(inflated(&frame.payload), long.as_bytes());
        // Too short, or of no use.
        client.send(&raw::text("short"));
        assert_eq!(client.frame(), Frame::text("short"));
        client.send(&raw::frame(FIN | BINARY, &noise));
        assert_eq!(client.frame(), Frame { first: FIN | BINARY, payload: noise.clone() });
        client.send(&raw::close(1000));
        assert_eq!(client.frame().close_code(), 1000);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.get("deflated_messages_total"), 2);
    assert_eq!(metrics.get("deflate_useless_total"), 2);
    assert_eq!(metrics.get("deflated_bytes_before_total"), 2 * long.len() as u64);
    let text = crate::support::metrics::get(server.admin(), "/metrics").1;
    let spent = text.lines().find_map(|line| line.strip_prefix("seawall_deflate_seconds_total "));
    assert!(spent.is_some_and(|seconds| seconds.parse::<f64>().unwrap() > 0.0), "{spent:?}");
    assert_eq!(metrics.get("replies_in_place_total"), 1, "what did not shrink, in shared mode");
    let mut plain = open(&server, "/off", false);
    plain.send(&raw::text(&long));
    assert_eq!(plain.frame(), Frame::text(&long));
}

#[test]
fn what_connections_keep_is_what_was_agreed_on() {
    let server = Server::start(ROUTES);
    let shared: Vec<Raw> = (0..50).map(|_| open(&server, "/shared", true)).collect();
    let metrics = server.metrics();
    assert_eq!(metrics.get("compression_shared_total"), 50);
    assert_eq!(metrics.get("compression_contexts") + metrics.get("codec_pool_bytes"), 0);
    let own: Vec<Raw> = (0..10).map(|_| open(&server, "/takeover", true)).collect();
    let metrics = server.metrics();
    assert_eq!(metrics.get("compression_takeover_total"), 10);
    assert_eq!(metrics.get("compression_contexts"), 10);
    let each = metrics.get("compression_context_bytes") / 10;
    assert!((45_000..56_000).contains(&each), "{each} bytes a connection");
    drop((shared, own));
    wait_until("all contexts are closed", || {
        server.metrics().get("compression_context_bytes") == 0
    });
}
