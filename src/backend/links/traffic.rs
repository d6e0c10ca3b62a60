//! Questions to an application over a link, and the application's commands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{mpsc, oneshot};

use super::table::Link;
use crate::link::{Record, RecordKind, SessionId, append_record};

/// Bytes of commands that wait to be carried out, of all links; more are rejected.
const COMMAND_BYTES_MAX: usize = 16 << 20;
const TOO_MANY: &str =
    r#"{"error":{"code":"unavailable","message":"too many commands wait; send fewer at once"}}"#;

/// The questions of a link that await their answers.
#[derive(Debug, Default)]
pub(super) struct OpenQuestions(Mutex<Questions>);

#[derive(Debug, Default)]
struct Questions {
    last: u32,
    waiting: HashMap<u32, oneshot::Sender<Vec<u8>>>,
    /// The link has ended: nothing answers any more.
    is_closed: bool,
}

impl OpenQuestions {
    /// Adds a question; returns its number. `None`: the link has ended.
    fn add(&self, answer: oneshot::Sender<Vec<u8>>) -> Option<u32> {
        let mut own = self.0.lock().ok().filter(|own| !own.is_closed)?;
        own.waiting.retain(|_, waits| !waits.is_closed());
        own.last = own.last.wrapping_add(1);
        let number = own.last;
        own.waiting.insert(number, answer);
        Some(number)
    }

    /// Passes an answer on. One to a question that has ended is ignored.
    pub(super) fn answer(&self, number: u32, body: &[u8]) {
        let waits = self.0.lock().ok().and_then(|mut own| own.waiting.remove(&number));
        if let Some(waits) = waits {
            // Nothing waits any more: the question has timed out.
            let _ = waits.send(body.to_vec());
        }
    }

    /// Ends all questions without an answer.
    pub(super) fn close(&self) {
        if let Ok(mut own) = self.0.lock() {
            own.is_closed = true;
            own.waiting.clear();
        }
    }
}

impl Link {
    /// Sends a question to the application. The answer is its JSON; an error means that the link
    /// was lost.
    pub(crate) fn ask(&self, body: &[u8]) -> oneshot::Receiver<Vec<u8>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(number) = self.questions().add(sender) {
            let mut bytes = Vec::new();
            append_record(&mut bytes, &Record::new(RecordKind::Ask, SessionId::NONE, number, body));
            self.send(bytes);
        }
        receiver
    }

    /// Sends the result of a command.
    pub(crate) fn send_result(&self, number: u32, json: &str) {
        let mut bytes = Vec::new();
        let record = Record::new(RecordKind::Result, SessionId::NONE, number, json.as_bytes());
        append_record(&mut bytes, &record);
        self.send(bytes);
    }
}

/// A command of an application.
#[derive(Debug)]
pub(crate) struct LinkCommand {
    pub(crate) link: Arc<Link>,
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
    pub(super) fn pass(&self, link: &Arc<Link>, number: u32, body: &[u8]) {
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
    use crate::link::Records;

    fn link() -> Arc<Link> {
        Link::new(LinkFacts {
            id: 1,
            backend: 0,
            application: "app".into(),
            instance: "a".into(),
            capacity: 1,
            queue_bytes_max: 1000,
        })
    }

    fn number_of_next(link: &Link) -> (u8, u32) {
        let records = link.take_records().unwrap();
        let record = Records::new(&records, 1000).next().unwrap().unwrap();
        (record.kind, record.number)
    }

    #[test]
    fn answers_reach_their_questions_and_the_end_of_the_link_all_others() {
        let link = link();
        let (mut first, mut second) = (link.ask(b"{}"), link.ask(b"{}"));
        let kind = RecordKind::Ask as u8;
        assert_eq!((number_of_next(&link), number_of_next(&link)), ((kind, 1), (kind, 2)));
        link.questions().answer(2, b"two");
        link.questions().answer(2, b"again");
        link.questions().answer(7, b"unasked");
        assert_eq!(second.try_recv().unwrap(), b"two");
        link.close();
        assert!(first.try_recv().is_err());
        assert!(link.ask(b"{}").try_recv().is_err(), "nothing answers");
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
