//! Signatures of requests, as [Standard Webhooks](https://www.standardwebhooks.com) define them:
//! HMAC-SHA256 of `id.timestamp.body`, as base64 after `v1,`. Libraries verify them in most
//! languages.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Signs with all secrets of an application, of which it may know any.
#[derive(Clone)]
pub struct Signer(Vec<hmac::Key>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.0.len())
    }
}

impl Signer {
    /// Makes a signer with these secrets.
    #[must_use]
    pub fn new(secrets: Vec<Vec<u8>>) -> Self {
        let key = |secret: Vec<u8>| hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Self(secrets.into_iter().map(key).collect())
    }

    /// Returns the value of the header `webhook-signature`: a signature for each secret, separated
    /// by spaces. `time_s`: Unix time, as in the header `webhook-timestamp`.
    #[must_use]
    pub fn sign(&self, id: &str, time_s: u64, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|key| {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{time_s}.").as_bytes());
            context.update(body);
            format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference libraries (standard-webhooks, libraries/python).
    #[test]
    fn a_known_message_has_its_known_signature() {
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signer = Signer::new(vec![secret.clone(), b"another secret, for a while".to_vec()]);
        let body = br#"{"test": 2432232314}"#;
        let signed = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        let (first, second) = signed.split_once(' ').unwrap();
        assert_eq!(first, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(second.starts_with("v1,") && second != first);
        assert!(!format!("{signer:?}").contains("secret,"), "secrets are not printed");
    }
}
