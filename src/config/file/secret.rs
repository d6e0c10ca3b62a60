//! Values that are never shown: formatting or serializing one yields `…`.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// The text shown instead of a secret.
pub(crate) const HIDDEN: &str = "…";

/// A secret text.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { HIDDEN }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// A list of secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secrets(pub Vec<Secret>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let secrets = Secrets(vec![Secret::from("hunter2"), Secret::default()]);
        let (debug, json) = (format!("{secrets:?}"), serde_json::to_string(&secrets).unwrap());
        assert_eq!(debug, "Secrets([\"…\", \"\"])");
        assert_eq!(json, "[\"…\",\"\"]");
        assert_eq!(secrets.0[0].reveal(), "hunter2");
    }
}
