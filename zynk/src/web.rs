//! The web client, embedded in the binary.
//!
//! ```text
//!   /            Accept: text/html ─► the page; otherwise `OK`, LiveKit's health answer
//!   /room/…      the page
//!   /assets/…    names that carry a hash of the content: cached for good
//!   else         a file of that name, or 404
//! ```

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

const PAGE: &str = "index.html";

/// What the page may load: its own files and connections, nothing inline, nothing from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; worker-src 'self' blob:; img-src 'self' data: blob:; \
    media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

const SECURITY_HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(self), microphone=(self), display-capture=(self), geolocation=()"),
    ),
];

/// Shown when the binary was built before the web client was.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Zynk</title>\
    <p>This server runs, but its web client was not built: run <code>make build</code>.</p></html>\n";

#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct WebClient;

/// Routes of the web client. Its fallback answers everything that no other router does.
pub(crate) fn router() -> Router {
    Router::new().route("/", get(root)).route("/room/{*path}", get(page)).fallback(file)
}

async fn root(headers: HeaderMap) -> Response {
    let mut response = if accepts_html(&headers) { page(headers).await } else { "OK".into_response() };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn page(headers: HeaderMap) -> Response {
    match WebClient::get(PAGE) {
        Some(file) => respond(PAGE, file, &headers),
        None => with_security_headers(
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], NOT_BUILT).into_response(),
        ),
    }
}

async fn file(request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match WebClient::get(path).filter(|_| is_read) {
        Some(file) => respond(path, file, request.headers()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("text/html"))
}

fn respond(path: &str, file: EmbeddedFile, headers: &HeaderMap) -> Response {
    let hash: String =
        file.metadata.sha256_hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}\"");
    let is_known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag));
    let cache =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "public, no-cache" };
    let validators = [(header::ETAG, tag), (header::CACHE_CONTROL, cache.to_owned())];
    let response = if is_known {
        (StatusCode::NOT_MODIFIED, validators).into_response()
    } else {
        let kind = mime_guess::from_path(path).first_or_octet_stream();
        let kind = match (kind.type_(), path.ends_with(".webmanifest")) {
            (_, true) => "application/manifest+json".to_owned(),
            (mime_guess::mime::TEXT, _) => format!("{kind}; charset=utf-8"),
            _ => kind.to_string(),
        };
        ([(header::CONTENT_TYPE, kind)], validators, file.data).into_response()
    };
    with_security_headers(response)
}

fn with_security_headers(mut response: Response) -> Response {
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: &str, path: &str, more: &[(HeaderName, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in more {
            request = request.header(name, *value);
        }
        router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    const HTML: (HeaderName, &str) = (header::ACCEPT, "text/html,application/xhtml+xml;q=0.9");

    #[tokio::test]
    async fn the_root_is_a_page_for_browsers_and_ok_for_others() {
        for accept in [&[][..], &[(header::ACCEPT, "*/*")]] {
            let response = ask("GET", "/", accept).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(text(response).await, "OK");
        }
        let response = ask("GET", "/", &[HTML]).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(text(response).await.to_lowercase().starts_with("<!doctype html>"));
    }

    #[tokio::test]
    async fn rooms_have_addresses_of_their_own() {
        let response = ask("GET", "/room/a%20b", &[]).await;
        assert_eq!(response.status(), StatusCode::OK);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("script-src 'self';") && policy.starts_with("default-src 'none';"));
        assert!(policy.contains("connect-src 'self';") && !policy.contains("unsafe"));
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        for (method, path) in
            [("GET", "/rtc"), ("GET", "/assets/none.js"), ("GET", "/../Cargo.toml"), ("POST", "/x")]
        {
            assert_eq!(ask(method, path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn every_file_has_its_type_and_is_cached() {
        for path in WebClient::iter() {
            let response = ask("GET", &format!("/{path}"), &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let is_asset = path.starts_with("assets/");
            let cache = response.headers()[header::CACHE_CONTROL].to_str().unwrap();
            assert_eq!(cache.contains("immutable"), is_asset, "{path}");
            let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
            assert_ne!(kind, "application/octet-stream", "{path}");
            assert_eq!(kind.starts_with("text/javascript"), path.ends_with(".js"), "{path}: {kind}");
            let tag = response.headers()[header::ETAG].to_str().unwrap().to_owned();
            let again = ask("GET", &format!("/{path}"), &[(header::IF_NONE_MATCH, &tag)]).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        }
    }
}
