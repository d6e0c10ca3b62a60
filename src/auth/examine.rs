//! Examines a token to explain why it is rejected: returns its content, verified or not, and all
//! problems at once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims::Claims;
use super::error::AuthError;
use super::identity::{Identity, Right};
use super::verifier::Verifier;

/// The result. Only if `faults` is empty is the rest verified.
#[derive(Debug, Default)]
pub struct Examination {
    /// Head and claims, as received.
    pub head: Option<String>,
    pub claims: Option<String>,
    /// The identity that it claims.
    pub identity: Option<Identity>,
    /// The channel, for a channel token.
    pub channel: Option<Right>,
    /// Why it is rejected; empty if it is accepted.
    pub faults: Vec<AuthError>,
}

impl Verifier {
    /// Examines a token completely.
    pub fn examine(&self, token: &str, now_s: u64) -> Examination {
        let mut found = Examination::default();
        let mut parts = token.split('.').map(decode_text);
        found.head = parts.next().flatten();
        found.claims = parts.next().flatten();
        // The result is read now, so a key that a later fetch may bring counts as unknown.
        found.faults.extend(self.verify_signature(token).err().map(|fault| match fault {
            AuthError::KeyPending => AuthError::UnknownKey,
            fault => fault,
        }));
        let Some(Ok(claims)) = found.claims.as_deref().map(|text| Claims::read(text.as_bytes()))
        else {
            found.add_fault(AuthError::Malformed);
            return found;
        };
        // Unlike `verify`, which stops at the first error, every check runs.
        let mut faults = claims.faults(&self.expected, now_s);
        let identity = claims.identity(claims.end().unwrap_or_default(), None);
        let channel = claims.channel();
        match identity {
            Ok(identity) => found.identity = Some(identity),
            Err(fault) => faults.push(fault),
        }
        match channel {
            Ok(channel) => found.channel = channel,
            Err(fault) => faults.push(fault),
        }
        faults.into_iter().for_each(|fault| found.add_fault(fault));
        found
    }
}

impl Examination {
    fn add_fault(&mut self, fault: AuthError) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

fn decode_text(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
