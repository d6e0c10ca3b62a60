//! Files with secrets, as the server requires them.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

/// Returns the path of a file with the secret that each application needs.
pub(crate) fn webhook_secret_file() -> String {
    static FILE: OnceLock<String> = OnceLock::new();
    let make = || {
        let path = std::env::temp_dir().join(format!("seawall-{}.secret", std::process::id()));
        std::fs::write(&path, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    FILE.get_or_init(make).clone()
}
