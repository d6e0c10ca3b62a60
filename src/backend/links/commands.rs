//! Commands of applications, on their way to the control thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::table::BackendLink;

/// Bytes of commands that wait to be carried out, of all links; more are rejected.
const COMMAND_BYTES_MAX: usize = 16 << 20;
const TOO_MANY: &str =
    r#"{"error":{"code":"unavailable","message":"too many commands wait; send fewer at once"}}"#;

/// A command of an application. It counts as waiting until it is dropped.
#[derive(Debug)]
pub(crate) struct LinkCommand {
    link: Arc<BackendLink>,
    /// The application's number for it.
    number: u32,
    body: Vec<u8>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl LinkCommand {
    /// Returns the link that it came from.
    pub(crate) fn link(&self) -> &BackendLink {
        &self.link
    }

    /// Returns the command as JSON.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sends its result.
    pub(crate) fn finish(self, json: &str) {
        self.link.send_result(self.number, json);
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.body.len()
    }
}

impl Drop for LinkCommand {
    fn drop(&mut self) {
        self.waiting_bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// The way of commands to the control thread.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    sender: OnceLock<mpsc::UnboundedSender<LinkCommand>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl CommandLine {
    /// Returns the end that takes commands.
    ///
    /// # Panics
    /// When it was taken before.
    pub(super) fn open(&self) -> mpsc::UnboundedReceiver<LinkCommand> {
        let (sender, receiver) = mpsc::unbounded_channel();
        assert!(self.sender.set(sender).is_ok(), "commands have one taker");
        receiver
    }

    /// Passes a command on, or sends an error as its result.
    pub(super) fn pass(&self, link: &Arc<BackendLink>, number: u32, body: &[u8]) {
        let command = LinkCommand {
            link: link.clone(),
            number,
            body: body.to_vec(),
            waiting_bytes: self.waiting_bytes.clone(),
        };
        let bytes = command.bytes();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_passed = before + bytes <= COMMAND_BYTES_MAX
            && self.sender.get().is_some_and(|sender| sender.send(command).is_ok());
        if !is_passed {
            link.send_result(number, TOO_MANY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::LinkFacts;
    use super::*;
    use crate::link::{RecordKind, Records};

    fn link() -> Arc<BackendLink> {
        BackendLink::new(LinkFacts {
            id: 1,
            backend: 0,
            application: "app".into(),
            instance: "a".into(),
            capacity: 1,
            queue_bytes_max: 1000,
        })
    }

    fn number_of_next(link: &BackendLink) -> (u8, u32) {
        let records = link.take_records().unwrap();
        let record = Records::new(&records, 1000).next().unwrap().unwrap();
        (record.kind, record.number)
    }

    #[test]
    fn commands_are_bounded_in_bytes() {
        let (line, link) = (CommandLine::default(), link());
        line.pass(&link, 1, b"{}");
        assert_eq!(number_of_next(&link), (RecordKind::Result as u8, 1), "nothing takes it");
        let mut commands = line.open();
        line.pass(&link, 2, &vec![b' '; COMMAND_BYTES_MAX - size_of::<LinkCommand>()]);
        assert!(link.take_records().is_none());
        line.pass(&link, 3, b"{}");
        assert_eq!(number_of_next(&link), (RecordKind::Result as u8, 3));
        let taken = commands.try_recv().unwrap();
        assert_eq!(taken.number, 2);
        line.pass(&link, 4, b"{}");
        assert_eq!(number_of_next(&link).1, 4, "it waits until it is carried out");
        drop(taken);
        line.pass(&link, 5, b"{}");
        assert!(link.take_records().is_none());
    }
}
