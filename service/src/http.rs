//! The HTTP server, its health checks and `/metrics`.

mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};

pub use server::HttpServer;

use crate::shutdown::Shutdown;

/// Largest request line and headers together. LiveKit's clients put a compressed SDP offer in the query, some
/// tens of KiB; a request over it is answered with 431.
pub const HEADERS_BYTES_MAX: usize = 256 * 1024;

/// Connections that wait to be accepted. When a server restarts, all its clients come back at once; one whose
/// first packet finds no room tries again only after a second. The system may allow less (`somaxconn`).
const LISTEN_BACKLOG: u32 = 4096;

/// Limits of the HTTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Connections that may be open at once, WebSockets included. Further ones are closed as they come.
    pub connections_max: usize,
    /// How long a connection may take to send a request's headers, or stay idle between requests, in
    /// seconds. Then it is closed.
    pub header_timeout_s: u64,
    /// Networks of balancers that begin each connection with a PROXY header (version 1 or 2), which says whose it is. A
    /// connection from there without one is closed; one from elsewhere is taken as it is. Holds for HTTP and for `[tls]`.
    #[schemars(with = "Vec<String>")]
    pub proxy_protocol_from: Vec<IpNet>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { connections_max: 20_000, header_timeout_s: 15, proxy_protocol_from: Vec::new() }
    }
}

/// Whether the process can serve: a set of named checks, all of which must pass. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Readiness {
    /// Without checks yet, and so ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which fails as `starting` until its owner says otherwise.
    pub fn check(&self, name: &'static str) -> ReadinessCheck {
        let check = ReadinessCheck { name, readiness: self.clone() };
        check.fail("starting");
        check
    }

    /// Whether every check passes.
    pub fn is_ready(&self) -> bool {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).values().all(Result::is_ok)
    }

    /// Every check, with `ok` or its reason.
    fn report(&self) -> BTreeMap<&'static str, String> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |state: &Result<(), String>| state.clone().err().unwrap_or_else(|| "ok".into());
        checks.iter().map(|(name, state)| (*name, text(state))).collect()
    }
}

/// One thing that must be well for the process to serve. Clones share it.
#[derive(Clone, Debug)]
pub struct ReadinessCheck {
    name: &'static str,
    readiness: Readiness,
}

impl ReadinessCheck {
    /// It is well.
    pub fn pass(&self) {
        self.set(Ok(()));
    }

    /// It is not, because of `reason`, which is shown to whoever asks: no secrets.
    pub fn fail(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        self.readiness.checks.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name, state);
    }
}

/// Adds to `app` what operators ask:
///
/// - `/healthz`: 200 as long as the process answers at all.
/// - `/readyz`: 200 when every check passes and no shutdown has begun, else 503; JSON that names the checks.
/// - `/metrics`: the registry in OpenMetrics text.
pub fn with_operator_routes(
    app: Router,
    ready: Readiness,
    registry: Registry,
    shutdown: &Shutdown,
) -> Router {
    let registry = Arc::new(registry);
    let shutdown = shutdown.clone();
    app.route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(move || std::future::ready(readyz(&ready, &shutdown))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
}

fn readyz(ready: &Readiness, shutdown: &Shutdown) -> Response {
    let mut checks = ready.report();
    if shutdown.is_triggered() {
        checks.insert("shutdown", "draining".into());
    }
    let is_ready = ready.is_ready() && !shutdown.is_triggered();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(ReadinessReport { ready: is_ready, checks })).into_response()
}

#[derive(Serialize)]
struct ReadinessReport {
    ready: bool,
    checks: BTreeMap<&'static str, String>,
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        text.clear();
        let _ = text.write_str("a metric could not be encoded\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

/// Listens on an address. Port 0 picks a free one.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server may take its port although connections of the last one have not timed out.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Serves `app` over HTTP alone: see [`HttpServer::serve`].
pub async fn serve(listener: TcpListener, app: Router, config: HttpConfig, shutdown: Shutdown) {
    HttpServer::new(app, &config, shutdown).serve(listener).await;
}

#[cfg(test)]
mod tests;
