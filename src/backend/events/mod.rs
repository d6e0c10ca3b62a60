//! Events on their way to applications: from the shards' queues, through lanes, in signed batches.
//!
//! Files: `dispatcher` (the task on the outer thread), `outbox` (lanes, batches, retries, bounds),
//! `vacancies` (channels that may be occupied again soon), `form` (what each form of requests
//! carries), `encode` and `pusher` (their JSON).

mod dispatcher;
mod encode;
mod form;
mod outbox;
mod pusher;
#[cfg(test)]
mod tests;
mod vacancies;

pub use dispatcher::EventFlow;
