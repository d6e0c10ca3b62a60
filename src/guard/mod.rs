//! Restricts the process once it serves: its user, its files, its system calls.
//!
//! An attacker who breaks into the server then has only the access that serving needs. The order of
//! the steps is forced:
//!
//! 1. After the listeners are bound and before another thread starts: no new privileges through
//!    executed programs, and [Landlock](files), which applies to the calling thread and those that
//!    it starts.
//! 2. After all rings are made and before a client is served: another [user](identity), and the
//!    [filter of system calls](calls), each on all threads at once (glibc changes the user of every
//!    thread; the kernel installs the filter on every thread). Rings are made before, because
//!    root's do not count as locked memory, and because afterwards no ring can be made.
//!
//! Token keys are fetched after both. A filter does not see a ring's operations; Landlock restricts
//! their files and connections all the same.

mod calls;
mod files;
mod identity;

use crate::config::file::File;
use crate::config::{Config, ConfigError, Process};
use identity::ProcessUser;

/// The planned restrictions, and a report of those in force.
pub(crate) struct Guard {
    identity: Option<ProcessUser>,
    reach: Option<files::Reach>,
    lines: Vec<(&'static str, String)>,
}

impl Guard {
    /// Plans the restrictions of a configuration. `path` is the file it was read from.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(crate) fn plan(config: &Config, file: &File, path: Option<&str>) -> Result<Self, String> {
        let identity = ProcessUser::find(&config.process)?;
        let reach = config.process.sandbox.then(|| files::Reach::plan(config, file, path));
        Ok(Self { identity, reach, lines: Vec::new() })
    }

    /// User and group for files made before the user changes, such as Unix sockets; `None` where
    /// the user stays.
    pub(crate) fn owner(&self) -> Option<(u32, u32)> {
        self.identity.as_ref().map(ProcessUser::ids)
    }

    /// Step 1. Only threads that need no restrictions may run.
    ///
    /// # Errors
    /// With the kernel's reason.
    pub(crate) fn enclose(&mut self) -> Result<(), String> {
        nix::sys::prctl::set_no_new_privs()
            .map_err(|error| format!("cannot set no_new_privs: {error}"))?;
        if let Some(reach) = &self.reach {
            match files::enclose(reach)? {
                Some(abi) => self.lines.push(("sandbox", format!("files by Landlock (ABI {abi})"))),
                None => self.warn(
                    "the kernel has no Landlock; files are unrestricted (CONFIG_SECURITY_LANDLOCK, \
                     and `landlock` in the boot parameter lsm=)",
                ),
            }
        }
        Ok(())
    }

    /// Step 2, after all privileged work. `calls` are those of the engine and the control thread
    /// beyond the calls of every thread.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(crate) fn restrict(&mut self, calls: &[i64]) -> Result<(), String> {
        if let Some(identity) = &self.identity {
            identity.change_user()?;
        }
        self.lines.push(("user", identity::describe_current()));
        if identity::is_root() {
            self.warn(
                "the server runs as root; set \
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

    /// Lines for the banner: name and text.
    pub(crate) fn lines(&self) -> &[(&'static str, String)] {
        &self.lines
    }
}

/// Checks that the configured user and group exist on this host; returns the errors.
pub(crate) fn check_identity(process: &Process) -> Vec<ConfigError> {
    identity::check_names(process)
}

/// The Landlock ABI of this kernel; `None` without Landlock.
pub(crate) fn probe_landlock() -> Option<i32> {
    // Restrict a short-lived thread as the server would be.
    let tried = std::thread::spawn(|| files::enclose(&files::Reach::default()));
    tried.join().ok()?.ok()?
}

/// Whether this kernel can filter system calls.
pub(crate) fn can_filter_calls() -> bool {
    std::thread::spawn(|| calls::filter_this_thread(&[], false).is_ok()).join().unwrap_or(false)
}
