//! Publishers that speak HTTP/1.1: one thread and one connection each, one request at a time.
//!
//! Such a publisher acts like a backend: it waits for each answer, so its throughput depends on its
//! batch.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::dialect::{Dialect, channel_name, paths};
use super::press::Batch;
use super::{Press, Pressed};
use crate::bystanders::Times;
use crate::crew::{Failure, Shared};
use crate::sys::remove_timer_slack;
use crate::target::Url;

/// How often a thread checks for the start of the load.
const POLL: Duration = Duration::from_millis(1);
/// Bytes of an answer at most.
const ANSWER_MAX: usize = 64 << 20;
const HEADERS_MAX: usize = 64;

/// Where publishers post to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    authority: String,
    /// Of one channel each, or of all.
    paths: Vec<String>,
    key: Option<String>,
    timeout: Duration,
}

/// Reads `http://host:port/path`.
///
/// # Errors
/// When the text is not such a URL.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(|| format!("{text}: must begin with http:// (TLS is not supported)"))?;
    Url::parse(&format!("ws://{rest}"))
}

impl Api {
    pub fn new(
        url: &Url,
        dialect: Dialect,
        channels: u32,
        key: Option<String>,
        timeout: Duration,
    ) -> Self {
        let path = match (dialect, url.path.as_str()) {
            (Dialect::Seawall, "/") => "/v1/batch",
            (_, path) => path,
        };
        Self { authority: url.authority.clone(), paths: paths(path, channels), key, timeout }
    }

    /// The requests that publish a batch: one, or one for each message.
    fn requests(&self, dialect: Dialect, batch: &Batch) -> (Vec<u8>, usize) {
        if dialect != Dialect::Seawall {
            let mut out = Vec::new();
            for (channel, content) in &batch.messages {
                self.request(*channel, content, &mut out);
            }
            return (out, batch.messages.len());
        }
        let mut body = br#"{"commands":["#.to_vec();
        for (at, (channel, content)) in batch.messages.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let name = channel_name(*channel);
            let head = format!(r#"{comma}{{"publish":{{"channel":"{name}","content":"#);
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"}}");
        }
        body.extend_from_slice(b"]}");
        let mut out = Vec::with_capacity(body.len() + 256);
        self.request(0, &body, &mut out);
        (out, 1)
    }

    fn request(&self, channel: u32, body: &[u8], out: &mut Vec<u8>) {
        let path = &self.paths[channel as usize % self.paths.len()];
        let key = self.key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n"));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             {}Content-Length: {}\r\n\r\n",
            self.authority,
            key.unwrap_or_default(),
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }
}

/// A connection, and the received part of the next answer.
struct Line {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Line {
    fn open(api: &Api) -> io::Result<Self> {
        let stream = TcpStream::connect(&api.authority)
            .map_err(|error| said(error.kind(), format!("{}: {error}", api.authority)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(api.timeout))?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Waits for the next answer; returns its status and body.
    fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let mut part = vec![0; 64 * 1024];
        loop {
            if let Some((status, begin, end)) = whole(&self.bytes)? {
                let body = self.bytes[begin..end].to_vec();
                self.bytes.drain(..end);
                return Ok((status, body));
            }
            match self.stream.read(&mut part)? {
                0 => return Err(said(io::ErrorKind::UnexpectedEof, "the API ended it".to_owned())),
                len => self.bytes.extend_from_slice(&part[..len]),
            }
        }
    }
}

fn said(kind: io::ErrorKind, text: String) -> io::Error {
    io::Error::new(kind, text)
}

/// Status, and start and end of the body, if the answer is complete.
fn whole(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or(0);
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("Content-Length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok())
        .filter(|length| *length <= ANSWER_MAX)
        .ok_or_else(|| io::Error::other(format!("answer {status} has no Content-Length")))?;
    let end = head + length;
    Ok((bytes.len() >= end).then_some((status, head, end)))
}

/// How many messages of a batch the answer acknowledges.
fn taken(dialect: Dialect, status: u16, body: &[u8]) -> u64 {
    match dialect {
        _ if !(200..300).contains(&status) => 0,
        Dialect::Seawall => {
            let text = String::from_utf8_lossy(body);
            text.matches(r#""offset":"#).count() as u64
        }
        Dialect::Nchan | Dialect::Plain => 1,
    }
}

/// Publishes until the load is over; the press has one publisher.
///
/// # Errors
/// When the API cannot be reached, or does not answer.
pub fn publish(
    mut press: Press,
    api: &Api,
    shared: &Arc<Shared>,
    times: &Times,
) -> Result<Pressed, Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("publishing over HTTP: {error}"));
    let mut line = Line::open(api).map_err(failed)?;
    remove_timer_slack()?;
    let start_ns = loop {
        match Times::known(&times.start_ns) {
            Some(start_ns) => break start_ns,
            None if shared.stopped() => return Ok(press.finish()),
            None => std::thread::sleep(POLL),
        }
    };
    press.begin(start_ns);
    let dialect = press.plan().dialect;
    loop {
        let now_ns = shared.clock.now_ns();
        if shared.stopped() || press.is_over(now_ns) {
            return Ok(press.finish());
        }
        let batch = if now_ns < start_ns { None } else { press.take(now_ns) };
        let Some(batch) = batch else {
            let next_ns = press.next_ns(now_ns).max(now_ns + 1);
            std::thread::sleep(Duration::from_nanos(next_ns - now_ns));
            continue;
        };
        let (bytes, answers) = api.requests(dialect, &batch);
        line.stream.write_all(&bytes).map_err(failed)?;
        let each = (batch.messages.len() / answers) as u64;
        for _ in 0..answers {
            let (status, body) = line.answer().map_err(failed)?;
            let count = taken(dialect, status, &body).min(each);
            press.acknowledged(0, count);
            if count < each {
                let text = format!("{status} {}", String::from_utf8_lossy(&body));
                press.refused(0, each - count, text.as_bytes());
            }
        }
    }
}
