//! The PROXY protocol, versions 1 and 2: the line or block in which a proxy names the client.
//!
//! The header is mandatory where a listener asks for it: a connection that starts with anything
//! else is refused at its first wrong byte, because guessing would let a client forge its
//! address. What the header says beside the source address (destination, TLVs) is skipped.
//! Source: the specification "The PROXY protocol", versions 1 & 2.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header accepted, in bytes. Version 1 ends at 107 by its specification (2.1);
/// version 2 could claim 65,551, of which this allows what TLVs of certificates and identifiers
/// need.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// The longest version 1 line, CRLF included (2.1).
const LINE_BYTES_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
const _: () = assert!(LINE_BYTES_MAX <= PROXY_HEADER_BYTES_MAX);

/// What the bytes at the start of a connection hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A header that has not ended: show the same bytes again with more behind them.
    Partial,
    /// A whole header.
    Complete {
        /// Its length in bytes; what follows belongs to the connection itself.
        consumed: usize,
        /// The client it names. `None` where the proxy speaks for itself (`LOCAL`) or does not know
        /// (`UNKNOWN`, `AF_UNSPEC`, a Unix socket): the socket's own address counts.
        source: Option<SocketAddr>,
    },
}

/// Why the start of a connection is not a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The first bytes are neither version's signature.
    Signature,
    /// A version 1 line that does not follow its grammar.
    Line,
    /// A header over [`PROXY_HEADER_BYTES_MAX`], or a version 1 line over 107 bytes.
    TooLong,
    /// A version 2 signature with a version that is not 2.
    Version,
    /// A version 2 command other than LOCAL and PROXY.
    Command,
    /// A version 2 address family or transport that the specification does not define.
    Family,
    /// A version 2 header too short for the addresses of its family.
    AddressTooShort,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signature => {
                "connection does not start with a PROXY header: make the proxy send one, or turn \
                 proxy_protocol off for this listener"
            }
            Self::Line => "malformed PROXY version 1 line",
            Self::TooLong => "PROXY header too long: have the proxy send fewer TLVs",
            Self::Version => "PROXY header of an unknown version: only 1 and 2 exist",
            Self::Command => "PROXY version 2 header with an unknown command",
            Self::Family => "PROXY version 2 header with an unknown address family or transport",
            Self::AddressTooShort => "PROXY version 2 header too short for its address family",
        })
    }
}

impl std::error::Error for ProxyError {}

/// Reads the PROXY header at the front of `bytes`: all that was received on this connection so far.
///
/// Costs O(header) per call, and a header is at most [`PROXY_HEADER_BYTES_MAX`].
///
/// # Errors
/// At the first byte that no valid header could have: the connection must be closed without answer.
pub fn parse(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    if starts_like(bytes, V2_SIGNATURE) {
        parse_block(bytes)
    } else if starts_like(bytes, V1_SIGNATURE) {
        parse_line(bytes)
    } else {
        Err(ProxyError::Signature)
    }
}

/// Whether `bytes` agree with `signature` as far as they go.
fn starts_like(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// Version 2 (2.2): 12 bytes of signature, version and command, family and transport, length.
fn parse_block(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let command = bytes.get(12).copied();
    if command.is_some_and(|byte| byte >> 4 != 2) {
        return Err(ProxyError::Version);
    }
    if command.is_some_and(|byte| byte & 0x0f > 1) {
        return Err(ProxyError::Command);
    }
    if bytes.get(13).is_some_and(|byte| byte >> 4 > 3 || byte & 0x0f > 2) {
        return Err(ProxyError::Family);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_BYTES) else {
        return Ok(ProxyHeader::Partial);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if V2_FIXED_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    // LOCAL: whatever the family byte and the addresses say is to be skipped (2.2).
    let (command, transport) = (fixed[12] & 0x0f, fixed[13] & 0x0f);
    let family = if command == 0 || transport == 0 { 0 } else { fixed[13] >> 4 };
    if length < [0, 12, 36, 216][usize::from(family)] {
        return Err(ProxyError::AddressTooShort);
    }
    let Some(block) = rest.get(..length) else {
        return Ok(ProxyHeader::Partial);
    };
    let source = block_source(family, block);
    Ok(ProxyHeader::Complete { consumed: V2_FIXED_BYTES + length, source })
}

/// The source address of a version 2 block: source, destination, source port, destination port.
fn block_source(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = match family {
        1 => (IpAddr::V4(Ipv4Addr::from(*block.first_chunk::<4>()?)), block.get(8..10)?),
        2 => (IpAddr::V6(Ipv6Addr::from(*block.first_chunk::<16>()?)), block.get(32..34)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
}

/// Version 1 (2.1): one line of words set apart by single spaces, closed by CRLF.
fn parse_line(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        check_unfinished_line(window)?;
        return match window.len() {
            LINE_BYTES_MAX => Err(ProxyError::TooLong),
            _ => Ok(ProxyHeader::Partial),
        };
    };
    let consumed = end + 1;
    let line = window[..end].strip_suffix(b"\r").ok_or(ProxyError::Line)?;
    let words = std::str::from_utf8(&line[V1_SIGNATURE.len()..]).map_err(|_| ProxyError::Line)?;
    // UNKNOWN: the rest of the line is to be ignored (2.1).
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Ok(ProxyHeader::Complete { consumed, source: None });
    }
    let source = line_source(words).ok_or(ProxyError::Line)?;
    Ok(ProxyHeader::Complete { consumed, source: Some(source) })
}

/// Refuses a line that has not ended but can no longer become valid.
fn check_unfinished_line(line: &[u8]) -> Result<(), ProxyError> {
    let words = line.get(V1_SIGNATURE.len()..).unwrap_or_default();
    let word = [&b"TCP4 "[..], b"TCP6 ", b"UNKNOWN"].into_iter().find(|w| starts_like(words, w));
    let word = word.ok_or(ProxyError::Line)?;
    if word == b"UNKNOWN" {
        return Ok(());
    }
    let body = words.get(word.len()..).unwrap_or_default();
    // A carriage return may only be the last byte, its line feed being on the way.
    let body = body.strip_suffix(b"\r").unwrap_or(body);
    let allowed = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b' ' | b'.' | b':');
    if body.iter().all(allowed) { Ok(()) } else { Err(ProxyError::Line) }
}

/// `TCP4|TCP6 source destination source-port destination-port`; all of it must be valid.
fn line_source(words: &str) -> Option<SocketAddr> {
    let mut words = words.split(' ');
    let family = words.next()?;
    let source = address(family, words.next()?)?;
    address(family, words.next()?)?;
    let source_port = port(words.next()?)?;
    port(words.next()?)?;
    words.next().is_none().then(|| SocketAddr::new(source, source_port))
}

fn address(family: &str, word: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => word.parse().ok().map(IpAddr::V4),
        "TCP6" => word.parse().ok().map(IpAddr::V6),
        _ => None,
    }
}

/// A decimal port without sign or leading zero (2.1).
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}
