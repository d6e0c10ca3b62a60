//! Rows about what the process may do on its host.

use super::table::section;

section! {
    /// As whom the server runs, and what it may still reach of its host.
    Process "process" repeated false;

    /// Name or number of the user to become when all is bound and opened, before the first client
    /// is served; empty = stay. Only root can become another. A reload reads files as this user.
    user: String = String::new(),
    "Set wherever the server is started as root, as for ports below 1024.";

    /// Name or number of the only group to be in then; empty = the user's own.
    group: String = String::new(),
    "Where others share Unix sockets or files of keys with the server.";

    /// Reaches only the files that the configuration names, opens no port any more, and makes only
    /// the system calls that serving takes. Fixed at the start: a reload cannot name files in
    /// other folders, or a first `auth.jwks_url`.
    sandbox: bool = false,
    "Set in production, after a trial with the same configuration; `seawall doctor` says what this \
     kernel has for it.";

    /// Folder for what outlives a restart: the key that seals tickets, created on the first start
    /// with mode 0600 where `resume.keys` is empty; empty = none.
    state_dir: String = String::new(),
    "Set where clients are to resume after a restart, as in /var/lib/seawall; several nodes behind \
     one address share `resume.keys` instead.";
}
