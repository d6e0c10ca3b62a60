//! Examines certificates: their remaining validity, and the CPU cost of their handshakes.

use super::finding::{Finding, State};
use crate::config::{Config, EXPIRY_WARNING_DAYS, days_left};
use crate::tls::certificates::Certificate;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    config.certificates.certificates().iter().map(examine_certificate).collect()
}

fn examine_certificate(certificate: &Certificate) -> Finding {
    let days = days_left(certificate);
    let kind = if certificate.is_elliptic() { "elliptic curve" } else { "RSA" };
    let found = format!("{}: {days} days left, {kind}", certificate.names().join(" "));
    let why =
        "Clients reject an expired certificate; a handshake with RSA takes four times the CPU";
    let finding = Finding::new("certificate", why, found);
    if days < EXPIRY_WARNING_DAYS {
        return finding.unless(false, State::Warning, "renew it, then `seawall reload`");
    }
    let remedy = "also configure a certificate with an ECDSA P-256 key for the same names";
    finding.unless(certificate.is_elliptic(), State::Note, remedy)
}
