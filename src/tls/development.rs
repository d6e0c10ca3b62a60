//! Certificates for development: self-signed, so that clients have to be made to accept them.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

/// Names that every one of them has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct DevelopmentCertificate {
    pub chain: String,
    pub key: String,
}

impl DevelopmentCertificate {
    /// Makes one for this host and for further names.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn make(names: &[String]) -> Result<Self, String> {
        let local = LOCAL_NAMES.iter().map(|name| (*name).to_owned());
        let names: Vec<String> = local.chain(names.iter().cloned()).collect();
        let make = || -> Result<Self, rcgen::Error> {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, "Seawall development");
            let certificate = params.self_signed(&key)?;
            Ok(Self { chain: certificate.pem(), key: key.serialize_pem() })
        };
        make().map_err(|error| error.to_string())
    }
}
