//! TLS as a client has it, and what is wrong with a certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::Decode as _;

use super::link::STEP_TIMEOUT;

/// TLS did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The name cannot be in a certificate.
    #[error("{0} is no name for a certificate")]
    Name(String),
    /// It is for other names.
    #[error("the certificate is for {}, not {wanted}", presented.join(", "))]
    OtherName { wanted: String, presented: Vec<String> },
    /// Its time is over.
    #[error("the certificate has expired{0}")]
    Expired(String),
    /// Its time has not begun.
    #[error("the certificate is not valid yet{0}")]
    NotYet(String),
    /// Nobody whom this machine trusts has signed it.
    #[error("nobody whom this machine trusts has signed the certificate")]
    UnknownIssuer,
    /// Whatever else is wrong.
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsError {
    /// What to do.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Name(_) => "use a name in the URL",
            Self::OtherName { .. } => {
                "get a certificate for this name, or use a name that is in it: clients refuse it as it is"
            }
            Self::Expired(_) => {
                "renew the certificate; if it is renewed, restart or reload whatever serves it"
            }
            Self::NotYet(_) => "set the clock of this machine, or of the one that made the certificate",
            Self::UnknownIssuer => {
                "clients refuse it: get one of a public authority, and serve it with its intermediate \
                 certificates. Trust in an authority of your own is set by SSL_CERT_FILE here, and in each browser"
            }
            Self::Other(_) => "something else than TLS may listen there, or something on the way changes it",
        }
    }
}

/// What certificates are checked with.
pub(super) fn connector(protocols: &[&[u8]]) -> Result<TlsConnector, TlsError> {
    let other = |error: rustls::Error| TlsError::Other(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_platform_verifier()
        .map_err(other)?
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shakes hands, with a certificate that a client would take too.
pub(super) async fn handshake(
    stream: TcpStream,
    host: &str,
    protocols: &[&[u8]],
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    let connected = timeout(STEP_TIMEOUT, connector(protocols)?.connect(name, stream)).await;
    let Ok(connected) = connected else {
        return Err(TlsError::Other(format!("no answer within {} s", STEP_TIMEOUT.as_secs())));
    };
    connected.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(error)) => certificate_error(error, host),
            Some(error) => TlsError::Other(error.to_string()),
            None => TlsError::Other(error.to_string()),
        }
    })
}

fn certificate_error(error: &CertificateError, host: &str) -> TlsError {
    let at = |time: u64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.min(u64::from(u32::MAX)));
        format!(": {}", humantime::format_rfc3339_seconds(time))
    };
    match error {
        CertificateError::NotValidForName => {
            TlsError::OtherName { wanted: host.to_owned(), presented: vec!["another name".to_owned()] }
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let presented = match presented.is_empty() {
                true => vec!["no name at all".to_owned()],
                false => presented.iter().map(|name| plain_name(name).to_owned()).collect(),
            };
            TlsError::OtherName { wanted: host.to_owned(), presented }
        }
        CertificateError::Expired => TlsError::Expired(String::new()),
        CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired(at(not_after.as_secs())),
        CertificateError::NotValidYet => TlsError::NotYet(String::new()),
        CertificateError::NotValidYetContext { not_before, .. } => TlsError::NotYet(at(not_before.as_secs())),
        CertificateError::UnknownIssuer => TlsError::UnknownIssuer,
        other => TlsError::Other(other.to_string()),
    }
}

/// The name in `DnsName("example.org")`.
fn plain_name(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

/// The certificate of a connection in a few words: how long it is good for, if that can be read.
pub(super) fn describe(stream: &TlsStream<TcpStream>) -> String {
    match time_left(stream, SystemTime::now()) {
        Some(left) => format!("the certificate is good for {} days", left.as_secs() / (24 * 3600)),
        None => "the certificate is good".to_owned(),
    }
}

/// How long the certificate of a connection is good for, if it can be read.
fn time_left(stream: &TlsStream<TcpStream>, now: SystemTime) -> Option<Duration> {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates()?.first()?;
    let certificate = x509_cert::Certificate::from_der(leaf).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(end.saturating_sub(now))
}
