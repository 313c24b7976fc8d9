//! The certificate for TLS and DTLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::handover::TURN_ALPN;
use crate::{TurnConfig, TurnError};

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct TurnCertificate {
    /// The chain, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key. DTLS needs one for ECDSA.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// A certificate as both protocols want it.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// None if the key is not one for DTLS.
    pub(crate) dtls: Option<dimpl::DtlsCertificate>,
}

impl Certificate {
    /// Reads the files that the configuration names; without any, takes what `otherwise` makes.
    pub(crate) fn load(
        config: &TurnConfig,
        otherwise: impl FnOnce() -> Result<TurnCertificate, TurnError>,
    ) -> Result<Self, TurnError> {
        let TurnCertificate { chain, key } = match (&config.certificate_file, &config.private_key_file) {
            (Some(chain), Some(key)) => read(chain, key)?,
            _ => otherwise()?,
        };
        let key = key.clone_key();
        let dtls = match (chain.first(), &key) {
            (Some(leaf), key) if is_ecdsa(key) => Some(dimpl::DtlsCertificate {
                certificate: leaf.to_vec(),
                private_key: key.secret_der().to_vec(),
            }),
            _ => None,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TurnError::Certificate(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| TurnError::Certificate(error.to_string()))?;
        tls.alpn_protocols = vec![TURN_ALPN.to_vec()];
        // A client that offers other protocols only is refused by ALPN; one that offers none is not. What resumes a
        // session later costs memory for each: tickets cost none.
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        if !config.dtls_ports.is_empty() && dtls.is_none() {
            return Err(TurnError::Certificate("DTLS needs an ECDSA key (P-256 or P-384)".into()));
        }
        Ok(Self { tls: Arc::new(tls), dtls })
    }
}

fn read(chain: &Path, key: &Path) -> Result<TurnCertificate, TurnError> {
    let problem = |path: &Path| {
        let path = path.display().to_string();
        move |error: rustls::pki_types::pem::Error| TurnError::Certificate(format!("{path}: {error}"))
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(problem(chain))?;
    if certificates.is_empty() {
        return Err(TurnError::Certificate(format!("{}: there is no certificate in it", chain.display())));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(problem(key))?;
    Ok(TurnCertificate { chain: certificates, key: Arc::new(key) })
}

/// One that nobody trusts.
pub(crate) fn self_signed() -> Result<TurnCertificate, TurnError> {
    let made = dimpl::certificate::generate_self_signed_certificate()
        .map_err(|error| TurnError::Certificate(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(made.private_key);
    Ok(TurnCertificate { chain: vec![made.certificate.into()], key: Arc::new(key.into()) })
}

/// Whether a key is one that DTLS can sign with: its form says so.
fn is_ecdsa(key: &PrivateKeyDer<'_>) -> bool {
    // id-ecPublicKey (RFC 5480, section 2.1.1), as PKCS #8 names the key's algorithm.
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    match key {
        PrivateKeyDer::Sec1(_) => true,
        PrivateKeyDer::Pkcs8(key) => {
            key.secret_pkcs8_der().windows(EC_PUBLIC_KEY.len()).any(|window| window == EC_PUBLIC_KEY)
        }
        _ => false,
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for TurnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}
