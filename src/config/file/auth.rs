//! Authentication: keys for tokens, for the API, and for tickets.

use super::secret::{Secret, Secrets};
use super::table::{ANY, Kind, OptionType, section};
use crate::auth::KeyAlgorithm;

section! {
    /// Tokens of clients (JWT). The keys that verify them are in `[[key]]` or in a JWKS; without
    /// any, clients are anonymous.
    Auth "auth" repeated false;

    /// Without keys: accepts anonymous clients even on listeners that other hosts reach, and lets a
    /// reload remove the last key. With keys: accepts clients without a token, as anonymous.
    allow_anonymous: bool = false,
    "Set where channels are open to everyone.";

    /// Required `aud` claim; empty = not checked.
    audience: String = String::new(),
    "Set where the issuer makes tokens for other services too.";

    /// Required `iss` claim; empty = not checked.
    issuer: String = String::new(),
    "Set where several issuers share keys.";

    /// Tolerated clock difference when `exp` and `nbf` are checked.
    leeway_s: u32 = 5 => "seconds" in 0..=ANY,
    "Raise where the issuer's clock is known to be wrong.";

    /// File with keys as a JWK Set, read at the start; empty = none.
    jwks_file: String = String::new(),
    "Set where keys are delivered as a file.";

    /// `https://` or `http://` address of a JWK Set; empty = none. Its certificate is verified
    /// against the host's authorities.
    jwks_url: String = String::new(),
    "Set where an identity provider publishes its keys.";

    /// Interval between fetches. When a fetch fails or brings no usable key, the previous keys
    /// stay, across reloads too. A token with an unknown key id triggers a fetch, at most every 10
    /// seconds.
    jwks_refresh_s: u32 = 300 => "seconds" in 1..=ANY,
        because "300 is every five minutes",
    "Lower where withdrawn keys must become invalid sooner.";

    /// Accepts tokens in the query too: `?token=`.
    token_query: bool = true,
    "Switch off where proxies on the way log full URLs: browsers can send an `auth` frame \
     instead.";
}

section! {
    /// A key that verifies clients' tokens.
    Key "key" repeated true absent true;

    /// The `kid` of its tokens; empty = for tokens without one.
    id: String = String::new(),
    "Give each key its own, so that keys can be replaced one at a time.";

    /// Algorithm of its tokens. The key decides, whatever a token claims.
    algorithm: KeyAlgorithm = KeyAlgorithm::HS256,
    "`ES256` or `EdDSA` where the issuer is another party: a key that verifies them cannot sign.";

    /// The secret of HS256: at least 32 bytes.
    secret: Secret = Secret::default(),
    "`secret_file` keeps it out of the file, the command line and the environment.";

    /// File with the secret; other users must not have access. A trailing newline is ignored.
    secret_file: String = String::new(),
    "For secrets that are mounted as files.";

    /// File with the public key of the other algorithms, as PEM.
    public_key_file: String = String::new(),
    "For RS256, ES256 and `EdDSA`.";
}

section! {
    /// A key that backends send to the API as `Authorization: Bearer`. With at least one, the admin
    /// address may be reached from other hosts, and without a key answers only `/healthz`,
    /// `/readyz` and `/metrics`.
    ApiKey "api_key" repeated true absent true;

    /// Its name in logs.
    name: String = "backend".into(),
    "Give each backend its own key, so that a single one can be withdrawn.";

    /// The key: at least 20 visible characters.
    secret: Secret = Secret::default(),
    "`secret_file` keeps it out of the file, the command line and the environment.";

    /// File with the key; other users must not have access. A trailing newline is ignored.
    secret_file: String = String::new(),
    "For secrets that are mounted as files.";
}

section! {
    /// Tickets, with which clients resume their session without asking a backend.
    Resume "resume" repeated false;

    /// Keys that seal tickets, 32 bytes each, as base64 or hexadecimal: the first seals, all open.
    /// Empty = the key in `process.state_dir`; without that, a random one at each start, so that no
    /// ticket outlives the process.
    keys: Secrets = Secrets::default(),
    "Use the same on all nodes behind one address. To replace a key, add the new one second, then \
     move it first, then remove the old one.";

    /// File with such keys, one per line; other users must not have access.
    keys_file: String = String::new(),
    "For secrets that are mounted as files.";

    /// Lifetime of a ticket, which never exceeds that of the token behind it.
    ttl_s: u32 = 86_400 => "seconds" in 1..=ANY,
        because "every ticket would have ended at once",
    "Lower to require a new token from clients that return late.";
}

impl OptionType for KeyAlgorithm {
    const KIND: Kind = Kind::Choice(&["HS256", "RS256", "ES256", "EdDSA"]);
}
