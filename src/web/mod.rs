//! What browsers get: the client library, and a playground page to try it with.
//!
//! The files lie in this folder and are part of the binary. They are compressed once, when the
//! first shard starts, and shared by all; a request for one costs a copy of 12 KB at most. The
//! folder is also a package that npm can install.
//!
//! The library may be read by pages of every origin, for applications seldom live on the edge
//! server itself. The playground is for its own origin only, runs no script but its two files, and
//! cannot be framed.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

use zlib_rs::{DeflateConfig, ReturnCode};

use crate::proto::http::{Form, Page, Pages};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The policy of the playground (CSP level 3). `'self'` covers the WebSocket of the same host.
const PLAYGROUND: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n";
/// A file that is no document loads nothing; other origins may read it.
const LIBRARY: &str = "Content-Security-Policy: default-src 'none'\r\n\
    Access-Control-Allow-Origin: *\r\nCross-Origin-Resource-Policy: cross-origin\r\n";

/// The pages of the server: the client library, and the `playground` if wanted.
pub fn pages(playground: bool) -> Pages {
    // The library's parts are imported relative to it, so that it works behind a path prefix.
    let (base, channel) = (include_bytes!("seawall/base.js"), include_bytes!("seawall/channel.js"));
    let mut pages = vec![
        page("/seawall.js", SCRIPT, LIBRARY, include_bytes!("seawall.js")),
        page("/seawall/base.js", SCRIPT, LIBRARY, base),
        page("/seawall/channel.js", SCRIPT, LIBRARY, channel),
        page("/seawall.d.ts", SCRIPT_TYPES, LIBRARY, include_bytes!("seawall.d.ts")),
    ];
    if playground {
        let style = "text/css; charset=utf-8";
        pages.extend([
            page("/", "text/html; charset=utf-8", PLAYGROUND, include_bytes!("index.html")),
            page("/playground.js", SCRIPT, PLAYGROUND, include_bytes!("playground.js")),
            page("/playground.css", style, PLAYGROUND, include_bytes!("playground.css")),
        ]);
    }
    Pages::new(pages)
}

/// TypeScript has no media type; the `video/mp2t` that some guess from `.ts` is wrong.
const SCRIPT_TYPES: &str = "text/plain; charset=utf-8";

/// The same as [`pages`], made once in the process.
pub fn shared(playground: bool) -> Arc<Pages> {
    static SHARED: [OnceLock<Arc<Pages>>; 2] = [const { OnceLock::new() }; 2];
    SHARED[usize::from(playground)].get_or_init(|| Arc::new(pages(playground))).clone()
}

fn page(
    path: &'static str,
    content_type: &'static str,
    fields: &'static str,
    bytes: &'static [u8],
) -> Page {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let digest = hasher.finish();
    let plain = Form { etag: format!("\"{digest:016x}\""), bytes: bytes.into() };
    let gzip = gzip(bytes).map(|bytes| Form { etag: format!("\"{digest:016x}-gzip\""), bytes });
    Page { path, content_type, fields, plain, gzip }
}

/// The bytes as gzip, if that is shorter.
fn gzip(bytes: &[u8]) -> Option<Box<[u8]>> {
    // 16 more than the bits of the window: zlib's way to ask for the gzip wrapper.
    let config = DeflateConfig { window_bits: 15 + 16, ..DeflateConfig::best_compression() };
    let mut output = vec![0; bytes.len()];
    // What does not fit into as many bytes as it came from is not worth sending.
    match zlib_rs::compress_slice(&mut output, bytes, config) {
        (shorter, ReturnCode::Ok) => Some((*shorter).into()),
        _ => None,
    }
}
