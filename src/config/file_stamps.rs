//! Stamps of files: by which a change of one is noticed without reading it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::file::File;
use crate::acme;

/// What changes when a file is written or replaced; `None`: it cannot be read.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Files of certificates, keys and authorities, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStamps(Vec<(PathBuf, Stamp)>);

impl FileStamps {
    /// Takes those of all files that the TLS options name. Must be called before they are read: a
    /// change during the reading is then noticed.
    pub(super) fn of_tls(file: &File) -> Self {
        let certificates = file.certificates.iter().flat_map(|c| [&c.chain, &c.key, &c.ocsp]);
        let authorities = file.listeners.iter().map(|listener| &listener.tls_client_ca);
        let single = [&file.tls.ticket_keys_file, &file.admin.tls_client_ca];
        let paths = certificates.chain(authorities).chain(single);
        let paths = paths.filter(|path| !path.is_empty()).map(PathBuf::from);
        let ordered = (!file.acme.names.is_empty())
            .then(|| PathBuf::from(&file.acme.dir).join(acme::CERTIFICATE_FILE));
        Self(paths.chain(ordered).map(|path| (path, None)).collect()).again()
    }

    /// The same files as they are now.
    #[must_use]
    pub fn again(&self) -> Self {
        let stamp = |path: &PathBuf| {
            // Follows links: tools that renew certificates swap a link.
            let found = fs::metadata(path).ok()?;
            let (device, inode, size) = (found.dev(), found.ino(), found.size());
            Some((device, inode, size, found.mtime(), found.mtime_nsec()))
        };
        Self(self.0.iter().map(|(path, _)| (path.clone(), stamp(path))).collect())
    }

    /// Those of files of these names that cannot be read.
    #[cfg(test)]
    pub(crate) fn unreadable(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (PathBuf::from(name), None)).collect())
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
