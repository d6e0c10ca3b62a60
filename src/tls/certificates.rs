//! Certificates: read and checked, and chosen for a client by the name that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate is made of.
#[derive(Clone, Copy, Debug)]
pub struct CertificateParts<'p> {
    /// The certificate, then those that have signed it, as PEM.
    pub chain: &'p [u8],
    /// Its private key, as PEM.
    pub key: &'p [u8],
    /// An answer of its issuer about its standing, as DER; empty: none.
    pub ocsp: &'p [u8],
    /// For whom it is used; empty: for those that it names itself.
    pub names: &'p [String],
    /// The present time, since 1970 (s).
    pub now_s: i64,
}

/// Which part cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    Chain(String),
    Key(String),
    Names(String),
    Ocsp(String),
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    begins_s: i64,
    expires_s: i64,
    is_elliptic: bool,
}

impl Certificate {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn read(parts: &CertificateParts<'_>) -> Result<Self, CertificateFault> {
        let chain = CertificateDer::pem_slice_iter(parts.chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| {
            CertificateFault::Chain(format!("is not PEM ({error}); write certificates as PEM"))
        })?;
        let Some(first) = chain.first() else {
            let text = "holds no certificate; write the server's certificate, then those that \
                        have signed it, as PEM";
            return Err(CertificateFault::Chain(text.to_owned()));
        };
        let Facts { own_names, begins_s, expires_s } = inspect(first, parts.now_s)?;
        let key = PrivateKeyDer::from_pem_slice(parts.key).map_err(|error| {
            let text = format!("holds no private key ({error}); write one as PEM (PKCS #8)");
            CertificateFault::Key(text)
        })?;
        let key = any_supported_type(&key).map_err(|error| {
            let text = format!("cannot be used ({error}); use ECDSA P-256 or RSA of 2,048 bits");
            CertificateFault::Key(text)
        })?;
        let is_elliptic = key.algorithm() != SignatureAlgorithm::RSA;
        let mut certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| {
            let text = "does not belong to the certificate; name the key that it was made for";
            CertificateFault::Key(text.to_owned())
        })?;
        if !parts.ocsp.is_empty() {
            // An OCSPResponse is a SEQUENCE (RFC 6960 section 4.2.1).
            if parts.ocsp[0] != 0x30 {
                let text = "is no OCSP response in DER; write it with `openssl ocsp -respout`";
                return Err(CertificateFault::Ocsp(text.to_owned()));
            }
            certified.ocsp = Some(parts.ocsp.to_vec());
        }
        let names = names(parts.names, &own_names)?;
        Ok(Self { key: Arc::new(certified), names, begins_s, expires_s, is_elliptic })
    }

    /// For whom it is used, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it expires, since 1970 (s).
    pub fn expires_s(&self) -> i64 {
        self.expires_s
    }

    /// For how long it is valid in all (s).
    pub fn lifetime_s(&self) -> i64 {
        self.expires_s - self.begins_s
    }

    /// Whether its key is one of an elliptic curve, not RSA.
    pub fn is_elliptic(&self) -> bool {
        self.is_elliptic
    }
}

/// What a certificate says of itself; times since 1970 (s).
struct Facts {
    own_names: Vec<String>,
    begins_s: i64,
    expires_s: i64,
}

/// Reads what a certificate says of itself, and checks that it is valid now.
fn inspect(der: &CertificateDer<'_>, now_s: i64) -> Result<Facts, CertificateFault> {
    let fault = |text: String| Err(CertificateFault::Chain(text));
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return fault("holds no X.509 certificate; write the server's certificate first".into());
    };
    let validity = parsed.validity();
    if validity.not_before.timestamp() > now_s {
        return fault(format!(
            "is valid only from {} on; check the host's clock, or use the certificate then",
            validity.not_before
        ));
    }
    if validity.not_after.timestamp() <= now_s {
        return fault(format!("has expired at {}; renew it", validity.not_after));
    }
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    let (begins_s, expires_s) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Facts { own_names: names, begins_s, expires_s })
}

/// The names that a certificate is to be used for: those that were written must be its own.
fn names(written: &[String], own: &[String]) -> Result<Vec<String>, CertificateFault> {
    let written: Vec<_> = written.iter().map(|name| name.to_ascii_lowercase()).collect();
    for name in &written {
        let is_covered = own.contains(name) || parent(name).is_some_and(|any| own.contains(&any));
        if !is_covered {
            let text = format!(
                "\"{name}\" is not among the certificate's names ({}); remove it, or use a \
                 certificate that names it",
                own.join(", ")
            );
            return Err(CertificateFault::Names(text));
        }
    }
    Ok(if written.is_empty() { own.to_vec() } else { written })
}

/// The wildcard that covers a name.
fn parent(name: &str) -> Option<String> {
    let (_, parent) = name.split_once('.')?;
    parent.contains('.').then(|| format!("*.{parent}"))
}

/// All certificates of the server, found by name: the exact one first, then the wildcard, then
/// the first that was configured. Of several for a name, one of an elliptic curve is preferred
/// where the client knows it.
#[derive(Debug, Default)]
pub struct CertificateSet {
    certificates: Vec<Certificate>,
    by_name: HashMap<String, Vec<usize>>,
}

impl CertificateSet {
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Self { certificates, by_name }
    }

    /// In the order in which they were configured.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// When the first of them expires, since 1970 (s); `None`: there is none.
    pub fn expires_s(&self) -> Option<i64> {
        self.certificates.iter().map(Certificate::expires_s).min()
    }

    /// Those for a name, in the order in which they were configured.
    fn candidates(&self, name: Option<&str>) -> Vec<&Certificate> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.by_name.get(name));
        let wildcard = || self.by_name.get(&parent(name.as_deref()?)?);
        if let Some(found) = exact.or_else(wildcard) {
            return found.iter().map(|index| &self.certificates[*index]).collect();
        }
        // The first, and one of another kind beside it.
        let first = self.certificates.first().into_iter();
        first
            .flat_map(|first| self.certificates.iter().filter(|c| c.names == first.names))
            .collect()
    }

    fn choose(
        &self,
        name: Option<&str>,
        can_use: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Arc<CertifiedKey>> {
        let mut found = self.candidates(name);
        found.sort_by_key(|certificate| !certificate.is_elliptic);
        let usable = found.iter().find(|certificate| can_use(&certificate.key));
        // With none that the client knows, the handshake fails with the right alert.
        usable.or(found.first()).map(|certificate| &certificate.key)
    }
}

impl ResolvesServerCert for CertificateSet {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let can_use = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        self.choose(hello.server_name(), can_use).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{KeyKind, NOW_S, make_certificate, read_certificate};

    fn set(certificates: &[(&[&str], KeyKind)]) -> CertificateSet {
        let read = |(names, kind): &(&[&str], KeyKind)| read_certificate(names, *kind);
        CertificateSet::new(certificates.iter().map(read).collect())
    }

    /// Which certificate a client gets; `knows_elliptic`: it can verify one of an elliptic curve.
    fn chosen(set: &CertificateSet, name: Option<&str>, knows_elliptic: bool) -> usize {
        let is_rsa = |key: &CertifiedKey| key.key.algorithm() == SignatureAlgorithm::RSA;
        let found = set.choose(name, |key| knows_elliptic || is_rsa(key)).unwrap();
        set.certificates.iter().position(|one| Arc::ptr_eq(&one.key, found)).unwrap()
    }

    #[test]
    fn exact_name_precedes_wildcard_precedes_first() {
        let set = set(&[
            (&["first.example"], KeyKind::Elliptic),
            (&["*.app.example"], KeyKind::Elliptic),
            (&["one.app.example"], KeyKind::Elliptic),
        ]);
        assert_eq!(chosen(&set, Some("one.app.example"), true), 2);
        assert_eq!(chosen(&set, Some("ONE.App.Example"), true), 2);
        assert_eq!(chosen(&set, Some("two.app.example"), true), 1);
        assert_eq!(chosen(&set, Some("deep.two.app.example"), true), 0);
        assert_eq!(chosen(&set, Some("app.example"), true), 0);
        assert_eq!(chosen(&set, None, true), 0);
    }

    #[test]
    fn elliptic_keys_are_preferred_where_the_client_knows_them() {
        let set = set(&[(&["app.example"], KeyKind::Rsa), (&["app.example"], KeyKind::Elliptic)]);
        for name in [Some("app.example"), Some("other.example"), None] {
            assert_eq!(chosen(&set, name, true), 1);
            assert_eq!(chosen(&set, name, false), 0);
        }
    }

    fn read(chain: &str, key: &str, names: &[&str], now_s: i64) -> Result<(), CertificateFault> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let (chain, key) = (chain.as_bytes(), key.as_bytes());
        let parts = CertificateParts { chain, key, ocsp: &[], names: &names, now_s };
        Certificate::read(&parts).map(|_| ())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (chain, key) = make_certificate(&["*.app.example", "b.example"], KeyKind::Elliptic);
        let (_, other_key) = make_certificate(&["b.example"], KeyKind::Rsa);
        assert_eq!(read(&chain, &key, &["one.app.example", "B.example"], NOW_S), Ok(()));
        let foreign = read(&chain, &key, &["c.example"], NOW_S);
        assert!(
            matches!(foreign, Err(CertificateFault::Names(text)) if text.contains("c.example"))
        );
        assert!(matches!(read(&chain, &other_key, &[], NOW_S), Err(CertificateFault::Key(_))));
        assert!(matches!(read("", &key, &[], NOW_S), Err(CertificateFault::Chain(_))));
        assert!(matches!(read(&chain, &chain, &[], NOW_S), Err(CertificateFault::Key(_))));
        let expired = read(&chain, &key, &[], 1 << 40);
        assert!(matches!(expired, Err(CertificateFault::Chain(text)) if text.contains("expired")));
        let early = read(&chain, &key, &[], 0);
        assert!(matches!(early, Err(CertificateFault::Chain(text)) if text.contains("only from")));
    }

    #[test]
    fn an_ocsp_response_is_der() {
        let (chain, key) = make_certificate(&["b.example"], KeyKind::Elliptic);
        let (chain, key) = (chain.as_bytes(), key.as_bytes());
        let with = |ocsp| {
            Certificate::read(&CertificateParts { chain, key, ocsp, names: &[], now_s: NOW_S })
        };
        assert_eq!(with(&[0x30, 0]).unwrap().key.ocsp.as_deref(), Some(&[0x30, 0][..]));
        assert!(matches!(with(b"-----BEGIN"), Err(CertificateFault::Ocsp(_))));
    }
}
