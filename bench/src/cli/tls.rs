//! Arguments of runs over `wss://`.

use std::path::PathBuf;

use clap::Args;

use crate::target::Url;
use crate::tls::{TlsClient, Trust};

/// Whom to trust, and how to resume.
#[derive(Debug, Default, Args)]
pub struct TlsArgs {
    /// PEM file of the authorities that sign the server's certificate
    /// (/etc/ssl/certs/ca-certificates.crt: the host's)
    #[arg(long, help_heading = "TLS", value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, help_heading = "TLS")]
    pub insecure: bool,
    /// Resume sessions by tickets of earlier connections
    #[arg(long, help_heading = "TLS")]
    pub tls_resume: bool,
}

impl TlsArgs {
    /// Prepares TLS to a server; `None` for `ws://`.
    ///
    /// # Errors
    /// When nothing says whom to trust, or the file cannot be used.
    pub fn client(&self, url: &Url) -> Result<Option<TlsClient>, String> {
        if !url.is_tls {
            return Ok(None);
        }
        let trust = match &self.ca {
            Some(path) => Trust::Authorities(path.clone()),
            None if self.insecure => Trust::Any,
            None => {
                let text = "wss:// needs --ca FILE with the authorities to trust, or --insecure";
                return Err(text.to_owned());
            }
        };
        TlsClient::new(&url.authority, &trust, self.tls_resume).map(Some)
    }
}
