//! Which path leads where: exact paths first, then the longest prefix that ends at a segment's
//! border.

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

impl Route {
    /// A route that no request leads to any more. It only keeps its place.
    #[must_use]
    pub fn retire(self) -> Self {
        Self { path: String::new(), prefix: false, ..self }
    }

    /// See [`Self::retire`].
    pub fn is_retired(&self) -> bool {
        self.path.is_empty()
    }
}

/// Which origins may use a route (RFC 6455 10.2). A request without Origin is no browser's and
/// always passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All, the opaque `null` included.
    Any,
    /// Those whose host and port are those of the request.
    SameOrigin,
    /// These: `scheme://host` or `scheme://host:port`, letter case and default ports not counting.
    List(Vec<String>),
}

/// The routes of a listener, in a form to look up.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Route>,
    /// The indices of prefix routes, longest path first.
    prefixes: Vec<usize>,
}

impl Routes {
    /// Takes the routes; of two with the same path the first counts.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut prefixes: Vec<usize> = (0..routes.len()).filter(|&i| routes[i].prefix).collect();
        prefixes.sort_by_key(|&index| std::cmp::Reverse(routes[index].path.len()));
        Self { routes, prefixes }
    }

    /// The index of the route that `path` (without query) leads to.
    pub fn find(&self, path: &str) -> Option<usize> {
        let exact = self.routes.iter().position(|route| route.path == path);
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
