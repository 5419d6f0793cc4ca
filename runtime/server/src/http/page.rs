//! The page at `/`: files that are part of the binary, with the headers that keep a browser from anything but them and
//! this server. What the page shows it asks for by itself, with a key where one is needed; nothing here is a secret.

use super::respond;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

/// A file of the page.
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All files, by the path that they are asked for.
const FILES: [File; 8] = [
    File { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("../page/index.html") },
    File {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("../page/style.css"),
    },
    File { path: "/page/main.js", content_type: SCRIPT, text: include_str!("../page/main.js") },
    File { path: "/page/api.js", content_type: SCRIPT, text: include_str!("../page/api.js") },
    File { path: "/page/chat.js", content_type: SCRIPT, text: include_str!("../page/chat.js") },
    File { path: "/page/dashboard.js", content_type: SCRIPT, text: include_str!("../page/dashboard.js") },
    File { path: "/page/chart.js", content_type: SCRIPT, text: include_str!("../page/chart.js") },
    File { path: "/page/metrics.js", content_type: SCRIPT, text: include_str!("../page/metrics.js") },
];

/// What the browser may load, run and connect to: this server, and pictures that are written into the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every file. It is asked for again each time, and sent again if it is another one.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// True if a file of the page has this path.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// Adds the page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    FILES.iter().fold(router, |router, file| {
        let tag = tag(file.text);
        router.route(file.path, get(move |headers: HeaderMap| async move { answer(file, &tag, &headers) }))
    })
}

/// A name for this content, as `ETag` has it.
fn tag(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn answer(file: &File, tag: &str, asked: &HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let mut known = known.flat_map(|v| v.split(',')).map(|t| t.trim().trim_start_matches("W/"));
    let mut response = match known.any(|t| t == tag || t == "*") {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => respond::with(200, file.content_type, file.text),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
