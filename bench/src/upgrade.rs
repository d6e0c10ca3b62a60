//! The opening handshake of RFC 6455 section 4, client side: builds requests once, and checks
//! answers strictly.

use std::fmt;

use tungstenite::handshake::derive_accept_key;

use crate::deflate::Offer;

/// Keys in rotation: neighbouring connections differ, so an answer to the wrong one is detected.
const KEYS: u32 = 61;
/// Bytes of an answer's head at most.
pub const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Why an answer does not upgrade the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeError {
    /// The server answered with another status; `Retry-After` in seconds if present.
    Status { code: u16, retry_after_s: Option<u32> },
    /// The head cannot be parsed.
    Malformed(String),
    /// A header is missing or wrong (RFC 6455 section 4.1).
    Header(&'static str),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code: code @ (429 | 503), .. } => {
                write!(out, "the server answered {code} instead of 101; it is full or draining")
            }
            Self::Status { code, .. } => {
                write!(out, "the server answered {code} instead of 101; is the path right?")
            }
            Self::Malformed(why) => write!(out, "1.1: {why}/1.1: {why}"),
            Self::Header(name) => write!(out, "the 101 has a missing or wrong {name}"),
        }
    }
}

/// A valid answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of the head; frames may follow.
    pub len: usize,
    /// Whether permessage-deflate was offered and agreed.
    pub deflate: bool,
}

/// Additions to each request.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Header lines without their ends.
    pub headers: Vec<String>,
    /// The offered subprotocol, if the load has none of its own.
    pub protocol: Option<String>,
    /// Bearer tokens, which connections use in turn.
    pub tokens: Vec<String>,
}

/// Prepared requests, with the accept keys of valid answers.
pub struct Upgrade {
    requests: Vec<(Vec<u8>, String)>,
    deflate: Option<Offer>,
    /// The offered subprotocol.
    protocol: Option<String>,
}

impl Upgrade {
    /// Builds the requests for `path` on `authority` (host and port), with or without a compression
    /// offer.
    pub fn new(authority: &str, path: &str, deflate: bool) -> Self {
        let deflate = deflate.then_some(Offer::Alone);
        Self::to_paths(authority, &[path.to_owned()], deflate, None)
    }

    /// The same for several paths in turn: connection `number` requests `paths[number % len]`.
    ///
    /// # Panics
    /// If there are no paths.
    pub fn to_paths(
        authority: &str,
        paths: &[String],
        deflate: Option<Offer>,
        protocol: Option<&str>,
    ) -> Self {
        Self::with_extras(authority, paths, deflate, protocol, &Extras::default())
    }

    /// The same with additions of the command line.
    ///
    /// # Panics
    /// If there are no paths.
    pub fn with_extras(
        authority: &str,
        paths: &[String],
        deflate: Option<Offer>,
        protocol: Option<&str>,
        extras: &Extras,
    ) -> Self {
        let protocol = protocol.or(extras.protocol.as_deref());
        let mut offers = String::new();
        if let Some(offer) = deflate {
            offers = format!("Sec-WebSocket-Extensions: {}\r\n", offer.text());
        }
        if let Some(protocol) = protocol {
            offers = format!("{offers}Sec-WebSocket-Protocol: {protocol}\r\n");
        }
        for line in &extras.headers {
            offers = format!("{offers}{line}\r\n");
        }
        let least = extras.tokens.len().max(KEYS as usize);
        let count = paths.len() * least.div_ceil(paths.len());
        // None where there are none.
        let mut tokens = extras.tokens.iter().cycle();
        let requests = paths.iter().cycle().take(count).zip(0..).map(|(path, number)| {
            let key = key(number);
            let bearer = tokens.next().map(|token| format!("Authorization: Bearer {token}\r\n"));
            let bearer = bearer.unwrap_or_default();
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
                 Sec-WebSocket-Version: 13\r\n{offers}{bearer}\r\n"
            );
            (request.into_bytes(), derive_accept_key(key.as_bytes()))
        });
        let requests = requests.collect();
        Self { requests, deflate, protocol: protocol.map(str::to_owned) }
    }

    /// The request of a connection; `number` must differ between neighbours.
    pub fn request(&self, number: u32) -> &[u8] {
        &self.requests[number as usize % self.requests.len()].0
    }

    /// Checks an answer; `None` while it is incomplete.
    pub fn check(&self, number: u32, head: &[u8]) -> Result<Option<Answer>, UpgradeError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(head) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if head.len() < HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => {
                return Err(UpgradeError::Malformed(format!("head over {HEAD_MAX} bytes")));
            }
            Err(error) => return Err(UpgradeError::Malformed(error.to_string())),
        };
        match response.code {
            Some(101) => {}
            code => {
                let retry_after_s = header(response.headers, "Retry-After")
                    .and_then(|value| value.trim().parse().ok());
                return Err(UpgradeError::Status { code: code.unwrap_or(0), retry_after_s });
            }
        }
        if response.version != Some(1) {
            return Err(UpgradeError::Malformed("a 101 of HTTP/1.0".to_owned()));
        }
        let one = |name: &str| header(response.headers, name);
        let has_token = |name: &str, token: &str| {
            one(name).is_some_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
        };
        if !has_token("Upgrade", "websocket") {
            return Err(UpgradeError::Header("Upgrade"));
        }
        if !has_token("Connection", "upgrade") {
            return Err(UpgradeError::Header("Connection"));
        }
        let accept = &self.requests[number as usize % self.requests.len()].1;
        if one("Sec-WebSocket-Accept").map(str::trim) != Some(accept) {
            return Err(UpgradeError::Header("Sec-WebSocket-Accept"));
        }
        let has = |name: &str| response.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
        // The server may only choose what was offered.
        let chosen = one("Sec-WebSocket-Protocol").map(str::trim);
        if has("Sec-WebSocket-Protocol") && (chosen.is_none() || chosen != self.protocol.as_deref())
        {
            return Err(UpgradeError::Header("Sec-WebSocket-Protocol"));
        }
        let deflate = has("Sec-WebSocket-Extensions");
        let agreed = one("Sec-WebSocket-Extensions")
            .zip(self.deflate)
            .is_some_and(|(answer, offer)| offer.is_agreed(answer));
        if deflate && !agreed {
            return Err(UpgradeError::Header("Sec-WebSocket-Extensions"));
        }
        Ok(Some(Answer { len, deflate }))
    }
}

/// The value of a header that occurs once.
fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let first = found.next().and_then(|header| std::str::from_utf8(header.value).ok());
    if found.next().is_some() { None } else { first }
}

/// 16 bytes in base64, different for each number.
fn key(number: u32) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = u64::from(number) + 1;
    let mut key: String = (0..21)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(DIGITS[(state >> 58) as usize])
        })
        .collect();
    // The 22nd digit carries two bits of the 16th byte: its low four bits must be 0.
    key.push('A');
    key.push_str("==");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(accept: &str, extra: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\
             connection: keep-alive, Upgrade\r\nsec-websocket-accept: {accept}\r\n{extra}\r\n"
        )
    }

    #[test]
    fn keys_are_sixteen_bytes_and_differ() {
        let keys: std::collections::BTreeSet<String> = (0..KEYS).map(key).collect();
        assert_eq!(keys.len(), KEYS as usize);
        assert!(keys.iter().all(|key| key.len() == 24 && key.ends_with("A==")));
    }

    #[test]
    fn a_right_answer_is_measured_and_a_part_waits() {
        let upgrade = Upgrade::new("h:1", "/echo", false);
        assert!(upgrade.request(0).starts_with(b"GET /echo HTTP/1.1\r\nHost: h:1\r\n"));
        let accept = upgrade.requests[5].1.clone();
        let whole = answer(&accept, "") + "frames";
        assert_eq!(
            upgrade.check(5, whole.as_bytes()),
            Ok(Some(Answer { len: whole.len() - 6, deflate: false }))
        );
        for cut in 0..whole.len() - 6 {
            assert_eq!(upgrade.check(5, &whole.as_bytes()[..cut]), Ok(None), "cut {cut}");
        }
        assert_eq!(
            upgrade.check(6, whole.as_bytes()),
            Err(UpgradeError::Header("Sec-WebSocket-Accept"))
        );
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let upgrade = Upgrade::new("h:1", "/", false);
        let accept = upgrade.requests[0].1.clone();
        let refuse = |text: String| upgrade.check(0, text.as_bytes()).unwrap_err();
        let not_found = UpgradeError::Status { code: 404, retry_after_s: None };
        assert_eq!(refuse("HTTP/1.1 404 No\r\n\r\n".to_owned()), not_found);
        let busy = UpgradeError::Status { code: 503, retry_after_s: Some(7) };
        assert_eq!(refuse("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n".to_owned()), busy);
        let protocol = answer(&accept, "Sec-WebSocket-Protocol: chat\r\n");
        assert_eq!(refuse(protocol), UpgradeError::Header("Sec-WebSocket-Protocol"));
        let twice = answer(&accept, &format!("Sec-WebSocket-Accept: {accept}\r\n"));
        assert_eq!(refuse(twice), UpgradeError::Header("Sec-WebSocket-Accept"));
        let no_upgrade = answer(&accept, "").replace("upgrade: WebSocket\r\n", "");
        assert_eq!(refuse(no_upgrade), UpgradeError::Header("Upgrade"));
        let old = answer(&accept, "").replace("HTTP/1.1", "HTTP/1.0");
        assert!(matches!(refuse(old), UpgradeError::Malformed(_)));
        let endless = format!("HTTP/1.1 101 x\r\na: {}", "b".repeat(HEAD_MAX));
        assert!(matches!(refuse(endless), UpgradeError::Malformed(_)));
    }

    #[test]
    fn paths_take_turns_and_the_subprotocol_is_the_one_offered() {
        let paths: Vec<String> = (0..100).map(|n| format!("/sub/{n}")).collect();
        let upgrade = Upgrade::to_paths("h:1", &paths, None, Some("seawall.v1"));
        for number in [0, 7, 99, 107, 1_099] {
            let request = String::from_utf8(upgrade.request(number).to_vec()).unwrap();
            let path = format!("GET /sub/{} HTTP/1.1\r\n", number % 100);
            assert!(request.starts_with(&path), "{request}");
            assert!(request.contains("\r\nSec-WebSocket-Protocol: seawall.v1\r\n"), "{request}");
        }
        let one = Upgrade::to_paths("h:1", &paths[..1], None, None);
        assert_ne!(one.request(0), one.request(1), "neighbours' keys differ");
        let accept = upgrade.requests[0].1.clone();
        let chosen = |protocol: &str| {
            let header = format!("Sec-WebSocket-Protocol: {protocol}\r\n");
            upgrade.check(0, answer(&accept, &header).as_bytes())
        };
        assert!(chosen("seawall.v1").unwrap().is_some());
        assert_eq!(chosen("chat"), Err(UpgradeError::Header("Sec-WebSocket-Protocol")));
    }

    #[test]
    fn tokens_take_turns_beside_headers_and_a_subprotocol() {
        let tokens: Vec<String> = (0..100).map(|n| format!("t{n}.")).collect();
        let headers = vec!["X-Tenant: a".to_owned()];
        let extras = Extras { headers, protocol: Some("own".to_owned()), tokens };
        let upgrade = Upgrade::with_extras("h:1", &["/".to_owned()], None, None, &extras);
        for number in [0, 61, 99, 100] {
            let request = String::from_utf8(upgrade.request(number).to_vec()).unwrap();
            let token = format!("\r\nAuthorization: Bearer t{}.\r\n", number % 100);
            for part in [&*token, "\r\nX-Tenant: a\r\n", "\r\nSec-WebSocket-Protocol: own\r\n"] {
                assert!(request.contains(part), "{request}");
            }
            assert!(request.ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn compression_is_agreed_only_where_it_was_offered() {
        let (offering, silent) = (Upgrade::new("h:1", "/", true), Upgrade::new("h:1", "/", false));
        let request = String::from_utf8(offering.request(0).to_vec()).unwrap();
        assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate; client_no"));
        let accept = offering.requests[0].1.clone();
        let agreed = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
        let text = answer(&accept, agreed);
        let len = text.len();
        assert_eq!(offering.check(0, text.as_bytes()), Ok(Some(Answer { len, deflate: true })));
        let uninvited = silent.check(0, text.as_bytes());
        assert_eq!(uninvited, Err(UpgradeError::Header("Sec-WebSocket-Extensions")));
        let declined = answer(&accept, "");
        let len = declined.len();
        let found = offering.check(0, declined.as_bytes());
        assert_eq!(found, Ok(Some(Answer { len, deflate: false })));
        let other = answer(&accept, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert!(offering.check(0, other.as_bytes()).is_err());
    }
}
