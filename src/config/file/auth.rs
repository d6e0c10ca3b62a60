//! Rows about who may connect: keys for tokens, for the API, and for tickets.

use super::secret::{Secret, Secrets};
use super::table::{Kind, OptionType, section};
use crate::auth::KeyAlgorithm;

section! {
    /// Tokens of clients (JWT). Keys to verify them stand in `[[key]]`, or come from a JWKS; with
    /// none of these, clients are anonymous.
    Auth "auth" repeated false;

    /// Without keys: lets clients be anonymous even on listeners that other hosts reach, and lets a
    /// reload remove the last key. With keys: clients without a token may stay, as anonymous.
    allow_anonymous: bool = false,
    "Set where channels are meant for everybody.";

    /// What the claim `aud` must name; empty = not looked at.
    audience: String = String::new(),
    "Set where the issuer makes tokens for other services too.";

    /// What the claim `iss` must be; empty = not looked at.
    issuer: String = String::new(),
    "Set where keys are shared by several issuers.";

    /// Clocks may differ by so much when `exp` and `nbf` are looked at.
    leeway_s: u32 = 5,
    "Raise where the issuer's clock is known to be wrong.";

    /// File with keys as a JWK Set, read at the start; empty = none.
    jwks_file: String = String::new(),
    "Where keys are delivered as a file.";

    /// `https://` or `http://` address of a JWK Set; empty = none. Its certificate is checked
    /// against the host's authorities.
    jwks_url: String = String::new(),
    "Where an identity provider publishes its keys.";

    /// How often it is fetched. When that fails, or brings no usable key, the keys fetched before
    /// stay, over a reload too. A token with an unknown key id has it fetched at once, at most
    /// every 10 seconds.
    jwks_refresh_s: u32 = 300,
    "Shorter where keys are withdrawn in a hurry.";

    /// Takes tokens from the query as well: `?token=`.
    token_query: bool = true,
    "Switch off where proxies on the way log whole addresses: browsers can send an `auth` frame \
     instead.";
}

section! {
    /// A key that clients' tokens are verified with.
    Key "key" repeated true absent true;

    /// The `kid` of its tokens; empty = for tokens without one.
    id: String = String::new(),
    "One for each key, so that keys can be changed one after the other.";

    /// What its tokens are signed with. The key decides, whatever a token says of itself.
    algorithm: KeyAlgorithm = KeyAlgorithm::HS256,
    "`ES256` or `EdDSA` where the issuer is another party: what verifies there cannot sign.";

    /// The secret of HS256: at least 32 bytes.
    secret: Secret = Secret::default(),
    "`secret_file` keeps it out of the file, the command line and the environment.";

    /// File that holds the secret, not readable by everyone. A line end after it does not count.
    secret_file: String = String::new(),
    "For secrets that are mounted as files.";

    /// File with the public key of the other algorithms, as PEM.
    public_key_file: String = String::new(),
    "For RS256, ES256 and `EdDSA`.";
}

section! {
    /// A key that backends send to the API: `Authorization: Bearer`. With at least one, the admin
    /// address may be reached from other hosts, and answers nothing else without a key but
    /// `/healthz`, `/readyz` and `/metrics`.
    ApiKey "api_key" repeated true absent true;

    /// What logs call it.
    name: String = "backend".into(),
    "One for each backend, so that a single one can be withdrawn.";

    /// At least 20 visible characters.
    secret: Secret = Secret::default(),
    "`secret_file` keeps it out of the file, the command line and the environment.";

    /// File that holds it, not readable by everyone. A line end after it does not count.
    secret_file: String = String::new(),
    "For secrets that are mounted as files.";
}

section! {
    /// Tickets, with which clients come back to where they were without asking a backend.
    Resume "resume" repeated false;

    /// Keys that seal tickets, 32 bytes each, as base64 or hexadecimal: the first seals, all open.
    /// Empty = the key in `process.state_dir`; without that, a random one at each start, so that no
    /// ticket outlives the process.
    keys: Secrets = Secrets::default(),
    "Set the same on all nodes behind one address. To change keys, put the new one second, then \
     first, then drop the old one.";

    /// File with such keys, a line each, not readable by everyone.
    keys_file: String = String::new(),
    "For secrets that are mounted as files.";

    /// A ticket holds for so long, and never longer than the token behind it.
    ttl_s: u32 = 86_400,
    "Shorter where clients must not come back after a while without asking.";
}

impl OptionType for KeyAlgorithm {
    const KIND: Kind = Kind::Choice(&["HS256", "RS256", "ES256", "EdDSA"]);
}
