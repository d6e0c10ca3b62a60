//! HTTPS for the ACME client, by the same library that fetches keys.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: usize = 1 << 20;

/// Makes blocking requests: the thread that orders has nothing else to do meanwhile.
pub(super) struct Client(ureq::Agent);

impl Client {
    /// `ca`: PEM file of authorities to trust instead of the host's; empty: the host's.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub(super) fn new(ca: &str) -> Result<Self, String> {
        let roots = match ca {
            "" => RootCerts::PlatformVerifier,
            path => RootCerts::Specific(Arc::new(read_certificates(path)?)),
        };
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(crypto);
        let config = ureq::config::Config::builder()
            .tls_config(tls.build())
            .timeout_global(Some(TIMEOUT))
            .https_only(true)
            // Errors of the protocol have a body that says more.
            .http_status_as_error(false)
            .user_agent(concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(config.new_agent()))
    }
}

/// Reads the certificates of a PEM file, of which there is at least one.
///
/// # Errors
/// With the reason and the remedy.
pub(crate) fn read_certificates(path: &str) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let items = parse_pem(&pem).filter_map(Result::ok);
    let roots: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if roots.is_empty() {
        return Err(format!("{path} holds no certificate; write certificates as PEM"));
    }
    Ok(roots)
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let agent = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = to_bytes(Body::new(body), BODY_BYTES_MAX).await;
            let body = body.map_err(|error| Error::Other(Box::new(error)))?;
            let answer = agent.run(Request::from_parts(parts, body.to_vec()));
            let (parts, mut body) = answer.map_err(|e| Error::Other(Box::new(e)))?.into_parts();
            let read = body.with_config().limit(BODY_BYTES_MAX as u64).read_to_vec();
            let bytes = Bytes::from(read.map_err(|error| Error::Other(Box::new(error)))?);
            Ok(BytesResponse { parts, body: Box::new(bytes) })
        })
    }
}
