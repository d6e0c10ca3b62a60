//! The folder of an ACME account: the account's key, and the certificate with its key.
//!
//! A file is written beside its place and renamed, so that a reader sees the old one or the new
//! one, and never a chain with another's key.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use crate::tls::certificates::{Certificate, CertificateParts};

/// The key and the chain, as PEM.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
const ACCOUNT_FILE: &str = "account.json";
const LOCK_FILE: &str = "lock";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The folder, whose lock is held.
pub(super) struct Store {
    folder: PathBuf,
    /// Held until it is dropped.
    _lock: File,
}

#[derive(Deserialize, Serialize)]
struct KeptAccount {
    directory: String,
    credentials: AccountCredentials,
}

impl Store {
    /// Opens the folder. `None`: another process holds it.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub(super) fn open(folder: &Path) -> Result<Option<Self>, String> {
        let path = folder.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let lock = options.open(&path).map_err(|error| fault("create", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { folder: folder.to_owned(), _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fault("lock", &path, &error)),
        }
    }

    /// Whether a certificate has to be ordered: there is none for these names, or it expires soon.
    pub(super) fn is_due(&self, names: &[String], renew_before: Duration) -> bool {
        let now_s = unix_s();
        let Some(certificate) = read_certificate(&self.folder, names, now_s) else { return true };
        let left_s = certificate.expires_s() - now_s;
        is_renewal_due(left_s, certificate.lifetime_s(), renew_before)
    }

    /// Replaces the certificate; `pem` holds its key and its chain.
    ///
    /// # Errors
    /// What is wrong with the folder, or with what the authority has issued.
    pub(super) fn write_certificate(&self, pem: &str) -> Result<(), String> {
        let bytes = pem.as_bytes();
        let parts =
            CertificateParts { chain: bytes, key: bytes, ocsp: &[], names: &[], now_s: unix_s() };
        if let Err(error) = Certificate::read(&parts) {
            return Err(format!("the authority issued what cannot be used: {error:?}"));
        }
        self.write(CERTIFICATE_FILE, bytes)
    }

    /// The account at an authority; `None`: there is none yet.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub(super) fn read_account(
        &self,
        directory: &str,
    ) -> Result<Option<AccountCredentials>, String> {
        let path = self.folder.join(ACCOUNT_FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| fault("read", &path, &error))?,
        };
        let kept: KeptAccount = serde_json::from_slice(&bytes).map_err(|error| {
            let path = path.display();
            format!("{path} is damaged: {error}; remove it, and another account is created")
        })?;
        Ok((kept.directory == directory).then_some(kept.credentials))
    }

    /// # Errors
    /// What is wrong with the folder.
    pub(super) fn write_account(
        &self,
        directory: &str,
        credentials: &AccountCredentials,
    ) -> Result<(), String> {
        let text = serde_json::json!({"directory": directory, "credentials": credentials});
        self.write(ACCOUNT_FILE, text.to_string().as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.folder.join(name);
        let draft = self.folder.join(format!(".{name}"));
        let written = (|| {
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        written.map_err(|error| fault("write", &path, &error))
    }
}

/// Creates the folder if there is none and its parent exists. Must be called at the start: later,
/// the process may lack the right.
///
/// # Errors
/// What is wrong with the folder.
pub fn create_folder(folder: &Path, owner: Option<(u32, u32)>) -> Result<(), String> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => {
            let Some((user, group)) = owner else { return Ok(()) };
            chown(folder, Some(user), Some(group))
                .map_err(|error| fault("change the owner of", folder, &error))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fault("create", folder, &error)),
    }
}

/// The certificate of a folder, if there is one that covers these names and has not expired.
pub fn read_certificate(folder: &Path, names: &[String], now_s: i64) -> Option<Certificate> {
    let pem = fs::read(folder.join(CERTIFICATE_FILE)).ok()?;
    let parts = CertificateParts { chain: &pem, key: &pem, ocsp: &[], names, now_s };
    Certificate::read(&parts).ok()
}

/// Whether a certificate with so much of its lifetime left is to be renewed. One that is valid for
/// a short time only is renewed in the second half of it: otherwise its successor would be due at
/// once, and certificates would be ordered without end.
fn is_renewal_due(left_s: i64, lifetime_s: i64, renew_before: Duration) -> bool {
    let renew_s = i64::try_from(renew_before.as_secs()).unwrap_or(i64::MAX);
    left_s < renew_s.min(lifetime_s / 2)
}

fn unix_s() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}

fn fault(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot {what} {}: {error}; acme.dir must be a folder that the server's user can write",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::development::DevelopmentCertificate;

    #[test]
    fn a_new_certificate_is_never_due() {
        const DAY_S: i64 = 24 * 60 * 60;
        let month = Duration::from_hours(24 * 30);
        // Of 90 days, of 6, and with more days before the end than there are.
        for (lifetime, renew_before, due_at) in
            [(90, month, 30), (6, month, 3), (90, Duration::MAX, 45), (90, Duration::ZERO, 0)]
        {
            let is_due = |left_s| is_renewal_due(left_s, lifetime * DAY_S, renew_before);
            assert!(!is_due(lifetime * DAY_S), "{lifetime}");
            assert!(!is_due(due_at * DAY_S), "{lifetime}");
            assert!(is_due(due_at * DAY_S - 1), "{lifetime}");
        }
    }

    #[test]
    fn one_process_holds_a_folder_and_a_certificate_is_due_when_it_does_not_fit() {
        let folder = std::env::temp_dir().join(format!("seawall-acme-{}", std::process::id()));
        create_folder(&folder, None).unwrap();
        let store = Store::open(&folder).unwrap().expect("it is free");
        assert!(Store::open(&folder).unwrap().is_none(), "it is held");
        let names = ["localhost".to_owned()];
        assert!(store.is_due(&names, Duration::ZERO));
        assert!(store.write_certificate("nothing").is_err());
        let made = DevelopmentCertificate::make(&[]).unwrap();
        store.write_certificate(&format!("{}{}", made.key, made.chain)).unwrap();
        assert!(!store.is_due(&names, Duration::ZERO));
        assert!(store.is_due(&["app.test".to_owned()], Duration::ZERO), "it has other names");
        assert!(store.read_account("https://a.test/").unwrap().is_none());
        fs::write(folder.join(ACCOUNT_FILE), "{").unwrap();
        assert!(store.read_account("https://a.test/").err().unwrap().contains("remove it"));
        drop(store);
        assert!(Store::open(&folder).unwrap().is_some(), "its lock ended with it");
        fs::remove_dir_all(&folder).unwrap();
    }
}
