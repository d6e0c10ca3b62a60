//! ACME: what is ordered, and the certificate that an earlier order has brought.

use std::path::Path;
use std::time::Duration;

use super::file::{self, File};
use super::{ConfigError, Faults, at};
use crate::acme::{AcmeSettings, read_certificate};
use crate::tls::certificates::Certificate;

const DAY: Duration = Duration::from_hours(24);

/// Checks what is to be ordered; `None`: nothing is, or something is wrong.
pub(super) fn settings(file: &File, faults: &mut Faults) -> Option<AcmeSettings> {
    let written = &file.acme;
    if written.names.is_empty() {
        return None;
    }
    let before = faults.0.len();
    for name in &written.names {
        faults.check(check_name(name));
    }
    faults.check(check(written, file));
    (faults.0.len() == before).then(|| AcmeSettings {
        names: names(written),
        directory: written.directory.clone(),
        contact: written.contact.clone(),
        folder: written.dir.clone().into(),
        challenge: written.challenge,
        ca: written.ca_file.clone(),
        renew_before: DAY * written.renew_days,
    })
}

/// The certificate of an earlier order, if it is still good for the names.
pub(super) fn certificate(written: &file::Acme, now_s: i64) -> Option<Certificate> {
    if written.names.is_empty() {
        return None;
    }
    read_certificate(Path::new(&written.dir), &names(written), now_s)
}

fn names(written: &file::Acme) -> Vec<String> {
    written.names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let is_label = |label: &str| {
        let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        label.len() <= 63
            && is_edge(label.chars().next())
            && is_edge(label.chars().last())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.starts_with("*.") {
        let text = format!("= \"{name}\": wildcards are verified by DNS only; name the hosts");
        return Err(at("acme.names", text));
    }
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    if name.len() > 253 || is_address || !name.split('.').all(is_label) {
        let text = format!("= \"{name}\": not a host name; write it as \"app.example\"");
        return Err(at("acme.names", text));
    }
    Ok(())
}

fn check(written: &file::Acme, file: &File) -> Result<(), ConfigError> {
    if !written.accept_terms {
        let text = "must be true to order a certificate: read the terms of service that the \
                    authority's directory links to";
        return Err(at("acme.accept_terms", text));
    }
    if written.dir.is_empty() {
        let text = "is missing: name a folder that the server's user can write";
        return Err(at("acme.dir", text));
    }
    if !written.directory.starts_with("https://") {
        let text = format!("= \"{}\": must begin with https://", written.directory);
        return Err(at("acme.directory", text));
    }
    let has_tls = file.tls.dev || file.listeners.iter().any(|listener| listener.tls);
    if !has_tls {
        let text = "has no effect without a listener that has tls = true";
        return Err(at("acme.names", text));
    }
    Ok(())
}
