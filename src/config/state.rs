//! State that outlives a restart: the key that seals tickets, in a file of `process.state_dir`.
//!
//! The first start creates the file, later ones read it. It is created before privileges are
//! dropped, and is owned by the user that the server switches to, with mode 0600, so that every
//! later start can read it. Creation is atomic: of two servers that start at the same time, one
//! creates the key and both use it.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::fs::{chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::credentials::seal_key;
use super::{Config, ConfigError, TicketKeys, at, secret_files};
use crate::auth::{SEAL_KEY_BYTES, Sealer, random_seal_key};

const KEY: &str = "process.state_dir";
const TICKET_KEY_FILE: &str = "ticket.key";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl Config {
    /// Seals tickets with the key in `process.state_dir`, which is created on the first start.
    /// Configured keys take precedence: with them, or without a folder, nothing changes.
    ///
    /// # Errors
    /// The folder or file that cannot be used, and why.
    pub(crate) fn keep_ticket_key(&mut self, owner: Option<(u32, u32)>) -> Result<(), ConfigError> {
        if self.process.state_dir.is_empty() || self.resume.keys != TicketKeys::Random {
            return Ok(());
        }
        let path = Path::new(&self.process.state_dir);
        let key = read_or_create(path, owner).map_err(|text| at(KEY, text))?;
        self.resume.sealer = Arc::new(Sealer::new(&[key]));
        self.resume.keys = TicketKeys::Kept;
        Ok(())
    }
}

fn read_or_create(dir: &Path, owner: Option<(u32, u32)>) -> Result<[u8; SEAL_KEY_BYTES], String> {
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Ok(()) => {
            if let Some((user, group)) = owner {
                chown(dir, Some(user), Some(group))
                    .map_err(|e| fault("change the owner of", dir, &e))?;
            }
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fault("create", dir, &error)),
    }
    let path = dir.join(TICKET_KEY_FILE);
    if !path.try_exists().map_err(|error| fault("read", &path, &error))? {
        create(dir, &path, owner)?;
    }
    let text = secret_files::secret_file(&path.to_string_lossy())
        .map_err(|text| format!("= \"{}\": {text}", dir.display()))?;
    seal_key(text.trim()).ok_or_else(|| {
        format!(
            "= \"{}\": {} does not hold a key of {SEAL_KEY_BYTES} bytes in hexadecimal; remove the \
             file, and the next start creates another one (tickets in use become invalid)",
            dir.display(),
            path.display()
        )
    })
}

/// Writes a random key to a temporary file, and links it to its name unless that exists by now.
fn create(dir: &Path, path: &Path, owner: Option<(u32, u32)>) -> Result<(), String> {
    let draft = Draft(dir.join(format!(".{TICKET_KEY_FILE}.{}", std::process::id())));
    let written = (|| {
        // A file that an earlier process with the same id left behind when it was killed.
        match fs::remove_file(&draft.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&draft.0)?;
        let mut text = String::with_capacity(2 * SEAL_KEY_BYTES + 1);
        for byte in random_seal_key() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        file.write_all(text.as_bytes())?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.sync_all()?;
        // Unlike a rename, a link fails if the name exists, so a key in use is never replaced.
        match fs::hard_link(&draft.0, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => fs::File::open(dir)?.sync_all(),
        }
    })();
    written.map_err(|error| fault("create", path, &error))
}

/// A temporary file; its drop removes it.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // It may never have been created.
        let _ = fs::remove_file(&self.0);
    }
}

fn fault(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!(
        ": cannot {what} {}: {error}; the folder must exist, or its parent, and be writable at the \
         start (systemd: StateDirectory=seawall)",
        path.display()
    )
}

/// Checks whether a start as the present user could use the folder; changes nothing.
///
/// # Errors
/// The problem of the folder.
pub(super) fn check(dir: &str) -> Result<(), ConfigError> {
    let path = Path::new(dir);
    let key_file = path.join(TICKET_KEY_FILE);
    let wrong = match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Some("is not a folder".to_owned()),
        Ok(_) if key_file.exists() => secret_files::secret_file(&key_file.to_string_lossy()).err(),
        Ok(found) => (!secret_files::may_write(&found)).then(|| "is not writable".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            match fs::metadata(parent) {
                Ok(found) if !secret_files::may_write(&found) => {
                    Some(format!("cannot be created: {} is not writable", parent.display()))
                }
                Ok(_) => None,
                Err(error) => Some(format!("cannot be created in {}: {error}", parent.display())),
            }
        }
        Err(error) => Some(format!("cannot be read: {error}")),
    };
    wrong.map_or(Ok(()), |wrong| Err(at(KEY, format!("= \"{dir}\": {wrong}"))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_first_start_creates_a_key_and_later_ones_read_it() {
        let dir = std::env::temp_dir().join(format!("seawall-state-{}", std::process::id()));
        let first = read_or_create(&dir, None).unwrap();
        assert_eq!(read_or_create(&dir, None).unwrap(), first);
        let path = dir.join(TICKET_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, FILE_MODE);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft is left");
        // A second creator uses the key of the first.
        create(&dir, &path, None).unwrap();
        assert_eq!(read_or_create(&dir, None).unwrap(), first);
        fs::write(&path, "damaged\n").unwrap();
        assert!(read_or_create(&dir, None).unwrap_err().contains("remove the file"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(read_or_create(&dir.join("below"), None).unwrap_err().contains("cannot create"));
    }
}
