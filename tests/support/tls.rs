//! Clients of rustls, and certificates for their servers.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256,
};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use super::Raw;

/// A TLS connection as a stream.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

static FOLDER_NUMBER: AtomicU32 = AtomicU32::new(0);

/// An authority that signs certificates, and a folder for their files.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let number = FOLDER_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-tls-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Seawall tests");
        let pem = params.self_signed(&key).expect("it can be signed").pem();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its certificate, as PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The file of its certificate.
    pub(crate) fn file(&self) -> PathBuf {
        let path = self.folder.join("authority.pem");
        fs::write(&path, &self.pem).expect("a file can be written");
        path
    }

    /// Chain and key of a certificate for these names, as PEM.
    pub(crate) fn sign(&self, names: &[&str], is_rsa: bool) -> (String, String) {
        let algorithm = if is_rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(algorithm).expect("a key can be made");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("the names are valid");
        let signed = params.signed_by(&key, &self.issuer).expect("it can be signed");
        (signed.pem(), key.serialize_pem())
    }

    /// Writes chain and key of a certificate for these names, under this name; returns the section
    /// of a configuration that uses them.
    pub(crate) fn write(&self, name: &str, names: &[&str], is_rsa: bool) -> String {
        let (chain, key) = self.sign(names, is_rsa);
        let (chain_path, key_path) = self.paths(name);
        fs::write(&chain_path, chain).expect("a file can be written");
        fs::write(&key_path, key).expect("a file can be written");
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        format!(
            "[[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n",
            chain_path.display(),
            key_path.display()
        )
    }

    pub(crate) fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        let path = |end: &str| self.folder.join(format!("{name}.{end}.pem"));
        (path("chain"), path("key"))
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_with(None)
    }

    /// The same that speaks one version.
    pub(crate) fn client_of(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        builder(&self.pem, &[version]).with_no_client_auth()
    }

    /// A client with a certificate of its own.
    pub(crate) fn client_with(&self, own: Option<&(String, String)>) -> ClientConfig {
        client(&self.pem, own)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // What stays behind is in a temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client that trusts this certificate, with one of its own if it is given.
pub(crate) fn client(trusted: &str, own: Option<&(String, String)>) -> ClientConfig {
    let builder = builder(trusted, rustls::ALL_VERSIONS);
    match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("it is PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("it is PEM");
            builder.with_client_auth_cert(vec![chain], key).expect("the key fits")
        }
    }
}

fn builder(
    trusted: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_slice(trusted.as_bytes()).expect("it is PEM");
    roots.add(trusted).expect("it is a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("the versions are there")
        .with_root_certificates(roots)
}

/// Connects, and does the handshake with the first bytes.
pub(crate) fn connect(address: SocketAddr, config: &ClientConfig, name: &str) -> Raw<TlsStream> {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("an option can be set");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    let name = ServerName::try_from(name.to_owned()).expect("the name is valid");
    let connection = ClientConnection::new(Arc::new(config.clone()), name).expect("it is valid");
    Raw::over(StreamOwned::new(connection, stream))
}

/// Connected and upgraded.
pub(crate) fn open(address: SocketAddr, config: &ClientConfig) -> Raw<TlsStream> {
    let mut raw = connect(address, config, "localhost");
    raw.upgrade();
    raw
}
