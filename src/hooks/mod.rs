//! Hooks: questions to an application, and what becomes of them. No sockets, no clock.
//!
//! A [`HookDesk`] takes questions, and gives its driver requests to send; their results become
//! answers, which are checked, cached and shared by equal questions. An application that fails is
//! left alone for a while.
//!
//! Files: `question`, `answer` (data), `traffic` (between a desk and its driver), `encode`,
//! `decode` (JSON), `breaker`, `cache`, and `desk`, which combines them.

mod answer;
mod breaker;
mod cache;
mod decode;
mod desk;
mod encode;
pub mod fuzz;
mod question;
#[cfg(test)]
mod tests;
mod traffic;

pub use answer::{
    CallAnswer, ConnectAnswer, ConnectRefusal, FailureCause, HookAnswer, HookError, HookOutcome,
    PublishAnswer, SubscribeAnswer,
};
pub use breaker::BreakerState;
pub use desk::{HookCounts, HookDesk, HookNumbers};
pub use encode::join_headers;
pub use question::{Asker, ConnectQuestion, HookKind, HookQuestion, HookTicket};
pub use traffic::{HookAction, HookCall, HookLimits, HookResult};
