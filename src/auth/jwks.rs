//! A JWK Set (RFC 7517 5), from a file or a URL.

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;

use super::keys::Key;

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// Keys that can be used, and why others cannot.
#[derive(Debug, Default)]
pub struct Jwks {
    pub keys: Vec<Key>,
    /// A line for each key that was skipped.
    pub skipped: Vec<String>,
}

impl Jwks {
    /// Reads a set. Keys of other kinds are skipped: a set may serve more than us (RFC 7517 5).
    ///
    /// # Errors
    /// It is no set.
    pub fn read(text: &str) -> Result<Self, String> {
        let set: Set = serde_json::from_str(text)
            .map_err(|fault| format!("is no JWK Set ({{\"keys\": [...]}}): {fault}"))?;
        let mut read = Self::default();
        for (place, value) in set.keys.into_iter().enumerate() {
            let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| "it cannot be read");
            match jwk.and_then(|jwk| Key::from_jwk(&jwk)) {
                Ok(key) if read.keys.iter().any(|other| other.id == key.id) => {
                    read.skipped.push(format!("key {place}: another one has its kid"));
                }
                Ok(key) => read.keys.push(key),
                Err(reason) => read.skipped.push(format!("key {place}: {reason}")),
            }
        }
        Ok(read)
    }
}
