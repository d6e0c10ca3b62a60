//! Fixed pages beside the routes: found by path, sent compressed if the client accepts that, and
//! not sent again to clients that have them (RFC 9110 8.8.3, 12.5.3, 13.1.2).
//!
//! A page is plain data, given from outside. Each form of it, plain and gzip, has its own strong
//! `ETag`: a cache must never mix the bytes of the two.

use super::request::list;

/// A page as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Path, starting with `/`, compared byte by byte with the request's, query excluded.
    pub path: &'static str,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Header lines that this page has beside the usual ones, each with its CRLF.
    pub fields: &'static str,
    /// The page as it is.
    pub plain: Form,
    /// The page as gzip (RFC 1952); `None`: it does not shrink.
    pub gzip: Option<Form>,
}

/// One form of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// A strong entity tag, with its quotes.
    pub etag: String,
    /// The body.
    pub bytes: Box<[u8]>,
}

/// All pages; a route of the same path comes before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages(Vec<Page>);

impl Pages {
    /// Not one.
    pub const NONE: Self = Self(Vec::new());

    /// Takes the pages; of two with the same path the first counts.
    pub fn new(pages: Vec<Page>) -> Self {
        Self(pages)
    }

    /// The page of `path` (without query).
    pub fn find(&self, path: &str) -> Option<&Page> {
        self.0.iter().find(|page| page.path == path)
    }
}

/// The form of a page that a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageForm<'p> {
    /// The page.
    pub page: &'p Page,
    /// One of its forms.
    pub form: &'p Form,
    /// Its `Content-Encoding`, if it has one.
    pub encoding: Option<&'static str>,
    /// The client has this form already: it is not sent again.
    pub is_fresh: bool,
}

impl<'p> PageForm<'p> {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        if self.is_fresh { 304 } else { 200 }
    }

    /// What is sent of it.
    pub fn bytes(&self) -> &'p [u8] {
        if self.is_fresh { &[] } else { &self.form.bytes }
    }
}

impl Page {
    /// Reads the two fields that matter for a page. All lines of a field count as one list
    /// (RFC 9110 5.3).
    pub(super) fn choose(&self, headers: &[httparse::Header<'_>]) -> PageForm<'_> {
        let lines = |name: &'static str| {
            headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
        };
        let has_gzip = |_: &&Form| takes_gzip(lines("Accept-Encoding").flat_map(list));
        let gzip = self.gzip.as_ref().filter(has_gzip);
        let form = gzip.unwrap_or(&self.plain);
        let etag = form.etag.as_bytes();
        let is_fresh = lines("If-None-Match").flat_map(list).any(|one| names(one, etag));
        PageForm { page: self, form, encoding: gzip.map(|_| "gzip"), is_fresh }
    }
}

/// Whether an entity tag, or `*`, names this one. The comparison is the weak one (RFC 9110 13.1.2):
/// a proxy on the way may have weakened the tag.
fn names(member: &[u8], etag: &[u8]) -> bool {
    member == b"*" || member.strip_prefix(b"W/").unwrap_or(member) == etag
}

/// Whether an `Accept-Encoding` list takes gzip (RFC 9110 12.5.3): by name, else by `*`.
fn takes_gzip<'m>(members: impl Iterator<Item = &'m [u8]>) -> bool {
    let mut by_name = None;
    let mut by_star = false;
    for member in members {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let taken = !parts.any(is_zero_weight);
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            by_name = Some(taken);
        } else if coding == b"*" {
            by_star = taken;
        }
    }
    by_name.unwrap_or(by_star)
}

/// `q=0`, `q=0.`, `q=0.000`: not wanted (RFC 9110 12.4.2).
fn is_zero_weight(parameter: &[u8]) -> bool {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    value.is_some_and(|value| value.first() == Some(&b'0') && !value.iter().any(|b| is_some(*b)))
}

fn is_some(digit: u8) -> bool {
    matches!(digit, b'1'..=b'9')
}
