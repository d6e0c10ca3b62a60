//! Examines the kernel: its version, `io_uring` features, and restrictions on system calls.

use super::finding::{Finding, State, read_kernel_file};
use crate::driver::EngineFeature;
use crate::driver::uring::{io_uring_disabled, seccomp_active};
use crate::guard;
use crate::server::{EngineChoice, EngineError};

/// `choice`: the engine that the configuration leads to.
pub(super) fn examine(choice: Result<EngineChoice, EngineError>) -> Vec<Finding> {
    let mut findings = vec![examine_version(choice.as_ref())];
    findings.extend(examine_engine(choice));
    findings.extend([
        examine_io_uring_disabled(),
        examine_seccomp(),
        examine_sandbox(),
        examine_ktls(),
        examine_clock(),
    ]);
    findings
}

/// Describes the engine that would run, its optional features, the reason for the choice and how
/// to change it; or why no engine can run, and the remedy.
fn examine_engine(choice: Result<EngineChoice, EngineError>) -> Vec<Finding> {
    let finding = |found: String| {
        let why = "It moves all bytes; epoll takes two system calls and more for each message";
        Finding::new("engine", why, found)
    };
    let choice = match choice {
        Ok(choice) => choice,
        Err(error) => {
            let remedy = error.remedy();
            return vec![finding(error.to_string()).unless(false, State::Failure, remedy)];
        }
    };
    let found = finding(format!("{}: {}", choice.name(), choice.reason()));
    match choice {
        EngineChoice::Uring { features, .. } => {
            std::iter::once(found).chain(examine_features(&features.list_features())).collect()
        }
        EngineChoice::Epoll { denial: None } => {
            let remedy = "engine.driver = \"auto\" takes io_uring where it is allowed";
            vec![found.unless(false, State::Note, remedy)]
        }
        EngineChoice::Epoll { denial: Some(denial) } => {
            vec![found.unless(false, State::Warning, denial.remedy())]
        }
    }
}

fn examine_version(choice: Result<&EngineChoice, &EngineError>) -> Finding {
    let release =
        read_kernel_file("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    let known = (major.unwrap_or(0u32), minor.unwrap_or(0u32));
    let why = "io_uring takes Linux 6.1, epoll 5.11; 6.12 waits for batches, 6.17 sends arrays \
               without a header";
    let finding = Finding::new("kernel", why, format!("Linux {release}"));
    if matches!(choice, Ok(EngineChoice::Epoll { .. })) {
        return finding.unless(known >= (5, 11), State::Warning, "update to Linux 5.11 or newer");
    }
    finding
        .unless(known >= (6, 12), State::Note, "6.12 or newer is recommended: update the kernel")
        .unless(known >= (6, 1), State::Failure, "update to Linux 6.1 or newer")
}

/// Describes the features that an engine uses where they are available.
fn examine_features(features: &[EngineFeature]) -> Vec<Finding> {
    let one = |feature: &EngineFeature| {
        let found = if feature.is_available { "available" } else { "not in this kernel" };
        Finding::new(feature.title, feature.effect, found).unless(
            feature.is_available,
            State::Note,
            format!("Linux {} or newer has it; the server works without it", feature.since),
        )
    };
    features.iter().map(one).collect()
}

fn examine_io_uring_disabled() -> Finding {
    let value = io_uring_disabled();
    let found = value.map_or_else(|| "not in this kernel".to_owned(), |value| value.to_string());
    Finding::new("io_uring_disabled", "1 disables io_uring for some processes, 2 for all", found)
        .unless(value.unwrap_or(0) == 0, State::Warning, "sysctl -w kernel.io_uring_disabled=0")
}

fn examine_seccomp() -> Finding {
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

/// Probes in a thread of its own, because a sandbox cannot be taken off again.
fn examine_sandbox() -> Finding {
    let (files, calls) = (guard::probe_landlock(), guard::can_filter_calls());
    let files_text = files.map_or("no Landlock".into(), |abi| format!("Landlock ABI {abi}"));
    let filter = if calls { "system calls can be filtered" } else { "no filter of system calls" };
    Finding::new(
        "sandbox",
        "process.sandbox restricts files (Landlock), ports (ABI 4) and system calls",
        format!("{files_text}; {filter}"),
    )
    .unless(
        files.is_some_and(|abi| abi >= 4) && calls,
        State::Note,
        "Linux 6.7 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in the boot parameter \
         lsm=; CONFIG_SECCOMP_FILTER",
    )
}

fn examine_ktls() -> Finding {
    let list = read_kernel_file("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    let there = list.split_whitespace().any(|name| name == "tls");
    Finding::new(
        "kernel TLS",
        "For information: Seawall encrypts in the process and does not use TLS in the kernel",
        if there { "available" } else { "not available" },
    )
    .unless(there, State::Note, "modprobe tls (a kernel with CONFIG_TLS)")
}

fn examine_clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = read_kernel_file(path).unwrap_or_else(|| "unknown".into());
    let fast = matches!(source.as_str(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page");
    let arm = source.starts_with("arch_sys_counter");
    Finding::new("clock source", "A shard reads the time several times per turn", source.clone())
        .unless(fast || arm || source == "unknown", State::Warning, format!("echo tsc > {path}"))
}
