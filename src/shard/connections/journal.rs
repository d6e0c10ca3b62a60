//! Logs rejections, failed authentications and closes of clients.
//!
//! At `info`, a shard logs the first rejection of each reason in a second, and then a count of the
//! others; at `debug`, it logs each one, and each close of a WebSocket. Below the log level, a
//! rejection costs one comparison, and nothing is formatted.

use std::net::IpAddr;

use tracing::{Level, enabled};

use super::Connections;
use crate::admission::{Denied, Standing};
use crate::proto::http::Refusal;
use crate::proto::ws::CloseCode;

/// The maximum length of a request's path in the log.
const PATH_BYTES_MAX: usize = 128;

/// Details of a rejection in the log, in addition to its reason.
#[derive(Debug, Default)]
pub(super) struct Particulars {
    /// The HTTP status or close code; 0 = none was sent.
    pub(super) code: u16,
    pub(super) path: String,
    /// The text of the answer.
    pub(super) detail: String,
}

/// A request that was answered with an error.
pub(super) struct RejectedRequest<'r> {
    pub(super) refusal: Refusal,
    /// The decision of admission, if that is the reason.
    pub(super) denied: Option<Denied>,
    /// The request.
    pub(super) head: &'r [u8],
    /// The answer.
    pub(super) answer: &'r [u8],
}

impl Connections {
    /// Logs a rejection, unless there were others with this reason in the same second.
    /// `particulars` is called only if a line is written.
    pub(super) fn log_rejection(
        &mut self,
        index: u32,
        reason: &'static str,
        particulars: impl FnOnce(&Self) -> Particulars,
    ) {
        if self.journal.admits(reason) {
            let slot = self.slot(index);
            let address = slot.peer().get().map(|peer| peer.ip());
            let listener = slot.listener();
            self.write_rejection(address, listener, reason, &particulars(self));
        }
    }

    /// Logs a request that was answered with an error.
    pub(super) fn log_rejected_request(&mut self, index: u32, request: &RejectedRequest<'_>) {
        let &RejectedRequest { refusal, denied, head, answer } = request;
        let denied = match self.slot(index).standing() {
            Standing::Refused(denied) if !self.is_draining => Some(denied),
            _ => denied,
        };
        let reason = denied.map_or(refusal.code(), Denied::name);
        self.log_rejection(index, reason, |_| Particulars {
            code: refusal.status(),
            path: request_path(head),
            detail: answer_message(answer),
        });
    }

    /// Logs a hub client that failed to authenticate after its upgrade.
    pub(in crate::shard) fn log_auth_failure(&mut self, index: u32, kind: &'static str) {
        self.log_rejection(index, kind, |connections| Particulars {
            code: 0,
            path: connections.route_path(index).to_owned(),
            detail: "authentication failed".to_owned(),
        });
    }

    /// Does the same for a connection that never had a slot.
    pub(in crate::shard) fn log_drop(
        &mut self,
        address: Option<IpAddr>,
        listener: u8,
        reason: &'static str,
    ) {
        if self.journal.admits(reason) {
            self.write_rejection(address, listener, reason, &Particulars::default());
        }
    }

    fn write_rejection(
        &self,
        address: Option<IpAddr>,
        listener: u8,
        reason: &'static str,
        particulars: &Particulars,
    ) {
        let Particulars { code, path, detail } = particulars;
        let (shard, address) = (self.id, address.map(tracing::field::display));
        let (path, detail) = (path.as_str(), detail.as_str());
        if enabled!(Level::DEBUG) {
            tracing::debug!(shard, reason, address, listener, path, code, detail, "rejected");
        } else {
            tracing::info!(shard, reason, address, listener, path, code, detail, "rejected");
        }
    }

    /// Logs how many rejections were suppressed, and starts the next interval.
    pub(super) fn summarize_rejections(&mut self) {
        for (reason, suppressed) in self.journal.take() {
            tracing::info!(shard = self.id, reason, suppressed, "more were rejected");
        }
    }

    /// Logs the close of an open WebSocket, at `debug`.
    pub(super) fn log_close(&self, index: u32, code: CloseCode) {
        if !enabled!(Level::DEBUG) {
            return;
        }
        let slot = self.slot(index);
        let traffic = slot.traffic();
        let route = self.config.routes.get(slot.route());
        tracing::debug!(
            shard = self.id,
            slot = index,
            address = slot.peer().get().map(|peer| tracing::field::display(peer.ip())),
            path = route.map_or("", |route| route.path.as_str()),
            code = code.get(),
            received = traffic.messages_received,
            sent = traffic.messages_sent,
            "closed"
        );
    }

    /// Returns the path of the connection's route.
    pub(in crate::shard) fn route_path(&self, index: u32) -> &str {
        &self.config.routes.as_slice()[self.slot(index).route()].path
    }
}

/// Returns the target in a request's first line.
pub(super) fn request_target(head: &[u8]) -> &[u8] {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty());
    line.and_then(|line| line.split(|byte| *byte == b' ').nth(1)).unwrap_or_default()
}

/// Returns the path in a request's first line, without its query, which may contain a token.
pub(super) fn request_path(head: &[u8]) -> String {
    let path =
        request_target(head).split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    String::from_utf8_lossy(&path[..path.len().min(PATH_BYTES_MAX)]).into_owned()
}

/// Returns the message in the answer of a rejection.
pub(super) fn answer_message(answer: &[u8]) -> String {
    let body = memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer, |at| &answer[at + 4..]);
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = body.as_ref().and_then(|body| body["error"]["message"].as_str());
    message.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_request_has_no_query() {
        for (head, path) in [
            (&b"GET /ws?token=secret HTTP/1.1\r\nHost: a\r\n"[..], "/ws"),
            (b"\r\nGET /a HTTP/1.1\r\n", "/a"),
            (b"GET /a#b", "/a"),
            (b"nonsense", ""),
            (b"", ""),
        ] {
            assert_eq!(request_path(head), path);
        }
        let long = [b"GET /".as_slice(), &[b'x'; 9000]].concat();
        assert_eq!(request_path(&long).len(), PATH_BYTES_MAX);
    }

    #[test]
    fn the_message_of_an_answer_is_found() {
        let answer =
            b"HTTP/1.1 404 Not Found\r\n\r\n{\"error\":{\"code\":\"a\",\"message\":\"b\"}}";
        assert_eq!(answer_message(answer), "b");
        assert_eq!(answer_message(b"HTTP/1.1 200 OK\r\n\r\n"), "");
    }
}
