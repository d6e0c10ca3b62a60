//! Hosts that limit io_uring: the server starts with less and reports it, or ends with reason and
//! remedy. Needs root and `setpriv`, `prlimit` (util-linux).

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
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
fn start_with_memlock(name: &str, bytes: u64, driver: &str) -> String {
    let binary = binary(name);
    let mut server = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"])
        .arg(format!("--memlock={bytes}:{bytes}"))
        .arg(&binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "", "--shards", "1"])
        .args(["--driver", driver])
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
    let said = start_with_memlock("some", 160 * 1024, "auto");
    assert!(said.contains("warning") && said.contains("LimitMEMLOCK"), "{said}");
    assert!(said.contains("  limits "), "the server runs: {said}");
}

#[test]
fn no_locked_memory_ends_rings_or_leads_to_epoll_and_is_named_with_its_remedy() {
    for (driver, runs) in [("uring", false), ("auto", true)] {
        let said = start_with_memlock(&format!("none-{driver}"), 4096, driver);
        assert!(said.contains("Cannot allocate memory"), "{said}");
        assert!(said.contains("LimitMEMLOCK"), "{said}");
        assert_eq!(said.contains("engine      epoll"), runs, "{said}");
    }
}
