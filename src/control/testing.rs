//! Runs the control thread's runtime in tests with rings, and without: in a thread with a real
//! seccomp filter that denies them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::runtime::{FileIo, Runtime};

/// Whether a test's thread may make rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingAccess {
    Allowed,
    Denied,
}

impl RingAccess {
    pub(super) const ALL: [Self; 2] = [Self::Allowed, Self::Denied];

    /// Makes the runtime in a thread with this access, and runs `body` there.
    pub(super) fn run<T: Send + 'static>(
        self,
        body: impl FnOnce(&Runtime) -> T + Send + 'static,
    ) -> T {
        let thread = std::thread::spawn(move || {
            if self == Self::Denied {
                deny_rings();
            }
            let runtime = Runtime::new(true).expect("a runtime is made either way");
            let expected = match self {
                Self::Allowed => FileIo::Ring,
                Self::Denied => FileIo::Threads,
            };
            assert_eq!(runtime.file_io(), expected, "the chosen way to write files");
            body(&runtime)
        });
        thread.join().expect("the thread does not panic")
    }
}

/// Denies rings to the calling thread and those it starts, as container runtimes do by default:
/// their system calls fail with EPERM.
fn deny_rings() {
    deny_rings_with(libc::EPERM);
}

/// The same with another error: old profiles, which do not know the calls, fail with ENOSYS.
pub(super) fn deny_rings_with(errno: i32) {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let rules = BTreeMap::from(calls.map(|call| (call, Vec::new())));
    let denied = SeccompAction::Errno(errno as u32);
    let architecture = std::env::consts::ARCH.try_into().expect("seccomp supports it");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("the filter is valid");
    apply_filter(&program).expect("the kernel filters system calls");
}

/// Makes an empty folder; the test removes it.
pub(super) fn make_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path =
        std::env::temp_dir().join(format!("seawall-control-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).expect("the name is unused");
    path
}
