//! TLS with an admin address: authorities to trust, a certificate to show, the name to verify, and
//! what errors mean.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{AlertDescription as Alert, CertificateError, Error};
use ureq::http::Uri;
use ureq::tls::{ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::acme::read_certificates;

/// How to speak TLS with the server.
#[derive(Debug, clap::Args)]
pub(super) struct TlsFlags {
    #[arg(
        long,
        value_name = "FILE",
        help = "Authorities to trust for https://, as PEM; default: those of this host"
    )]
    admin_ca: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        requires = "admin_key",
        help = "Certificate to show, as PEM, if the server requires one (admin.tls_client_ca)"
    )]
    admin_cert: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        requires = "admin_cert",
        help = "Private key of --admin-cert, as PEM"
    )]
    admin_key: Option<String>,
}

impl TlsFlags {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(super) fn config(&self) -> Result<TlsConfig, String> {
        let roots = match &self.admin_ca {
            None => RootCerts::PlatformVerifier,
            Some(path) => {
                let read = read_certificates(path).map_err(|text| format!("--admin-ca: {text}"))?;
                RootCerts::Specific(Arc::new(read))
            }
        };
        let own = match (&self.admin_cert, &self.admin_key) {
            (Some(chain), Some(key)) => {
                let chain = read_certificates(chain);
                let chain = chain.map_err(|text| format!("--admin-cert: {text}"))?;
                let key = read_key(key).map_err(|text| format!("--admin-key: {text}"))?;
                Some(ClientCert::new_with_certs(&chain, key))
            }
            _ => None,
        };
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).client_cert(own);
        Ok(tls.unversioned_rustls_crypto_provider(crypto).build())
    }
}

fn read_key(path: &str) -> Result<PrivateKey<'static>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let key = parse_pem(&pem).filter_map(Result::ok).find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| format!("{path} holds no private key; write it as PEM"))
}

/// Finds one address, whatever name the URL has: the certificate is verified for the name, and the
/// configuration has the address.
#[derive(Debug)]
pub(super) struct Pinned(pub(super) SocketAddr);

impl Resolver for Pinned {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}

/// Returns the host name for requests to the admin address: the first of `hosts` that a certificate
/// has, or else the first; `None`: there are none.
pub(super) fn choose_name<'h>(hosts: &'h [String], certified: &[String]) -> Option<&'h str> {
    let is_covered = |host: &&String| {
        let host = host.to_lowercase();
        certified.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => *name == host,
        })
    };
    hosts.iter().find(is_covered).or(hosts.first()).map(String::as_str)
}

/// What to do about an error of TLS. `None`: it is another error.
pub(super) fn remedy(error: &ureq::Error) -> Option<&'static str> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref()?,
        _ => return None,
    };
    Some(match error {
        Error::InvalidMessage(_) => {
            "it does not speak TLS: write http:// in --url, or set admin.tls = true"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "write a name of its certificate in --url, and list that in admin.hosts",
        Error::InvalidCertificate(_) => {
            "name the authority that has signed its certificate with --admin-ca"
        }
        Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            "it requires a certificate: give one with --admin-cert and --admin-key"
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::DecryptError,
        ) => "it rejects the certificate of --admin-cert; use one of its admin.tls_client_ca",
        _ => "check --url, --admin-ca and the server's certificate",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_one_that_a_certificate_has() {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let hosts = owned(&["localhost", "Ops.test", "x.app.test"]);
        for (certified, expected) in [
            (&["ops.test"][..], "Ops.test"),
            (&["other.test", "localhost", "ops.test"], "localhost"),
            (&["*.app.test"], "x.app.test"),
            (&["*.test"], "Ops.test"),
            (&["other.test"], "localhost"),
            (&[], "localhost"),
        ] {
            assert_eq!(choose_name(&hosts, &owned(certified)), Some(expected), "{certified:?}");
        }
        assert_eq!(choose_name(&[], &owned(&["ops.test"])), None);
    }

    #[test]
    fn errors_of_tls_have_remedies() {
        let in_io = |error: Error| ureq::Error::Io(std::io::Error::other(error));
        let required = Error::AlertReceived(Alert::CertificateRequired);
        assert!(remedy(&in_io(required)).unwrap().contains("--admin-cert"));
        let untrusted = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(remedy(&ureq::Error::Rustls(untrusted)).unwrap().contains("--admin-ca"));
        let misnamed = Error::InvalidCertificate(CertificateError::NotValidForName);
        assert!(remedy(&in_io(misnamed)).unwrap().contains("--url"));
        assert!(remedy(&ureq::Error::HostNotFound).is_none());
        assert!(remedy(&ureq::Error::Io(std::io::Error::other("lost"))).is_none());
    }
}
