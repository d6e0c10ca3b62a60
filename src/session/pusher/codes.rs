//! Close codes of the protocol. What a client does next depends on them: it gives up after 4000 to
//! 4099, waits a second after 4100 to 4199, and reconnects at once after 4200 to 4299.

use crate::hub::Code;
use crate::proto::ws::CloseCode;

/// The app has no such key.
pub(super) const UNKNOWN_KEY: CloseCode = CloseCode::new(4001);
pub(super) const PATH_NOT_FOUND: CloseCode = CloseCode::new(4005);
pub(super) const INVALID_VERSION: CloseCode = CloseCode::new(4006);
pub(super) const UNSUPPORTED_VERSION: CloseCode = CloseCode::new(4007);
pub(super) const NO_VERSION: CloseCode = CloseCode::new(4008);
/// The app requires TLS: clients reconnect with it.
pub const TLS_ONLY: CloseCode = CloseCode::new(4000);
/// The app was removed.
pub const APP_DISABLED: CloseCode = CloseCode::new(4003);
/// A signature is invalid, or the backend has ended the user's connections.
pub const NOT_AUTHORIZED: CloseCode = CloseCode::new(4009);
/// A limit was reached, which may be different soon.
pub const OVER_CAPACITY: CloseCode = CloseCode::new(4100);
const RECONNECT: CloseCode = CloseCode::new(4200);
const NO_PONG: CloseCode = CloseCode::new(4201);
/// The code of errors that concern events of clients.
const CLIENT_EVENT: u16 = 4301;

/// Returns the code that clients receive instead of this one of the server's own, after which most
/// of them would never reconnect.
pub(super) fn to_wire(code: CloseCode) -> CloseCode {
    match code {
        CloseCode::GOING_AWAY | CloseCode::SERVICE_RESTART | CloseCode::REPLACED => RECONNECT,
        CloseCode::ABNORMAL => NO_PONG,
        CloseCode::DISCONNECTED | CloseCode::UNAUTHORIZED | CloseCode::EXPIRED => NOT_AUTHORIZED,
        CloseCode::TRY_AGAIN_LATER
        | CloseCode::INTERNAL_ERROR
        | CloseCode::AUTHENTICATION_TIMEOUT
        | CloseCode::SLOW_CONSUMER
        | CloseCode::RATE_LIMITED => OVER_CAPACITY,
        other => other,
    }
}

/// Returns the code of an error that leaves the connection open; `None`: the protocol has none.
pub(super) fn of_error(code: Code) -> Option<u16> {
    match code {
        Code::RateLimited | Code::TooLarge | Code::Forbidden => Some(CLIENT_EVENT),
        Code::Unauthorized => Some(NOT_AUTHORIZED.get()),
        _ => None,
    }
}

/// Returns the type and the status of a subscription that failed.
pub(super) fn of_subscription(code: Code) -> (&'static str, u16) {
    match code {
        Code::Unauthorized | Code::Forbidden => ("AuthError", 401),
        Code::Limit => ("LimitReached", 4004),
        Code::RateLimited => ("RateLimited", 429),
        Code::TooLarge => ("TooLarge", 413),
        Code::BadRequest => ("InvalidChannel", 400),
        _ => ("Unavailable", 503),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_give_up_for_ever_over_what_passes() {
        for code in CloseCode::NAMED {
            let wire = to_wire(code).get();
            let gives_up = (4000..4100).contains(&wire) || wire >= 4300;
            let is_final = wire == NOT_AUTHORIZED.get();
            assert!(!gives_up || is_final, "{code} becomes {wire}");
        }
    }
}
