//! Events on their way to applications: from the shards' queues, through lanes, in signed batches.
//!
//! Files: `dispatcher` (the task on the outer thread), `outbox` (lanes, batches, retries, bounds),
//! `vacancies` (channels that may be occupied again soon), `encode` (JSON).

mod dispatcher;
mod encode;
mod outbox;
#[cfg(test)]
mod tests;
mod vacancies;

pub use dispatcher::EventFlow;
