//! TLS of the generator's connections, by rustls.
//!
//! rustls keeps some kilobytes for each connection: a run over `wss://` takes about 9 KB of memory
//! more for each than one over `ws://`.

use std::collections::VecDeque;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, RootCertStore,
    SignatureScheme,
};

use crate::client::Fault;

/// Whom the generator's connections trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Authorities of a PEM file.
    Authorities(std::path::PathBuf),
    /// Any certificate.
    Any,
}

/// What all TLS connections of a run share.
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Prepares connections to the host of an authority (`host:port`). With `resume`, a connection
    /// uses the ticket of an earlier one, if there is one.
    ///
    /// # Errors
    /// When the host's name or the file of authorities cannot be used.
    pub fn new(authority: &str, trust: &Trust, resume: bool) -> Result<Self, String> {
        let host = host_of(authority);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host}: not a host name that TLS can verify"))?;
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = match trust {
            Trust::Any => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
                .with_no_client_auth(),
            Trust::Authorities(path) => {
                builder.with_root_certificates(read_authorities(path)?).with_no_client_auth()
            }
        };
        config.resumption = if resume {
            Resumption::store(Arc::new(Tickets::default()))
        } else {
            Resumption::disabled()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    /// Starts a connection.
    ///
    /// # Errors
    /// When rustls rejects the settings.
    pub fn connect(&self) -> std::io::Result<Tls> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        let mut connection = connection.map_err(std::io::Error::other)?;
        connection.set_buffer_limit(None);
        Ok(Tls(connection))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn read_authorities(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let failed = |error: &dyn fmt::Display| format!("--ca {shown}: {error}");
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err(format!("--ca {shown}: has no certificate; name a PEM file of authorities"));
    }
    Ok(roots)
}

/// One connection.
pub struct Tls(ClientConnection);

impl Tls {
    /// Decrypts what was received, and appends the content to `plain`.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    pub fn open(&mut self, mut wire: &[u8], plain: &mut Vec<u8>) -> Result<(), Fault> {
        let failed = |error: &dyn fmt::Display| Fault::Tls(error.to_string());
        while !wire.is_empty() {
            if self.0.read_tls(&mut wire).map_err(|error| failed(&error))? == 0 {
                break;
            }
            let state = self.0.process_new_packets().map_err(|error| failed(&error))?;
            let (begin, len) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(begin + len, 0);
            let read = self.0.reader().read_exact(&mut plain[begin..]);
            read.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Encrypts bytes to be sent, once the handshake is over.
    pub fn seal(&mut self, plain: &[u8]) {
        let written = std::io::Write::write_all(&mut self.0.writer(), plain);
        assert!(written.is_ok(), "the buffer has no limit");
    }

    /// Ends the stream behind what was sealed.
    pub fn finish(&mut self) {
        self.0.send_close_notify();
    }

    /// Takes bytes for the wire, if there are any.
    pub fn take_output(&mut self) -> Option<Box<[u8]>> {
        let mut wire = Vec::new();
        while self.0.wants_write() {
            let written = self.0.write_tls(&mut wire);
            assert!(written.is_ok(), "memory can be written");
        }
        (!wire.is_empty()).then(|| wire.into())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Tickets of TLS 1.3 for one server: each is used once, as RFC 8446 appendix C.4 recommends.
#[derive(Debug, Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

/// Tickets that are kept; the oldest give way.
const TICKETS_MAX: usize = 200_000;

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() == TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }
}

/// Accepts any certificate, but still verifies that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_cut_from_authorities() {
        for (authority, host) in
            [("app.test:443", "app.test"), ("app.test", "app.test"), ("[::1]:9", "::1")]
        {
            assert_eq!(host_of(authority), host);
            assert!(TlsClient::new(authority, &Trust::Any, false).is_ok(), "{authority}");
        }
        let error = TlsClient::new("h:1", &Trust::Authorities("/dev/null".into()), false);
        assert!(error.unwrap_err().contains("has no certificate"));
    }
}
