//! Serving over listeners, with and without TLS.
//!
//! ```text
//!   accept ─► (TLS) ─► connections_max ─► headers within header_timeout_s ─► router ─► (WebSocket: out of HTTP,
//!                                                                                       still counted as a connection)
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use zynk_net::{ProxyHeaderReader, is_trusted_balancer};

use super::{HEADERS_BYTES_MAX, HttpConfig};
use crate::shutdown::Shutdown;
use crate::tls::{Accepted, HANDSHAKE_TIMEOUT, Handshake, Handshakes, TlsAcceptor};

/// How long the server waits before it accepts again after the system refused, for lack of file descriptors
/// most of all.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long requests may take to end once the shutdown is triggered. A request whose body does not come must
/// not hold the process.
const REQUESTS_DRAIN_MAX: Duration = Duration::from_secs(2);

/// An application, served over any number of listeners that share its limits. Clones are the same server.
///
/// Handlers find the client's address in the extension [`ConnectInfo<SocketAddr>`].
#[derive(Clone, Debug)]
pub struct HttpServer {
    app: Router,
    http: http1::Builder,
    permits: Arc<Semaphore>,
    balancers: Arc<[IpNet]>,
    shutdown: Shutdown,
}

impl HttpServer {
    /// Serves nothing yet.
    pub fn new(app: Router, config: &HttpConfig, shutdown: Shutdown) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(config.header_timeout_s))
            .max_buf_size(HEADERS_BYTES_MAX);
        Self {
            app,
            http,
            permits: Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS))),
            balancers: config.proxy_protocol_from.clone().into(),
            shutdown,
        }
    }

    /// Serves until the shutdown is triggered; then takes no more connections, lets requests that are being
    /// answered end within two seconds or the drain time, whichever is shorter, and returns. WebSockets are not
    /// waited for: their owner ends them.
    pub async fn serve(self, listener: TcpListener) {
        let connections = TaskTracker::new();
        while let Some((stream, peer)) = self.accept(&listener).await {
            let Some(permit) = self.permit() else { continue };
            let server = self.clone();
            connections.spawn(async move {
                let stop = server.shutdown.token().clone();
                let named = tokio::time::timeout(HANDSHAKE_TIMEOUT, server.client_of(stream, peer));
                let named = tokio::select! {
                    named = named => named,
                    () = stop.cancelled() => return,
                };
                match named {
                    Ok(Ok((stream, client))) => server.speak(stream, client, permit).await,
                    Ok(Err(error)) => tracing::debug!(%error, "HTTP connection closed"),
                    Err(_) => tracing::debug!("HTTP connection closed: no PROXY header came in time"),
                }
            });
        }
        self.end(listener, connections).await;
    }

    /// The same over TLS. What is not HTTP goes to whom the acceptor names.
    pub async fn serve_tls(self, listener: TcpListener, acceptor: TlsAcceptor) {
        let connections = TaskTracker::new();
        let handshakes = Handshakes::new();
        while let Some((stream, peer)) = self.accept(&listener).await {
            let handshake = tokio::select! {
                handshake = handshakes.begin() => handshake,
                () = self.shutdown.triggered() => break,
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            connections.spawn(async move { server.speak_tls(stream, peer, &acceptor, handshake).await });
        }
        self.end(listener, connections).await;
    }

    async fn speak_tls(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        acceptor: &TlsAcceptor,
        handshake: Handshake,
    ) {
        let work = handshake.bound(async {
            let (stream, client) = self.client_of(stream, peer).await?;
            Ok::<_, io::Error>((acceptor.accept(stream, client).await?, client))
        });
        let accepted = tokio::select! {
            accepted = work => accepted,
            () = self.shutdown.triggered() => return,
        };
        match accepted {
            Some(Ok((Accepted::Http(stream), client))) => {
                if let Some(permit) = self.permit() {
                    self.speak(*stream, client, permit).await;
                }
            }
            Some(Ok((Accepted::Gone, _))) => {}
            Some(Err(error)) => tracing::debug!(%error, "TLS connection closed"),
            None => tracing::debug!("TLS connection closed: its handshake took too long"),
        }
    }

    /// The next connection; none once the shutdown is triggered.
    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.triggered() => return None,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Signal messages are small and wait for one another's answers.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, peer));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept HTTP connections");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        if permit.is_none() {
            tracing::debug!("HTTP connection closed: connections_max reached");
        }
        permit
    }

    /// Whose a connection is: its peer's, unless that is a balancer, which says.
    async fn client_of(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        if !is_trusted_balancer(&self.balancers, peer.ip()) {
            return Ok((stream, peer));
        }
        let mut header = ProxyHeaderReader::default();
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let wanted = u64::try_from(header.wanted()).unwrap_or(u64::MAX);
            if (&mut stream).take(wanted).read_buf(&mut piece).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let told =
                header.push(&piece).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(client) = told {
                return Ok((stream, client.unwrap_or(peer)));
            }
        }
    }

    /// Speaks HTTP to the end of a connection.
    async fn speak<S>(self, stream: S, client: SocketAddr, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { app, http, shutdown, .. } = self;
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(client));
            app.clone().oneshot(request)
        });
        let io = TokioIo::new(CountedStream { stream, _permit: permit });
        let connection = http.serve_connection(io, service).with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = shutdown.triggered() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "HTTP connection ended");
        }
    }

    async fn end(&self, listener: TcpListener, connections: TaskTracker) {
        drop(listener);
        connections.close();
        if self.shutdown.drained_within(REQUESTS_DRAIN_MAX, connections.wait()).await.is_none() {
            tracing::info!("unfinished HTTP requests were cut off");
        }
    }
}

/// Errors of `accept` that concern the connection it would have returned, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A stream that counts as a connection for as long as it lives, also when it has become a WebSocket.
struct CountedStream<S> {
    stream: S,
    _permit: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
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
