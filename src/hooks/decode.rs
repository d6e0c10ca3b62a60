//! Answers from HTTP responses.
//!
//! Nothing here trusts a response. It is bounded in bytes, and its nesting is checked without
//! recursion before any value is passed on. Fields that are unknown are ignored, so that an
//! application may answer more than this version reads; but an answer with only such fields, such
//! as an error page of a framework, allows nothing. A known field with a wrong value makes the
//! answer invalid, because it may have meant a restriction, and so does a refusal in the form of
//! another kind. `null` is the same as no field, except for `content`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::answer::{
    CallAnswer, ConnectAnswer, ConnectRefusal, FailureCause, HookAnswer, HookError, PublishAnswer,
    SubscribeAnswer,
};
use super::question::HookKind;
use crate::auth::{BackendClaims, ChannelGrant, Rights, check_channel};
use crate::hub::ChannelName;
use crate::text::content;

/// How long an identity or a grant is valid without `expires_in_s`, and at most (s).
const VALID_S: u32 = 3600;
const VALID_S_MAX: u32 = 31_536_000;
/// How long refusals and errors may be used again (s): what was missing may be there soon.
const ERROR_CACHE_S_MAX: u32 = 2;
const CHANNELS_MAX: usize = 100;
const REFUSAL_CHARS_MAX: usize = 200;
const CODE_BYTES_MAX: usize = 64;
const MESSAGE_CHARS_MAX: usize = 500;

/// What an application decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DecodedAnswer {
    pub(super) answer: HookAnswer,
    /// How long it may be used for equal questions (s).
    pub(super) cache_s: u32,
}

/// An HTTP response as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawResponse<'r> {
    pub(super) status: u16,
    pub(super) body: &'r [u8],
    /// When it arrived (Unix time, s).
    pub(super) unix_s: u64,
}

/// Why an answer cannot be read; there is nothing to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Invalid;

/// Reads the answer to a question.
///
/// # Errors
/// [`FailureCause::Status`] or [`FailureCause::Malformed`].
pub(super) fn decode_answer(
    kind: HookKind,
    response: RawResponse<'_>,
    bytes_max: usize,
    application: &Arc<str>,
) -> Result<DecodedAnswer, FailureCause> {
    if kind == HookKind::Publish && response.status == 204 {
        let answer = HookAnswer::Publish(PublishAnswer::Accept);
        return Ok(DecodedAnswer { answer, cache_s: 0 });
    }
    if response.status != 200 {
        return Err(FailureCause::Status);
    }
    if response.body.len() > bytes_max {
        return Err(FailureCause::Malformed);
    }
    let text = simdutf8::basic::from_utf8(response.body).map_err(|_| FailureCause::Malformed)?;
    let decoded = match kind {
        HookKind::Connect => decode_connect(text, response.unix_s, application),
        HookKind::Subscribe => decode_subscribe(text, response.unix_s),
        HookKind::Publish => decode_publish(text),
        HookKind::Call => decode_call(text),
    };
    decoded.map_err(|Invalid| FailureCause::Malformed)
}

/// Deserializes an object. `serde` would read an array as the fields in their order.
fn read_object<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Invalid> {
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err(Invalid);
    }
    serde_json::from_str(text).map_err(|_| Invalid)
}

/// Checks that an object has no field but `null`s. One with unknown fields only is likely no
/// answer.
fn check_empty(text: &str) -> Result<(), Invalid> {
    let fields: HashMap<&str, Option<IgnoredAny>> =
        serde_json::from_str(text).map_err(|_| Invalid)?;
    if fields.values().any(Option::is_some) { Err(Invalid) } else { Ok(()) }
}

/// Reads a field with `null` as a value of its own.
fn read_present<'t, D: Deserializer<'t>>(from: D) -> Result<Option<&'t RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct ConnectFields<'t> {
    #[serde(borrow)]
    user: Option<&'t RawValue>,
    #[serde(borrow)]
    info: Option<&'t RawValue>,
    #[serde(borrow)]
    channels: Option<&'t RawValue>,
    subscribe: Option<Vec<String>>,
    expires_in_s: Option<u32>,
    cache_s: Option<u32>,
    #[serde(borrow)]
    refuse: Option<&'t RawValue>,
    #[serde(borrow)]
    error: Option<&'t RawValue>,
}

#[derive(Deserialize)]
struct RefusalFields {
    status: u16,
    message: Option<String>,
}

fn decode_connect(
    text: &str,
    unix_s: u64,
    application: &Arc<str>,
) -> Result<DecodedAnswer, Invalid> {
    let fields: ConnectFields<'_> = read_object(text)?;
    let ConnectFields { user, info, channels, subscribe, expires_in_s, cache_s, refuse, error } =
        fields;
    if error.is_some() {
        return Err(Invalid);
    }
    let accepts = user.is_some()
        || info.is_some()
        || channels.is_some()
        || subscribe.is_some()
        || expires_in_s.is_some();
    if let Some(refuse) = refuse {
        let refusal = read_refusal(refuse)?;
        let answer = HookAnswer::Connect(refusal);
        return if accepts { Err(Invalid) } else { Ok(as_error(answer, cache_s)) };
    }
    if !accepts && cache_s.is_none() {
        check_empty(text)?;
    }
    let valid_s = check_validity(expires_in_s)?;
    let expires_s = unix_s.saturating_add(valid_s.into());
    let claims = BackendClaims { user, info, channels };
    let identity = claims.identity(expires_s, application).map_err(|_| Invalid)?;
    let identity = Arc::new(identity);
    let subscribe = read_channels(&subscribe.unwrap_or_default())?;
    let answer = HookAnswer::Connect(ConnectAnswer::Accept { identity, subscribe });
    Ok(as_valid(answer, cache_s, valid_s))
}

fn read_refusal(refuse: &RawValue) -> Result<ConnectAnswer, Invalid> {
    let RefusalFields { status, message } = read_object(refuse.get())?;
    let (refusal, default) = match status {
        401 => (ConnectRefusal::Unauthorized, "authentication required"),
        403 => (ConnectRefusal::Forbidden, "access denied"),
        429 => (ConnectRefusal::TooMany, "too many requests; retry later"),
        _ => return Err(Invalid),
    };
    let message = message.unwrap_or_else(|| default.to_owned());
    if message.is_empty() {
        return Err(Invalid);
    }
    check_message(&message, REFUSAL_CHARS_MAX)?;
    Ok(ConnectAnswer::Refuse { refusal, message: message.into() })
}

fn read_channels(names: &[String]) -> Result<Arc<[ChannelName]>, Invalid> {
    let mut seen = HashSet::new();
    let mut names_valid = names.iter().map(|name| check_channel(name).is_ok() && seen.insert(name));
    if names.len() > CHANNELS_MAX || !names_valid.all(|is_valid| is_valid) {
        return Err(Invalid);
    }
    Ok(names.iter().map(|name| ChannelName::new(name)).collect())
}

#[derive(Deserialize)]
struct SubscribeFields<'t> {
    rights: Option<Rights>,
    expires_in_s: Option<u32>,
    cache_s: Option<u32>,
    #[serde(borrow)]
    error: Option<&'t RawValue>,
    #[serde(borrow)]
    refuse: Option<&'t RawValue>,
}

fn decode_subscribe(text: &str, unix_s: u64) -> Result<DecodedAnswer, Invalid> {
    let SubscribeFields { rights, expires_in_s, cache_s, error, refuse } = read_object(text)?;
    if refuse.is_some() {
        return Err(Invalid);
    }
    if let Some(error) = error {
        let error = HookAnswer::Subscribe(SubscribeAnswer::Error(read_error(error)?));
        let grants = rights.is_some() || expires_in_s.is_some();
        return if grants { Err(Invalid) } else { Ok(as_error(error, cache_s)) };
    }
    if rights.is_none() && expires_in_s.is_none() && cache_s.is_none() {
        check_empty(text)?;
    }
    let rights = rights.unwrap_or(Rights { publish: false, ..Rights::ALL });
    if !rights.subscribe {
        return Err(Invalid);
    }
    let valid_s = check_validity(expires_in_s)?;
    let expires_s = unix_s.saturating_add(valid_s.into());
    let grant = ChannelGrant { rights, expires_s, key: None };
    Ok(as_valid(HookAnswer::Subscribe(SubscribeAnswer::Grant(grant)), cache_s, valid_s))
}

/// The answer to `publish` or `call`.
#[derive(Deserialize)]
struct ContentFields<'t> {
    #[serde(default, borrow, deserialize_with = "read_present")]
    content: Option<&'t RawValue>,
    #[serde(borrow)]
    error: Option<&'t RawValue>,
}

fn read_content(text: &str) -> Result<Result<Option<Box<str>>, HookError>, Invalid> {
    match read_object(text)? {
        ContentFields { content: Some(_), error: Some(_) } => Err(Invalid),
        ContentFields { content: None, error: Some(error) } => Ok(Err(read_error(error)?)),
        ContentFields { content: None, error: None } => check_empty(text).map(|()| Ok(None)),
        ContentFields { content: Some(content), error: None } => {
            let line = content::to_one_line(content.get()).map_err(|_| Invalid)?;
            Ok(Ok(Some(line.into())))
        }
    }
}

fn decode_publish(text: &str) -> Result<DecodedAnswer, Invalid> {
    let answer = match read_content(text)? {
        Ok(None) => PublishAnswer::Accept,
        Ok(Some(content)) => PublishAnswer::Replace(content),
        Err(error) => PublishAnswer::Error(error),
    };
    Ok(DecodedAnswer { answer: HookAnswer::Publish(answer), cache_s: 0 })
}

fn decode_call(text: &str) -> Result<DecodedAnswer, Invalid> {
    let answer = match read_content(text)? {
        Ok(content) => CallAnswer::Content(content.unwrap_or_else(|| "null".into())),
        Err(error) => CallAnswer::Error(error),
    };
    Ok(DecodedAnswer { answer: HookAnswer::Call(answer), cache_s: 0 })
}

#[derive(Deserialize)]
struct ErrorFields {
    code: String,
    message: Option<String>,
}

fn read_error(error: &RawValue) -> Result<HookError, Invalid> {
    let ErrorFields { code, message } = read_object(error.get())?;
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if code.is_empty() || code.len() > CODE_BYTES_MAX || !code.bytes().all(is_word) {
        return Err(Invalid);
    }
    let message = message.unwrap_or_default();
    check_message(&message, MESSAGE_CHARS_MAX)?;
    Ok(HookError { code: code.into(), message: message.into() })
}

/// Checks a text for clients: it may end up in a header, a log or a terminal.
fn check_message(message: &str, chars_max: usize) -> Result<(), Invalid> {
    let is_valid = message.chars().count() <= chars_max && !message.contains(char::is_control);
    is_valid.then_some(()).ok_or(Invalid)
}

fn as_error(answer: HookAnswer, cache_s: Option<u32>) -> DecodedAnswer {
    DecodedAnswer { answer, cache_s: cache_s.unwrap_or_default().min(ERROR_CACHE_S_MAX) }
}

/// The answer is not used again when its validity ends: `unix_s` may be almost a second late.
fn as_valid(answer: HookAnswer, cache_s: Option<u32>, valid_s: u32) -> DecodedAnswer {
    DecodedAnswer { answer, cache_s: cache_s.unwrap_or_default().min(valid_s - 1) }
}

/// Returns how long an answer is valid (s, at least 1).
fn check_validity(expires_in_s: Option<u32>) -> Result<u32, Invalid> {
    let valid_s = expires_in_s.unwrap_or(VALID_S);
    (1..=VALID_S_MAX).contains(&valid_s).then_some(valid_s).ok_or(Invalid)
}
