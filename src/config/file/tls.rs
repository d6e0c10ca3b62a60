//! TLS: certificates, and what is the same for all listeners that speak it.

use super::secret::Secrets;
use super::table::{Kind, OptionType, section};
use crate::tls::settings::ClientCertificates;

section! {
    /// A certificate for listeners with `tls = true`, as many times as wanted. A client gets the
    /// one for the name that it asks for: the exact name first, then a wildcard, then the first
    /// certificate. Of several for the same name, one with an ECDSA key is preferred where the
    /// client supports it. Files are read again by a reload.
    CertificateFiles "certificate" repeated true absent true;

    /// File with the server's certificate, then those that have signed it, as PEM.
    chain: String = String::new(),
    "As the authority provides it, often named `fullchain.pem`.";

    /// File with its private key, as PEM, not readable by everyone.
    key: String = String::new(),
    "ECDSA P-256 makes a full handshake four times cheaper than RSA-2048.";

    /// Names for which it is used, as `app.example` or `*.app.example`; empty = all that it names.
    names: Vec<String> = Vec::new(),
    "Set where several certificates name the same host.";

    /// File with an OCSP response to staple, in DER; empty = none.
    ocsp: String = String::new(),
    "Where clients require one; a job on the host keeps it fresh, and a reload reads it.";
}

section! {
    /// TLS on all listeners that speak it.
    Tls "tls" repeated false;

    /// Every listener speaks TLS, with a certificate made at the start where there is no
    /// `[[certificate]]`. The admin address stays plain.
    dev: bool = false,
    "For development only: no client trusts that certificate by itself.";

    /// Keys that seal session tickets, 32 bytes each, as base64 or hexadecimal: the first seals,
    /// all open. Empty = keys of this process, changed every six hours.
    ticket_keys: Secrets = Secrets::default(),
    "Use the same on all nodes behind one address, so that a client resumes with any of them. To \
     replace a key, add the new one second, then move it first, then remove the old one.";

    /// File with such keys, one per line, not readable by everyone.
    ticket_keys_file: String = String::new(),
    "For secrets that are mounted as files.";
}

impl OptionType for ClientCertificates {
    const KIND: Kind = Kind::Choice(&["off", "request", "require"]);
}
