//! What a listener offers its clients: versions, groups, certificates, resumption.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConfig,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, version};
use serde::{Deserialize, Serialize};

use super::certificates::CertificateSet;
use super::challenges::{self, Challenges};
use super::key_log::TrafficSecretLog;

/// The protocol that follows the handshake.
pub const ALPN: &[u8] = b"http/1.1";

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    #[default]
    Off,
    /// A client may show one, which must be valid then.
    Request,
    Require,
}

/// Makes the tickets by which clients resume sessions.
pub type TicketMaker = Arc<dyn ProducesTickets>;

/// What a listener offers. See [`listener_tls`].
#[derive(Clone, Debug)]
pub struct Settings {
    pub certificates: Arc<CertificateSet>,
    /// What an authority is shown before it issues one; `None`: none is asked.
    pub challenges: Option<Arc<Challenges>>,
    pub tickets: TicketMaker,
    /// Checks the certificates of clients; `None`: none is asked for.
    pub verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The cryptography of all connections: AWS-LC's, and the groups that browsers offer first.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Checks certificates of clients against the authorities in `authorities`, as PEM. `None`: no
/// certificate is asked for.
///
/// # Errors
/// What is wrong, and what to do.
pub fn client_verifier(
    wanted: ClientCertificates,
    authorities: &[u8],
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    if wanted == ClientCertificates::Off {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate
            .map_err(|error| format!("is not PEM ({error}); write certificates as PEM"))?;
        let added = roots.add(certificate);
        added.map_err(|error| format!("holds a certificate that cannot be used ({error})"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate; write those of the authorities, as PEM".to_owned());
    }
    let provider = Arc::new(provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match wanted {
        ClientCertificates::Require => builder,
        _ => builder.allow_unauthenticated(),
    };
    builder.build().map(Some).map_err(|error| format!("cannot be used ({error})"))
}

/// Finds the certificate for a handshake: an authority that verifies a name gets one of its own.
#[derive(Debug)]
struct Resolver {
    certificates: Arc<CertificateSet>,
    challenges: Option<Arc<Challenges>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let (Some(challenges), Some(mut offered)) = (&self.challenges, hello.alpn())
            && offered.any(|protocol| protocol == challenges::ALPN)
        {
            return challenges.certificate(hello.server_name()?);
        }
        self.certificates.resolve(hello)
    }
}

/// What handshakes on a listener are made with.
#[derive(Clone, Debug)]
pub struct ListenerTls(pub(super) Arc<ServerConfig>);

/// Prepares the handshakes of a listener.
///
/// # Errors
/// rustls refuses the settings.
pub fn listener_tls(settings: &Settings) -> Result<ListenerTls, rustls::Error> {
    let (certificates, challenges) = (settings.certificates.clone(), settings.challenges.clone());
    let has_challenges = challenges.is_some();
    let resolver = Arc::new(Resolver { certificates, challenges });
    let mut config = base_config(resolver, settings.verifier.clone())?;
    if has_challenges {
        config.alpn_protocols.push(challenges::ALPN.to_vec());
    }
    config.ticketer = settings.tickets.clone();
    config.send_tls13_tickets = 1;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(TrafficSecretLog);
    Ok(ListenerTls(Arc::new(config)))
}

/// Prepares the handshakes of the admin address, whose connections stay with rustls. Sessions are
/// not resumed: its callers are few, and those without a valid certificate get nowhere.
///
/// # Errors
/// rustls refuses the settings.
pub fn operators_tls(
    certificates: &Arc<CertificateSet>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = Arc::new(Resolver { certificates: certificates.clone(), challenges: None });
    let mut config = base_config(resolver, verifier)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What all addresses have in common: versions, groups, and no state of sessions.
fn base_config(
    resolver: Arc<Resolver>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}
