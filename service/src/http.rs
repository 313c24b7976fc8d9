//! The HTTP server, its health checks and `/metrics`.
//!
//! ```text
//!   accept ─► connections_max ─► headers within header_timeout_s ─► router ─► (WebSocket: out of HTTP,
//!                                                                            still counted as a connection)
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::shutdown::Shutdown;

/// Largest request line and headers together. LiveKit's clients put a compressed SDP offer in the query, some
/// tens of KiB; a request over it is answered with 431.
pub const HEADERS_BYTES_MAX: usize = 256 * 1024;

/// How long the server waits before it accepts again after the system refused, for lack of file descriptors
/// most of all.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long requests may take to end once the shutdown is triggered. A request whose body does not come must
/// not hold the process.
const REQUESTS_DRAIN_MAX: Duration = Duration::from_secs(2);

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
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { connections_max: 20_000, header_timeout_s: 15 }
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

/// Serves `app` until the shutdown is triggered; then takes no more connections, lets requests that are being
/// answered end within two seconds or the drain time, whichever is shorter, and returns. WebSockets are not
/// waited for: their owner ends them.
///
/// Handlers find the peer's address in the extension [`ConnectInfo<SocketAddr>`].
pub async fn serve(listener: TcpListener, app: Router, config: HttpConfig, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(config.header_timeout_s))
        .max_buf_size(HEADERS_BYTES_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.triggered() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::debug!("HTTP connection closed: connections_max reached");
            continue;
        };
        // Signal messages are small and wait for one another's answers.
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
            app.clone().oneshot(request)
        });
        let io = TokioIo::new(CountedStream { stream, _permit: permit });
        let connection = server.serve_connection(io, service).with_upgrades();
        let stop = shutdown.token().clone();
        connections.spawn(async move {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::trace!(%error, "HTTP connection ended");
            }
        });
    }
    drop(listener);
    connections.close();
    if shutdown.drained_within(REQUESTS_DRAIN_MAX, connections.wait()).await.is_none() {
        tracing::info!("unfinished HTTP requests were cut off");
    }
}

/// Errors of `accept` that concern the connection it would have returned, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A stream that counts as a connection for as long as it lives, also when it has become a WebSocket.
struct CountedStream {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
