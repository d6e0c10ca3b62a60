//! Signals from the first instruction on, before anything can wait for them.
//!
//! A signal whose action is the default ends the process at once, also one that means something
//! else a moment later. So `serve` begins here:
//!
//! - SIGHUP is blocked until the control thread listens for it, and so remembered as a reload.
//! - SIGTERM and SIGINT end the process with exit code 0 as long as no client is served: there is
//!   nothing to drain yet.
//! - Signals without a meaning for the server are ignored.

use std::sync::atomic::{AtomicBool, Ordering};

/// Clients are served, and the control thread listens for signals.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Signals that end a process by default and that operators and supervisors may send.
fn ignored() -> impl Iterator<Item = i32> {
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

/// Ends the process if it does not serve yet. Handlers that are registered later call this one too.
extern "C" fn end_unless_serving(_signal: i32) {
    if !SERVING.load(Ordering::SeqCst) {
        // SAFETY: `_exit` may be called from a signal handler. Nothing runs yet that needs an end.
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

/// To be called before anything else, on the thread that starts all others.
pub fn prepare() {
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
        set(signal, end_unless_serving as *const () as libc::sighandler_t);
    }
    ignored().for_each(|signal| set(signal, libc::SIG_IGN));
}

/// Lets the calling thread have SIGHUP: something listens for it now. One that came before arrives
/// at once.
pub fn release_hangup() {
    mask_hangup(libc::SIG_UNBLOCK);
}

/// From now on SIGTERM and SIGINT are only for those that listen for them.
pub fn serve() {
    SERVING.store(true, Ordering::SeqCst);
}
