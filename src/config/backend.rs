//! The applications that receive events, answer questions and exchange messages.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::file::{self, ConnectRule, File, HandlerName};
use super::{Faults, RouteOptions, links, of_one, ranges, secret_files};
use crate::auth::{Access, Namespaces, OnFailure};
use crate::backend::{BackendSettings, HookSettings, RequestForm, Signer};
use crate::events::{BACKENDS_MAX, EventKind, EventKinds, EventTarget};
use crate::hooks::HookLimits;

/// Standard Webhooks: "between 24 bytes (192 bits) and 64 bytes (512 bits)".
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The prefix of secrets of Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";
/// The longest answer to a question (bytes).
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The word for no kinds in the options of a channel, where an empty list means the backend's.
const NO_KINDS: &str = "none";
/// The beginning of the names of apps' webhooks, which no backend's name may have.
pub(super) const APP_PREFIX: &str = "app:";
/// What a route or channel lacks whose application is to decide.
const NEEDS_HOOKS: &str =
    "needs a [[backend]] with hook_url or links, and its name in `backend` if there are several";
/// Kinds that nodes cannot report where several share the channels: each knows its own members.
const OF_ONE_NODE: [EventKind; 4] = [
    EventKind::ChannelOccupied,
    EventKind::ChannelVacated,
    EventKind::MemberAdded,
    EventKind::MemberRemoved,
];

/// Checks the backends, in the order of the file.
pub(super) fn backends(file: &File, faults: &mut Faults) -> Vec<Arc<BackendSettings>> {
    if file.backends.len() > BACKENDS_MAX {
        let text = format!("must not have more than {BACKENDS_MAX} entries");
        faults.0.push(super::at("backend", text));
    }
    let mut checked = Vec::with_capacity(file.backends.len());
    for (index, written) in file.backends.iter().enumerate() {
        if file.backends[..index].iter().any(|other| other.name == written.name) {
            let text = format!("two backends have the name {}: rename one", written.name);
            faults.0.push(of_one(format!("backend.{index}.name"), text));
        }
        checked.extend(backend(index, written, file, faults));
    }
    checked
}

fn backend(
    index: usize,
    written: &file::Backend,
    file: &File,
    faults: &mut Faults,
) -> Option<Arc<BackendSettings>> {
    let before = faults.0.len();
    let fault = |key: &str, text: &str| {
        of_one(format!("backend.{index}.{key}"), format!("backend {}: {key} {text}", written.name))
    };
    if written.name.is_empty() || written.name.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        faults.0.push(fault("name", "must be a word"));
    }
    if written.name.starts_with(APP_PREFIX) {
        faults.0.push(fault("name", "must not begin with app: as the webhooks of apps do"));
    }
    for (key, problem) in ranges::find_errors(written.numbers()) {
        faults.0.push(fault(key, &problem));
    }
    let urls = [("events_url", &written.events_url), ("hook_url", &written.hook_url)];
    for (key, url) in urls.into_iter().filter(|(_, url)| !url.is_empty()) {
        faults.check(check_url(key, url).map_err(|text| fault(key, &text)));
    }
    let has_urls = urls.iter().any(|(_, url)| !url.is_empty());
    let links = links::settings(written, !file.admin.listen.is_empty(), &fault, faults);
    if !has_urls && written.links.is_empty() && !written.accept_links {
        let text = "or one of hook_url, links and accept_links must be set";
        faults.0.push(fault("events_url", text));
    }
    if written.events_url.is_empty() && !written.events.is_empty() {
        faults.0.push(fault("events", "needs events_url, to which events are sent"));
    }
    faults.check(check_headers(&written.hook_headers).map_err(|text| fault("hook_headers", &text)));
    let kinds =
        faults.check(parse_of_backends(&written.events).map_err(|text| fault("events", &text)));
    let kinds = kinds.unwrap_or_default();
    let has_cluster = !file.cluster.urls.is_empty();
    let checked = check_kinds(kinds, has_cluster, BY_MEMBERS);
    faults.check(checked.map_err(|text| fault("events", &text)));
    let secrets = written.secret_files.iter().filter_map(|path| {
        faults.check(read_secret(path).map_err(|text| fault("secret_files", &text)))
    });
    let signer = Signer::new(secrets.collect());
    if written.secret_files.is_empty() && has_urls {
        let text =
            "must name a file: requests are signed (make one with `openssl rand -base64 32`)";
        faults.0.push(fault("secret_files", text));
    }
    let authorities = read_authorities(&written.ca_file).map_err(|text| fault("ca_file", &text));
    let authorities = faults.check(authorities).flatten();
    let ms = |ms: u32| Duration::from_millis(ms.into());
    (faults.0.len() == before).then(|| {
        Arc::new(BackendSettings {
            name: written.name.clone(),
            events_url: written.events_url.clone(),
            hooks: hook_settings(written),
            links,
            node_events: kinds.only(|kind| kind == EventKind::NodeLost),
            form: RequestForm::Standard(signer),
            authorities,
            events_bytes_max: written.events_bytes_max as usize,
            retry_for: Duration::from_secs(written.retry_for_s.into()),
            vacate_delay: ms(written.vacate_delay_ms),
        })
    })
}

/// Returns whether an application can be asked, over HTTP or over its links.
fn takes_questions(written: &file::Backend) -> bool {
    !written.hook_url.is_empty() || links::has_links(written)
}

fn hook_settings(written: &file::Backend) -> Option<HookSettings> {
    let url = Some(written.hook_url.clone()).filter(|url| !url.is_empty());
    if !takes_questions(written) {
        return None;
    }
    let limits = HookLimits {
        concurrency_max: written.hook_concurrency_max as usize,
        waiting_max: written.hook_waiting_max as usize,
        timeout_ms: written.hook_timeout_ms.into(),
        cache_s_max: written.hook_cache_max_s,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    Some(HookSettings { url, headers: written.hook_headers.clone(), limits })
}

fn check_headers(names: &[String]) -> Result<(), String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for name in names {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("= \"{name}\": write names of headers, such as \"cookie\""));
        }
        if name.starts_with("sec-websocket-") {
            let text = "differs in each handshake, or holds a ticket: applications do not get it";
            return Err(format!("= \"{name}\": {text}"));
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("= \"{name}\": write it in lowercase, as the application gets it"));
        }
    }
    Ok(())
}

pub(super) fn check_url(key: &str, url: &str) -> Result<(), String> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_whole = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'));
    let is_parsed = || url.parse::<hyper::Uri>().is_ok_and(|uri| uri.host().is_some());
    match host {
        Some(host) if host.split('/').next().is_some_and(|name| name.contains('@')) => {
            Err("must not contain a user or password: requests are signed".to_owned())
        }
        Some(_) if is_whole && is_parsed() => Ok(()),
        _ => Err(format!(
            "= \"{url}\": write the whole address, as in https://app.example/seawall/{}",
            key.trim_end_matches("_url")
        )),
    }
}

fn parse_of_backends(names: &[String]) -> Result<EventKinds, String> {
    let known = EventKind::ALL.into_iter().filter(|kind| kind.is_for_backends());
    parse_kinds(names, &known.collect::<Vec<_>>())
}

/// Reads the names of kinds of events, all of these.
pub(super) fn parse_kinds(names: &[String], all: &[EventKind]) -> Result<EventKinds, String> {
    let one = |name: &String| {
        EventKind::parse(name).filter(|kind| all.contains(kind)).ok_or_else(|| {
            let known = all.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
            format!("= \"{name}\": there is no such kind; known are {known}")
        })
    };
    names.iter().map(one).collect()
}

/// What a backend may receive in a cluster instead.
const BY_MEMBERS: &str = "use subscribed and unsubscribed";

/// Checks kinds of events; `instead`: what may be named in a cluster.
pub(super) fn check_kinds(
    kinds: EventKinds,
    has_cluster: bool,
    instead: &str,
) -> Result<(), String> {
    let [occupied, vacated] = [EventKind::ChannelOccupied, EventKind::ChannelVacated];
    if kinds.contains(occupied) != kinds.contains(vacated) {
        return Err("must name both channel_occupied and channel_vacated: members that come back \
                    soon cancel both"
            .into());
    }
    if kinds.contains(EventKind::NodeLost) && !has_cluster {
        return Err(
            "= \"node_lost\" needs [cluster]: a single node cannot be missed by another".into()
        );
    }
    match kinds.iter().find(|kind| has_cluster && OF_ONE_NODE.contains(kind)) {
        Some(kind) => Err(format!(
            "= \"{}\" is not supported together with [cluster]: a node knows only its own members; \
             {instead}",
            kind.name()
        )),
        None => Ok(()),
    }
}

/// Reads a secret of Standard Webhooks: base64, with or without the prefix.
fn read_secret(path: &str) -> Result<Vec<u8>, String> {
    let text = secret_files::secret_file(path)?;
    let encoded = text.trim().strip_prefix(SECRET_PREFIX).unwrap_or(text.trim());
    let secret = BASE64_STANDARD.decode(encoded).map_err(|_| {
        format!("{path} holds no base64; make a secret with `openssl rand -base64 32`")
    })?;
    if !SECRET_BYTES.contains(&secret.len()) {
        return Err(format!(
            "{path} holds {} bytes: a secret has {} to {}; make one with `openssl rand -base64 32`",
            secret.len(),
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        ));
    }
    Ok(secret)
}

/// Reads the authorities of a certificate; `None`: those of the host.
pub(super) fn read_authorities(path: &str) -> Result<Option<RootCertStore>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let pem = secret_files::public_bytes(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let unusable = |error: &dyn std::fmt::Display| format!("= \"{path}\": {error}");
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("= \"{path}\": it holds no certificate; write the authorities as PEM"));
    }
    Ok(Some(roots))
}

/// Finds the backend that a route or channel names.
fn find(file: &File, name: &str) -> Result<Option<usize>, String> {
    if name.is_empty() {
        return Ok((file.backends.len() == 1).then_some(0));
    }
    let found = file.backends.iter().position(|one| one.name == name);
    found.map(Some).ok_or_else(|| format!("= \"{name}\": no [[backend]] has this name"))
}

/// Sets the backends of routes, in the order of the file.
pub(super) fn connect_routes(
    file: &File,
    written: &[file::Route],
    options: &mut [(crate::proto::http::Route, RouteOptions)],
    faults: &mut Faults,
) {
    let before = faults.0.len();
    for (index, route) in written.iter().enumerate() {
        let fault = |key: &str, text: String| {
            let text = format!("route {}: {key} {text}", route.path);
            of_one(format!("route.{index}.{key}"), text)
        };
        let is_gateway = route.handler == HandlerName::Gateway;
        let asks = route.connect == ConnectRule::Backend && !is_gateway;
        let has_sessions =
            is_gateway || matches!(route.handler, HandlerName::Hub | HandlerName::Pusher);
        links::check_route(route, &fault, faults);
        if !has_sessions && !asks {
            if !route.backend.is_empty() {
                let text = "needs handler = \"hub\" or \"gateway\", or connect = \"backend\"";
                faults.0.push(fault("backend", text.into()));
            }
            continue;
        }
        let found = find(file, &route.backend).map_err(|text| fault("backend", text));
        let Some(found) = faults.check(found) else { continue };
        let backend = found.map(|at| &file.backends[at]);
        if is_gateway && !backend.is_some_and(links::has_links) {
            faults.0.push(fault("backend", links::NEEDS_LINKS.into()));
            continue;
        }
        if asks && !backend.is_some_and(takes_questions) {
            faults.0.push(fault("connect", NEEDS_HOOKS.into()));
        }
        let deadline_ms = file.timeouts.handshake_timeout_ms;
        if asks && backend.is_some_and(|backend| backend.hook_timeout_ms >= deadline_ms) {
            let text = format!(
                "= \"backend\" needs backend.hook_timeout_ms below timeouts.handshake_timeout_ms \
                 ({deadline_ms}), after which the handshake ends"
            );
            faults.0.push(fault("connect", text));
        }
        // Indexes agree only if no route was left out for an error.
        if faults.0.len() == before
            && let (Some(at), Some(backend)) = (found, backend)
            && let Some((_, own)) = options.get_mut(index)
        {
            own.events.backend = at as u8;
            own.application = takes_questions(backend).then_some(at as u8);
            own.connect = route.connect;
            let kinds = parse_of_backends(&backend.events).unwrap_or_default();
            own.events.kinds = kinds.only(|kind| has_sessions && kind.is_of_connection());
        }
    }
}

/// Returns where events of a channel go.
///
/// # Errors
/// The option at fault, and the reason.
pub(super) fn of_channel(
    file: &File,
    written: &file::Channel,
) -> Result<EventTarget, (&'static str, String)> {
    let found =
        find(file, &written.backend).map_err(|text| ("backend", format!("backend {text}")))?;
    let backend = found.map(|at| &file.backends[at]);
    let fault = |text: String| ("events", format!("events {text}"));
    let asks = [("subscribe", written.subscribe), ("publish", written.publish)];
    if let Some((key, _)) = asks.into_iter().find(|(_, access)| *access == Access::Backend)
        && !backend.is_some_and(takes_questions)
    {
        return Err((key, format!("{key} = \"backend\" {NEEDS_HOOKS}")));
    }
    if written.on_failure == OnFailure::Allow && written.publish != Access::Backend {
        let text = "on_failure = \"allow\" needs publish = \"backend\": it is for publishes only";
        return Err(("on_failure", text.into()));
    }
    let own = match &written.events[..] {
        [none] if none == NO_KINDS => Some(EventKinds::default()),
        [] => None,
        names => Some(parse_of_backends(names).map_err(fault)?),
    };
    if let Some(own) = own {
        if let Some(kind) = own.iter().find(|one| !one.is_of_channel()) {
            return Err(fault(format!("= \"{}\" is not an event of channels", kind.name())));
        }
        if !own.is_empty() && backend.is_none() {
            let text = "needs a [[backend]], and its name in `backend` if there are several";
            return Err(fault(text.into()));
        }
        check_kinds(own, !file.cluster.urls.is_empty(), BY_MEMBERS).map_err(fault)?;
    }
    let inherited = || backend.and_then(|backend| parse_of_backends(&backend.events).ok());
    let kinds = own.or_else(inherited).unwrap_or_default().only(EventKind::is_of_channel);
    Ok(EventTarget { backend: found.unwrap_or_default() as u8, kinds })
}

/// Returns the kinds of events of channels that any backend wants.
pub(super) fn wanted_kinds(namespaces: &Namespaces) -> EventKinds {
    let all = namespaces.iter().chain([namespaces.granted()]);
    all.fold(EventKinds::default(), |kinds, one| kinds.or(one.events.kinds))
}
