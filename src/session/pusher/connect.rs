//! The request of a client: the key of its app, and the version of the protocol.
//!
//! Browsers hide the status of a rejected upgrade. So the upgrade is accepted, and what is wrong
//! with the request is reported by the first message, and a close code.

use super::codes;
use crate::proto::ws::CloseCode;

/// Versions of the protocol whose messages are those of version 7.
const VERSIONS: std::ops::RangeInclusive<u32> = 5..=7;

/// Why a connection is closed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectFault {
    pub code: CloseCode,
    pub message: String,
}

fn new_fault(code: CloseCode, message: impl Into<String>) -> ConnectFault {
    ConnectFault { code, message: message.into() }
}

/// Returns the fault of a key that no app has.
pub fn unknown_key(key: &str) -> ConnectFault {
    let shown = &key[..key.floor_char_boundary(64)];
    new_fault(codes::UNKNOWN_KEY, format!("App key {shown} does not exist on this server"))
}

/// Reads the target of a request to a route: the path `ROUTE/KEY` with the query
/// `protocol=VERSION`. Returns the key.
///
/// # Errors
/// The path has another form, or the version is not supported.
pub fn read_target<'t>(target: &'t str, route: &str) -> Result<&'t str, ConnectFault> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let below = path.strip_prefix(route).map(|rest| rest.strip_prefix('/').unwrap_or(rest));
    let key = below.filter(|key| !key.is_empty() && !key.contains('/')).ok_or_else(|| {
        let message = "Path not found: connect to the route's path, followed by the app's key";
        new_fault(codes::PATH_NOT_FOUND, message)
    })?;
    let mut versions = query.split('&').filter_map(|pair| pair.strip_prefix("protocol="));
    let version = versions.next_back().unwrap_or_default();
    if version.is_empty() {
        let message = "No protocol version supplied: add ?protocol=7 to the address";
        return Err(new_fault(codes::NO_VERSION, message));
    }
    match version.parse::<u32>() {
        Ok(version) if VERSIONS.contains(&version) => Ok(key),
        Ok(_) => {
            let message = "Unsupported protocol version: this server speaks 5 to 7";
            Err(new_fault(codes::UNSUPPORTED_VERSION, message))
        }
        Err(_) => {
            let message = "Invalid version string format: protocol is a number, such as 7";
            Err(new_fault(codes::INVALID_VERSION, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_the_key_or_say_what_is_wrong() {
        for (target, expected) in [
            ("/app/k1?protocol=7&client=js&version=8.6.0&flash=false", Ok("k1")),
            ("/app/k1?client=js&protocol=6", Ok("k1")),
            ("/app?protocol=7", Err(4005)),
            ("/app/?protocol=7", Err(4005)),
            ("/app/k1/x?protocol=7", Err(4005)),
            ("/app/k1", Err(4008)),
            ("/app/k1?protocol=", Err(4008)),
            ("/app/k1?protocol=x", Err(4006)),
            ("/app/k1?protocol=4", Err(4007)),
            ("/app/k1?protocol=8", Err(4007)),
        ] {
            let found = read_target(target, "/app").map_err(|fault| fault.code.get());
            assert_eq!(found, expected, "{target}");
        }
        assert_eq!(unknown_key(&"ä".repeat(100)).code.get(), 4001);
    }
}
