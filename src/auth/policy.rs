//! Decides whether a client may use a verb on a channel.
//!
//! The namespace defines which clients may subscribe and publish; `anyone` requires nothing,
//! whatever a token grants. Listing members and reading history come with subscribing, unless a
//! token claims or grants rights for the channel: then only those count, so that a backend can open
//! a channel without its members, or only its history.

use super::identity::{ChannelGrant, Identity};
use super::namespaces::{Access, Namespace, Namespaces};

/// A verb that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Subscribe,
    Publish,
    Presence,
    History,
}

/// Why a client may not use a verb, for the error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No other identity of this client would change that.
    Forbidden,
    /// A token might change that.
    Unauthorized,
}

/// A rejection with its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRefusal {
    pub kind: RefusalKind,
    pub message: &'static str,
}

/// Decides on a verb, and returns the namespace of the channel.
///
/// `grant` is an unexpired grant for this channel, in addition to the identity. `keys_configured`:
/// whether the server can verify tokens.
///
/// # Errors
/// Why the verb is rejected.
pub fn decide<'n>(
    namespaces: &'n Namespaces,
    identity: &Identity,
    grant: Option<&ChannelGrant>,
    verb: Permission,
    channel: &str,
    keys_configured: bool,
) -> Result<&'n Namespace, PolicyRefusal> {
    // The claims of the token and the grant for the channel are united.
    let named = match (identity.rights_for(channel), grant.map(|grant| grant.rights)) {
        (Some(claimed), Some(granted)) => Some(claimed.or(granted)),
        (claimed, granted) => claimed.or(granted),
    };
    let granted = named.is_some_and(|rights| match verb {
        Permission::Subscribe => rights.subscribe,
        Permission::Publish => rights.publish,
        Permission::Presence => rights.presence,
        Permission::History => rights.history,
    });
    let Some(namespace) = namespaces.find(channel) else {
        return match (granted, keys_configured) {
            (true, _) => Ok(namespaces.granted()),
            (false, true) => Err(nothing_granted(identity)),
            (false, false) => Err(forbidden("no namespace is configured for this channel")),
        };
    };
    let access = match verb {
        Permission::Publish => namespace.publish,
        // Rights granted by name replace those of the namespace.
        Permission::Presence | Permission::History if granted => return Ok(namespace),
        Permission::Presence | Permission::History if named.is_some() => Access::Token,
        Permission::Subscribe | Permission::Presence | Permission::History => namespace.subscribe,
    };
    match access {
        Access::Anyone => Ok(namespace),
        Access::Authenticated if identity.user.is_some() => Ok(namespace),
        Access::Token | Access::Backend if granted => Ok(namespace),
        // Each publish is decided on by the application.
        Access::Backend if verb == Permission::Publish => Ok(namespace),
        Access::Backend => Err(unauthorized(
            "the application decides on this channel: subscribe, or resume with the grant of a \
             subscription",
        )),
        Access::Server => Err(forbidden("only the server may do this in this channel")),
        _ if !keys_configured => Err(forbidden(
            "this channel requires a token, and the server has no keys to verify one",
        )),
        Access::Authenticated => Err(unauthorized("this channel requires a user; authenticate")),
        Access::Token => Err(nothing_granted(identity)),
    }
}

fn nothing_granted(identity: &Identity) -> PolicyRefusal {
    if identity.is_anonymous() {
        unauthorized("this channel requires a token that grants this; authenticate")
    } else {
        forbidden("neither the connection's token nor one for the channel grants this")
    }
}

fn forbidden(message: &'static str) -> PolicyRefusal {
    PolicyRefusal { kind: RefusalKind::Forbidden, message }
}

fn unauthorized(message: &'static str) -> PolicyRefusal {
    PolicyRefusal { kind: RefusalKind::Unauthorized, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Pattern, Right, Rights, SlowReader};

    fn namespace(pattern: &str, subscribe: Access, publish: Access) -> Namespace {
        Namespace {
            pattern: Pattern::new(pattern).unwrap(),
            subscribe,
            publish,
            history_messages: 0,
            history_ttl_s: 0,
            presence: true,
            slow_reader: SlowReader::default(),
            members_max: 0,
            message_bytes_max: 0,
            rate: 0,
            events: crate::events::EventTarget::default(),
            on_failure: crate::auth::OnFailure::default(),
        }
    }

    fn namespaces() -> Namespaces {
        use Access::{Anyone, Authenticated, Server, Token};
        let list = vec![
            namespace("open:*", Anyone, Anyone),
            namespace("user:*", Authenticated, Authenticated),
            namespace("token:*", Token, Token),
            namespace("news:*", Anyone, Server),
            namespace("push:*", Server, Server),
        ];
        Namespaces::new(list, namespace("*", Token, Token))
    }

    fn rights(words: &str) -> Rights {
        Rights::from_words(words.split(' ').filter(|word| !word.is_empty())).unwrap()
    }

    fn user(claims: &[(&str, &str)]) -> Identity {
        let right = |(pattern, words): &(&str, &str)| Right {
            pattern: Pattern::new(pattern).unwrap(),
            rights: rights(words),
        };
        Identity {
            user: Some("ann".into()),
            rights: claims.iter().map(right).collect(),
            expires_s: Some(1),
            ..Identity::default()
        }
    }

    /// `None`: allowed.
    fn refused(
        identity: &Identity,
        grant: Option<&str>,
        verb: Permission,
        channel: &str,
    ) -> Option<RefusalKind> {
        let grant =
            grant.map(|words| ChannelGrant { rights: rights(words), expires_s: 1, key: None });
        let all = namespaces();
        let decision = decide(&all, identity, grant.as_ref(), verb, channel, true);
        decision.err().map(|refusal| refusal.kind)
    }

    const VERBS: [Permission; 4] =
        [Permission::Subscribe, Permission::Publish, Permission::Presence, Permission::History];
    const FORBIDDEN: Option<RefusalKind> = Some(RefusalKind::Forbidden);
    const UNAUTHORIZED: Option<RefusalKind> = Some(RefusalKind::Unauthorized);

    #[test]
    fn namespaces_decide_who_may() {
        let (anonymous, ann) = (Identity::default(), user(&[]));
        for verb in VERBS {
            assert_eq!(refused(&anonymous, None, verb, "open:a"), None);
            assert_eq!(refused(&anonymous, None, verb, "user:a"), UNAUTHORIZED);
            assert_eq!(refused(&ann, None, verb, "user:a"), None);
            assert_eq!(refused(&anonymous, None, verb, "token:a"), UNAUTHORIZED);
            assert_eq!(refused(&ann, None, verb, "token:a"), FORBIDDEN);
            assert_eq!(refused(&ann, None, verb, "push:a"), FORBIDDEN);
        }
        assert_eq!(refused(&anonymous, None, Permission::Subscribe, "news:a"), None);
        assert_eq!(refused(&anonymous, None, Permission::History, "news:a"), None);
        assert_eq!(refused(&anonymous, None, Permission::Publish, "news:a"), FORBIDDEN);
    }

    #[test]
    fn claims_and_channel_tokens_grant() {
        let ann = user(&[("token:*", "subscribe history")]);
        assert_eq!(refused(&ann, None, Permission::Subscribe, "token:a"), None);
        assert_eq!(refused(&ann, None, Permission::History, "token:a"), None);
        assert_eq!(refused(&ann, None, Permission::Publish, "token:a"), FORBIDDEN);
        assert_eq!(refused(&ann, None, Permission::Presence, "token:a"), FORBIDDEN);
        assert_eq!(refused(&ann, Some("publish"), Permission::Publish, "token:a"), None);
        assert_eq!(refused(&ann, Some("publish"), Permission::Subscribe, "token:a"), None);
        let anonymous = Identity::default();
        assert_eq!(refused(&anonymous, Some("subscribe"), Permission::Subscribe, "token:a"), None);
        assert_eq!(
            refused(&anonymous, Some("subscribe"), Permission::Presence, "token:a"),
            UNAUTHORIZED
        );
    }

    #[test]
    fn no_claim_opens_server_channels_or_closes_open_ones() {
        let ann = user(&[("*", "subscribe publish presence history")]);
        assert_eq!(refused(&ann, None, Permission::Publish, "news:a"), FORBIDDEN);
        assert_eq!(refused(&ann, Some("subscribe"), Permission::Subscribe, "push:a"), FORBIDDEN);
        let bob = user(&[("open:*", "history")]);
        assert_eq!(refused(&bob, None, Permission::Subscribe, "open:a"), None);
        assert_eq!(refused(&bob, None, Permission::Publish, "open:a"), None);
    }

    #[test]
    fn reading_members_and_history_can_be_granted_more_narrowly() {
        let ann = user(&[("open:*", "subscribe history")]);
        assert_eq!(refused(&ann, None, Permission::History, "open:a"), None);
        assert_eq!(refused(&ann, None, Permission::Presence, "open:a"), FORBIDDEN);
        let bob = user(&[("push:*", "history")]);
        assert_eq!(refused(&bob, None, Permission::History, "push:a"), None);
        assert_eq!(refused(&bob, None, Permission::Presence, "push:a"), FORBIDDEN);
    }

    #[test]
    fn a_channel_without_a_namespace_needs_a_grant() {
        let ann = user(&[("other:*", "subscribe")]);
        let all = namespaces();
        let found = decide(&all, &ann, None, Permission::Subscribe, "other:a", true).unwrap();
        assert_eq!(found, all.granted());
        assert_eq!(refused(&ann, None, Permission::Publish, "other:a"), FORBIDDEN);
        assert_eq!(refused(&ann, None, Permission::Subscribe, "else"), FORBIDDEN);
        assert_eq!(
            refused(&Identity::default(), None, Permission::Subscribe, "else"),
            UNAUTHORIZED
        );
    }

    #[test]
    fn without_keys_no_client_is_asked_to_authenticate() {
        let (all, anonymous) = (namespaces(), Identity::default());
        for channel in ["user:a", "token:a", "else"] {
            let refusal = decide(&all, &anonymous, None, Permission::Publish, channel, false);
            assert_eq!(refusal.unwrap_err().kind, RefusalKind::Forbidden, "{channel}");
        }
    }
}
