//! Probes the kernel's `io_uring` features, and explains failures with reason and remedy.
//!
//! Opcodes are queried by name, ring flags by making a ring with them. The vectored send, which no
//! query reports, is tried over a socket pair. A missing feature is worked around (see
//! [`Features`]) or rejected with the remedy.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, Probe, opcode, types};

use crate::driver::EngineFeature;

/// `IORING_SEND_VECTORIZED`: SEND takes an array of buffers (6.17); io-uring has no name for it.
pub(super) const SEND_VECTORIZED: u16 = 1 << 5;

/// Features beyond the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// SEND with an array of buffers (6.17); without it: SENDMSG.
    pub send_vectorized: bool,
    /// Waiting a minimum time for a batch (6.12); without it: `min_wait_us` has no effect.
    pub min_wait: bool,
    /// Idle rings do not count as waiting for disks (6.15).
    pub no_iowait: bool,
    /// Rings without the indirection array (6.6).
    pub no_sqarray: bool,
    /// A direct descriptor can become a plain one (6.8); without it connections cannot be detached.
    pub install: bool,
}

impl Features {
    /// Lists all of them, for operators.
    pub fn list_features(self) -> Vec<EngineFeature> {
        let one = |key, title, effect, since, is_available| EngineFeature {
            key,
            title,
            effect,
            since,
            is_available,
        };
        vec![
            one(
                "send_vectorized",
                "vectored send",
                "Saves the message header of a send that has several parts",
                "6.17",
                self.send_vectorized,
            ),
            one(
                "min_wait",
                "minimum wait",
                "engine.min_wait_us has no effect without it",
                "6.12",
                self.min_wait,
            ),
            one(
                "no_iowait",
                "quiet waiting",
                "Without it an idle shard shows up as waiting for a disk (iowait)",
                "6.15",
                self.no_iowait,
            ),
            one(
                "no_sqarray",
                "no SQ array",
                "Saves one indirection per submission",
                "6.6",
                self.no_sqarray,
            ),
            one(
                "install",
                "descriptor install",
                "Lets an operator inspect the TCP state of a connection",
                "6.8",
                self.install,
            ),
        ]
    }
}

/// Why `io_uring` cannot be used here.
#[derive(Debug)]
pub struct UringError {
    what: String,
    remedy: String,
    source: Option<io::Error>,
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring: {}", self.what)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        write!(f, ". {}", self.remedy)
    }
}

impl std::error::Error for UringError {}

impl UringError {
    /// The remedy.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), source: None }
    }

    /// Explains a failed setup by its errno and by this host's settings.
    pub(crate) fn explain(what: &str, source: io::Error) -> Self {
        let remedy = remedy(source.raw_os_error(), io_uring_disabled(), seccomp_active());
        Self { what: what.to_owned(), remedy, source: Some(source) }
    }
}

fn remedy(errno: Option<i32>, disabled: Option<u32>, seccomp: bool) -> String {
    match (errno, disabled) {
        (Some(libc::EPERM), Some(2)) => "The sysctl kernel.io_uring_disabled is 2 (off for all): \
             run `sysctl -w kernel.io_uring_disabled=0`"
            .into(),
        (Some(libc::EPERM), Some(1)) => "The sysctl kernel.io_uring_disabled is 1: put the \
             service's group into kernel.io_uring_group, or run \
             `sysctl -w kernel.io_uring_disabled=0`"
            .into(),
        (Some(libc::EPERM | libc::EACCES), _) if seccomp => "A seccomp filter refuses it, as \
             the default profiles of Docker and containerd do: allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's profile \
             (Docker: `--security-opt seccomp=profile.json`)"
            .into(),
        (Some(libc::EPERM | libc::EACCES), _) => "A security module (SELinux, AppArmor) refuses \
             it: see the kernel's audit log for the rule"
            .into(),
        (Some(libc::ENOSYS), _) if seccomp => "A seccomp filter hides it, or the kernel has none: \
             allow io_uring_setup, io_uring_enter and io_uring_register in the container's profile \
             (Docker: `--security-opt seccomp=profile.json`), on Linux 6.1 or newer"
            .into(),
        (Some(libc::ENOSYS), _) => "This kernel (or sandbox, such as gVisor) has no io_uring: \
             run Linux 6.1 or newer"
            .into(),
        (Some(libc::ENOMEM), _) => "Rings count against the locked-memory limit: raise it \
             (systemd: LimitMEMLOCK=infinity, shell: `ulimit -l unlimited`), or lower \
             engine.ring_entries, engine.buffer_memory_bytes or shards"
            .into(),
        (Some(libc::EMFILE | libc::ENFILE), _) => "The open-files limit bounds a ring's table of \
             connections: raise it (systemd: LimitNOFILE=, shell: `ulimit -n`), or lower \
             limits.connections_per_shard_max"
            .into(),
        (Some(libc::EINVAL), _) => "The kernel lacks a flag the engine needs: run Linux 6.1 or \
             newer, or better 6.12 or newer"
            .into(),
        _ => "See the kernel's log (`dmesg`)".into(),
    }
}

/// The sysctl that disables `io_uring`; `None` if the kernel does not have it.
pub fn io_uring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Whether this thread runs under a seccomp filter.
pub fn seccomp_active() -> bool {
    std::fs::read_to_string("/proc/thread-self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Seccomp:\t2")))
}

/// Why this process may make no ring; `None` if it may, whatever features the ring lacks.
pub fn denial() -> Option<UringError> {
    let error = try_ring().err()?;
    let is_refusal =
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS));
    is_refusal.then(|| UringError::explain("no ring can be made", error))
}

/// Makes a small ring, and runs one no-op on it.
fn try_ring() -> io::Result<()> {
    let mut ring: IoUring = IoUring::new(2)?;
    // SAFETY: the operation refers to no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()).expect("a fresh ring has room") };
    ring.submit_and_wait(1).map(drop)
}

/// Opcodes that the engine requires, each with the Linux version that has it.
const REQUIRED: [(u8, &str, &str); 10] = [
    (opcode::Accept::CODE, "ACCEPT", "5.5"),
    (opcode::RecvMulti::CODE, "RECV", "5.6"),
    (opcode::PollAdd::CODE, "POLL_ADD", "5.1"),
    (opcode::Send::CODE, "SEND", "5.6"),
    (opcode::SendMsg::CODE, "SENDMSG", "5.3"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL", "5.5"),
    (opcode::Close::CODE, "CLOSE", "5.6"),
    (opcode::Shutdown::CODE, "SHUTDOWN", "5.11"),
    (opcode::MsgRingData::CODE, "MSG_RING", "5.18"),
    (opcode::FilesUpdate::CODE, "FILES_UPDATE", "5.6"),
];

/// Probes the features of this kernel.
///
/// # Errors
/// With reason and remedy if `io_uring` is denied, missing, or older than Linux 6.1.
pub fn probe_features() -> Result<Features, UringError> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(8)
        .map_err(|error| UringError::explain("cannot set up the engine's ring", error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| UringError::explain("the kernel does not list its operations", error))?;
    for (code, name, since) in REQUIRED {
        if !probe.is_supported(code) {
            return Err(UringError::new(
                format!("the kernel lacks IORING_OP_{name} (Linux {since})"),
                "Run Linux 6.1 or newer",
            ));
        }
    }
    let parameters = ring.params();
    Ok(Features {
        send_vectorized: try_vectorized_send().unwrap_or(false),
        min_wait: parameters.is_feature_min_timeout(),
        no_iowait: parameters.is_feature_no_iowait(),
        no_sqarray: IoUring::<io_uring::squeue::Entry>::builder()
            .setup_no_sqarray()
            .build(2)
            .is_ok(),
        install: probe.is_supported(opcode::FixedFdInstall::CODE),
    })
}

fn try_vectorized_send() -> io::Result<bool> {
    let mut ring: IoUring = IoUring::new(2)?;
    let (near, far) = UnixStream::pair()?;
    far.set_nonblocking(true)?;
    let parts = [b"ab".as_slice(), b"cd".as_slice()];
    let vectors = parts
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    let send = opcode::Send::new(types::Fd(near.as_raw_fd()), vectors.as_ptr().cast(), 2)
        .ioprio(SEND_VECTORIZED)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        .build();
    // SAFETY: the vectors and what they point to outlive the wait for the completion.
    unsafe { ring.submission().push(&send).expect("a fresh ring has room") };
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map(|completion| completion.result());
    // A kernel without the flag refuses it, or sends two raw bytes of the array.
    let mut got = [0; 8];
    let received = io::Read::read(&mut &far, &mut got).unwrap_or(0);
    Ok(result == Some(4) && &got[..received] == b"abcd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_can_run_the_engine() {
        probe_features().unwrap();
    }

    #[test]
    fn each_failure_names_its_own_remedy() {
        for (errno, disabled, seccomp, remedy_has) in [
            (libc::EPERM, Some(2), false, "io_uring_disabled=0"),
            (libc::EPERM, Some(1), true, "io_uring_group"),
            (libc::EPERM, Some(0), true, "seccomp"),
            (libc::EPERM, None, false, "AppArmor"),
            (libc::ENOSYS, None, false, "gVisor"),
            (libc::ENOSYS, Some(0), true, "seccomp"),
            (libc::ENOMEM, None, false, "LimitMEMLOCK"),
            (libc::EMFILE, None, false, "LimitNOFILE"),
            (libc::EINVAL, None, false, "6.12"),
        ] {
            let text = remedy(Some(errno), disabled, seccomp);
            assert!(text.contains(remedy_has), "{errno}: {text}");
        }
    }
}
