//! What proves to an authority that this server answers for a name, while it asks (RFC 8555
//! section 8): a page, or a certificate of the name for connections with the protocol `acme-tls/1`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The protocol of connections that ask for such a certificate (RFC 8737 section 6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

/// The challenges that wait for an authority. Shared by the process: they are set by the thread
/// that orders certificates, and answered by all shards.
#[derive(Debug, Default)]
pub struct Challenges {
    pages: RwLock<HashMap<String, Arc<str>>>,
    certificates: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Challenges {
    /// Those of this process.
    pub fn of_process() -> &'static Arc<Self> {
        static OWN: OnceLock<Arc<Challenges>> = OnceLock::new();
        OWN.get_or_init(Arc::default)
    }

    /// Answers HTTP-01: the page of a token.
    pub fn set_page(&self, token: &str, text: &str) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.insert(token.to_owned(), text.into());
    }

    /// Answers TLS-ALPN-01: a certificate of the name that holds the digest of the authorization.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn set_certificate(&self, name: &str, digest: &[u8]) -> Result<(), String> {
        let made = make_certificate(name, digest)?;
        let mut certificates = self.certificates.write().unwrap_or_else(PoisonError::into_inner);
        certificates.insert(name.to_ascii_lowercase(), Arc::new(made));
        Ok(())
    }

    /// Forgets all: the authority has asked.
    pub fn clear(&self) {
        self.pages.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The page of a token.
    pub fn page(&self, token: &str) -> Option<Arc<str>> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// The certificate for a connection with [`ALPN`].
    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
        certificates.get(&name.to_ascii_lowercase()).cloned()
    }
}

/// A self-signed certificate with the extension of RFC 8737 section 3.
fn make_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let params = rcgen::CertificateParams::new([name.to_owned()]);
    let mut params = params.map_err(|error| failed(&error))?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| failed(&error))?;
    let key = any_supported_type(&der).map_err(|error| failed(&error))?;
    let chain: Vec<CertificateDer<'static>> = vec![certificate.into()];
    Ok(CertifiedKey::new(chain, key))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    #[test]
    fn a_challenge_is_answered_until_all_are_cleared() {
        let challenges = Challenges::default();
        challenges.set_page("token", "token.thumbprint");
        challenges.set_certificate("App.test", &[7; 32]).unwrap();
        assert_eq!(challenges.page("token").as_deref(), Some("token.thumbprint"));
        assert_eq!(challenges.page("other"), None);
        let made = challenges.certificate("app.TEST").unwrap();
        let (_, parsed) = X509Certificate::from_der(&made.cert[0]).unwrap();
        let found =
            parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let found = found.expect("RFC 8737 section 3");
        assert!(found.critical);
        assert_eq!(found.value, [&[4, 32][..], &[7; 32]].concat());
        challenges.clear();
        assert!(challenges.page("token").is_none());
        assert!(challenges.certificate("app.test").is_none());
    }
}
