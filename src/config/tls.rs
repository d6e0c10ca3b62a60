//! TLS: certificates and keys are read and checked, and each listener gets what it offers.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;

use super::file::{self, File};
use super::{ConfigError, Faults, Listener, acme, at, credentials, of_one, secret_files};
use crate::tls::certificates::{Certificate, CertificateFault, CertificateParts, CertificateSet};
use crate::tls::challenges::Challenges;
use crate::tls::development::DevelopmentCertificate;
use crate::tls::settings::{self, ClientCertificates, Settings, TicketMaker};
use crate::tls::tickets;

/// The present time, since 1970 (s).
fn now_s() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}

/// Whole days until a certificate expires.
pub fn days_left(certificate: &Certificate) -> i64 {
    (certificate.expires_s() - now_s()).div_euclid(24 * 60 * 60)
}

/// Returns whether any address uses TLS.
fn is_wanted(file: &File) -> bool {
    file.tls.dev || file.admin.tls || file.listeners.iter().any(|listener| listener.tls)
}

/// What was read for TLS, beside what listeners offer.
#[derive(Debug)]
pub(super) struct PreparedTls {
    pub(super) certificates: Arc<CertificateSet>,
    /// What the admin address offers; `None`: it is plain.
    pub(super) admin: Option<Arc<ServerConfig>>,
}

/// Reads all certificates, and gives each listener that speaks TLS what it offers. `written`: the
/// listeners as they were written, in the same order.
pub(super) fn prepare(
    file: &File,
    written: &[file::Listener],
    listeners: &mut [Listener],
    faults: &mut Faults,
) -> PreparedTls {
    let before = faults.0.len();
    let mut certificates = Vec::with_capacity(file.certificates.len());
    for (index, one) in file.certificates.iter().enumerate() {
        certificates.extend(faults.check(certificate(index, one)));
    }
    let keys = credentials::read_keys(
        "tls.ticket_keys",
        &file.tls.ticket_keys.0,
        &file.tls.ticket_keys_file,
    );
    let keys = faults.check(keys).unwrap_or_default();
    certificates.extend(acme::certificate(&file.acme, now_s()));
    if certificates.is_empty() && file.tls.dev && faults.0.len() == before {
        certificates.extend(faults.check(development_certificate()));
    }
    for (index, one) in written.iter().enumerate() {
        faults.check(check_client_options(index, one, one.tls || file.tls.dev));
    }
    faults.check(check_admin_options(&file.admin));
    let certificates = Arc::new(CertificateSet::new(certificates));
    let mut prepared = PreparedTls { certificates: certificates.clone(), admin: None };
    if !is_wanted(file) || faults.0.len() > before || written.len() != listeners.len() {
        return prepared;
    }
    let is_ordered = !file.acme.names.is_empty();
    if file.admin.tls {
        prepared.admin = faults.check(offered_to_operators(&file.admin, &certificates, is_ordered));
    }
    for (index, (one, listener)) in written.iter().zip(listeners).enumerate() {
        if one.tls || file.tls.dev {
            let own = (&certificates, &keys[..]);
            listener.tls = faults.check(offered(index, one, own, is_ordered));
        }
    }
    prepared
}

fn certificate(index: usize, written: &file::CertificateFiles) -> Result<Certificate, ConfigError> {
    let fault = |option: &str, path: &str, text: &str| {
        let path = if path.is_empty() { String::new() } else { format!(" {path}") };
        let text = format!("certificate {}: {option}{path} {text}", index + 1);
        of_one(format!("certificate.{index}.{option}"), text)
    };
    for (option, path) in [("chain", &written.chain), ("key", &written.key)] {
        if path.is_empty() {
            return Err(fault(option, "", "is missing: name the file"));
        }
    }
    let chain = secret_files::public_bytes(&written.chain);
    let chain = chain.map_err(|text| fault("chain", "", &text))?;
    let key = secret_files::secret_file(&written.key);
    let key = key.map_err(|text| fault("key", "", &text))?;
    let ocsp = match written.ocsp.as_str() {
        "" => Vec::new(),
        path => secret_files::public_bytes(path).map_err(|text| fault("ocsp", "", &text))?,
    };
    let (chain, key, names) = (&chain[..], key.as_bytes(), &written.names[..]);
    let parts = CertificateParts { chain, key, ocsp: &ocsp, names, now_s: now_s() };
    Certificate::read(&parts).map_err(|error| match error {
        CertificateFault::Chain(text) => fault("chain", &written.chain, &text),
        CertificateFault::Key(text) => fault("key", &written.key, &text),
        CertificateFault::Names(text) => fault("names", "", &text),
        CertificateFault::Ocsp(text) => fault("ocsp", &written.ocsp, &text),
    })
}

/// The certificate of `tls.dev`: made once, so that it survives reloads.
fn development_certificate() -> Result<Certificate, ConfigError> {
    static MADE: OnceLock<Result<DevelopmentCertificate, String>> = OnceLock::new();
    let fault = |text: &str| at("tls.dev", format!(": no certificate can be made: {text}"));
    let made = MADE.get_or_init(|| DevelopmentCertificate::make(&[]));
    let made = made.as_ref().map_err(|text| fault(text))?;
    let (chain, key) = (made.chain.as_bytes(), made.key.as_bytes());
    let parts = CertificateParts { chain, key, ocsp: &[], names: &[], now_s: now_s() };
    Certificate::read(&parts).map_err(|error| fault(&format!("{error:?}")))
}

/// An error of a listener's option.
fn listener_fault(index: usize, written: &file::Listener, option: &str, text: &str) -> ConfigError {
    let text = format!("listener {}: {option} {text}", written.address);
    of_one(format!("listener.{index}.{option}"), text)
}

/// Rejects options for client certificates that have no effect: an operator who sets one of them
/// relies on clients being verified.
fn check_client_options(
    index: usize,
    written: &file::Listener,
    has_tls: bool,
) -> Result<(), ConfigError> {
    let fault = |option, text| Err(listener_fault(index, written, option, text));
    if has_tls && written.tls_redirect_port != 0 {
        let text = "would redirect clients that speak TLS already: use a listener without tls";
        return fault("tls_redirect_port", text);
    }
    let verifies = written.tls_client_certificates != ClientCertificates::Off;
    if verifies && !has_tls {
        return fault("tls_client_certificates", "has no effect without TLS: set tls = true");
    }
    if !verifies && !written.tls_client_ca.is_empty() {
        let text = "has no effect: set tls_client_certificates = \"request\" or \"require\"";
        return fault("tls_client_ca", text);
    }
    Ok(())
}

/// Reads the authorities of clients' certificates.
///
/// # Errors
/// Text to follow the name of the option.
fn verifier(
    wanted: ClientCertificates,
    path: &str,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let authorities = match (wanted, path) {
        (ClientCertificates::Off, _) => Vec::new(),
        (_, "") => return Err("is missing: name the file of the authorities".to_owned()),
        (_, path) => secret_files::public_bytes(path)?,
    };
    settings::client_verifier(wanted, &authorities).map_err(|text| format!("{path} {text}"))
}

/// Rejects options of the admin address that have no effect.
fn check_admin_options(written: &file::Admin) -> Result<(), ConfigError> {
    if written.tls && written.listen.starts_with("unix:") {
        let text = "= true needs a TCP address: a Unix socket is for one user of this host alone";
        return Err(at("admin.tls", text));
    }
    if !written.tls && !written.tls_client_ca.is_empty() {
        let text = "has no effect without TLS: set admin.tls = true";
        return Err(at("admin.tls_client_ca", text));
    }
    Ok(())
}

/// What the admin address offers its callers.
fn offered_to_operators(
    written: &file::Admin,
    certificates: &Arc<CertificateSet>,
    is_ordered: bool,
) -> Result<Arc<ServerConfig>, ConfigError> {
    if certificates.certificates().is_empty() && !is_ordered {
        let text = "= true needs a [[certificate]] or [acme]: add one, or use --dev-tls for \
                    development";
        return Err(at("admin.tls", text));
    }
    let wanted = match written.tls_client_ca.as_str() {
        "" => ClientCertificates::Off,
        _ => ClientCertificates::Require,
    };
    let verifier = verifier(wanted, &written.tls_client_ca);
    let verifier = verifier.map_err(|text| at("admin.tls_client_ca", text))?;
    settings::operators_tls(certificates, verifier)
        .map_err(|error| at("admin.tls", format!("cannot be set up: {error}")))
}

/// What a listener offers its clients.
fn offered(
    index: usize,
    written: &file::Listener,
    (certificates, keys): (&Arc<CertificateSet>, &[[u8; tickets::TICKET_KEY_BYTES]]),
    is_ordered: bool,
) -> Result<crate::tls::ListenerTls, ConfigError> {
    let fault = |option: &str, text: &str| listener_fault(index, written, option, text);
    if certificates.certificates().is_empty() && !is_ordered {
        let text = "= true needs a [[certificate]] or [acme]: add one, or use --dev-tls for \
                    development";
        return Err(fault("tls", text));
    }
    let wanted = written.tls_client_certificates;
    let verifier = verifier(wanted, &written.tls_client_ca);
    let verifier = verifier.map_err(|text| fault("tls_client_ca", &text))?;
    let rustls =
        |error: &dyn std::fmt::Display| fault("tls", &format!("cannot be set up: {error}"));
    let tickets = match (&verifier, keys) {
        // A resumed session is not verified again: with other authorities, no ticket is good.
        (Some(_), _) => tickets::random_tickets().map_err(|error| rustls(&error))?,
        (None, []) => process_tickets().map_err(|error| rustls(&error))?,
        (None, keys) => tickets::shared_tickets(keys),
    };
    let challenges = is_ordered.then(|| Challenges::of_process().clone());
    let settings = Settings { certificates: certificates.clone(), challenges, tickets, verifier };
    settings::listener_tls(&settings).map_err(|error| rustls(&error))
}

/// The keys of this process, the same after a reload.
fn process_tickets() -> Result<TicketMaker, String> {
    static TICKETS: OnceLock<Result<TicketMaker, String>> = OnceLock::new();
    let made = TICKETS.get_or_init(|| tickets::random_tickets().map_err(|error| error.to_string()));
    made.clone()
}
