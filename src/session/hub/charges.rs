//! What requests cost: in effort, and of the client's rates.

use crate::admission::limiter::RateKind;
use crate::session::protocol::{AppCommand, Command};
use crate::session::pusher::{AppChannel, ChannelKind};

/// Cost of verifying a token, in requests.
const TOKEN_COST: u32 = 48;
/// Cost of verifying a signature, in requests.
const SIGNATURE_COST: u32 = 4;
/// Cost of a reply that may be long, in requests.
const READ_COST: u32 = 8;

/// Returns whether the reply to a command may be long.
pub(super) fn is_read(command: &Command<'_>) -> bool {
    match command {
        Command::Presence { .. } | Command::History { .. } => true,
        Command::Subscribe { presence, .. } => *presence,
        Command::App(command) => is_presence_subscription(command),
        _ => false,
    }
}

/// Returns the cost of executing a command, in requests.
pub(super) fn cost_of(command: &Command<'_>) -> u32 {
    match command {
        Command::Auth { .. } => TOKEN_COST,
        Command::Subscribe { token, .. } if token.is_some() => TOKEN_COST,
        Command::Resume { positions, .. } => READ_COST + 2 * positions.len() as u32,
        Command::App(command) if is_signed(command) => SIGNATURE_COST,
        command if is_read(command) => READ_COST,
        _ => 0,
    }
}

/// Returns the rate that a command is charged to, and how often.
pub(super) fn rate_of(command: &Command<'_>) -> Option<(RateKind, u32)> {
    match command {
        Command::Subscribe { .. } | Command::App(AppCommand::Subscribe { .. }) => {
            Some((RateKind::Subscribes, 1))
        }
        Command::Resume { positions, .. } if !positions.is_empty() => {
            Some((RateKind::Subscribes, positions.len() as u32))
        }
        // A call is work for the application, as a publish is for the members.
        Command::Publish { .. } | Command::Call { .. } | Command::App(AppCommand::Send { .. }) => {
            Some((RateKind::Publishes, 1))
        }
        Command::History { .. } | Command::Presence { .. } => Some((RateKind::Reads, 1)),
        _ => None,
    }
}

/// Returns whether the reply to a command lists members.
fn is_presence_subscription(command: &AppCommand) -> bool {
    let AppCommand::Subscribe { channel, .. } = command else { return false };
    AppChannel::parse(channel).is_ok_and(|channel| channel.kind == ChannelKind::Presence)
}

/// Returns whether a signature has to be verified for a command.
fn is_signed(command: &AppCommand) -> bool {
    matches!(command, AppCommand::Subscribe { auth: Some(_), .. } | AppCommand::SignIn { .. })
}
