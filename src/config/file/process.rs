//! Rows about what the process may do on its host.

use super::table::section;

section! {
    /// The user that the server runs as, and what it may reach on its host.
    Process "process" repeated false;

    /// Name or number of the user to switch to once everything is bound and opened, before the
    /// first client is served; empty = none. Only root can switch. A reload reads files as this
    /// user.
    user: String = String::new(),
    "Set wherever the server is started as root, as for ports below 1024.";

    /// Name or number of the only group of that user; empty = the user's own. Requires `user`.
    group: String = String::new(),
    "Set where Unix sockets or files of keys are shared through a group.";

    /// Restricts the process to the files that the configuration names and to the system calls that
    /// serving needs, and prevents it from opening further ports. Fixed at the start: a reload
    /// cannot name files in other folders, or a first `auth.jwks_url`.
    sandbox: bool = false,
    "Set in production, after a trial with the same configuration; `seawall doctor` reports what \
     this kernel supports.";

    /// Folder for state that is kept across restarts: the key that seals tickets, created at the
    /// first start with mode 0600 if `resume.keys` is empty; empty = none.
    state_dir: String = String::new(),
    "Set where clients are to resume after a restart, as in /var/lib/seawall; several nodes \
     behind one address share `resume.keys` instead.";
}
