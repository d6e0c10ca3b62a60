//! `seawall dev-cert`: makes a certificate for development.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::print_failure;
use crate::text::terminal;
use crate::tls::development::DevelopmentCertificate;

/// Makes a self-signed certificate for localhost and optional further names. `seawall serve
/// --dev-tls` makes its own at each start; use this command for a certificate that clients can
/// trust across restarts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
        \x20 seawall dev-cert\n\
        \x20 seawall dev-cert --name app.test --folder certificates")]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "NAME",
        help = "A further host name or address for the certificate; may be repeated"
    )]
    name: Vec<String>,
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = ".",
        help = "The folder for dev-chain.pem and dev-key.pem"
    )]
    folder: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match write(arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => print_failure(&error),
    }
}

/// Writes both files; returns the configuration that uses them.
fn write(arguments: &Arguments) -> Result<String, String> {
    let made = DevelopmentCertificate::make(&arguments.name)
        .map_err(|error| format!("cannot make a certificate: {error}; check each --name"))?;
    let chain = arguments.folder.join("dev-chain.pem");
    let key = arguments.folder.join("dev-key.pem");
    create(&chain, 0o644, &made.chain)?;
    create(&key, 0o600, &made.key)?;
    let quoted = |path: &Path| terminal::escape(&path.display().to_string()).into_owned();
    Ok(format!(
        "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = true\n\n\
         [[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n",
        quoted(&chain),
        quoted(&key)
    ))
}

/// Writes a file that is not there yet.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        format!("cannot write {}: {error}; remove it, or choose another --folder", path.display())
    })
}
