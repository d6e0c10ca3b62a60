//! Commands that applications send over links: those of `POST /v1/batch`, one at a time for each
//! application, so that a slow one holds up no other application.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::State;
use super::api::run_command;
use super::guard::Caller;
use crate::backend::links::LinkCommand;

/// Carries out the commands of all applications. An application may give any: its address or its
/// API key is in the configuration.
pub(in crate::control) async fn run_commands(
    mut commands: UnboundedReceiver<LinkCommand>,
    state: State,
) {
    let mut queues: HashMap<Arc<str>, UnboundedSender<LinkCommand>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        let application = command.link().facts().application.clone();
        let queue = queues.entry(application.clone()).or_insert_with(|| {
            let (sender, queue) = unbounded_channel();
            tokio::spawn(run_queue(application, queue, state.clone()));
            sender
        });
        // The queue is read until this task ends.
        let _ = queue.send(command);
    }
}

async fn run_queue(application: Arc<str>, mut queue: UnboundedReceiver<LinkCommand>, state: State) {
    let caller = Caller(Some(format!("backend:{application}").into()));
    while let Some(command) = queue.recv().await {
        let result = run_command(&state, &caller, command.body()).await;
        command.finish(&result);
    }
}
