//! The way of questions from shards to the task that asks them, on the outer thread.
//!
//! Shards never wait: a question that does not fit within the bounds is rejected at once. The task
//! takes orders at once, and its desk has bounds of its own, so the bounds here are reached only if
//! the outer thread is overloaded.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::hooks::{HookQuestion, HookTicket};

/// Bounds on the questions that the task has not taken.
const QUESTIONS_MAX: usize = 65_536;
const BYTES_MAX: usize = 64 << 20;

/// What a shard asks for.
#[derive(Debug)]
pub enum HookOrder {
    /// Ask about an upgrade.
    Connect {
        backend: u8,
        ticket: HookTicket,
        /// The request's head, as received.
        head: Box<[u8]>,
        /// The client's address: as named by trusted proxies, or else the peer's.
        address: Option<IpAddr>,
    },
    /// Ask about anything else.
    Ask { backend: u8, ticket: HookTicket, question: HookQuestion },
    /// The connection no longer waits for the outcome.
    Cancel { ticket: HookTicket },
    /// Forget the answers about a user whose connections or rights were ended.
    ForgetUser { user: Arc<str> },
}

impl HookOrder {
    /// Returns the bytes of a question; `None`: it is none.
    fn question_bytes(&self) -> Option<usize> {
        match self {
            Self::Connect { head, .. } => Some(size_of::<Self>() + head.len()),
            Self::Ask { question, .. } => Some(size_of::<Self>() + question.bytes()),
            Self::Cancel { .. } | Self::ForgetUser { .. } => None,
        }
    }
}

/// Questions that were not taken yet.
#[derive(Debug, Default)]
struct Queued {
    questions: AtomicUsize,
    bytes: AtomicUsize,
}

/// The shards' end.
#[derive(Clone, Debug)]
pub struct HookLine {
    orders: mpsc::UnboundedSender<HookOrder>,
    queued: Arc<Queued>,
}

/// The task's end.
#[derive(Debug)]
pub struct HookOrders {
    orders: mpsc::UnboundedReceiver<HookOrder>,
    queued: Arc<Queued>,
}

impl HookLine {
    /// Makes a line.
    pub fn new() -> (Self, HookOrders) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let queued = Arc::<Queued>::default();
        let orders = HookOrders { orders: receiver, queued: queued.clone() };
        (Self { orders: sender, queued }, orders)
    }

    /// Passes an order on. Returns false if it is a question and there are too many, or if nothing
    /// takes them any more: then no outcome will come.
    #[must_use]
    pub fn send(&self, order: HookOrder) -> bool {
        let Some(bytes) = order.question_bytes() else { return self.orders.send(order).is_ok() };
        let Queued { questions, bytes: queued_bytes } = &*self.queued;
        if questions.load(Ordering::Relaxed) >= QUESTIONS_MAX
            || queued_bytes.load(Ordering::Relaxed) + bytes > BYTES_MAX
        {
            return false;
        }
        questions.fetch_add(1, Ordering::Relaxed);
        queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // If this fails, the process is ending, and the counts do not matter any more.
        self.orders.send(order).is_ok()
    }

    /// Returns the bytes of questions that were not taken yet.
    pub fn bytes(&self) -> usize {
        self.queued.bytes.load(Ordering::Relaxed)
    }
}

impl HookOrders {
    /// Waits for the next order; `None` if the shards' ends are dropped.
    pub async fn next_order(&mut self) -> Option<HookOrder> {
        let order = self.orders.recv().await?;
        self.count_taken(&order);
        Some(order)
    }

    /// Takes an order that is there.
    pub fn take_order(&mut self) -> Option<HookOrder> {
        let order = self.orders.try_recv().ok()?;
        self.count_taken(&order);
        Some(order)
    }

    fn count_taken(&self, order: &HookOrder) {
        if let Some(bytes) = order.question_bytes() {
            self.queued.questions.fetch_sub(1, Ordering::Relaxed);
            self.queued.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Token;

    fn ask(head_bytes: usize) -> HookOrder {
        let ticket = HookTicket { shard: 0, token: Token { slot: 0, generation: 0 }, request: 0 };
        let head = vec![b'x'; head_bytes].into();
        HookOrder::Connect { backend: 0, ticket, head, address: None }
    }

    #[test]
    fn questions_are_bounded_and_other_orders_are_not() {
        let (line, mut orders) = HookLine::new();
        assert!(!line.send(ask(BYTES_MAX)), "too many bytes");
        (0..QUESTIONS_MAX).for_each(|_| assert!(line.send(ask(1))));
        assert!(!line.send(ask(1)), "too many questions");
        assert!(line.send(HookOrder::ForgetUser { user: "ann".into() }));
        assert!(line.bytes() > QUESTIONS_MAX);
        assert!(matches!(orders.take_order(), Some(HookOrder::Connect { .. })));
        assert!(line.send(ask(1)), "there is room again");
        while orders.take_order().is_some() {}
        assert_eq!(line.bytes(), 0);
        drop(orders);
        assert!(!line.send(ask(1)), "nothing takes it");
    }
}
