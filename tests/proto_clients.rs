//! The client's address: PROXY headers before the request, forwarding headers within it.
//!
//! What belongs here: single headers, each tied to its rule. Random input is in
//! `proto_fuzz_bodies`.

use seawall::proto::http::{
    Availability, Context, Forwarding, ForwardingHeader, Head, Limits, Pages, Routes, receive,
};
use seawall::proto::proxy::{PROXY_HEADER_BYTES_MAX, ProxyError, ProxyHeader, parse};
use std::net::{IpAddr, SocketAddr};

fn complete(consumed: usize, source: Option<&str>) -> ProxyHeader {
    let source: Option<SocketAddr> = source.map(|text| text.parse().expect("an address"));
    ProxyHeader::Complete { consumed, source }
}

/// A version 2 header: signature, the two bytes after it, a length, a block.
fn block(command: u8, family: u8, length: usize, block: &[u8]) -> Vec<u8> {
    let length = (length as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

#[test]
fn version_1_lines() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(long.len(), 107);
    let cases = [
        ("PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", Some("192.0.2.1:56324")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some("255.255.255.255:65535"),
        ),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some("[2001:db8::1]:1")),
        ("PROXY TCP6 ::ffff:1.2.3.4 ::1 0 0\r\n", Some("[::ffff:1.2.3.4]:0")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff::1 what ever\r\n", None),
        (&long, None),
    ];
    for (line, source) in cases {
        let whole = format!("{line}GET / HTTP/1.1\r\n");
        assert_eq!(parse(whole.as_bytes()), Ok(complete(line.len(), source)), "{line}");
        for end in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..end]), Ok(ProxyHeader::Partial), "{line} to {end}");
        }
    }
}

#[test]
fn wrong_version_1_lines() {
    let cases = [
        "PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443 \r\n",
        "PROXY TCP4  192.0.2.1 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 01 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.256 1 443\r\n",
        "PROXY TCP4 ::1 ::1 1 443\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 443\r\n",
        "PROXY TCP5",
        "PROXY UDP4",
        "PROXY TCP4 x",
        "PROXY TCP4\t",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ];
    for line in cases {
        assert_eq!(parse(line.as_bytes()), Err(ProxyError::Line), "{line}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(107));
    assert_eq!(parse(endless.as_bytes()), Err(ProxyError::TooLong));
}

#[test]
fn version_2_blocks() {
    let v4: Vec<u8> = [&[192, 0, 2, 1, 10, 0, 0, 1][..], &[0xdc, 0x04, 1, 187]].concat();
    let v6: Vec<u8> = [&[0x20; 16][..], &[1; 16], &[0, 9, 1, 187]].concat();
    let tlvs = [&v4[..], b"\x04\x00\x05abcde"].concat();
    let six = "[2020:2020:2020:2020:2020:2020:2020:2020]:9";
    let cases = [
        (block(0x21, 0x11, 12, &v4), Some("192.0.2.1:56324")),
        (block(0x21, 0x12, 12, &v4), Some("192.0.2.1:56324")),
        (block(0x21, 0x11, 20, &tlvs), Some("192.0.2.1:56324")),
        (block(0x21, 0x21, 36, &v6), Some(six)),
        (block(0x21, 0x31, 216, &[b'/'; 216]), None),
        (block(0x21, 0x00, 0, b""), None),
        (block(0x21, 0x10, 3, b"tlv"), None),
        (block(0x20, 0x00, 0, b""), None),
        (block(0x20, 0x11, 12, &v4), None),
        (block(0x20, 0x11, 0, b""), None),
        (block(0x20, 0x00, 4080, &[0; 4080]), None),
    ];
    for (bytes, source) in cases {
        let whole = [&bytes[..], b"GET"].concat();
        assert_eq!(parse(&whole), Ok(complete(bytes.len(), source)), "{:02x?}", &bytes[12..16]);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(ProxyHeader::Partial), "to {end}");
        }
    }
}

#[test]
fn wrong_version_2_blocks_fail_at_their_first_wrong_byte() {
    let over = PROXY_HEADER_BYTES_MAX - 15;
    let cases = [
        (block(0x11, 0x11, 0, b""), 13, ProxyError::Version),
        (block(0x22, 0x11, 0, b""), 13, ProxyError::Command),
        (block(0x21, 0x41, 0, b""), 14, ProxyError::Family),
        (block(0x21, 0x13, 0, b""), 14, ProxyError::Family),
        (block(0x20, 0xf1, 0, b""), 14, ProxyError::Family),
        (block(0x21, 0x11, 11, b""), 16, ProxyError::AddressTooShort),
        (block(0x21, 0x21, 35, b""), 16, ProxyError::AddressTooShort),
        (block(0x21, 0x31, 215, b""), 16, ProxyError::AddressTooShort),
        (block(0x21, 0x11, over, b""), 16, ProxyError::TooLong),
        (block(0x20, 0x00, 65535, b""), 16, ProxyError::TooLong),
    ];
    for (bytes, at, error) in cases {
        assert_eq!(parse(&bytes[..at]), Err(error), "{:02x?}", &bytes[12..]);
        assert_eq!(parse(&bytes[..at - 1]), Ok(ProxyHeader::Partial), "{:02x?}", &bytes[12..]);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn what_is_no_header_fails_at_its_first_byte() {
    for start in [&b"G"[..], b"\x16", b"PROXX", b"PROXY\t", b"\r\n\r\n\0\r\nQUIT\r", b"\r\r", b"\0"]
    {
        let last = start.len() - 1;
        assert_eq!(parse(start), Err(ProxyError::Signature), "{start:?}");
        assert_eq!(parse(&start[..last]), Ok(ProxyHeader::Partial), "{start:?}");
    }
}

/// The client of a request with these lines, from this peer, behind the trusted proxies.
fn client(header: ForwardingHeader, peer: Option<&str>, lines: &str) -> Option<String> {
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network"));
    let forwarding = Forwarding { header, trusted: trusted.to_vec() };
    let context = Context {
        routes: &Routes::new(Vec::new()),
        pages: &Pages::NONE,
        limits: &Limits { head_bytes_max: 4096, target_bytes_max: 1024, headers_max: 50 },
        forwarding: Some(&forwarding),
        peer: peer.map(|text| text.parse::<IpAddr>().expect("an address")),
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: seawall::proto::http::SameOrigin::AnyHost,
        availability: Availability::Ready,
        gate: None,
        context_room_bytes: 0,
        forwards: None,
    };
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    match receive(request.as_bytes(), &mut 0, &context) {
        Head::Complete { client, .. } => client.map(|address| address.to_string()),
        Head::Partial => panic!("{request}"),
    }
}

const PROXY: Option<&str> = Some("10.0.0.1");

#[test]
fn x_forwarded_for_is_walked_from_the_right() {
    let cases = [
        (PROXY, "X-Forwarded-For: 1.1.1.1\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 6.6.6.6, 1.1.1.1\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.1.1.1, 10.2.2.2\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 1.1.1.1\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 10.1.1.1\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 10.3.3.3,10.1.1.1\r\n", Some("10.3.3.3")),
        (PROXY, "X-Forwarded-For: 1.1.1.1:4711\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 2001:db8::1\r\n", Some("2001:db8::1")),
        (PROXY, "X-Forwarded-For: [2001:db8::1]:80, fd00::1\r\n", Some("2001:db8::1")),
        (PROXY, "X-Forwarded-For: [2001:db8::1]\r\n", Some("2001:db8::1")),
        (PROXY, "X-Forwarded-For: ::ffff:1.1.1.1, ::ffff:10.1.1.1\r\n", Some("1.1.1.1")),
        // An invalid address ends the walk: the last good address is to the right of it.
        (PROXY, "X-Forwarded-For: 1.1.1.1, x, 10.1.1.1\r\n", Some("10.1.1.1")),
        (PROXY, "X-Forwarded-For: 1.1.1.1, x\r\n", PROXY),
        (PROXY, "X-Forwarded-For: 1.1.1.1,\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 1.1.1.1, , \r\nX-Forwarded-For:\r\n", Some("1.1.1.1")),
        (PROXY, "X-Forwarded-For: 1.1.1.1, \"\"\r\n", PROXY),
        (PROXY, "X-Forwarded-For: unknown\r\n", PROXY),
        (PROXY, "X-Forwarded-For:\r\n", PROXY),
        (PROXY, "Forwarded: for=1.1.1.1\r\n", PROXY),
        (PROXY, "", PROXY),
        (Some("::ffff:10.0.0.1"), "X-Forwarded-For: 1.1.1.1\r\n", Some("1.1.1.1")),
        // An untrusted peer is not believed; a Unix socket is.
        (Some("9.9.9.9"), "X-Forwarded-For: 1.1.1.1\r\n", Some("9.9.9.9")),
        (None, "X-Forwarded-For: 6.6.6.6, 1.1.1.1\r\n", Some("1.1.1.1")),
        (None, "", None),
    ];
    for (peer, lines, expected) in cases {
        let found = client(ForwardingHeader::XForwardedFor, peer, lines);
        assert_eq!(found.as_deref(), expected, "{lines}");
    }
}

#[test]
fn forwarded_is_walked_from_the_right() {
    let cases = [
        ("Forwarded: for=1.1.1.1", Some("1.1.1.1")),
        ("Forwarded: FOR=1.1.1.1;proto=https;by=10.0.0.1", Some("1.1.1.1")),
        ("Forwarded: proto=https ; for=\"1.1.1.1:80\"", Some("1.1.1.1")),
        ("Forwarded: for=\"[2001:db8::1]:4711\"", Some("2001:db8::1")),
        ("Forwarded: for=\"[2001:db8::1]\", for=\"[fd00::2]\"", Some("2001:db8::1")),
        ("Forwarded: for=6.6.6.6, for=1.1.1.1, for=10.1.1.1", Some("1.1.1.1")),
        ("Forwarded: for=6.6.6.6\r\nForwarded: for=1.1.1.1;;", Some("1.1.1.1")),
        ("Forwarded: by=\"a,b;c=\\\"d\";for=1.1.1.1", Some("1.1.1.1")),
        ("Forwarded: for=1.1.1.1, for=unknown, for=10.1.1.1", Some("10.1.1.1")),
        ("Forwarded: for=1.1.1.1, for=_hidden", PROXY),
        ("Forwarded: for=1.1.1.1, proto=http", PROXY),
        ("Forwarded: for=1.1.1.1;for=2.2.2.2", PROXY),
        ("Forwarded: for=1.1.1.1, for=\"2.2.2.2", PROXY),
        ("Forwarded: for", PROXY),
        ("Forwarded: for=", PROXY),
        ("Forwarded:", PROXY),
        ("X-Forwarded-For: 1.1.1.1", PROXY),
    ];
    for (lines, expected) in cases {
        let found = client(ForwardingHeader::Forwarded, PROXY, &format!("{lines}\r\n"));
        assert_eq!(found.as_deref(), expected, "{lines}");
    }
}
