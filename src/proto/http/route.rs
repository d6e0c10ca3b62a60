//! Which path leads where: exact paths first, then the longest prefix that ends at a segment's
//! border.

use super::authority::OriginPattern;
use crate::proto::ws::deflate::Policy;

/// One path that serves the WebSocket protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path, starting with `/`, compared byte by byte with the request's, query excluded.
    pub path: String,
    /// Whether paths below it belong to it too: `/a` takes `/a` and `/a/b` but not `/ab`; `/a/`
    /// takes only what is below it.
    pub prefix: bool,
    /// The subprotocols it speaks (RFC 6455 1.9); the client's order of preference decides.
    pub subprotocols: Vec<String>,
    /// The pages that browsers may connect from.
    pub origins: Origins,
    /// Whether messages may be compressed, and how; `None`: no offer is taken.
    pub compression: Option<Policy>,
}

/// Which origins may use a route (RFC 6455 10.2). A request without Origin is no browser's and
/// always passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All, the opaque `null` included.
    Any,
    /// Those whose host and port are those of the request.
    SameOrigin,
    /// Those that match one of these.
    List(Vec<OriginPattern>),
}

/// The routes of a listener, in a form to look up.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Route>,
    /// By index: no request leads to it any more. It stays for the connections that know it.
    retired: Vec<bool>,
    /// The indices of prefix routes, longest path first.
    prefixes: Vec<usize>,
}

impl Routes {
    /// Takes the routes; of two with the same path the first counts.
    pub fn new(routes: Vec<Route>) -> Self {
        Self::with_retired(routes.into_iter().map(|route| (route, false)).collect())
    }

    /// [`Self::new`] with routes among them that are retired: no request leads to them any more.
    pub fn with_retired(routes: Vec<(Route, bool)>) -> Self {
        let (routes, retired): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        let is_prefix = |index: &usize| routes[*index].prefix && !retired[*index];
        let mut prefixes: Vec<usize> = (0..routes.len()).filter(is_prefix).collect();
        prefixes.sort_by_key(|&index| std::cmp::Reverse(routes[index].path.len()));
        Self { routes, retired, prefixes }
    }

    /// Whether the route of this index is retired.
    pub fn is_retired(&self, index: usize) -> bool {
        self.retired[index]
    }

    /// The index of the route that `path` (without query) leads to.
    pub fn find(&self, path: &str) -> Option<usize> {
        let mut all = self.routes.iter().zip(&self.retired);
        let exact = all.position(|(route, retired)| route.path == path && !retired);
        exact.or_else(|| {
            self.prefixes.iter().copied().find(|&index| is_below(path, &self.routes[index].path))
        })
    }

    /// The route of an index that [`Self::find`] gave.
    pub fn get(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }

    /// All routes, in the order given, retired ones included.
    pub fn as_slice(&self) -> &[Route] {
        &self.routes
    }
}

/// Whether `path` is below `prefix`, at the border of a segment.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with('/') || rest.starts_with('/'))
}
