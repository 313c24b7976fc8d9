//! From a TCP connection to one that speaks HTTP, or another protocol.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::{Certificate, CertificateError, provider};

/// The name of HTTP/1.1 in ALPN (RFC 7301, section 6).
const ALPN_HTTP: &[u8] = b"http/1.1";

/// The name of ACME's check in ALPN (RFC 8737, section 3).
const ALPN_ACME: &[u8] = b"acme-tls/1";

/// First bytes that are read to tell what a connection is.
const FIRST_BYTES_MAX: usize = 4096;

/// A connection that is not HTTP's, with its handshake done.
#[derive(Debug)]
pub struct TlsConnection {
    /// Does not block.
    pub socket: std::net::TcpStream,
    /// The session.
    pub tls: rustls::ServerConnection,
    /// What came already, in the clear. More may be within the session.
    pub received: Vec<u8>,
    /// Whose it is: as the balancer in front says, if there is one.
    pub client: SocketAddr,
}

/// A protocol that shares the port with HTTP.
#[derive(Clone)]
pub struct OtherProtocol {
    /// Its name in ALPN.
    pub alpn: &'static [u8],
    /// Whether a connection whose client offers no ALPN is one of its, by the first bytes; none if it takes more to tell.
    pub recognizes: fn(&[u8]) -> Option<bool>,
    /// Takes a connection over. Must not block.
    pub take: Arc<dyn Fn(TlsConnection) + Send + Sync>,
}

impl fmt::Debug for OtherProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherProtocol")
            .field("alpn", &self.alpn.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// How TLS connections are accepted. Clones share it, and the certificate may change at any time.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    shared: Arc<Shared>,
}

struct Shared {
    config: RwLock<Arc<ServerConfig>>,
    /// What ACME's server is shown, by the domain that it asks for.
    challenges: Mutex<BTreeMap<String, Arc<ServerConfig>>>,
    other: Option<OtherProtocol>,
}

/// What a connection turned out to be.
pub(crate) enum Accepted {
    Http(Box<TlsHttpStream>),
    /// It is somebody else's now, or over.
    Gone,
}

impl TlsAcceptor {
    /// Shows `certificate`, and takes HTTP and perhaps another protocol.
    pub fn new(certificate: &Certificate, other: Option<OtherProtocol>) -> Result<Self, CertificateError> {
        let config = RwLock::new(server_config(certificate.certified_key()?, alpn(&other))?);
        Ok(Self { shared: Arc::new(Shared { config, challenges: Mutex::default(), other }) })
    }

    /// From now on handshakes show this certificate.
    pub fn set_certificate(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let config = server_config(certificate.certified_key()?, alpn(&self.shared.other))?;
        *self.shared.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Answers ACME's check of `domain` with this certificate (RFC 8737), until [`TlsAcceptor::remove_challenge`].
    pub(super) fn set_challenge(&self, domain: &str, key: CertifiedKey) -> Result<(), CertificateError> {
        let config = server_config(key, vec![ALPN_ACME.to_vec()])?;
        self.challenges().insert(domain.to_ascii_lowercase(), config);
        Ok(())
    }

    /// Answers it no longer.
    pub(super) fn remove_challenge(&self, domain: &str) {
        self.challenges().remove(&domain.to_ascii_lowercase());
    }

    fn challenges(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<ServerConfig>>> {
        self.shared.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the handshake, and finds out what the connection is. The caller bounds the time.
    pub(crate) async fn accept(&self, stream: TcpStream, client: SocketAddr) -> io::Result<Accepted> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = self.config_for(&hello.client_hello());
        let Some(config) = config else { return Ok(Accepted::Gone) };
        let mut tls = hello.into_stream(config).await?;
        match (tls.get_ref().1.alpn_protocol(), &self.shared.other) {
            // The handshake was all that ACME's server wanted.
            (Some(ALPN_ACME), _) => Ok(Accepted::Gone),
            (Some(alpn), Some(other)) if alpn == other.alpn => hand_over(other, tls, client, Vec::new()),
            (None, Some(other)) => {
                let received = first_bytes(&mut tls, other.recognizes).await?;
                match (other.recognizes)(&received) {
                    Some(true) => hand_over(other, tls, client, received),
                    _ => Ok(Accepted::Http(Box::new(TlsHttpStream { received, taken: 0, tls }))),
                }
            }
            _ => Ok(Accepted::Http(Box::new(TlsHttpStream { received: Vec::new(), taken: 0, tls }))),
        }
    }

    /// How to answer a client; none if it is ACME's server and asks for what nobody has ordered.
    fn config_for(&self, hello: &rustls::server::ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ALPN_ACME) && offered.next().is_none() {
            return self.challenges().get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        Some(self.shared.config.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("other", &self.other).finish_non_exhaustive()
    }
}

/// HTTP last: no browser offers anything else beside it, but clients of the other protocol offer HTTP as well
/// (turnutils_uclient does).
fn alpn(other: &Option<OtherProtocol>) -> Vec<Vec<u8>> {
    other.as_ref().map(|other| other.alpn).into_iter().chain([ALPN_HTTP]).map(<[u8]>::to_vec).collect()
}

fn server_config(
    key: CertifiedKey,
    alpn_protocols: Vec<Vec<u8>>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let key = Arc::new(SingleCertAndKey::from(key));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Unusable(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(key);
    config.alpn_protocols = alpn_protocols;
    // What resumes a session later costs memory for each.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Reads until the bytes tell what the connection is, or there are no more.
async fn first_bytes(
    tls: &mut TlsStream<TcpStream>,
    recognizes: fn(&[u8]) -> Option<bool>,
) -> io::Result<Vec<u8>> {
    let mut received = Vec::with_capacity(FIRST_BYTES_MAX);
    while recognizes(&received).is_none() && received.len() < FIRST_BYTES_MAX {
        if tls.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(received)
}

fn hand_over(
    other: &OtherProtocol,
    tls: TlsStream<TcpStream>,
    client: SocketAddr,
    received: Vec<u8>,
) -> io::Result<Accepted> {
    let (socket, tls) = tls.into_inner();
    // It stays one that does not block.
    (other.take)(TlsConnection { socket: socket.into_std()?, tls, received, client });
    Ok(Accepted::Gone)
}

/// A stream of HTTP, whose first bytes may have been read already.
pub(crate) struct TlsHttpStream {
    received: Vec<u8>,
    taken: usize,
    tls: TlsStream<TcpStream>,
}

impl AsyncRead for TlsHttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.received.get(this.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.tls).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        this.taken += count;
        if this.taken == this.received.len() {
            this.received = Vec::new();
            this.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsHttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
