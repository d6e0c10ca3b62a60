//! Signal handling from the first instruction on, before the control thread listens.
//!
//! A signal with the default action ends the process at once, even one that gets another meaning a
//! moment later. So `serve` begins here:
//!
//! - SIGHUP is blocked until the control thread listens for it, which keeps a reload pending.
//! - SIGTERM and SIGINT end the process with exit code 0 while no client is served: there is
//!   nothing to drain.
//! - Signals without a meaning for the server are ignored.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set once clients are served and the control thread listens for signals.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Signals that end a process by default and that operators and supervisors may send.
fn ignored_signals() -> impl Iterator<Item = i32> {
    let named = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGQUIT,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXFSZ,
        libc::SIGPIPE,
    ];
    named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Ends the process unless it serves. Handlers registered later run in addition to this one.
extern "C" fn exit_unless_serving(_signal: i32) {
    if !SERVING.load(Ordering::SeqCst) {
        // SAFETY: `_exit` may be called from a signal handler. Nothing that needs a shutdown runs
        // yet.
        unsafe { libc::_exit(0) };
    }
}

fn mask_hangup(how: i32) {
    // SAFETY: the set is valid and lives across the calls, which only write to it and read it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGHUP);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Installs the handlers. Call it first, on the thread that starts all others.
pub fn install_handlers() {
    mask_hangup(libc::SIG_BLOCK);
    let set = |signal: i32, handler: libc::sighandler_t| {
        // SAFETY: the action is all zero but for a handler that only calls `_exit`, or is SIG_IGN.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        set(signal, exit_unless_serving as *const () as libc::sighandler_t);
    }
    ignored_signals().for_each(|signal| set(signal, libc::SIG_IGN));
}

/// Unblocks SIGHUP for the calling thread, once it has a listener. A pending one arrives at once.
pub fn release_hangup() {
    mask_hangup(libc::SIG_UNBLOCK);
}

/// From now on SIGTERM and SIGINT only reach their listeners.
pub fn set_serving() {
    SERVING.store(true, Ordering::SeqCst);
}
