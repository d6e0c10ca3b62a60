//! Validates credentials: keys for tokens, for the API and for tickets.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::file::{self, File, Secret};
use super::{Auth, ConfigError, Faults, Resume, TicketKeys, at, error, of_one, secret_files};
use crate::auth::{
    ApiKeys, Expected, Jwks, JwksSource, Key, KeyAlgorithm, SEAL_KEY_BYTES, Sealer, SigningKey,
    Verifier,
};

/// The minimum length of a secret (bytes): that of the hash (RFC 7518 3.2).
const HS256_BYTES_MIN: usize = 32;
const API_KEY_BYTES_MIN: usize = 20;

/// Base64 in either alphabet: the caller first replaces the characters that differ by those of the
/// URL-safe one.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Validates all options of token authentication.
pub(super) fn auth(file: &File, faults: &mut Faults) -> Option<Auth> {
    let written = &file.auth;
    let before = faults.0.len();
    let mut keys = Vec::with_capacity(file.keys.len());
    for (index, written) in file.keys.iter().enumerate() {
        keys.extend(faults.check(key(index, written)));
        if file.keys[..index].iter().any(|other| other.id == written.id) {
            let text = format!("two keys have the id \"{}\": give each its own", written.id);
            faults.0.push(of_one(format!("key.{index}.id"), text));
        }
    }
    let mut skipped_keys = Vec::new();
    if !written.jwks_file.is_empty() {
        let read = secret_files::public_file(&written.jwks_file)
            .and_then(|text| Jwks::read(&text).map_err(|e| format!("{} {e}", written.jwks_file)));
        let read = read.map_err(|text| at("auth.jwks_file", format!(": {text}")));
        if let Some(jwks) = faults.check(read) {
            keys.extend(jwks.keys);
            skipped_keys = jwks.skipped;
        }
    }
    faults.check(jwks_url(&written.jwks_url));
    let fetches = !written.jwks_url.is_empty();
    let expected = Expected {
        audience: written.audience.clone(),
        issuer: written.issuer.clone(),
        leeway_s: written.leeway_s.into(),
    };
    // A key file requires tokens even if it has no usable key: otherwise a bad file would open the
    // server to anonymous clients.
    let keys_configured = fetches || !keys.is_empty() || !written.jwks_file.is_empty();
    let api_keys = api_keys(&file.api_keys, faults);
    if faults.0.len() > before {
        return None;
    }
    Some(Auth {
        keys_configured,
        verifier: Arc::new(Verifier::new(keys, fetches, expected)),
        jwks: fetches.then(|| JwksSource::new(&written.jwks_url, written.jwks_refresh_s)),
        skipped_keys,
        allow_anonymous: written.allow_anonymous,
        token_query: written.token_query,
        api_keys: Arc::new(ApiKeys::new(
            api_keys.iter().map(|(name, secret)| (name.as_str(), secret.as_str())),
        )),
    })
}

fn jwks_url(url: &str) -> Result<(), ConfigError> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match host {
        _ if url.is_empty() => Ok(()),
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(()),
        _ => Err(at(
            "auth.jwks_url",
            format!("= \"{url}\": write the whole address, as in https://id.example/jwks.json"),
        )),
    }
}

fn key(index: usize, written: &file::Key) -> Result<Key, ConfigError> {
    let text = material(index, written)?;
    if written.algorithm == KeyAlgorithm::HS256 {
        return Ok(Key::from_secret(&written.id, text.as_bytes()));
    }
    Key::from_pem(&written.id, written.algorithm, &text).map_err(|fault| {
        let path = &written.public_key_file;
        let text = format!("key \"{}\": public_key_file {path} {fault}", written.id);
        of_one(format!("key.{index}.public_key_file"), text)
    })
}

/// Returns the configured key that can sign: the one with this id, or else the first of HS256. Keys
/// of other algorithms can only verify.
///
/// # Errors
/// No such key is configured, or it cannot sign.
pub(super) fn signing_key(file: &File, id: Option<&str>) -> Result<SigningKey, ConfigError> {
    let mut keys = file.keys.iter().enumerate();
    let can_sign = |key: &file::Key| key.algorithm == KeyAlgorithm::HS256;
    let found = keys.find(|(_, key)| id.map_or(can_sign(key), |id| key.id == id));
    match (found, id) {
        (Some((index, key)), _) if can_sign(key) => {
            Ok(SigningKey::from_secret(&key.id, material(index, key)?.as_bytes()))
        }
        (Some((_, key)), _) => Err(error(format!(
            "the key \"{}\" is a public one: it verifies, and cannot sign; give its private half \
             with --private-key FILE --algorithm {}",
            key.id,
            key.algorithm.name()
        ))),
        (None, Some(id)) => Err(error(format!("no [[key]] has the id \"{id}\""))),
        (None, None) => Err(error(
            "no HS256 [[key]] is configured to sign with; add one, or give --private-key FILE \
             --algorithm RS256|ES256|EdDSA",
        )),
    }
}

/// Returns the material of a key: a secret, or a public key as PEM.
fn material(index: usize, key: &file::Key) -> Result<String, ConfigError> {
    let fault = |option: &str, text: String| {
        let text = format!("key \"{}\": {option} {text}", key.id);
        of_one(format!("key.{index}.{option}"), text)
    };
    let secret_option = if key.secret_file.is_empty() { "secret" } else { "secret_file" };
    if key.algorithm != KeyAlgorithm::HS256 {
        if !key.secret.is_empty() || !key.secret_file.is_empty() {
            let text = "is for HS256 only: the other algorithms have a public_key_file";
            return Err(fault(secret_option, text.to_owned()));
        }
        if key.public_key_file.is_empty() {
            let text = "is missing: it names the PEM file that signatures are verified with";
            return Err(fault("public_key_file", text.to_owned()));
        }
        return secret_files::public_file(&key.public_key_file)
            .map_err(|text| fault("public_key_file", text));
    }
    if !key.public_key_file.is_empty() {
        let text = "is not for HS256, whose keys are secrets: set algorithm, or use secret_file";
        return Err(fault("public_key_file", text.to_owned()));
    }
    let secret = secret_files::one(&key.secret, &key.secret_file)
        .map_err(|text| fault(secret_option, text))?;
    if secret.len() < HS256_BYTES_MIN {
        let text = format!(
            "has {} bytes: HS256 needs at least {HS256_BYTES_MIN} random bytes; \
             `openssl rand -base64 32` makes a secret",
            secret.len()
        );
        return Err(fault(secret_option, text));
    }
    Ok(secret)
}

/// Validates the API's keys; returns their names and secrets.
fn api_keys(written: &[file::ApiKey], faults: &mut Faults) -> Vec<(String, String)> {
    let mut keys: Vec<(String, String)> = Vec::with_capacity(written.len());
    for (index, key) in written.iter().enumerate() {
        let option = if key.secret_file.is_empty() { "secret" } else { "secret_file" };
        let fault = |option: &str, text: &str| {
            let text = format!("api_key \"{}\": {option} {text}", key.name);
            of_one(format!("api_key.{index}.{option}"), text)
        };
        if key.name.is_empty() || written[..index].iter().any(|other| other.name == key.name) {
            faults.0.push(fault("name", "must be unique: logs identify the key by it"));
        }
        let secret = secret_files::one(&key.secret, &key.secret_file);
        let Some(secret) = faults.check(secret.map_err(|text| fault(option, &text))) else {
            continue;
        };
        if secret.len() < API_KEY_BYTES_MIN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text = "must have at least 20 visible characters without spaces; \
                        `openssl rand -hex 32` makes some";
            faults.0.push(fault(option, text));
        } else if keys.iter().any(|(_, other)| *other == secret) {
            faults.0.push(fault(option, "is another key's too: give each its own"));
        }
        keys.push((key.name.clone(), secret));
    }
    keys
}

/// Validates the keys that seal tickets.
pub(super) fn resume(written: &file::Resume) -> Result<Resume, ConfigError> {
    let keys = seal_keys(written)?;
    let sealer = Arc::new(Sealer::new(&keys));
    let origin = if keys.is_empty() { TicketKeys::Random } else { TicketKeys::Configured };
    Ok(Resume { sealer, keys: origin, ttl_s: written.ttl_s.into() })
}

/// Returns the configured keys that seal tickets; none if a random one is to be used.
fn seal_keys(written: &file::Resume) -> Result<Vec<[u8; SEAL_KEY_BYTES]>, ConfigError> {
    read_keys("resume.keys", &written.keys.0, &written.keys_file)
}

/// Keys of 32 bytes that are written in the option `key`, or in the file that `key` with `_file`
/// names.
pub(super) fn read_keys(
    key: &str,
    written: &[Secret],
    file: &str,
) -> Result<Vec<[u8; SEAL_KEY_BYTES]>, ConfigError> {
    let key = &if file.is_empty() { key.to_owned() } else { format!("{key}_file") };
    let from_file;
    let texts: Vec<&str> = match (written, file) {
        (keys, "") => keys.iter().map(Secret::reveal).collect(),
        ([], path) => {
            from_file =
                secret_files::secret_file(path).map_err(|text| at(key, format!(": {text}")))?;
            from_file.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
        }
        _ => {
            let other = key.trim_end_matches("_file");
            return Err(at(key, format!("and {other} are both given: drop one")));
        }
    };
    let read = texts.iter().enumerate().map(|(index, text)| {
        seal_key(text).ok_or_else(|| {
            let text = "is not 32 bytes in base64 or hexadecimal; `openssl rand -base64 32` makes \
                        some";
            at(key, format!("(key {} of {}) {text}", index + 1, texts.len()))
        })
    });
    let keys = read.collect::<Result<Vec<_>, _>>()?;
    if (1..keys.len()).any(|index| keys[..index].contains(&keys[index])) {
        return Err(at(key, "has one key twice: drop one"));
    }
    Ok(keys)
}

/// Parses a key in base64 or hexadecimal.
pub(super) fn seal_key(text: &str) -> Option<[u8; SEAL_KEY_BYTES]> {
    if text.len() == 2 * SEAL_KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut key = [0; SEAL_KEY_BYTES];
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    let text = text.replace('+', "-").replace('/', "_");
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{Auth, Faults, File, KeyAlgorithm, Secret, seal_keys};
    use crate::config::ConfigError;
    use crate::config::file::{ApiKey, Key, Resume, Secrets};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn auth(file: &File) -> Result<Auth, ConfigError> {
        let mut faults = Faults::default();
        super::auth(file, &mut faults).ok_or_else(|| ConfigError::all(faults.0))
    }

    fn api_keys(written: &[ApiKey]) -> Result<Vec<(String, String)>, ConfigError> {
        let mut faults = Faults::default();
        let keys = super::api_keys(written, &mut faults);
        faults.finish(|| keys).map_err(ConfigError::all)
    }

    fn key(id: &str) -> Key {
        Key { id: id.into(), secret: SECRET.into(), ..Key::default() }
    }

    fn refused(keys: &[Key]) -> ConfigError {
        let file = File { keys: keys.to_vec(), ..File::default() };
        let fault = auth(&file).unwrap_err();
        assert!(!fault.text.contains(SECRET), "{fault}");
        fault
    }

    #[test]
    fn a_key_is_what_its_algorithm_needs() {
        let file = File { keys: vec![key("a"), key("")], ..File::default() };
        assert!(auth(&file).unwrap().keys_configured);
        assert!(!auth(&File::default()).unwrap().keys_configured);
        for (wrong, option, says) in [
            (Key { secret: "short".into(), ..key("a") }, "secret", "has 5 bytes"),
            (Key { secret: Secret::default(), ..key("a") }, "secret", "has 0 bytes"),
            (Key { secret_file: "x".into(), ..key("a") }, "secret_file", "both as a value"),
            (Key { public_key_file: "x".into(), ..key("a") }, "public_key_file", "not for HS256"),
            (Key { algorithm: KeyAlgorithm::ES256, ..key("a") }, "secret", "HS256 only"),
        ] {
            let fault = refused(&[wrong]);
            assert_eq!(fault.key, Some(format!("key.0.{option}")), "{fault}");
            assert!(fault.text.contains(says), "{fault}");
        }
        let bare = Key { algorithm: KeyAlgorithm::EdDsa, secret: Secret::default(), ..key("a") };
        assert!(refused(std::slice::from_ref(&bare)).text.contains("is missing"));
        let gone = Key { public_key_file: "/none.pem".into(), ..bare };
        assert!(refused(&[gone]).text.contains("cannot read /none.pem"));
        assert!(refused(&[key("a"), key("a")]).text.contains("give each its own"));
    }

    #[test]
    fn api_keys_have_names_and_secrets_of_their_own() {
        let key = |name: &str, secret: &str| ApiKey {
            name: name.into(),
            secret: secret.into(),
            ..ApiKey::default()
        };
        let other = "another secret".replace(' ', "-of-this-server-");
        assert_eq!(api_keys(&[key("a", SECRET), key("b", &other)]).unwrap().len(), 2);
        for (keys, says) in [
            (vec![key("a", "short")], "at least 20"),
            (vec![key("a", "with spaces in it, and long enough")], "without spaces"),
            (vec![key("", SECRET)], "name must be unique"),
            (vec![key("a", SECRET), key("a", &other)], "name must be unique"),
            (vec![key("a", SECRET), key("b", SECRET)], "another key's"),
        ] {
            let fault = api_keys(&keys).unwrap_err();
            assert!(fault.text.contains(says) && !fault.text.contains(SECRET), "{fault}");
        }
    }

    #[test]
    fn seal_keys_are_read_in_either_form() {
        let keys = |texts: &[&str]| Resume {
            keys: Secrets(texts.iter().map(|text| Secret::from(*text)).collect()),
            ..Resume::default()
        };
        let hex = "fb".repeat(32);
        let standard = "+/v7".repeat(10) + "+/s=";
        let url = standard.replace('+', "-").replace('/', "_");
        assert_eq!(seal_keys(&keys(&[&hex])).unwrap(), [[0xfb; 32]]);
        let read = seal_keys(&keys(&[&standard])).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(seal_keys(&keys(&[url.trim_end_matches('=')])).unwrap(), read);
        assert!(seal_keys(&Resume::default()).unwrap().is_empty());
        for (texts, says) in [
            (vec!["short"], "(key 1 of 1) is not 32 bytes"),
            (vec![hex.as_str(), &hex[2..]], "(key 2 of 2)"),
            (vec![hex.as_str(), &hex], "twice"),
        ] {
            let fault = seal_keys(&keys(&texts)).unwrap_err();
            assert!(fault.text.contains(says) && !fault.text.contains("fbfb"), "{fault}");
        }
    }
}
