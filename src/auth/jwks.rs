//! Parses a JWK Set (RFC 7517 5) from a file or a URL.

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;

use super::keys::Key;

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The usable keys of a set, and why others were skipped.
#[derive(Debug, Default)]
pub struct Jwks {
    pub keys: Vec<Key>,
    /// One line per skipped key.
    pub skipped: Vec<String>,
}

impl Jwks {
    /// Parses a set. Skips keys that cannot be used: a set may serve several purposes (RFC 7517 5).
    ///
    /// # Errors
    /// The text is not a JWK Set.
    pub fn read(text: &str) -> Result<Self, String> {
        let set: Set = serde_json::from_str(text)
            .map_err(|fault| format!("is not a JWK Set ({{\"keys\": [...]}}): {fault}"))?;
        let mut read = Self::default();
        for (place, value) in set.keys.into_iter().enumerate() {
            let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| "invalid JWK");
            match jwk.and_then(|jwk| Key::from_jwk(&jwk)) {
                Ok(key) if read.keys.iter().any(|other| other.id == key.id) => {
                    read.skipped.push(format!("key {place}: duplicate kid"));
                }
                Ok(key) => read.keys.push(key),
                Err(reason) => read.skipped.push(format!("key {place}: {reason}")),
            }
        }
        Ok(read)
    }
}
