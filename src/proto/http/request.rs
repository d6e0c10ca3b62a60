//! The fields of a parsed request that matter here, gathered in one pass over its headers.

use super::authority::Authority;
use super::extensions::EXTENSIONS;
use super::fault;
use super::head::RejectedHead;

/// A field that may be there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Single<'h> {
    #[default]
    Absent,
    Once(&'h [u8]),
    Repeated,
}

impl<'h> Single<'h> {
    fn add(&mut self, value: &'h [u8]) {
        *self = if *self == Self::Absent { Self::Once(value) } else { Self::Repeated };
    }

    /// The value, if there is one; a repeated field is refused under its `name`.
    pub(super) fn get(self, name: &str) -> Result<Option<&'h [u8]>, RejectedHead> {
        match self {
            Self::Absent => Ok(None),
            Self::Once(value) => Ok(Some(value)),
            Self::Repeated => Err(RejectedHead::bad(format!(
                "more than one {name} header field: send exactly one"
            ))),
        }
    }
}

/// What the headers say, in so far as it is looked at.
#[derive(Debug, Default)]
pub(super) struct Fields<'h> {
    pub(super) host: Single<'h>,
    pub(super) origin: Single<'h>,
    pub(super) key: Single<'h>,
    pub(super) version: Single<'h>,
    pub(super) content_length: Single<'h>,
    /// `Authorization` of the scheme Bearer. Other schemes are meant for a proxy in front, which
    /// passes them on, and are ignored.
    pub(super) authorization: Single<'h>,
    pub(super) transfer_encoding: bool,
    /// `Connection` has the token `upgrade` (RFC 6455 4.2.1).
    pub(super) connection_upgrade: bool,
    /// `Upgrade` has the token `websocket` (RFC 6455 4.2.1).
    pub(super) upgrade_websocket: bool,
    /// There is a `Sec-WebSocket-Protocol`.
    pub(super) subprotocols: bool,
    /// There is a `Sec-WebSocket-Extensions`.
    pub(super) extensions: bool,
}

impl<'h> Fields<'h> {
    /// Reads the headers. By the length of the name first: most fields are none of these.
    pub(super) fn read(headers: &[httparse::Header<'h>]) -> Self {
        let mut fields = Self::default();
        for header in headers {
            // Nearly all clients write names as the RFCs do: comparing letter by letter, whatever
            // their case, took 600 instructions of a handshake.
            let is = |name| header.name == name || header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                4 if is("Host") => fields.host.add(header.value),
                6 if is("Origin") => fields.origin.add(header.value),
                7 if is("Upgrade") => {
                    fields.upgrade_websocket |= has_token(header.value, b"websocket");
                }
                10 if is("Connection") => {
                    fields.connection_upgrade |= has_token(header.value, b"Upgrade");
                }
                13 if is("Authorization") && is_bearer(header.value) => {
                    fields.authorization.add(header.value);
                }
                14 if is("Content-Length") => fields.content_length.add(header.value),
                17 if is("Transfer-Encoding") => fields.transfer_encoding = true,
                17 if is("Sec-WebSocket-Key") => fields.key.add(header.value),
                21 if is("Sec-WebSocket-Version") => fields.version.add(header.value),
                22 if is(SUBPROTOCOL) => fields.subprotocols = true,
                24 if is(EXTENSIONS) => fields.extensions = true,
                _ => {}
            }
        }
        fields
    }

    /// The host of the request: exactly one valid Host (RFC 9112 3.2).
    pub(super) fn host(&self) -> Result<Authority<'h>, RejectedHead> {
        let Some(value) = self.host.get("Host")? else {
            return Err(RejectedHead::bad("no Host header field: HTTP/1.1 requires one"));
        };
        let host = std::str::from_utf8(value).ok().and_then(Authority::parse);
        host.ok_or_else(|| RejectedHead::bad("Host header field is not a valid host[:port]"))
    }
}

/// Whether credentials are of the scheme Bearer (RFC 9110 11.4, RFC 6750 2.1).
fn is_bearer(value: &[u8]) -> bool {
    let scheme = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"bearer")
}

const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol";
/// A client offers its ticket as a subprotocol with this prefix: browsers can set no header.
pub const TICKET_PREFIX: &str = "seawall.ticket.";

/// The members of a comma-separated list, white space around them removed, empty ones left out
/// (RFC 9110 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    // Mostly it is the only member, and in this letter case.
    value == token || list(value).any(|member| member.eq_ignore_ascii_case(token))
}

/// Returns the ticket that a request offers as a subprotocol. It must have been checked by
/// [`choose_subprotocol`].
pub(super) fn find_ticket<'h>(headers: &'h [httparse::Header<'_>]) -> Option<&'h str> {
    let lines = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(SUBPROTOCOL));
    let mut members = lines.flat_map(|header| list(header.value));
    let ticket = members.find_map(|member| member.strip_prefix(TICKET_PREFIX.as_bytes()))?;
    std::str::from_utf8(ticket).ok()
}

/// The first subprotocol in the client's order that is `offered` (RFC 6455 4.2.2); the names are
/// compared with their letter case. All lines of the field count as one list (RFC 6455 11.3.4).
pub(super) fn choose_subprotocol<'o>(
    headers: &[httparse::Header<'_>],
    offered: &'o [String],
) -> Result<Option<&'o str>, RejectedHead> {
    let mut chosen = None;
    for header in headers.iter().filter(|h| h.name.eq_ignore_ascii_case(SUBPROTOCOL)) {
        for member in list(header.value) {
            if !fault::is_token(member) {
                let message = "Sec-WebSocket-Protocol has a name that is not a token (RFC 9110)";
                return Err(RejectedHead::bad(message));
            }
            let matching = || offered.iter().find(|one| one.as_bytes() == member);
            chosen = chosen.or_else(matching);
        }
    }
    Ok(chosen.map(String::as_str))
}
