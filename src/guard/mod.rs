//! What the process may do once it serves: as which user, on which files, by which system calls.
//!
//! Whoever finds a hole in the server is then left with what serving takes. The steps come in the
//! order in which they can:
//!
//! 1. When the listeners are bound and before another thread is started: no new privileges by
//!    programs that are run, and [Landlock](files), which holds for the calling thread and those it
//!    starts.
//! 2. When every ring is made and before a client is served: another [user](identity), and the
//!    [filter of system calls](calls), each on all threads at once (glibc has every thread change
//!    its user; the kernel gives every thread the filter). Rings are made before, for as root they
//!    do not count as locked memory, and so that no further ring can be made after.
//!
//! Keys of tokens are fetched after both. A filter sees no operation of a ring; files and
//! connections are refused there by Landlock all the same.

mod calls;
mod files;
mod identity;

use crate::config::file::File;
use crate::config::{Config, ConfigError, Process};
use identity::ProcessUser;

/// What is to be done, and what has been.
pub(crate) struct Guard {
    identity: Option<ProcessUser>,
    reach: Option<files::Reach>,
    lines: Vec<(&'static str, String)>,
}

impl Guard {
    /// Finds out what a configuration asks for. `path` is the file it was read from.
    ///
    /// # Errors
    /// With cause and cure.
    pub(crate) fn plan(config: &Config, file: &File, path: Option<&str>) -> Result<Self, String> {
        let identity = ProcessUser::find(&config.process)?;
        let reach = config.process.sandbox.then(|| files::Reach::of(config, file, path));
        Ok(Self { identity, reach, lines: Vec::new() })
    }

    /// User and group of the files that are made for the user to come, such as Unix sockets; `None`
    /// where the user does not change.
    pub(crate) fn owner(&self) -> Option<(u32, u32)> {
        self.identity.as_ref().map(ProcessUser::ids)
    }

    /// The first step: no other thread may run yet, but those that need no guard.
    ///
    /// # Errors
    /// With the kernel's reason.
    pub(crate) fn enclose(&mut self) -> Result<(), String> {
        nix::sys::prctl::set_no_new_privs()
            .map_err(|error| format!("the kernel cannot rule out new privileges: {error}"))?;
        if let Some(reach) = &self.reach {
            match files::enclose(reach)? {
                Some(abi) => self.lines.push(("sandbox", format!("files by Landlock (ABI {abi})"))),
                None => self.warn(
                    "the kernel has no Landlock: files are not guarded (CONFIG_SECURITY_LANDLOCK, \
                     and `landlock` in the boot parameter lsm=)",
                ),
            }
        }
        Ok(())
    }

    /// The second step: all that takes privileges is done. `calls` are those that the engine and
    /// the control thread make beyond what every thread does.
    ///
    /// # Errors
    /// With cause and cure.
    pub(crate) fn settle(&mut self, calls: &[i64]) -> Result<(), String> {
        if let Some(identity) = &self.identity {
            identity.become_it()?;
        }
        self.lines.push(("user", identity::current()));
        if identity::is_root() {
            self.warn(
                "the server runs as root, which an attacker who breaks into it would be, too: set \
                 process.user (--process-user nobody)",
            );
        }
        if let Some(reach) = &self.reach {
            let count = calls::filter_all_threads(calls, reach.fetches())?;
            self.lines.push(("sandbox", format!("{count} system calls by seccomp")));
        }
        Ok(())
    }

    fn warn(&mut self, text: &str) {
        self.lines.push(("warning", text.to_owned()));
    }

    /// What there is to tell: a name and what it says, each.
    pub(crate) fn lines(&self) -> &[(&'static str, String)] {
        &self.lines
    }
}

/// Whether the configured user and group exist on this host, each with its error.
pub(crate) fn check_identity(process: &Process) -> Vec<ConfigError> {
    identity::check(process)
}

/// The Landlock that this kernel has, as its ABI; `None` without.
pub(crate) fn landlock() -> Option<i32> {
    // A thread is restricted as the server would be, and ends.
    let tried = std::thread::spawn(|| files::enclose(&files::Reach::default()));
    tried.join().ok()?.ok()?
}

/// Whether this kernel can filter system calls.
pub(crate) fn filters_calls() -> bool {
    std::thread::spawn(|| calls::filter_this_thread(&[], false).is_ok()).join().unwrap_or(false)
}
