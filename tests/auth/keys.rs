//! Keys made for a test, in the forms that files and key sets have.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use seawall::auth::{Key, KeyAlgorithm, SigningKey};
use serde_json::{Value, json};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A pair of keys: both halves as PEM, and the public one as JWK without `kid`.
pub(crate) struct Pair {
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) private: String,
    pub(crate) public: String,
    pub(crate) jwk: Value,
}

impl Pair {
    pub(crate) fn key(&self, id: &str) -> Key {
        Key::from_pem(id, self.algorithm, &self.public).unwrap()
    }

    pub(crate) fn signing(&self, id: &str) -> SigningKey {
        SigningKey::from_pem(id, self.algorithm, &self.private).unwrap()
    }

    pub(crate) fn jwk(&self, id: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = id.into();
        jwk
    }
}

pub(crate) static RSA: LazyLock<Pair> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Pair {
        algorithm: KeyAlgorithm::RS256,
        private: pem("PRIVATE KEY", private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({
            "kty": "RSA", "use": "sig", "alg": "RS256",
            "n": number(n.big_endian_without_leading_zero()),
            "e": number(e.big_endian_without_leading_zero()),
        }),
    }
});

pub(crate) static EC: LazyLock<Pair> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let point = pair.public_key().as_ref();
    Pair {
        algorithm: KeyAlgorithm::ES256,
        private: pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({
            "kty": "EC", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }),
    }
});

pub(crate) static ED: LazyLock<Pair> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::generate().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair {
        algorithm: KeyAlgorithm::EdDsa,
        private: pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({
            "kty": "OKP", "crv": "Ed25519",
            "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
        }),
    }
});

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
