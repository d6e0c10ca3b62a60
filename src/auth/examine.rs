//! All about a token, for people who want to know why it is not taken: what it says, proven or not,
//! and everything that is wrong with it at once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims::Claims;
use super::error::AuthError;
use super::identity::{Identity, Right};
use super::verifier::Verifier;

/// What was found. Nothing but the absence of `faults` proves any of it.
#[derive(Debug, Default)]
pub struct Examination {
    /// Its head and claims, as they came.
    pub head: Option<String>,
    pub claims: Option<String>,
    /// Who it says its bearer is.
    pub identity: Option<Identity>,
    /// The channel that it is for, where it is a channel token.
    pub channel: Option<Right>,
    /// Why it is not taken; empty: it is.
    pub faults: Vec<AuthError>,
}

impl Verifier {
    /// Looks at everything in a token.
    pub fn examine(&self, token: &str, now_s: u64) -> Examination {
        let mut found = Examination::default();
        let mut parts = token.split('.').map(text);
        found.head = parts.next().flatten();
        found.claims = parts.next().flatten();
        // A later fetch is of no help to the person who asks now.
        found.faults.extend(self.payload(token).err().map(|fault| match fault {
            AuthError::KeyPending => AuthError::UnknownKey,
            fault => fault,
        }));
        let Some(Ok(claims)) = found.claims.as_deref().map(|text| Claims::read(text.as_bytes()))
        else {
            found.note(AuthError::Malformed);
            return found;
        };
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
        faults.into_iter().for_each(|fault| found.note(fault));
        found
    }
}

impl Examination {
    fn note(&mut self, fault: AuthError) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

fn text(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
