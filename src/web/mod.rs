//! Pages: the client library, a playground page to try it, and the libraries for applications
//! behind links, which are for downloads.
//!
//! The files are in this folder and part of the binary. They are compressed once, when the first
//! shard starts, and shared by all shards; a request for one costs a copy of 12 KB at most. The
//! folder is also an npm package, and `link` has one for Node and one for Python.
//!
//! Pages of every origin may read the library, because applications seldom live on the edge server
//! itself. The playground is for its own origin only, runs only its two scripts, and cannot be
//! framed.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

use zlib_rs::{DeflateConfig, ReturnCode};

use crate::proto::http::{Form, Page, Pages};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The playground's policy (CSP level 3). `'self'` covers the WebSocket of the same host.
const PLAYGROUND: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n";
/// A library file loads nothing; other origins may read it.
const LIBRARY: &str = "Content-Security-Policy: default-src 'none'\r\n\
    Access-Control-Allow-Origin: *\r\nCross-Origin-Resource-Policy: cross-origin\r\n";

/// The pages of the server: the libraries, and the playground if enabled.
pub fn make_pages(playground: bool) -> Pages {
    // The library imports its parts by relative paths, so that it works behind a path prefix.
    let (base, channel) = (include_bytes!("seawall/base.js"), include_bytes!("seawall/channel.js"));
    let (node, python) = (
        include_bytes!("link/node/seawall-link.mjs"),
        include_bytes!("link/python/seawall_link.py"),
    );
    let mut pages = vec![
        make_page("/seawall.js", SCRIPT, LIBRARY, include_bytes!("seawall.js")),
        make_page("/seawall/base.js", SCRIPT, LIBRARY, base),
        make_page("/seawall/channel.js", SCRIPT, LIBRARY, channel),
        make_page("/seawall.d.ts", SCRIPT_TYPES, LIBRARY, include_bytes!("seawall.d.ts")),
        make_page("/link/seawall-link.mjs", SCRIPT, LIBRARY, node),
        make_page("/link/seawall_link.py", "text/x-python; charset=utf-8", LIBRARY, python),
    ];
    if playground {
        let style = "text/css; charset=utf-8";
        pages.extend([
            make_page("/", "text/html; charset=utf-8", PLAYGROUND, include_bytes!("index.html")),
            make_page("/playground.js", SCRIPT, PLAYGROUND, include_bytes!("playground.js")),
            make_page("/playground.css", style, PLAYGROUND, include_bytes!("playground.css")),
        ]);
    }
    Pages::new(pages)
}

/// TypeScript has no media type; `video/mp2t`, which some guess from `.ts`, is wrong.
const SCRIPT_TYPES: &str = "text/plain; charset=utf-8";

/// [`make_pages`], made once in the process.
pub fn shared_pages(playground: bool) -> Arc<Pages> {
    static SHARED: [OnceLock<Arc<Pages>>; 2] = [const { OnceLock::new() }; 2];
    SHARED[usize::from(playground)].get_or_init(|| Arc::new(make_pages(playground))).clone()
}

fn make_page(
    path: &'static str,
    content_type: &'static str,
    fields: &'static str,
    bytes: &'static [u8],
) -> Page {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let digest = hasher.finish();
    let plain = Form { etag: format!("\"{digest:016x}\""), bytes: bytes.into() };
    let gzip =
        compress_gzip(bytes).map(|bytes| Form { etag: format!("\"{digest:016x}-gzip\""), bytes });
    Page { path, content_type, fields, plain, gzip }
}

/// Compresses with gzip; `None` if that is not shorter.
fn compress_gzip(bytes: &[u8]) -> Option<Box<[u8]>> {
    // zlib selects the gzip wrapper by 16 added to the window bits.
    let config = DeflateConfig { window_bits: 15 + 16, ..DeflateConfig::best_compression() };
    let mut output = vec![0; bytes.len()];
    // The output buffer has the input's length: if it overflows, compression does not pay.
    match zlib_rs::compress_slice(&mut output, bytes, config) {
        (shorter, ReturnCode::Ok) => Some((*shorter).into()),
        _ => None,
    }
}
