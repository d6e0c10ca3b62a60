//! Keys that verify and sign tokens. The key determines the algorithm: a token's `alg` must match
//! it, and is never used to choose one.

use std::ops::RangeInclusive;

use aws_lc_rs::digest;
use aws_lc_rs::rsa::PublicKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm as JwkAlgorithm};
use jsonwebtoken::jwk::{KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header};
use serde::{Deserialize, Serialize};

/// Lengths of RSA moduli that can verify signatures (bytes): 2048 to 8192 bits. Other keys parse,
/// but fail when they are used.
const RSA_BYTES: RangeInclusive<usize> = 256..=1024;

/// Signature algorithms (RFC 7518 3.1, RFC 8037 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum KeyAlgorithm {
    /// HMAC with SHA-256: one secret signs and verifies.
    #[default]
    HS256,
    /// RSA with SHA-256.
    RS256,
    /// ECDSA over P-256.
    ES256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl KeyAlgorithm {
    /// Returns the name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) fn jwt(self) -> Algorithm {
        match self {
            Self::HS256 => Algorithm::HS256,
            Self::RS256 => Algorithm::RS256,
            Self::ES256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// Identifies a key by its id, algorithm and material, without revealing any of them. A key with
/// the same id and another secret has another fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Fingerprint(u64);

impl Fingerprint {
    fn of(id: &str, algorithm: KeyAlgorithm, decoding: &DecodingKey) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            // Length prefixes separate the parts: "a" + "bc" and "ab" + "c" must differ.
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(b"seawall token key");
        part(id.as_bytes());
        part(algorithm.name().as_bytes());
        match decoding.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => part(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                part(n);
                part(e);
            }
        }
        let digest = context.finish();
        let first = digest.as_ref().first_chunk().expect("a digest has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

/// A key that verifies tokens.
#[derive(Clone, Debug)]
pub struct Key {
    /// The `kid` of its tokens; empty for tokens without one.
    pub(super) id: String,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) decoding: DecodingKey,
    pub(super) fingerprint: Fingerprint,
}

impl Key {
    fn new(id: String, algorithm: KeyAlgorithm, decoding: DecodingKey) -> Self {
        let fingerprint = Fingerprint::of(&id, algorithm, &decoding);
        Self { id, algorithm, decoding, fingerprint }
    }

    /// Creates an HS256 key.
    pub fn from_secret(id: &str, secret: &[u8]) -> Self {
        Self::new(id.to_owned(), KeyAlgorithm::HS256, DecodingKey::from_secret(secret))
    }

    /// Parses a public key in PEM.
    ///
    /// # Errors
    /// The text that states what the PEM must hold.
    pub fn from_pem(id: &str, algorithm: KeyAlgorithm, pem: &str) -> Result<Self, &'static str> {
        let pem = pem.as_bytes();
        let (decoding, expected) = match algorithm {
            KeyAlgorithm::HS256 => return Err("HS256 uses a secret, not a public key"),
            KeyAlgorithm::RS256 => (
                DecodingKey::from_rsa_pem(pem),
                "must hold the PEM of a public RSA key of 2048 to 8192 bits; `openssl rsa -in \
                 private.pem -pubout` makes it",
            ),
            KeyAlgorithm::ES256 => (
                DecodingKey::from_ec_pem(pem),
                "must hold the PEM of a public key on the curve P-256; `openssl ec -in private.pem \
                 -pubout` makes it",
            ),
            KeyAlgorithm::EdDsa => (
                DecodingKey::from_ed_pem(pem),
                "must hold the PEM of a public Ed25519 key; `openssl pkey -in private.pem -pubout` \
                 makes it",
            ),
        };
        let key = Self::new(id.to_owned(), algorithm, decoding.map_err(|_| expected)?);
        if key.is_sound() { Ok(key) } else { Err(expected) }
    }

    /// Parses a public key of a JWK Set (RFC 7517 4).
    ///
    /// # Errors
    /// Why the key cannot be used here.
    pub(super) fn from_jwk(jwk: &Jwk) -> Result<Self, &'static str> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyAlgorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                KeyAlgorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                KeyAlgorithm::EdDsa
            }
            // Everyone who can read the set could sign with it.
            AlgorithmParameters::OctetKey(_) => return Err("secrets do not belong in a key set"),
            _ => return Err("only RSA, P-256 and Ed25519 are supported"),
        };
        let named = jwk.common.key_algorithm;
        let own = match algorithm {
            KeyAlgorithm::RS256 => JwkAlgorithm::RS256,
            KeyAlgorithm::ES256 => JwkAlgorithm::ES256,
            _ => JwkAlgorithm::EdDSA,
        };
        if named.is_some_and(|named| named != own) {
            return Err("only RS256, ES256 and EdDSA are supported");
        }
        // A missing `use` or `key_ops` puts no restriction on the key (RFC 7517 4.2, 4.3).
        let verifies = |operations: &Vec<_>| operations.contains(&KeyOperations::Verify);
        if matches!(&jwk.common.public_key_use, Some(other) if *other != PublicKeyUse::Signature)
            || !jwk.common.key_operations.as_ref().is_none_or(verifies)
        {
            return Err("not for signatures");
        }
        let unsound = "invalid key parameters";
        let decoding = DecodingKey::from_jwk(jwk).map_err(|_| unsound)?;
        let id = jwk.common.key_id.clone().unwrap_or_default();
        let key = Self::new(id, algorithm, decoding);
        if key.is_sound() { Ok(key) } else { Err(unsound) }
    }

    /// Returns whether the crypto library accepts the key: otherwise it would fail at every token,
    /// instead of once at startup.
    fn is_sound(&self) -> bool {
        let parsed = match (self.algorithm, self.decoding.kind()) {
            (KeyAlgorithm::HS256, _) => return true,
            (KeyAlgorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                // Leading zeros do not make a modulus longer.
                let bytes = n.iter().skip_while(|byte| **byte == 0).count();
                let key = RsaPublicKeyComponents { n, e };
                let parsed = key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
                return parsed.is_ok() && RSA_BYTES.contains(&bytes);
            }
            (KeyAlgorithm::RS256, DecodingKeyKind::SecretOrDer(bytes)) => {
                let key = PublicKey::from_der(bytes);
                return key.is_ok_and(|key| RSA_BYTES.contains(&key.modulus_len()));
            }
            (KeyAlgorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes)
            }
            (KeyAlgorithm::EdDsa, DecodingKeyKind::SecretOrDer(bytes)) => {
                ParsedPublicKey::new(&ED25519, bytes)
            }
            (_, DecodingKeyKind::RsaModulusExponent { .. }) => return false,
        };
        parsed.is_ok()
    }
}

/// A key that signs tokens, for the command line and for tests; the server never signs tokens.
pub struct SigningKey {
    id: String,
    algorithm: KeyAlgorithm,
    encoding: EncodingKey,
}

impl SigningKey {
    /// Creates an HS256 key.
    pub fn from_secret(id: &str, secret: &[u8]) -> Self {
        let encoding = EncodingKey::from_secret(secret);
        Self { id: id.to_owned(), algorithm: KeyAlgorithm::HS256, encoding }
    }

    /// Parses a private key in PEM.
    ///
    /// # Errors
    /// The text that states what the PEM must hold.
    pub fn from_pem(id: &str, algorithm: KeyAlgorithm, pem: &str) -> Result<Self, &'static str> {
        let pem = pem.as_bytes();
        let (encoding, expected) = match algorithm {
            KeyAlgorithm::HS256 => return Err("HS256 uses a secret, not a private key"),
            KeyAlgorithm::RS256 => {
                (EncodingKey::from_rsa_pem(pem), "must hold the PEM of a private RSA key")
            }
            KeyAlgorithm::ES256 => (
                EncodingKey::from_ec_pem(pem),
                "must hold the PEM of a private P-256 key as PKCS #8; `openssl pkcs8 -topk8 \
                 -nocrypt -in FILE` makes it",
            ),
            KeyAlgorithm::EdDsa => {
                (EncodingKey::from_ed_pem(pem), "must hold the PEM of a private Ed25519 key")
            }
        };
        let encoding = encoding.map_err(|_| expected)?;
        Ok(Self { id: id.to_owned(), algorithm, encoding })
    }

    /// Signs a token with these claims.
    ///
    /// # Errors
    /// The key does not fit its algorithm.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, String> {
        let kid = (!self.id.is_empty()).then(|| self.id.clone());
        let head = Header { kid, ..Header::new(self.algorithm.jwt()) };
        jsonwebtoken::encode(&head, claims, &self.encoding)
            .map_err(|fault| format!("cannot sign with {}: {fault}", self.algorithm.name()))
    }
}
