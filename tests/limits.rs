//! Hosts that deny io_uring, or limit it: the server starts with less and reports it, or ends with
//! reason and remedy. Needs root and `setpriv`, `prlimit` (util-linux).

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The binary where any user may run it.
fn binary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("seawall-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("seawall");
    std::fs::copy(env!("CARGO_BIN_EXE_seawall"), &path).unwrap();
    for path in [&folder, &path] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    path
}

/// Starts the server as nobody with this limit of locked memory, and returns what it says until
/// it listens or ends.
fn start_with_memlock(name: &str, bytes: u64) -> String {
    let binary = binary(name);
    let mut server = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"])
        .arg(format!("--memlock={bytes}:{bytes}"))
        .arg(&binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "", "--shards", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv and prlimit are there (apt-get install util-linux)");
    let mut said = String::new();
    let mut lines = BufReader::new(server.stderr.take().unwrap());
    while !said.contains("  limits ") && lines.read_line(&mut said).unwrap() > 0 {}
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_dir_all(binary.parent().unwrap()).unwrap();
    said
}

#[test]
fn little_locked_memory_makes_the_rings_smaller_and_the_server_says_so() {
    let said = start_with_memlock("some", 160 * 1024);
    assert!(said.contains("warning") && said.contains("LimitMEMLOCK"), "{said}");
    assert!(said.contains("  limits "), "the server runs: {said}");
}

#[test]
fn no_locked_memory_ends_with_cause_and_cure() {
    let said = start_with_memlock("none", 4096);
    assert!(said.contains("Cannot allocate memory") && said.contains("LimitMEMLOCK"), "{said}");
}

#[test]
fn a_seccomp_filter_is_named_as_the_cause() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", ""]).stderr(Stdio::piped());
    // SAFETY: between fork and exec only two system calls are made.
    unsafe { command.pre_exec(forbid_io_uring) };
    let mut server = command.spawn().unwrap();
    let status = server.wait().unwrap();
    let mut said = String::new();
    server.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert!(!status.success());
    assert!(said.contains("seccomp") && said.contains("io_uring_setup"), "{said}");
}

/// What container runtimes do by default: `io_uring_setup` fails with EPERM.
fn forbid_io_uring() -> std::io::Result<()> {
    let step =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter and its program live across the call, which copies them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
