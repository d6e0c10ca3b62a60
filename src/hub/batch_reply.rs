//! Collects the replies to requests that were sent to a home together, and returns them together.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Answer;

/// Replies in the order of their requests; `None` for a request that was dropped without a reply,
/// which happens when its home ends.
pub type Answers = Vec<Option<Answer>>;

type Finish = Box<dyn FnOnce(Answers) + Send>;

/// The replies so far. Dropped once the batch and all its receivers are; then it delivers them.
struct Gathering {
    answers: Mutex<Answers>,
    finish: Mutex<Option<Finish>>,
}

impl Drop for Gathering {
    /// Delivers the replies: no request is pending any more.
    fn drop(&mut self) {
        let answers = self.answers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let finish = self.finish.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(finish) = finish.take() {
            finish(std::mem::take(answers));
        }
    }
}

/// A batch: creates a [`BatchReply`] for each of several requests.
pub struct BatchReplies {
    gathering: Arc<Gathering>,
    count: u32,
}

impl BatchReplies {
    /// Creates a batch. `finish` receives the replies once this is dropped and no request is
    /// pending.
    pub fn new(finish: impl FnOnce(Answers) + Send + 'static) -> Self {
        let finish: Option<Finish> = Some(Box::new(finish));
        let gathering = Gathering { answers: Mutex::default(), finish: Mutex::new(finish) };
        Self { gathering: Arc::new(gathering), count: 0 }
    }

    /// Returns the receiver for the reply to the next request.
    pub fn next_reply(&mut self) -> BatchReply {
        let index = self.count;
        self.count += 1;
        BatchReply { gathering: self.gathering.clone(), index }
    }
}

/// Receives the reply to one request of a batch.
pub struct BatchReply {
    gathering: Arc<Gathering>,
    index: u32,
}

impl BatchReply {
    /// Stores the reply.
    pub fn send_answer(self, answer: Answer) {
        let mut answers = self.gathering.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.index as usize;
        // Replies may come out of order, so the list grows to the index.
        if answers.len() <= index {
            answers.resize(index + 1, None);
        }
        answers[index] = Some(answer);
    }
}

impl fmt::Debug for BatchReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BatchReply")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::hub::{Epoch, Position};

    fn make_published(offset: u64) -> Answer {
        let position = Position { epoch: Epoch(1), offset };
        Answer::Published { position, duplicate: false }
    }

    #[test]
    fn answers_come_together_in_the_order_of_requests() {
        let (sender, receiver) = channel();
        let mut replies = BatchReplies::new(move |answers| sender.send(answers).unwrap());
        let [first, second, third] = [(); 3].map(|()| replies.next_reply());
        drop(replies);
        third.send_answer(make_published(3));
        first.send_answer(make_published(1));
        assert!(receiver.try_recv().is_err(), "one is not answered");
        drop(second);
        let answers = receiver.try_recv().unwrap();
        let offsets = answers.iter().map(|answer| match answer {
            Some(Answer::Published { position, .. }) => position.offset,
            _ => 0,
        });
        assert_eq!(offsets.collect::<Vec<_>>(), [1, 0, 3], "the second was dropped");
    }
}
