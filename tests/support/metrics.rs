//! The server's numbers, as `/metrics` tells them.

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
        *self.0.get(&name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The sum over all labels of a family.
    #[track_caller]
    pub(crate) fn sum(&self, family: &str) -> u64 {
        let start = format!("seawall_{family}{{");
        let values: Vec<u64> =
            self.0.iter().filter(|(name, _)| name.starts_with(&start)).map(|(_, v)| *v).collect();
        assert!(!values.is_empty(), "there is no {start}");
        values.into_iter().sum()
    }
}

/// Reads an admin page: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the admin address answers");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("the answer has a status"), body.to_owned())
}

pub(super) fn scrape(address: SocketAddr) -> Metrics {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200, "{body}");
    assert!(body.ends_with("# EOF\n"), "a scrape ends as OpenMetrics ends");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a line has a value");
        let value: f64 = value.parse().expect("a value is a number");
        (name.to_owned(), value as u64)
    });
    Metrics(values.collect())
}
