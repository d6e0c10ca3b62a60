//! Links to applications, and the routes whose messages they carry.

use std::time::Duration;

use super::file::{self, AcceptRule, AffinityRule, ConnectRule, HandlerName, RouteSlowReader};
use super::{ConfigError, Faults, secret_files};
use crate::backend::{BackendSettings, LinkSettings, LinkToken, LinkUrl};

/// What a gateway lacks whose messages could not go anywhere.
pub(super) const NEEDS_LINKS: &str =
    "must name a [[backend]] with links or accept_links (with handler = \"gateway\")";

/// Returns whether an application exchanges messages.
pub(super) fn has_links(written: &file::Backend) -> bool {
    !written.links.is_empty() || written.accept_links
}

/// Checks the links of an application; `None`: it has none, or an error.
pub(super) fn settings(
    written: &file::Backend,
    has_admin: bool,
    fault: &dyn Fn(&str, &str) -> ConfigError,
    faults: &mut Faults,
) -> Option<LinkSettings> {
    let mut urls: Vec<LinkUrl> = Vec::with_capacity(written.links.len());
    for text in &written.links {
        let Some(url) = LinkUrl::parse(text) else {
            let problem = format!(
                "= \"{text}\": write the whole address, as in wss://app.example/link, without user \
                 and password (link_token_file)"
            );
            faults.0.push(fault("links", &problem));
            continue;
        };
        if urls.contains(&url) {
            faults.0.push(fault("links", &format!("= \"{text}\": write each address once")));
        }
        urls.push(url);
    }
    let token = read_token(&written.link_token_file);
    let token = faults.check(token.map_err(|text| fault("link_token_file", &text))).flatten();
    if written.accept_links && !has_admin {
        let text = "= true needs admin.listen, where the application dials";
        faults.0.push(fault("accept_links", text));
    }
    has_links(written).then(|| LinkSettings {
        urls,
        headers: written.hook_headers.clone(),
        per_node: written.links_per_node,
        token,
        timeout: Duration::from_millis(written.link_timeout_ms.into()),
        queue_bytes_max: written.link_queue_bytes_max as usize,
        hold_ms: written.hold_ms,
        moves_per_s: written.moves_per_s,
        drain_ms: written.drain_ms,
        rebalance_per_s: written.rebalance_per_s,
        by_user: written.affinity == AffinityRule::User,
        accepts: written.accept_links,
        unacked_messages_max: written.unacked_messages_max,
        unacked_bytes_max: written.unacked_bytes_max,
    })
}

fn read_token(path: &str) -> Result<Option<LinkToken>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = secret_files::secret_file(path)?;
    let invalid = || {
        format!(
            "{path} must hold one line of visible ASCII characters; make a token with `openssl \
             rand -hex 32`"
        )
    };
    LinkToken::new(&text).map(Some).ok_or_else(invalid)
}

/// Checks what a route says about links.
pub(super) fn check_route(
    written: &file::Route,
    fault: &dyn Fn(&str, String) -> ConfigError,
    faults: &mut Faults,
) {
    if written.handler == HandlerName::Gateway {
        if written.connect == ConnectRule::Backend {
            let text = "= \"backend\" is for the hub: with handler = \"gateway\", the application \
                        decides when it gets the session (accept = \"backend\")";
            faults.0.push(fault("connect", text.into()));
        }
        return;
    }
    let given = [
        ("accept", written.accept != AcceptRule::default()),
        ("slow_reader", written.slow_reader != RouteSlowReader::default()),
    ];
    for (key, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        faults.0.push(fault(key, "needs handler = \"gateway\"".into()));
    }
}

/// Returns a warning about links that anyone on their way could read or open.
pub(super) fn find_exposed(settings: &BackendSettings) -> Option<String> {
    let links = settings.links.as_ref().filter(|links| links.token.is_none())?;
    let url = links.urls.iter().find(|url| !url.is_tls() && url.is_public())?;
    Some(format!(
        "backend {}: links to {} are neither encrypted nor authenticated; use wss://, and set \
         link_token_file",
        settings.name,
        url.as_str()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::file::{Backend, File, Route};

    fn linked(urls: &[&str]) -> Backend {
        let links = urls.iter().map(|url| (*url).to_owned()).collect();
        Backend { links, ..Backend::default() }
    }

    fn gateway() -> Route {
        Route { path: "/game".into(), handler: HandlerName::Gateway, ..Route::default() }
    }

    fn validate(backends: &[Backend], routes: &[Route]) -> Result<Config, ConfigError> {
        let (backends, routes) = (backends.to_vec(), routes.to_vec());
        Config::validate(&File { routes, backends, ..File::default() }, 20_000, 1)
    }

    #[test]
    fn a_gateway_needs_an_application_with_links() {
        let config = validate(&[linked(&["ws://app/link"])], &[gateway()]).unwrap();
        let route = &config.route_options[0];
        assert_eq!((route.application, route.accept), (Some(0), AcceptRule::Backend));
        assert!(config.has_sessions() && !config.has_hub());
        let links = config.backends[0].links.as_ref().unwrap();
        assert_eq!((links.urls[0].as_str(), links.per_node), ("ws://app/link", 4));
        let dialed = Backend { accept_links: true, ..linked(&[]) };
        assert!(validate(&[dialed], &[gateway()]).is_ok());
        let named = |name: &str, one: Backend| Backend { name: name.into(), ..one };
        let hooks = Backend { events_url: "http://app".into(), ..named("a", linked(&[])) };
        let two = [hooks, named("b", linked(&["ws://app/link"]))];
        let of = |backend: &str| Route { backend: backend.into(), ..gateway() };
        for (backends, route) in [(&two[1..], "c"), (&two, ""), (&two, "a"), (&[], "")] {
            let error = validate(backends, &[of(route)]).unwrap_err();
            assert!(error.text.contains("route /game: backend"), "{route}: {error}");
        }
        let config = validate(&two[1..], &[of("b")]).unwrap();
        assert_eq!(config.route_options[0].application, Some(0));
    }

    #[test]
    fn options_of_gateways_are_for_gateways() {
        let backends = [linked(&["ws://app/link"])];
        let accept = AcceptRule::AtOnce;
        let slow_reader = RouteSlowReader::Drop;
        let config = validate(&backends, &[Route { accept, slow_reader, ..gateway() }]);
        let route = config.unwrap().route_options[0];
        assert_eq!((route.accept, route.slow_reader), (accept, slow_reader));
        let connect = ConnectRule::Backend;
        for (key, route) in [
            ("route.0.connect", Route { connect, ..gateway() }),
            ("route.0.accept", Route { accept, ..Route::default() }),
            ("route.0.slow_reader", Route { slow_reader, ..Route::default() }),
        ] {
            let error = validate(&backends, &[route]).unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{error}");
            assert!(error.text.contains("gateway") && !error.text.contains('\n'), "{error}");
        }
    }

    #[test]
    fn mistakes_in_links_name_their_option() {
        let missing = Backend { link_token_file: "/missing".into(), ..linked(&["ws://a"]) };
        for (key, backend) in [
            ("backend.0.links", linked(&["http://app/link"])),
            ("backend.0.links", linked(&["ws://a", "ws://a"])),
            ("backend.0.link_token_file", missing),
            ("backend.0.events_url", Backend::default()),
        ] {
            let error = validate(&[backend], &[]).unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{error}");
        }
        let accept_links = true;
        let mut file = File::default();
        file.backends.push(Backend { accept_links, ..Backend::default() });
        file.admin.listen = String::new();
        let error = Config::validate(&file, 20_000, 1).unwrap_err();
        assert!(error.text.contains("needs admin.listen"), "{error}");
    }

    #[test]
    fn links_that_anyone_can_read_are_a_warning() {
        let warnings = |url| validate(&[linked(&[url])], &[]).unwrap().warnings();
        assert!(warnings("wss://app.example/").is_empty());
        assert!(warnings("ws://10.0.0.1/").is_empty());
        let [warning] = &warnings("ws://app.example/")[..] else { panic!("one warning") };
        assert!(warning.contains("link_token_file"), "{warning}");
    }
}
