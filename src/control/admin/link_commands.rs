//! Commands that applications send over links: those of `POST /v1/batch`, one at a time.

use std::sync::Arc;

use super::State;
use super::api::run_command;
use super::guard::Caller;
use crate::backend::links::{LinkCommand, LinkCommands};

/// Carries out the commands of all applications, in the order of their arrival. An application may
/// give any: its address or its API key is in the configuration.
pub(in crate::control) async fn run_commands(mut commands: LinkCommands, state: State) {
    while let Some(LinkCommand { link, number, body }) = commands.next_command().await {
        let name: Arc<str> = format!("backend:{}", link.facts().application).into();
        let result = run_command(&state, &Caller(Some(name)), &body).await;
        link.send_result(number, &result);
    }
}
