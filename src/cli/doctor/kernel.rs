//! The kernel: its version, what `io_uring` can do here, and what guards it.

use super::finding::{Finding, State, kernel_file};
use crate::driver::uring::{Features, io_uring_disabled, probe, seccomp_active};
use crate::guard;

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![version()];
    match probe() {
        Ok(features) => {
            let why = "The engine runs on it";
            findings.push(Finding::new(
                "io_uring",
                why,
                "works, with every feature that the engine needs",
            ));
            findings.extend(optional(features));
        }
        Err(error) => findings.push(
            Finding::new("io_uring", "The engine runs on it", error.to_string()).unless(
                false,
                State::Failure,
                error.cure(),
            ),
        ),
    }
    findings.extend([switch(), seccomp(), sandbox(), ktls(), clock()]);
    findings
}

fn version() -> Finding {
    let release = kernel_file("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    let known = (major.unwrap_or(0u32), minor.unwrap_or(0u32));
    let why = "Seawall needs Linux 6.1; 6.12 waits for batches, 6.17 sends arrays without a header";
    Finding::new("kernel", why, format!("Linux {release}"))
        .unless(known >= (6, 12), State::Note, "6.12 or newer is recommended: update the kernel")
        .unless(known >= (6, 1), State::Failure, "update to Linux 6.1 or newer")
}

/// What is used where it is available.
fn optional(features: Features) -> Vec<Finding> {
    let one = |name, why, there: bool, since: &str| {
        Finding::new(name, why, if there { "available" } else { "not in this kernel" }).unless(
            there,
            State::Note,
            format!("Linux {since} or newer has it; the server works without it"),
        )
    };
    vec![
        one(
            "vectored send",
            "Saves the message header of a send that has several parts",
            features.send_vectorized,
            "6.17",
        ),
        one(
            "minimum wait",
            "engine.min_wait_us has no effect without it",
            features.min_wait,
            "6.12",
        ),
        one(
            "quiet waiting",
            "Without it an idle shard shows up as waiting for a disk (iowait)",
            features.no_iowait,
            "6.15",
        ),
        one("no SQ array", "Saves one indirection per submission", features.no_sqarray, "6.6"),
        one(
            "descriptor install",
            "Lets an operator look at the TCP state of a connection",
            features.install,
            "6.8",
        ),
    ]
}

fn switch() -> Finding {
    let value = io_uring_disabled();
    let found = value.map_or_else(|| "not in this kernel".to_owned(), |value| value.to_string());
    Finding::new("io_uring_disabled", "1 disables io_uring for some processes, 2 for all", found)
        .unless(value.unwrap_or(0) == 0, State::Warning, "sysctl -w kernel.io_uring_disabled=0")
}

fn seccomp() -> Finding {
    let active = seccomp_active();
    let found = if active { "a filter is active" } else { "no filter" };
    Finding::new(
        "seccomp",
        "Default container profiles block io_uring; a filter costs a little per system call",
        found,
    )
    .unless(
        !active,
        State::Note,
        "allow io_uring_setup, io_uring_enter and io_uring_register in the profile (Docker: \
         --security-opt seccomp=profile.json)",
    )
}

/// Both halves are put around a thread of their own.
fn sandbox() -> Finding {
    let (files, calls) = (guard::landlock(), guard::filters_calls());
    let landlock = files.map_or("no Landlock".into(), |abi| format!("Landlock ABI {abi}"));
    let filter = if calls { "system calls can be filtered" } else { "no filter of system calls" };
    Finding::new(
        "sandbox",
        "process.sandbox keeps files (Landlock), ports (ABI 4) and system calls out of reach",
        format!("{landlock}; {filter}"),
    )
    .unless(
        files.is_some_and(|abi| abi >= 4) && calls,
        State::Note,
        "Linux 6.7 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in the boot parameter \
         lsm=; CONFIG_SECCOMP_FILTER",
    )
}

fn ktls() -> Finding {
    let list = kernel_file("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    let there = list.split_whitespace().any(|name| name == "tls");
    Finding::new(
        "kernel TLS",
        "TLS in the kernel saves a copy; Seawall has no TLS yet and needs a proxy for it",
        if there { "available" } else { "not available" },
    )
    .unless(there, State::Note, "modprobe tls (a kernel with CONFIG_TLS)")
}

fn clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = kernel_file(path).unwrap_or_else(|| "unknown".into());
    let fast = matches!(source.as_str(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page");
    let arm = source.starts_with("arch_sys_counter");
    Finding::new("clock source", "The time is read several times a turn", source.clone()).unless(
        fast || arm || source == "unknown",
        State::Warning,
        format!("echo tsc > {path}"),
    )
}
