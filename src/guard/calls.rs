//! seccomp: allows the system calls that serving needs; all others fail with EPERM.
//!
//! They fail instead of killing the process: a call that this list lacks, in a corner of a library,
//! then costs one operation and not every connection, and a forbidden operation is prevented either
//! way. The kernel caches which calls are allowed whatever their arguments, so the length of the
//! list costs nothing per call.
//!
//! An engine names the calls that its drivers need beyond the list
//! ([`EngineFacts`](crate::driver::EngineFacts)): ring calls are allowed only where the engine or
//! the control thread uses rings. No call that makes a ring is ever allowed.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, apply_filter_all_threads,
};

/// Calls allowed with any arguments.
const FREE: &[i64] = &[
    // Descriptors: the admin address, logs, doorbells, files that are read again.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_renameat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Threads, and their end; `clone` has a rule of its own, and clone3 a filter of its own.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getpriority,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_setpriority,
    libc::SYS_tgkill,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Memory that holds no code.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Time, random numbers and limits.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_nanosleep,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older forms of these calls, which this architecture's libraries still use.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Flags of `clone` that make a thread, not a process.
const SHARED_BY_THREADS: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
/// Flags of `clone` that make namespaces: a new one gives an unprivileged process access to much
/// of the kernel.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Calls of key fetches beyond the rest: they resolve names and open connections.
const FETCHING: [i64; 5] =
    [libc::SYS_bind, libc::SYS_connect, libc::SYS_recvmmsg, libc::SYS_sendmmsg, libc::SYS_socket];

/// Filters all present threads, and those that they start; returns how many calls stay allowed.
/// `own` are the calls of the engine and the control thread.
pub(super) fn filter_all_threads(own: &[i64], fetches: bool) -> Result<usize, String> {
    let (program, count) = make_program(own, fetches).map_err(|error| filter_error(&error))?;
    let clone3 = deny_clone3().map_err(|error| filter_error(&error))?;
    apply_filter_all_threads(&clone3).map_err(|error| filter_error(&error))?;
    apply_filter_all_threads(&program).map_err(|error| filter_error(&error))?;
    // Not counting clone3.
    Ok(count - 1)
}

/// Filters the calling thread.
pub(super) fn filter_this_thread(own: &[i64], fetches: bool) -> Result<(), String> {
    let (program, _) = make_program(own, fetches).map_err(|error| filter_error(&error))?;
    apply_filter(&deny_clone3().map_err(|error| filter_error(&error))?)
        .and_then(|()| apply_filter(&program))
        .map_err(|error| filter_error(&error))
}

fn filter_error(error: &seccompiler::Error) -> String {
    format!(
        "cannot filter system calls: {error} (the kernel needs \
         CONFIG_SECCOMP_FILTER; or set process.sandbox = false)"
    )
}

/// Makes a filter that answers clone3 with ENOSYS, so that libraries use `clone`, whose flags a
/// filter can read: those of clone3 are behind a pointer. Of two filters the stricter one wins, so
/// the other one must allow clone3.
fn deny_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture)?.try_into()?)
}

fn make_program(own: &[i64], fetches: bool) -> Result<(BpfProgram, usize), seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FREE.iter().chain(OLD).chain(own).map(|call| (*call, Vec::new())).collect();
    if fetches {
        rules.extend(FETCHING.map(|call| (call, Vec::new())));
    }
    // Memory may be readable and writable, but never executable.
    let no_code = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![where_argument(2, no_code.clone(), 0)?]);
    }
    // The only ioctl in use sets sockets to non-blocking mode.
    let request = where_argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?;
    rules.insert(libc::SYS_ioctl, vec![request]);
    // Threads set their names, and allocators the names of mappings.
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA]
        .map(|what| where_argument(0, SeccompCmpOp::Eq, what as u64));
    rules.insert(libc::SYS_prctl, names.into_iter().collect::<Result<_, _>>()?);
    // All flags of a thread must be set, and no flag of a namespace.
    let threads_only = SeccompCmpOp::MaskedEq((SHARED_BY_THREADS | NAMESPACES) as u64);
    let rule = where_argument(0, threads_only, SHARED_BY_THREADS as u64)?;
    rules.insert(libc::SYS_clone, vec![rule]);
    let count = rules.len();
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, architecture)?;
    Ok((filter.try_into()?, count))
}

/// A rule on the low 32 bits of one argument.
fn where_argument(
    index: u8,
    comparison: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::Error> {
    let length = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(index, length, comparison, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{epoll, uring};
    use std::io::ErrorKind::PermissionDenied;

    /// Runs `body` in a filtered thread.
    fn run_filtered<T: Send + 'static>(
        fetches: bool,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = std::thread::spawn(move || {
            filter_this_thread(uring::SYSTEM_CALLS, fetches).unwrap();
            body()
        });
        thread.join().expect("a denied call does not kill")
    }

    #[test]
    fn calls_not_needed_for_serving_are_denied() {
        let refused = |result: std::io::Error| assert_eq!(result.kind(), PermissionDenied);
        refused(run_filtered(false, || std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err()));
        refused(run_filtered(false, || {
            std::process::Command::new("/bin/true").status().unwrap_err()
        }));
        refused(run_filtered(true, || std::fs::create_dir("/nowhere/at/all").unwrap_err()));
        refused(run_filtered(true, || io_uring::IoUring::new(8).map(|_| ()).unwrap_err()));
        let other = |errno: nix::Error| assert_eq!(errno, nix::Error::EPERM);
        other(run_filtered(true, || nix::sys::prctl::set_dumpable(true).unwrap_err()));
    }

    /// Evaluates a filter for a call, as the kernel does.
    fn evaluate(program: &BpfProgram, call: i64, argument: u32) -> u32 {
        const ARCHITECTURE: u32 =
            if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
        let word = |offset: u32| match offset {
            0 => call as u32,
            4 => ARCHITECTURE,
            16 => argument,
            _ => 0,
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |is_so: bool| usize::from(if is_so { step.jt } else { step.jf });
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => value = word(step.k),
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => value &= step.k,
                code if code == libc::BPF_JMP | libc::BPF_JA => at += step.k as usize,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += jump(value == step.k);
                }
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += jump(value >= step.k);
                }
                code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => {
                    at += jump(value > step.k);
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code => panic!("the filter has an instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn threads_can_be_made_and_neither_processes_nor_namespaces() {
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        let (program, clone3) = (make_program(&[], true).unwrap().0, deny_clone3().unwrap());
        assert_eq!(evaluate(&clone3, libc::SYS_clone3, 0), errno(libc::ENOSYS));
        assert_eq!(evaluate(&clone3, libc::SYS_clone, 0), libc::SECCOMP_RET_ALLOW);
        // The flags with which glibc and musl make threads.
        for flags in [0x3d_0f00, 0x7d_0f00] {
            assert_eq!(evaluate(&program, libc::SYS_clone, flags), libc::SECCOMP_RET_ALLOW);
            for bit in [0x80, 0x2_0000].into_iter().chain((25..31).map(|bit| 1 << bit)) {
                let allowed = evaluate(&program, libc::SYS_clone, flags | bit);
                let is_namespace = bit & NAMESPACES as u32 != 0;
                assert_eq!(allowed == errno(libc::EPERM), is_namespace, "{bit:#x}");
            }
        }
        let vfork = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u32;
        for flags in [libc::SIGCHLD as u32, vfork, libc::CLONE_NEWUSER as u32] {
            assert_eq!(evaluate(&program, libc::SYS_clone, flags), errno(libc::EPERM));
        }
        for call in [libc::SYS_unshare, libc::SYS_setns, libc::SYS_execve, libc::SYS_ptrace] {
            assert_eq!(evaluate(&program, call, 0), errno(libc::EPERM));
        }
    }

    #[test]
    fn rings_are_entered_only_where_an_engine_uses_them_and_never_made() {
        let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let (with, with_count) = make_program(uring::SYSTEM_CALLS, false).unwrap();
        let (without, without_count) = make_program(&[], false).unwrap();
        assert_eq!(with_count, without_count + uring::SYSTEM_CALLS.len());
        for call in [libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
            assert_eq!(evaluate(&with, call, 0), libc::SECCOMP_RET_ALLOW);
            assert_eq!(evaluate(&without, call, 0), errno);
        }
        let on_epoll = make_program(epoll::SYSTEM_CALLS, false).unwrap().0;
        let call = libc::SYS_epoll_pwait2;
        assert_eq!(evaluate(&on_epoll, call, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(evaluate(&on_epoll, libc::SYS_io_uring_enter, 0), errno);
        for program in [&with, &without] {
            assert_eq!(evaluate(program, libc::SYS_io_uring_setup, 0), errno);
            assert_eq!(evaluate(program, libc::SYS_epoll_pwait, 0), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn calls_needed_for_serving_are_allowed() {
        run_filtered(false, || {
            std::thread::spawn(|| std::fs::read("/proc/self/status").unwrap()).join().unwrap();
            let memory = vec![1_u8; 64 << 20];
            assert!(memory.iter().all(|byte| *byte == 1));
        });
        run_filtered(true, || drop(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()));
    }
}
