//! HTTPS, and other protocols over TLS on the same port.
//!
//! ```text
//!   accept ─► (PROXY header) ─► TLS handshake ─► ALPN, or the first bytes if the client offers none ─┬─► HTTP
//!             └──── handshakes_max, ten seconds; the oldest makes room for the newest ────┘          └─► whose protocol it is
//! ```

mod acceptor;
mod acme;
mod certificate;
mod handshakes;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use acceptor::Accepted;
pub use acceptor::{OtherProtocol, TlsAcceptor, TlsConnection};
pub use acme::{AcmeClient, AcmeConfig, AcmeError};
pub use certificate::{Certificate, CertificateError};
pub(crate) use handshakes::{HANDSHAKE_TIMEOUT, Handshake, Handshakes};

/// HTTPS and secure WebSocket, and TURN over TLS if this process relays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Whether to listen.
    pub enabled: bool,
    /// The address. `0.0.0.0` is every IPv4 address of this machine, `::` every address.
    pub bind: IpAddr,
    /// The port. 0 takes a free one.
    pub port: u16,
    /// The certificate chain, in PEM. Without one, a certificate is made that nobody trusts. The relay's listeners for TLS and
    /// DTLS show it too, if `turn.certificate_file` is not set.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    pub private_key_file: Option<PathBuf>,
    /// How often it is looked whether the files of certificates have changed, `turn.certificate_file` included, in seconds. New
    /// connections see the new certificate then.
    pub certificate_check_interval_s: u64,
    /// A certificate from Let's Encrypt or another server that speaks ACME, instead of files.
    pub acme: AcmeConfig,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port: 443,
            certificate_file: None,
            private_key_file: None,
            certificate_check_interval_s: 60,
            acme: AcmeConfig::default(),
        }
    }
}

impl TlsConfig {
    /// Whether it makes sense; the key and what is wrong with it if not. Opens nothing.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match () {
            () if self.certificate_file.is_some() != self.private_key_file.is_some() => {
                Err(("certificate_file", "a certificate and its private key go together"))
            }
            () if self.certificate_check_interval_s == 0 => {
                Err(("certificate_check_interval_s", "must be at least 1"))
            }
            () if !self.acme.domains.is_empty() && self.certificate_file.is_some() => {
                Err(("acme.domains", "`tls.certificate_file` is set as well; only one of them may be"))
            }
            () if !self.acme.domains.is_empty() && !self.enabled => {
                Err(("acme.domains", "`tls.enabled` must be true: the server looks at that port"))
            }
            () => self.acme.check(),
        }
    }
}
