//! Examines an application as it is used: `seawall doctor` sends each of its addresses a request of
//! the type `test`, which asks for nothing, and one whose signature is wrong. The webhook of an app
//! receives a request without events.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::{BackendClient, HttpReply, SignedRequest};
use super::form::RequestForm;
use super::settings::BackendSettings;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What an address of an application answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlReport {
    pub url: String,
    /// Whether it is for hooks, or else for events.
    pub is_hook: bool,
    /// Whether it is the webhook of an app.
    pub is_of_app: bool,
    /// The status of the answer to a signed request; the error if there was none.
    pub status: Result<u16, String>,
    /// Whether a request with a wrong signature was accepted.
    pub takes_wrong_signature: bool,
    /// How far the application's clock is ahead of this host's (s), if it gave a date.
    pub ahead_s: Option<i64>,
}

/// Examines all addresses of an application.
///
/// # Errors
/// When the host's authorities cannot be used.
pub async fn examine_backend(settings: &Arc<BackendSettings>) -> Result<Vec<UrlReport>, String> {
    let client = BackendClient::new(settings.clone())?;
    // Signed with the key that any request could be signed with.
    let forged = BackendSettings { form: settings.form.forged(), ..(**settings).clone() };
    let forger = BackendClient::new(Arc::new(forged))?;
    let mut reports = Vec::new();
    let events = Some(&*settings.events_url).filter(|url| !url.is_empty());
    let hooks = settings.hooks.as_ref().and_then(|hooks| hooks.url.as_deref());
    let events = events.map(|url| (url, false));
    for (url, is_hook) in events.into_iter().chain(hooks.map(|url| (url, true))) {
        let reply = post_test(&client, url, is_hook).await;
        let takes_wrong_signature = reply.is_ok()
            && post_test(&forger, url, is_hook).await.is_ok_and(|reply| reply.status.is_success());
        let ahead_s = reply.as_ref().ok().and_then(|reply| reply.date).map(ahead_s);
        let status = reply.map(|reply| reply.status.as_u16());
        reports.push(UrlReport {
            url: url.to_owned(),
            is_hook,
            is_of_app: matches!(settings.form, RequestForm::Pusher(_)),
            status,
            takes_wrong_signature,
            ahead_s,
        });
    }
    Ok(reports)
}

async fn post_test(client: &BackendClient, url: &str, is_hook: bool) -> Result<HttpReply, String> {
    let time_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let id = format!("doctor.{time_ms}");
    let body = if is_hook {
        format!(r#"{{"type":"test","node":"doctor","id":"{id}"}}"#)
    } else {
        client.settings().form.encode_test(&id, time_ms)
    };
    let request = SignedRequest { url, id: &id, body: &body.into(), timeout: TIMEOUT };
    client.post(request).await.map_err(|failure| failure.to_string())
}

/// Returns how far a date is ahead of this host's clock (s). Dates have whole seconds.
fn ahead_s(date: SystemTime) -> i64 {
    match date.duration_since(SystemTime::now()) {
        Ok(ahead) => ahead.as_secs() as i64,
        Err(behind) => -(behind.duration().as_secs() as i64),
    }
}
