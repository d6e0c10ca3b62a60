//! Reads secrets and certificates: a secret comes from an option, or from a file that other users
//! cannot access.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::file::{File as Written, Secret};

/// The maximum size of a key or certificate file (bytes).
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Permission of all other users to read or write. The group may have it: with `fsGroup`,
/// Kubernetes makes files readable for the group, whatever the volume's mode.
const ACCESS_BY_OTHERS: u32 = 0o006;
/// Permission of the file's group to read or write, which causes a warning.
const ACCESS_BY_GROUP: u32 = 0o060;

/// Returns a secret from the option itself, or from the file that another option names; empty if
/// neither is set.
///
/// # Errors
/// With the reason and the remedy, without the secret.
pub(super) fn one(secret: &Secret, file: &str) -> Result<String, String> {
    match (secret.is_empty(), file.is_empty()) {
        (_, true) => Ok(secret.reveal().to_owned()),
        (true, false) => secret_file(file),
        (false, false) => Err("is set both as a value and as a file; remove one".to_owned()),
    }
}

/// Reads a file that other users cannot access, without the final line end.
///
/// # Errors
/// With the reason and the remedy.
pub(super) fn secret_file(path: &str) -> Result<String, String> {
    let (text, mode) = open(path)?;
    if mode & ACCESS_BY_OTHERS != 0 {
        return Err(format!(
            "{path} is accessible to every user of the host (mode {:04o}): run `chmod o= {path}`, \
             or mount it with `defaultMode: 0440` in Kubernetes",
            mode & 0o7777
        ));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{path} is empty: it must hold the secret"));
    }
    Ok(text.to_owned())
}

/// Returns the configured secret files that their group can read or write.
pub(super) fn of_group(file: &Written) -> Vec<String> {
    let keys = file.keys.iter().map(|key| &key.secret_file);
    let api_keys = file.api_keys.iter().map(|key| &key.secret_file);
    let certificates = file.certificates.iter().map(|certificate| &certificate.key);
    let lists = [&file.resume.keys_file, &file.tls.ticket_keys_file, &file.cluster.password_file];
    let backends = file.backends.iter().flat_map(|backend| &backend.secret_files);
    let tokens = file.backends.iter().map(|backend| &backend.link_token_file);
    let apps = file.apps.iter().map(|app| &app.secret_file);
    let all = keys.chain(api_keys).chain(certificates).chain(lists).chain(backends).chain(tokens);
    let all = all.chain(apps);
    let is_open = |path: &str| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.permissions().mode() & ACCESS_BY_GROUP != 0)
    };
    let open: std::collections::BTreeSet<_> =
        all.filter(|path| !path.is_empty() && is_open(path)).cloned().collect();
    open.into_iter().collect()
}

/// Returns whether the current user may create files in this folder, according to its mode.
pub(super) fn may_write(folder: &Metadata) -> bool {
    let mode = folder.permissions().mode();
    let own = nix::unistd::geteuid();
    own.is_root()
        || mode & 0o002 != 0
        || folder.uid() == own.as_raw() && mode & 0o200 != 0
        || folder.gid() == nix::unistd::getegid().as_raw() && mode & 0o020 != 0
}

/// Reads the text of a file that holds no secret.
///
/// # Errors
/// With the reason and the remedy.
pub(super) fn public_file(path: &str) -> Result<String, String> {
    open(path).map(|(text, _)| text)
}

/// Reads a file that holds no secret.
///
/// # Errors
/// With the reason and the remedy.
pub(super) fn public_bytes(path: &str) -> Result<Vec<u8>, String> {
    open_bytes(path).map(|(bytes, _)| bytes)
}

/// Reads text and mode through one descriptor, so that both belong to the same file.
fn open(path: &str) -> Result<(String, u32), String> {
    let (bytes, mode) = open_bytes(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("cannot read {path}: stream did not contain valid UTF-8"))?;
    Ok((text, mode))
}

fn open_bytes(path: &str) -> Result<(Vec<u8>, u32), String> {
    let cannot = |error: std::io::Error| format!("cannot read {path}: {error}");
    let file = File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{path} is longer than {FILE_BYTES_MAX} bytes: it is no file of keys"));
    }
    Ok((bytes, mode))
}
