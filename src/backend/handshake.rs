//! What an application sees of a client's handshake.

use crate::proto::http::{HEADERS_MAX, TICKET_PREFIX};

/// A handshake, as far as an application may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandshakeView {
    /// The target in origin form: path, and query if there is one.
    pub target: Box<str>,
    /// The headers that the application may see, in order. Names are as in the configuration.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The subprotocols that the client offers, in order.
    pub subprotocols: Vec<Box<str>>,
}

impl HandshakeView {
    /// Reads the head of a request, which has been parsed before. `names`: the headers that the
    /// application may see, in lowercase.
    pub fn new(head: &[u8], names: &[String]) -> Self {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut lines);
        let is_valid = request.parse(head).is_ok();
        debug_assert!(is_valid, "the head was parsed before");
        let wanted = |header: &httparse::Header<'_>| {
            let name = names.iter().find(|wanted| wanted.eq_ignore_ascii_case(header.name))?;
            Some((name.as_str().into(), String::from_utf8_lossy(header.value).into()))
        };
        let offers = |header: &&httparse::Header<'_>| {
            header.name.eq_ignore_ascii_case("sec-websocket-protocol")
        };
        let texts =
            request.headers.iter().filter(offers).filter_map(|one| str::from_utf8(one.value).ok());
        let names = texts.flat_map(|text| text.split(','));
        // Tickets of the hub are secrets of its clients.
        let names = names
            .map(|name| name.trim_matches([' ', '\t']))
            .filter(|name| !name.is_empty() && !name.starts_with(TICKET_PREFIX));
        Self {
            target: request.path.map_or("/", origin_form).into(),
            headers: request.headers.iter().filter_map(wanted).collect(),
            subprotocols: names.map(Into::into).collect(),
        }
    }

    /// Returns the path and the query, without the question mark.
    pub fn path_and_query(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }
}

/// An absolute target begins with the scheme and the authority (RFC 9112, section 3.2.2).
fn origin_form(target: &str) -> &str {
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_sees_the_target_the_listed_headers_and_the_offers() {
        let head = b"GET http://a.example/game?x=1?y HTTP/1.1\r\nHost: a.example\r\n\
            Cookie: a=1\r\nX-Secret: s\r\nSec-WebSocket-Protocol: chat, v2\r\n\
            sec-websocket-protocol:\tv3 , seawall.ticket.abc\r\n\r\n";
        let view = HandshakeView::new(head, &["cookie".into()]);
        assert_eq!(view.path_and_query(), ("/game", "x=1?y"));
        assert_eq!(view.headers, [("cookie".into(), "a=1".into())]);
        assert_eq!(view.subprotocols, ["chat", "v2", "v3"].map(Box::from));
        let bare = HandshakeView::new(b"GET / HTTP/1.1\r\n\r\n", &[]);
        assert_eq!(bare.path_and_query(), ("/", ""));
        let authority = HandshakeView::new(b"GET http://a.example HTTP/1.1\r\n\r\n", &[]);
        assert_eq!(&*authority.target, "/");
    }
}
