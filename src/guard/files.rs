//! Landlock: restricts files and ports to those that serving needs.
//!
//! Everything already open stays usable: listeners, rings, the histogram log. The paths named here
//! are opened later: by a reload, by a scrape, by key fetches, and at the end.
//!
//! A rule applies to a file's present inode. If the file is replaced (by an editor, by Kubernetes),
//! only a rule for its folder covers the new one, so rules are made for folders. A folder at the
//! top of the tree (`/etc`, `/tmp`) is shared by many programs: there the rule is for the file.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, NetPort,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

use crate::config::Config;
use crate::config::file::File;
use crate::driver::listener::Address;

/// The newest ABI that was tested; older kernels apply the part that they support.
const NEWEST: ABI = ABI::V7;
const HTTPS: u16 = 443;
const DNS: u16 = 53;
/// Files that name resolution and certificate checks read; all of `/etc`, because `resolv.conf` is
/// replaced while the server runs, and permissions protect secrets there.
const FETCHING: [&str; 5] = [
    "/etc",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// Memory and socket counts are read here. `self` is a different folder for each process, so all of
/// `/proc` is allowed; Landlock still denies access to other processes.
const NUMBERS: &str = "/proc";

/// Paths and ports that stay accessible.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Files to read, and folders to read with everything in them.
    read: Vec<PathBuf>,
    /// Folders from which files are removed.
    remove: Vec<PathBuf>,
    /// Folders in which files are written and replaced.
    write: Vec<PathBuf>,
    /// Ports to connect to.
    ports: Vec<u16>,
}

impl Reach {
    pub(super) fn plan(config: &Config, file: &File, path: Option<&str>) -> Self {
        let mut reach = Self { read: vec![NUMBERS.into()], ..Self::default() };
        let named = file.files();
        for path in path.into_iter().filter(|path| *path != "-").chain(named.iter().map(|s| &**s)) {
            reach.read.extend(covering_paths(Path::new(path)));
        }
        if let Some(Address::Unix(path)) = &config.admin {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            // The socket's file is removed at the end.
            reach.remove.extend(path.parent().map(Path::to_owned));
        }
        if let Some(settings) = &config.acme {
            reach.write.push(settings.folder.clone());
        }
        let urls = [
            config.auth.jwks.as_ref().map(|source| source.url.as_str()),
            config.acme.as_ref().map(|settings| settings.directory.as_str()),
        ];
        let engine = config.cluster.iter().flat_map(|settings| &settings.urls);
        let backends = config.backends.iter().flat_map(|one| one.urls());
        let ports: Vec<u16> = urls
            .into_iter()
            .flatten()
            .chain(backends)
            .map(port_of)
            .chain(engine.map(|url| url.port))
            .collect();
        if !ports.is_empty() {
            reach.ports = [ports, vec![HTTPS, DNS]].concat();
            reach.read.extend(FETCHING.map(PathBuf::from));
            let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(std::env::var_os);
            reach.read.extend(variables.into_iter().flatten().map(PathBuf::from));
        }
        reach
    }

    /// Whether the server fetches from other hosts.
    pub(super) fn fetches(&self) -> bool {
        !self.ports.is_empty()
    }
}

/// The paths that cover a file and its replacements; symbolic links are followed too.
fn covering_paths(path: &Path) -> Vec<PathBuf> {
    let places = [std::path::absolute(path), path.canonicalize()];
    let near = places.into_iter().flatten().map(|path| match path.parent() {
        // Two components are the root and one folder, such as `/etc`.
        Some(folder) if folder.components().count() > 2 => folder.to_owned(),
        _ => path,
    });
    near.collect()
}

/// The port of a URL.
fn port_of(url: &str) -> u16 {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let written = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    written.unwrap_or(if matches!(scheme, "http" | "ws") { 80 } else { HTTPS })
}

/// Restricts the calling thread and those that it starts; returns the ABI in force, `None` without
/// Landlock.
pub(super) fn enclose(reach: &Reach) -> Result<Option<i32>, String> {
    let restricted = restrict(reach)
        .map_err(|error| format!("cannot restrict files: {error} (process.sandbox)"))?;
    Ok(match restricted {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as i32),
        _ => None,
    })
}

fn restrict(reach: &Reach) -> Result<LandlockStatus, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let replacing = AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let writing = reading | replacing | AccessFs::WriteFile;
    let ports = reach.ports.iter().map(|port| Ok(NetPort::new(*port, AccessNet::ConnectTcp)));
    let status = Ruleset::default()
        // An older kernel enforces the part of the rules that it supports.
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&reach.read, reading))?
        .add_rules(path_beneath_rules(&reach.remove, AccessFs::RemoveFile))?
        .add_rules(path_beneath_rules(&reach.write, writing))?
        .add_rules(ports.collect::<Vec<Result<NetPort, RulesetError>>>())?
        .restrict_self()?;
    Ok(status.landlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_port() {
        for (url, expected) in [
            ("https://idp.example/keys", 443),
            ("http://idp.example", 80),
            ("http://127.0.0.1:8080/a:9", 8080),
            ("https://[::1]:8443/", 8443),
            ("https://[::1]/", 443),
        ] {
            assert_eq!(port_of(url), expected, "{url}");
        }
    }

    #[test]
    fn a_folder_of_its_own_is_allowed_and_a_shared_one_is_not() {
        assert_eq!(covering_paths(Path::new("/none/seawall/a.toml")), [Path::new("/none/seawall")]);
        assert_eq!(covering_paths(Path::new("/none/a.toml")), [Path::new("/none/a.toml")]);
    }

    #[test]
    fn paths_and_ports_not_named_are_denied() {
        if std::thread::spawn(|| enclose(&Reach::default())).join().unwrap() == Ok(None) {
            return; // A kernel without Landlock.
        }
        let own = env!("CARGO_MANIFEST_DIR");
        let inside = format!("{own}/src/guard/mod.rs");
        let outside = format!("{own}/src/lib.rs");
        let reach = Reach { read: covering_paths(Path::new(&inside)), ..Reach::default() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            enclose(&reach).unwrap();
            assert!(std::fs::read(inside).is_ok());
            let refused = std::fs::read(outside).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err(), "no port is opened");
            assert!(std::net::TcpStream::connect(address).is_err(), "nor connected to");
        })
        .join()
        .unwrap();
    }
}
