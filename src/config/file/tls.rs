//! TLS: certificates, and options for all TLS listeners.

use super::secret::Secrets;
use super::table::{Kind, OptionType, section};
use crate::acme::Challenge;
use crate::tls::settings::ClientCertificates;

section! {
    /// A certificate for listeners with `tls = true`; may be repeated. The server chooses by the
    /// host name that the client requests: an exact match first, then a wildcard, then the first
    /// certificate. Of several for the same name, one with an ECDSA key is preferred if the client
    /// supports it. Changed files are read again.
    CertificateFiles "certificate" repeated true absent true;

    /// File with the server's certificate, followed by its intermediate certificates, as PEM.
    chain: String = String::new(),
    "As the authority provides it, often named `fullchain.pem`.";

    /// File with its private key, as PEM; other users must not have access.
    key: String = String::new(),
    "ECDSA P-256 makes a full handshake four times cheaper than RSA-2048.";

    /// Host names to use it for, as `app.example` or `*.app.example`; empty = all names in it.
    names: Vec<String> = Vec::new(),
    "Set where several certificates contain the same name.";

    /// File with an OCSP response to staple, in DER; empty = none.
    ocsp: String = String::new(),
    "Where clients require one; a job on the host keeps it fresh.";
}

section! {
    /// Options for all TLS listeners.
    Tls "tls" repeated false;

    /// Enables TLS on every listener, with a certificate made at the start if there is no
    /// `[[certificate]]`. The admin address has TLS only with `admin.tls`.
    dev: bool = false,
    "For development only: clients do not trust that certificate by default.";

    /// How often the files of certificates, keys and authorities are checked for changes, after
    /// which the configuration is reloaded; 0 = only by a reload.
    watch_interval_s: u32 = 10 => "seconds" in 0..=86_400,
    "0 where files are replaced in several steps, and a reload follows them.";

    /// Keys that seal session tickets, 32 bytes each, as base64 or hexadecimal: the first seals,
    /// all open. Empty = keys of this process, changed every six hours.
    ticket_keys: Secrets = Secrets::default(),
    "Use the same on all nodes behind one address, so that a client resumes with any of them. To \
     replace a key, add the new one second, then move it first, then remove the old one.";

    /// File with such keys, one per line; other users must not have access.
    ticket_keys_file: String = String::new(),
    "For secrets that are mounted as files.";
}

section! {
    /// A certificate that the server orders from an authority by ACME, and renews. It is used
    /// beside those of `[[certificate]]`.
    Acme "acme" repeated false;

    /// Names of the certificate; the first is the one for clients that name none. Empty = none is
    /// ordered. Wildcards cannot be ordered.
    names: Vec<String> = Vec::new(),
    "Set where the server is reached from the internet under these names.";

    /// URL of the authority's directory.
    directory: String = "https://acme-v02.api.letsencrypt.org/directory".into(),
    "Another authority, or `https://acme-staging-v02.api.letsencrypt.org/directory` for trials.";

    /// The authority's terms of service are accepted.
    accept_terms: bool = false,
    "Required: read the terms that the directory links to.";

    /// Address for mails of the authority; empty = none.
    contact: String = String::new(),
    "Some authorities require one.";

    /// Folder of the account and the certificate, writable by the server's user. Of several
    /// processes that share it, one orders.
    dir: String = String::new(),
    "Required. Keep it over restarts: authorities limit how many certificates are ordered.";

    /// How the authority verifies the names: `tls-alpn-01`, by a listener with TLS that it reaches
    /// at port 443, or `http-01`, by a listener without TLS that it reaches at port 80.
    challenge: Challenge = Challenge::TlsAlpn01,
    "`http-01` where something in front ends TLS or passes port 80 only.";

    /// File with the authorities that sign the directory's own certificate, as PEM; empty = the
    /// host's.
    ca_file: String = String::new(),
    "For a private authority.";

    /// Days before the certificate expires at which it is renewed; at most half of its lifetime.
    renew_days: u32 = 30 => "days" in 1..=365,
    "A third of the certificate's lifetime.";
}

impl OptionType for Challenge {
    const KIND: Kind = Kind::Choice(&["tls-alpn-01", "http-01"]);
}

impl OptionType for ClientCertificates {
    const KIND: Kind = Kind::Choice(&["off", "request", "require"]);
}
