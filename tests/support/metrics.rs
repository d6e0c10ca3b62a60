//! The server's metrics, as read from `/metrics`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Values by their full name, labels included; fractions, which only sums of times have, are cut.
#[derive(Debug)]
pub(crate) struct Metrics(HashMap<String, u64>);

impl Metrics {
    /// A value by its name without prefix, as in `accepted_total` or `closed_total{code="1000"}`.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        let name = format!("seawall_{name}");
        *self.0.get(&name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// The same, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<u64> {
        self.0.get(&format!("seawall_{name}")).copied()
    }

    /// The sum over all labels of a family.
    #[track_caller]
    pub(crate) fn sum(&self, family: &str) -> u64 {
        let start = format!("seawall_{family}{{");
        let values: Vec<u64> =
            self.0.iter().filter(|(name, _)| name.starts_with(&start)).map(|(_, v)| *v).collect();
        assert!(!values.is_empty(), "no metric {start}");
        values.into_iter().sum()
    }
}

/// What the admin address has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Lower-case names.
    headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends a request with these header lines (each with its CRLF) and a body, and reads the answer,
/// which must be whole.
pub(crate) fn request(
    mut stream: impl Read + Write,
    line: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).expect("the request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: HashMap<_, _> =
        lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    if let Some(length) = headers.get("content-length") {
        assert_eq!(*length, body.len().to_string(), "the answer is whole");
    }
    let status = status.expect("the answer has a status");
    Answer { status, headers, body: body.to_owned() }
}

/// Reads an admin page, with further header lines (each with its CRLF).
pub(crate) fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the admin address answers");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let headers = format!("Host: {address}\r\n{headers}");
    request(stream, &format!("GET {path}"), &headers, "")
}

/// Reads an admin page: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = get_with(address, path, "");
    (answer.status, answer.body)
}

pub(super) fn scrape(address: SocketAddr) -> Metrics {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200, "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a line has a value");
        let value: f64 = value.parse().expect("a value is a number");
        (name.to_owned(), value as u64)
    });
    Metrics(values.collect())
}
