//! The decision: upgrade, ordinary answer, or refusal.
//!
//! The checks go from what the request is (syntax, target, Host) over what it is for (route,
//! method) to whether it may (availability, handshake fields, Origin). The first that fails
//! answers.

use super::authority::Authority;
use super::extensions::{self, Compression};
use super::head::{self, Found, RejectedHead};
use super::request::{Fields, choose_subprotocol, find_ticket};
use super::target::Target;
use super::{Availability, Context, Denial, HEADERS_MAX, Head, Origins, Refusal, Route};
use super::{
    Content, Decision, Entry, ForwardTerms, KEY_BYTES, Response, SameOrigin, Scheme, Upgrade, fault,
};
use httparse::{Header, Status};
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::IpAddr;

/// Decides the request at the front of `bytes`: everything received of it so far.
///
/// `scanned` says how far earlier calls looked; start with 0, and keep it between calls, so that
/// a request that arrives byte by byte costs O(n) in all. After [`Head::Complete`] the function
/// must not be called for this connection.
#[inline]
pub fn receive<'c>(bytes: &[u8], scanned: &mut usize, context: &Context<'c>) -> Head<'c> {
    match head::find(bytes, scanned, context.limits) {
        Found::Partial => Head::Partial,
        Found::Head(consumed) => parse(&bytes[..consumed], context),
        Found::Refused(consumed, refused) => {
            Head::Complete { consumed, client: context.peer, decision: refused.decision() }
        }
    }
}

/// Parses a whole head, finds the client, and decides.
fn parse<'c>(head: &[u8], context: &Context<'c>) -> Head<'c> {
    let consumed = head.len();
    // RFC 9112 2.2: one empty line before the request is ignored.
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let headers = &mut headers[..context.limits.headers_max.min(HEADERS_MAX)];
    let mut request = httparse::Request::new(&mut []);
    let status = request.parse_with_uninit_headers(head, headers);
    let refused = match status {
        Ok(Status::Complete(length)) if length == head.len() => None,
        Err(httparse::Error::TooManyHeaders) => Some(too_many_headers(context)),
        _ => Some(RejectedHead::bad(fault::explain(head))),
    };
    if let Some(refused) = refused {
        return Head::Complete { consumed, client: context.peer, decision: refused.decision() };
    }
    let client = match context.forwarding {
        Some(forwarding) => forwarding.client(context.peer, request.headers),
        None => context.peer,
    };
    let request = RequestHead {
        method: request.method.unwrap_or_default(),
        target: request.path.unwrap_or_default(),
        old: request.version == Some(0),
        headers: request.headers,
    };
    Head::Complete { consumed, client, decision: decide(&request, client, context) }
}

/// Decides a request that parsed. Writes nothing, and changes nothing but what the gate counts.
fn decide<'c>(
    request: &RequestHead<'_, '_>,
    client: Option<IpAddr>,
    context: &Context<'c>,
) -> Decision<'c> {
    let head_only = request.method == "HEAD";
    let mut shape = Shape { allow: "GET", retry_after_s: None };
    match request.examine(context, client, &mut shape) {
        Ok(Decision::Answer(response)) => Decision::Answer(Response { head_only, ..response }),
        Ok(upgrade) => upgrade,
        Err(RejectedHead { refusal, message }) => {
            let Shape { allow, retry_after_s } = shape;
            let content = Content::Error { refusal, message };
            Decision::Answer(Response { content, allow, retry_after_s, head_only })
        }
    }
}

/// What a rejection has beside its status and message.
struct Shape {
    allow: &'static str,
    retry_after_s: Option<u32>,
}

fn too_many_headers(context: &Context<'_>) -> RejectedHead {
    let most = context.limits.headers_max.min(HEADERS_MAX);
    let message = format!("more than {most} header fields: send fewer");
    RejectedHead::new(Refusal::HeadTooLarge, message)
}

/// The two pages beside the routes, for load balancers and orchestrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// `/healthz`: the process lives.
    Live,
    /// `/readyz`: new connections are welcome.
    Ready,
}

impl Health {
    fn find(path: &str) -> Option<Self> {
        match path {
            "/healthz" => Some(Self::Live),
            "/readyz" => Some(Self::Ready),
            _ => None,
        }
    }

    /// Being full is a state that passes with the next close, so only draining makes the server
    /// unready.
    fn response(self, availability: Availability) -> Response<'static> {
        let (status, body, retry_after_s) = match (self, availability) {
            (Self::Live, _) => (200, r#"{"status":"ok"}"#, None),
            (Self::Ready, Availability::Draining { retry_after_s }) => {
                (503, r#"{"status":"draining"}"#, Some(retry_after_s))
            }
            (Self::Ready, _) => (200, r#"{"status":"ready"}"#, None),
        };
        Response { retry_after_s, ..Response::new(Content::Health { status, body }) }
    }
}

/// A request that parsed.
struct RequestHead<'h, 'b> {
    method: &'b str,
    target: &'b str,
    /// HTTP/1.0: good enough for the health pages, which old checkers ask for like that.
    old: bool,
    headers: &'h [Header<'b>],
}

impl RequestHead<'_, '_> {
    fn examine<'c>(
        &self,
        context: &Context<'c>,
        client: Option<IpAddr>,
        shape: &mut Shape,
    ) -> Result<Decision<'c>, RejectedHead> {
        let fields = Fields::read(self.headers);
        let target = self.target(context)?;
        let health = Health::find(target.path);
        let host = match (health, fields.host) {
            // HTTP/1.0 has no Host.
            (Some(_), super::request::Single::Absent) if self.old => None,
            _ => Some(fields.host()?),
        };
        if let Some(health) = health {
            self.check_page(&fields, shape)?;
            return Ok(Decision::Answer(health.response(context.availability)));
        }
        if let Some(content) = find_listener_answer(&target, target.authority.or(host), context) {
            return Ok(Decision::Answer(Response::new(content)));
        }
        if let Some(rule) = context.forwards.filter(|rule| target.path.starts_with(rule.prefix)) {
            return self.forward(context, client, (&fields, rule), shape);
        }
        let Some((index, route)) = find_route(context, target.path) else {
            let Some(page) = context.pages.find(target.path) else {
                return Err(not_found(target.path));
            };
            self.check_page(&fields, shape)?;
            let form = page.choose(self.headers);
            return Ok(Decision::Answer(Response::new(Content::Page(form))));
        };
        self.check_method(&fields)?;
        check_upgrade(&fields, context.availability, shape)?;
        let key = check_key(&fields)?;
        check_origin(&fields, route, target.authority.or(host), self.headers, context)?;
        if let Some(gate) = context.gate {
            let token = token(&fields, target.query, gate.takes_query())?;
            let checked = gate.check(index, token.as_deref());
            checked.map_err(|fault| {
                shape.retry_after_s = fault.retry_after_s;
                let of_server = fault.retry_after_s.map(|_| Refusal::Unavailable);
                let refusal = of_server.unwrap_or(Refusal::Unauthorized);
                RejectedHead::new(refusal, fault.message)
            })?;
        }
        let (mut subprotocol, mut compression) = (None, Compression::default());
        if fields.subprotocols {
            subprotocol = choose_subprotocol(self.headers, &route.subprotocols)?;
            let gate = context.gate.filter(|gate| gate.takes_ticket(index));
            if let Some((gate, ticket)) = gate.zip(find_ticket(self.headers)) {
                gate.present_ticket(index, ticket);
            }
        }
        if fields.extensions {
            let room_bytes = context.context_room_bytes;
            compression = extensions::choose(self.headers, route.compression, room_bytes)?;
        }
        let entry = match context.gate.map(|gate| gate.enter(client, index)) {
            Some(Err(denial)) => return Err(deny(denial, shape)),
            Some(Ok(entry)) => entry,
            None => Entry::Granted,
        };
        let subprotocol = subprotocol.map(Cow::Borrowed);
        let upgrade = Upgrade { route: index, key, subprotocol, compression };
        Ok(match entry {
            Entry::Granted => Decision::Upgrade(upgrade),
            Entry::Pending => Decision::Pending(upgrade),
        })
    }

    /// Forwards a request with a body of known length, or without one.
    fn forward<'c>(
        &self,
        context: &Context<'c>,
        client: Option<IpAddr>,
        (fields, rule): (&Fields<'_>, super::ForwardRule),
        shape: &mut Shape,
    ) -> Result<Decision<'c>, RejectedHead> {
        if let Availability::Denied(denial) = context.availability {
            return Err(deny(denial, shape));
        }
        if self.old {
            return Err(RejectedHead::bad("HTTP/1.0 is not supported here: send HTTP/1.1"));
        }
        if fields.transfer_encoding {
            let message = "Transfer-Encoding is not supported here: send the body whole, with \
                           Content-Length";
            return Err(RejectedHead::bad(message));
        }
        let length = match fields.content_length.get("Content-Length")? {
            None => 0,
            Some(length) => read_length(length)?,
        };
        if let Some(gate) = context.gate {
            gate.enter_request(client).map_err(|denial| deny(denial, shape))?;
        }
        // One that is too long is answered without it.
        let body_bytes = if length > rule.body_bytes_max { 0 } else { length };
        let expects = |header: &Header<'_>| {
            header.name.eq_ignore_ascii_case("Expect")
                && header.value.eq_ignore_ascii_case(b"100-continue")
        };
        let expects_continue = body_bytes > 0 && self.headers.iter().any(expects);
        Ok(Decision::Forward(ForwardTerms { body_bytes, expects_continue }))
    }

    fn target(&self, context: &Context<'_>) -> Result<Target<'_>, RejectedHead> {
        if self.target.len() > context.limits.target_bytes_max {
            let most = context.limits.target_bytes_max;
            let message =
                format!("request target over {most} bytes: shorten the path or the query");
            return Err(RejectedHead::new(Refusal::UriTooLong, message));
        }
        // RFC 9112 3.2.3, 3.2.4: these methods have target forms of their own.
        if self.method == "CONNECT" || (self.method == "OPTIONS" && self.target == "*") {
            return Err(wrong_method("GET"));
        }
        Target::parse(self.target).map_err(RejectedHead::bad)
    }

    /// RFC 9112 6: what has a body is no request for a page; a body left unread is the next request
    /// to a careless proxy.
    fn check_page(&self, fields: &Fields<'_>, shape: &mut Shape) -> Result<(), RejectedHead> {
        shape.allow = "GET, HEAD";
        if !matches!(self.method, "GET" | "HEAD") {
            return Err(wrong_method(shape.allow));
        }
        check_body(fields)
    }

    /// RFC 6455 4.1: GET, HTTP/1.1 or higher; and never a body.
    fn check_method(&self, fields: &Fields<'_>) -> Result<(), RejectedHead> {
        if self.method != "GET" {
            return Err(wrong_method("GET"));
        }
        if self.old {
            return Err(RejectedHead::bad("HTTP/1.0 cannot be upgraded: send HTTP/1.1"));
        }
        check_body(fields)
    }
}

/// Rejects a request with a body. A single `Content-Length: 0`, which some clients and relays send
/// with every request, announces none; with any other length a proxy in front and this server could
/// disagree about where the WebSocket's bytes begin.
fn check_body(fields: &Fields<'_>) -> Result<(), RejectedHead> {
    let length = fields.content_length.get("Content-Length")?;
    if fields.transfer_encoding || length.is_some_and(|length| length != b"0") {
        return Err(RejectedHead::bad(BODY));
    }
    Ok(())
}

const BODY: &str = "request announces a body (Content-Length or Transfer-Encoding): send none";

fn wrong_method(allow: &str) -> RejectedHead {
    RejectedHead::new(Refusal::MethodNotAllowed, format!("method not allowed here: use {allow}"))
}

/// What the listener answers whatever the routes are: a challenge, or else a redirect.
fn find_listener_answer(
    target: &Target<'_>,
    host: Option<Authority<'_>>,
    context: &Context<'_>,
) -> Option<Content<'static>> {
    let token = target.path.strip_prefix(super::CHALLENGE_PATH);
    if let (Some(pages), Some(token)) = (context.challenges, token)
        && let Some(text) = pages.find(token)
    {
        return Some(Content::Challenge(text));
    }
    let (port, host) = (context.redirect_port?, host?);
    Some(Content::Redirect { location: host.https_url(port, target.path, target.query) })
}

/// Reads the length of a body (RFC 9110 8.6).
fn read_length(value: &[u8]) -> Result<usize, RejectedHead> {
    let text = std::str::from_utf8(value).ok();
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|text| text.parse().ok());
    length.ok_or_else(|| RejectedHead::bad("Content-Length is not a number"))
}

fn find_route<'c>(context: &Context<'c>, path: &str) -> Option<(usize, &'c Route)> {
    let index = context.routes.find(path)?;
    context.routes.get(index).map(|route| (index, route))
}

fn not_found(path: &str) -> RejectedHead {
    let shown = &path[..path.floor_char_boundary(128)];
    let message = format!("no route has the path {shown}; check the URL, or add a route for it");
    RejectedHead::new(Refusal::NotFound, message)
}

/// RFC 6455 4.2.1 (3, 4, 6), 4.4: it must ask for a WebSocket, of version 13.
fn check_upgrade(
    fields: &Fields<'_>,
    availability: Availability,
    shape: &mut Shape,
) -> Result<(), RejectedHead> {
    let required =
        |message: &'static str| Err(RejectedHead::new(Refusal::UpgradeRequired, message));
    if !fields.upgrade_websocket {
        return required(
            "this path serves WebSockets only; connect with a WebSocket client \
             (new WebSocket(\"ws://…\")), which sends Upgrade: websocket",
        );
    }
    if !fields.connection_upgrade {
        return required(
            "Connection header field lacks the token Upgrade: a proxy may have removed it; \
             make it forward Upgrade and Connection",
        );
    }
    match availability {
        Availability::Ready => {}
        Availability::Draining { retry_after_s } => {
            let message = super::DRAINING;
            let denial = Denial { refusal: Refusal::Unavailable, message, retry_after_s };
            return Err(deny(denial, shape));
        }
        Availability::Denied(denial) => return Err(deny(denial, shape)),
    }
    match fields.version.get("Sec-WebSocket-Version")? {
        Some(b"13") => Ok(()),
        Some(_) => required("Sec-WebSocket-Version is not 13, the only version spoken here"),
        None => required("no Sec-WebSocket-Version header field: send 13"),
    }
}

/// A rejection with `Retry-After` (RFC 9110 10.2.3).
fn deny(denial: Denial, shape: &mut Shape) -> RejectedHead {
    shape.retry_after_s = Some(denial.retry_after_s);
    RejectedHead::new(denial.refusal, denial.message)
}

/// The token that a request carries (RFC 6750 2.1, 2.3). [`Fields`] has no credentials of other
/// schemes.
fn token<'t>(
    fields: &Fields<'t>,
    query: &'t str,
    takes_query: bool,
) -> Result<Option<Cow<'t, str>>, RejectedHead> {
    if let Some(value) = fields.authorization.get("Authorization")? {
        let text = std::str::from_utf8(value).ok();
        let token = text.and_then(|text| text.split_once(' ')).map(|(_, token)| token.trim());
        let bad = || RejectedHead::bad("Authorization header field is not `Bearer TOKEN`");
        return token.map(|token| Some(Cow::Borrowed(token))).ok_or_else(bad);
    }
    if query.is_empty() || !takes_query {
        return Ok(None);
    }
    let value = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    // What a JWT consists of needs no encoding; anything else is no token anyway.
    Ok(value.filter(|value| !value.is_empty()).map(Cow::Borrowed))
}

/// Which bytes are digits of base64 (RFC 4648 4).
static BASE64_DIGITS: [bool; 256] = {
    let (mut digits, mut byte) = ([false; 256], 0);
    while byte < 256 {
        digits[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'+' | b'/');
        byte += 1;
    }
    digits
};

/// RFC 6455 4.2.1 (5): 16 bytes in base64, so 22 characters and two of padding. The four bits that
/// the last character has to spare may be set, as they are in the example key of RFC 6455 4.1.
fn check_key(fields: &Fields<'_>) -> Result<[u8; KEY_BYTES], RejectedHead> {
    let Some(key) = fields.key.get("Sec-WebSocket-Key")? else {
        return Err(RejectedHead::bad(
            "no Sec-WebSocket-Key header field: send 16 bytes in base64",
        ));
    };
    let is_digit = |&b: &u8| BASE64_DIGITS[usize::from(b)];
    match <[u8; KEY_BYTES]>::try_from(key) {
        Ok(key) if key[..22].iter().all(is_digit) && key[22..] == *b"==" => Ok(key),
        _ => Err(RejectedHead::bad("Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// How the client came: as a trusted proxy says, or by TLS of our own.
fn find_scheme(headers: &[Header<'_>], context: &Context<'_>) -> Scheme {
    let forwarded = context.forwarding.and_then(|one| one.scheme(context.peer, headers));
    forwarded.unwrap_or(if context.is_tls { Scheme::Https } else { Scheme::Unknown })
}

/// RFC 6455 4.2.2 (4): a page may connect only from where the route allows.
fn check_origin(
    fields: &Fields<'_>,
    route: &Route,
    host: Option<Authority<'_>>,
    headers: &[Header<'_>],
    context: &Context<'_>,
) -> Result<(), RejectedHead> {
    let listed = route.origins != Origins::SameOrigin;
    let any_host = listed || context.same_origin == SameOrigin::AnyHost;
    let host_is_trusted = |host: Authority<'_>| any_host || host.is_loopback();
    match (fields.origin.get("Origin")?, host) {
        (None, _) => Ok(()),
        (Some(origin), Some(host))
            if route.origins.allow(origin, host, find_scheme(headers, context)) =>
        {
            if host_is_trusted(host) {
                return Ok(());
            }
            Err(RejectedHead::new(
                Refusal::Forbidden,
                "without keys, a listener on a loopback address accepts pages of loopback names \
                 only: open the page as http://localhost, or, behind a proxy on this host that \
                 passes Host, list the page's origin in route.origins",
            ))
        }
        _ => Err(RejectedHead::new(
            Refusal::Forbidden,
            "Origin not allowed on this path: add it to the route's `origins`",
        )),
    }
}
