//! seccomp: the system calls that a server makes once it serves; all others fail with EPERM.
//!
//! They fail rather than kill: a call that was forgotten here, in a corner of a library, then costs
//! what asked for it and not every connection; what must not be done is not done either way. The
//! kernel caches which calls are allowed whatever their arguments, so the calls of a turn pay
//! nothing for the length of the list.
//!
//! What an engine's drivers call beyond the list, the engine says itself
//! ([`EngineFacts`](crate::driver::EngineFacts)): rings are used only where something runs on them.
//! No further ring can be made in any case.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, apply_filter_all_threads,
};

/// Allowed whatever the arguments.
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
    // Threads, and their end; `clone` has a rule, and clone3 a filter of its own.
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
    // Time, chance and limits.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_nanosleep,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older names of the same, which this architecture's libraries still use.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] =
    &[libc::SYS_epoll_wait, libc::SYS_open, libc::SYS_poll, libc::SYS_readlink, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Flags of `clone` that make a thread, not a process.
const SHARED_BY_THREADS: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
/// Flags of `clone` that make namespaces, which open much of the kernel to those without rights.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// What fetching keys takes besides: names are resolved, and connections opened.
const FETCHING: [i64; 5] =
    [libc::SYS_bind, libc::SYS_connect, libc::SYS_recvmmsg, libc::SYS_sendmmsg, libc::SYS_socket];

/// Filters all threads there are, and those they start; gives how many calls are left. `own` are
/// those of the engine and the control thread.
pub(super) fn filter_all_threads(own: &[i64], fetches: bool) -> Result<usize, String> {
    let (program, count) = program(own, fetches).map_err(|error| refused(&error))?;
    let clone3 = no_clone3().map_err(|error| refused(&error))?;
    apply_filter_all_threads(&clone3).map_err(|error| refused(&error))?;
    apply_filter_all_threads(&program).map_err(|error| refused(&error))?;
    // Not counting clone3.
    Ok(count - 1)
}

/// Filters the calling thread.
pub(super) fn filter_this_thread(own: &[i64], fetches: bool) -> Result<(), String> {
    let (program, _) = program(own, fetches).map_err(|error| refused(&error))?;
    apply_filter(&no_clone3().map_err(|error| refused(&error))?)
        .and_then(|()| apply_filter(&program))
        .map_err(|error| refused(&error))
}

fn refused(error: &seccompiler::Error) -> String {
    format!(
        "the sandbox's system calls cannot be filtered: {error} (the kernel needs \
         CONFIG_SECCOMP_FILTER; or set process.sandbox = false)"
    )
}

/// Answers clone3 as a kernel without it, so that libraries take `clone`, whose flags a filter can
/// read: clone3's are behind a pointer. Of two filters the stricter counts, so the other one has to
/// allow the call.
fn no_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture)?.try_into()?)
}

fn program(own: &[i64], fetches: bool) -> Result<(BpfProgram, usize), seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FREE.iter().chain(OLD).chain(own).map(|call| (*call, Vec::new())).collect();
    if fetches {
        rules.extend(FETCHING.map(|call| (call, Vec::new())));
    }
    let no_code = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![where_argument(2, no_code.clone(), 0)?]);
    }
    let request = where_argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?;
    rules.insert(libc::SYS_ioctl, vec![request]);
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA]
        .map(|what| where_argument(0, SeccompCmpOp::Eq, what as u64));
    rules.insert(libc::SYS_prctl, names.into_iter().collect::<Result<_, _>>()?);
    let threads_only = SeccompCmpOp::MaskedEq((SHARED_BY_THREADS | NAMESPACES) as u64);
    let rule = where_argument(0, threads_only, SHARED_BY_THREADS as u64)?;
    rules.insert(libc::SYS_clone, vec![rule]);
    let count = rules.len();
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, architecture)?;
    Ok((filter.try_into()?, count))
}

/// A rule about the low half of one argument.
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
    use crate::driver::uring;
    use std::io::ErrorKind::PermissionDenied;

    /// What a filtered thread is answered.
    fn filtered<T: Send + 'static>(fetches: bool, body: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            filter_this_thread(uring::SYSTEM_CALLS, fetches).unwrap();
            body()
        });
        thread.join().expect("what is refused does not kill")
    }

    #[test]
    fn what_serving_does_not_take_is_refused() {
        let refused = |result: std::io::Error| assert_eq!(result.kind(), PermissionDenied);
        refused(filtered(false, || std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err()));
        refused(filtered(false, || std::process::Command::new("/bin/true").status().unwrap_err()));
        refused(filtered(true, || std::fs::create_dir("/nowhere/at/all").unwrap_err()));
        refused(filtered(true, || io_uring::IoUring::new(8).map(|_| ()).unwrap_err()));
        let other = |errno: nix::Error| assert_eq!(errno, nix::Error::EPERM);
        other(filtered(true, || nix::sys::prctl::set_dumpable(true).unwrap_err()));
    }

    /// What a filter answers a call: it is run as the kernel runs it.
    fn answer(program: &BpfProgram, call: i64, argument: u32) -> u32 {
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
        let (program, clone3) = (program(&[], true).unwrap().0, no_clone3().unwrap());
        assert_eq!(answer(&clone3, libc::SYS_clone3, 0), errno(libc::ENOSYS));
        assert_eq!(answer(&clone3, libc::SYS_clone, 0), libc::SECCOMP_RET_ALLOW);
        // As glibc and musl make threads.
        for flags in [0x3d_0f00, 0x7d_0f00] {
            assert_eq!(answer(&program, libc::SYS_clone, flags), libc::SECCOMP_RET_ALLOW);
            for bit in [0x80, 0x2_0000].into_iter().chain((25..31).map(|bit| 1 << bit)) {
                let allowed = answer(&program, libc::SYS_clone, flags | bit);
                let is_namespace = bit & NAMESPACES as u32 != 0;
                assert_eq!(allowed == errno(libc::EPERM), is_namespace, "{bit:#x}");
            }
        }
        let vfork = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u32;
        for flags in [libc::SIGCHLD as u32, vfork, libc::CLONE_NEWUSER as u32] {
            assert_eq!(answer(&program, libc::SYS_clone, flags), errno(libc::EPERM));
        }
        for call in [libc::SYS_unshare, libc::SYS_setns, libc::SYS_execve, libc::SYS_ptrace] {
            assert_eq!(answer(&program, call, 0), errno(libc::EPERM));
        }
    }

    #[test]
    fn rings_are_entered_only_where_an_engine_uses_them_and_never_made() {
        let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let (with, with_count) = program(uring::SYSTEM_CALLS, false).unwrap();
        let (without, without_count) = program(&[], false).unwrap();
        assert_eq!(with_count, without_count + uring::SYSTEM_CALLS.len());
        for call in [libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
            assert_eq!(answer(&with, call, 0), libc::SECCOMP_RET_ALLOW);
            assert_eq!(answer(&without, call, 0), errno);
        }
        for program in [&with, &without] {
            assert_eq!(answer(program, libc::SYS_io_uring_setup, 0), errno);
            assert_eq!(answer(program, libc::SYS_epoll_pwait, 0), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn what_serving_takes_is_there() {
        filtered(false, || {
            std::thread::spawn(|| std::fs::read("/proc/self/status").unwrap()).join().unwrap();
            let memory = vec![1_u8; 64 << 20];
            assert!(memory.iter().all(|byte| *byte == 1));
        });
        filtered(true, || drop(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()));
    }
}
