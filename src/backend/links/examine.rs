//! Examines an application's endpoints for links as they are used: `seawall doctor` dials each
//! address, exchanges hellos, and closes; and it dials once with a wrong token.

use std::sync::Arc;

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use super::dial::Dialing;
use super::flow::{BODY_BYTES_MIN, resolve};
use super::targets::Target;
use crate::backend::client::tls_config;
use crate::backend::settings::{BackendSettings, LinkToken};

/// The node's name in `hello`.
const NODE: &str = "doctor";
/// A token that no application should accept.
const WRONG_TOKEN: &str = "a-wrong-token-of-seawall-doctor";

/// What an address of an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// The URL, and the address that it leads to.
    pub place: String,
    /// The process there, as it calls itself; the error if there was no `hello`.
    pub instance: Result<String, String>,
    /// Whether a wrong token was accepted; `None`: it was not tried.
    pub takes_wrong_token: Option<bool>,
}

/// Examines all endpoints of an application.
///
/// # Errors
/// When the host's authorities cannot be used.
pub async fn examine_links(settings: &BackendSettings) -> Result<Vec<LinkReport>, String> {
    let Some(links) = &settings.links else { return Ok(Vec::new()) };
    let dialing = Dialing {
        node: NODE.to_owned(),
        settings: links.clone(),
        tls: Arc::new(tls_config(settings)?),
        record_bytes_max: BODY_BYTES_MIN,
        counters: Arc::default(),
    };
    let mut forging = dialing.clone();
    forging.settings.token = LinkToken::new(WRONG_TOKEN);
    let mut reports = Vec::new();
    for url in &links.urls {
        let addresses = match resolve(url).await {
            Ok(addresses) => addresses,
            Err(error) => {
                let place = url.as_str().to_owned();
                reports.push(LinkReport { place, instance: Err(error), takes_wrong_token: None });
                continue;
            }
        };
        for address in addresses {
            let target = Target { url: url.clone(), address };
            let instance = greet(&dialing, &target).await;
            let takes_wrong_token = if instance.is_ok() && links.token.is_some() {
                Some(greet(&forging, &target).await.is_ok())
            } else {
                None
            };
            let place = format!("{} ({address})", url.as_str());
            reports.push(LinkReport { place, instance, takes_wrong_token });
        }
    }
    Ok(reports)
}

/// Exchanges hellos, and closes.
async fn greet(dialing: &Dialing, target: &Target) -> Result<String, String> {
    let (mut stream, greeting) = dialing.dial(target).await?;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "examined".into() };
    // Fails only where the peer has closed first.
    let _ = stream.close(Some(frame)).await;
    Ok(greeting.hello.instance.to_string())
}
