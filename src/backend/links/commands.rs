//! Commands of applications, on their way to the control thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::table::BackendLink;

/// Bytes of commands that wait to be carried out, of all links; more are rejected.
const COMMAND_BYTES_MAX: usize = 16 << 20;
const TOO_MANY: &str =
    r#"{"error":{"code":"unavailable","message":"too many commands wait; send fewer at once"}}"#;

/// A command of an application.
#[derive(Debug)]
pub(crate) struct LinkCommand {
    pub(crate) link: Arc<BackendLink>,
    /// The application's number for it.
    pub(crate) number: u32,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

/// The way of commands to the control thread.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    sender: OnceLock<mpsc::UnboundedSender<LinkCommand>>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct LinkCommands {
    receiver: mpsc::UnboundedReceiver<LinkCommand>,
    queued_bytes: Arc<AtomicUsize>,
}

impl LinkCommands {
    /// Waits for the next command.
    pub(crate) async fn next_command(&mut self) -> Option<LinkCommand> {
        let command = self.receiver.recv().await?;
        self.queued_bytes.fetch_sub(command.body.len(), Ordering::Relaxed);
        Some(command)
    }
}

impl CommandLine {
    /// Returns the end that takes commands.
    ///
    /// # Panics
    /// When it was taken before.
    pub(super) fn open(&self) -> LinkCommands {
        let (sender, receiver) = mpsc::unbounded_channel();
        assert!(self.sender.set(sender).is_ok(), "commands have one taker");
        LinkCommands { receiver, queued_bytes: self.queued_bytes.clone() }
    }

    /// Passes a command on, or sends an error as its result.
    pub(super) fn pass(&self, link: &Arc<BackendLink>, number: u32, body: &[u8]) {
        let bytes = self.queued_bytes.fetch_add(body.len(), Ordering::Relaxed) + body.len();
        let command = LinkCommand { link: link.clone(), number, body: body.to_vec() };
        let is_passed = bytes <= COMMAND_BYTES_MAX
            && self.sender.get().is_some_and(|sender| sender.send(command).is_ok());
        if !is_passed {
            self.queued_bytes.fetch_sub(body.len(), Ordering::Relaxed);
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
        line.pass(&link, 2, &vec![b' '; COMMAND_BYTES_MAX]);
        assert!(link.take_records().is_none());
        line.pass(&link, 3, b"{}");
        assert_eq!(number_of_next(&link), (RecordKind::Result as u8, 3));
        let taken = commands.receiver.try_recv().unwrap();
        assert_eq!(taken.number, 2);
    }
}
