//! Certificates with their keys.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode as _;
use x509_cert::time::{Time, Validity};

/// Largest file of a certificate chain or a key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate chain and its private key, which match.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// A certificate cannot be used. The operator's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read, or is no PEM.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// Why.
        problem: String,
    },
    /// What is in the files does not go together: a key of another certificate, most of all.
    #[error("{0}")]
    Unusable(String),
}

impl Certificate {
    /// Reads PEM files.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let (chain_pem, key_pem) = (read_file(chain)?, read_file(key)?);
        let problem = |path: &Path, error: rustls::pki_types::pem::Error| CertificateError::File {
            path: path.display().to_string(),
            problem: error.to_string(),
        };
        let certificates = parse_chain(&chain_pem).map_err(|error| problem(chain, error))?;
        if certificates.is_empty() {
            return Err(CertificateError::File {
                path: chain.display().to_string(),
                problem: "there is no certificate in it".into(),
            });
        }
        let private_key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| problem(key, error))?;
        Self::new(certificates, private_key).map_err(|error| CertificateError::File {
            path: chain.display().to_string(),
            problem: error.to_string(),
        })
    }

    /// From the text of PEM files.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let problem = |error: rustls::pki_types::pem::Error| CertificateError::Unusable(error.to_string());
        let certificates = parse_chain(chain.as_bytes()).map_err(problem)?;
        Self::new(certificates, PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(problem)?)
    }

    /// One for `localhost` that signs itself: nobody trusts it.
    pub fn self_signed() -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(|error| CertificateError::Unusable(error.to_string()))?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Self::new(vec![made.cert.der().clone()], key.into())
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let made = Self { chain, key: Arc::new(key) };
        made.certified_key()?;
        Ok(made)
    }

    /// What ACME's server is shown to see that `domain` is ours (RFC 8737, section 3).
    pub(super) fn for_challenge(domain: &str, digest: &[u8]) -> Result<CertifiedKey, CertificateError> {
        let problem = |error: rcgen::Error| CertificateError::Unusable(error.to_string());
        let mut parameters = rcgen::CertificateParams::new([domain.to_owned()]).map_err(problem)?;
        parameters.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate().map_err(problem)?;
        let made = parameters.self_signed(&key).map_err(problem)?;
        // Whether both go together is not checked: the check refuses the extension, which is a critical one.
        let signer = provider()
            .key_provider
            .load_private_key(PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(|error| CertificateError::Unusable(error.to_string()))?;
        Ok(CertifiedKey::new(vec![made.der().clone()], signer))
    }

    /// When it is good no longer.
    pub(super) fn ends_at(&self) -> Result<SystemTime, CertificateError> {
        Ok(time_of(&self.validity()?.not_after))
    }

    /// When it should be renewed: when a third of its life is left.
    pub(super) fn renew_at(&self) -> Result<SystemTime, CertificateError> {
        let validity = self.validity()?;
        let (begin, end) = (time_of(&validity.not_before), time_of(&validity.not_after));
        let life = end.duration_since(begin).unwrap_or_default();
        Ok(begin + life * 2 / 3)
    }

    fn validity(&self) -> Result<Validity, CertificateError> {
        let own = self.chain.first().map(AsRef::as_ref).unwrap_or_default();
        let parsed = x509_cert::Certificate::from_der(own)
            .map_err(|error| CertificateError::Unusable(error.to_string()))?;
        Ok(*parsed.tbs_certificate().validity())
    }

    /// The chain, its own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// Ready to sign; fails if the key is not the certificate's.
    pub(super) fn certified_key(&self) -> Result<CertifiedKey, CertificateError> {
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider())
            .map_err(|error| CertificateError::Unusable(error.to_string()))
    }
}

fn time_of(time: &Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + time.to_unix_duration()
}

/// The one provider of cryptography of this process.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let problem = |problem: String| CertificateError::File { path: path.display().to_string(), problem };
    let length = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(problem(format!("{length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(path).map_err(|error| problem(error.to_string()))
}

/// Shows nothing of the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}
