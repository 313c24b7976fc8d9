//! What outlives the process.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use instant_acme::AccountCredentials;
use sha2::{Digest as _, Sha256};

use super::{AcmeConfig, AcmeError};
use crate::tls::certificate::Certificate;

/// Files of one configuration: another server or other domains have other files.
#[derive(Debug)]
pub(super) struct Cache {
    account: PathBuf,
    certificate: PathBuf,
}

impl Cache {
    pub(super) fn open(config: &AcmeConfig) -> Result<Self, AcmeError> {
        let folder = &config.cache_folder;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(of(folder))?;
        let account = digest([&config.directory_url, &config.email].into_iter());
        let certificate = digest(std::iter::once(&config.directory_url).chain(&config.domains));
        Ok(Self {
            account: folder.join(format!("account-{account}.json")),
            certificate: folder.join(format!("certificate-{certificate}.pem")),
        })
    }

    /// The certificate with the time to renew it, if there is one that has not ended.
    pub(super) fn certificate(
        &self,
        now: SystemTime,
    ) -> Result<Option<(Certificate, SystemTime)>, AcmeError> {
        let Some(pem) = read(&self.certificate)? else { return Ok(None) };
        // Key and chain are in one file.
        let read = Certificate::from_pem(&pem, &pem)
            .and_then(|certificate| Ok((certificate.ends_at()?, certificate.renew_at()?, certificate)));
        match read {
            Ok((ends_at, renew_at, certificate)) => Ok((ends_at > now).then_some((certificate, renew_at))),
            Err(error) => {
                tracing::warn!(%error, path = %self.certificate.display(), "a cached certificate cannot be used");
                Ok(None)
            }
        }
    }

    pub(super) fn store_certificate(&self, chain: &str, key: &str) -> Result<(), AcmeError> {
        write(&self.certificate, &format!("{key}{chain}"))
    }

    pub(super) fn account(&self) -> Result<Option<AccountCredentials>, AcmeError> {
        let Some(json) = read(&self.account)? else { return Ok(None) };
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        serde_json::from_str(&json).map(Some).map_err(invalid).map_err(of(&self.account))
    }

    pub(super) fn store_account(&self, credentials: &AccountCredentials) -> Result<(), AcmeError> {
        let json = serde_json::to_string(credentials).map_err(std::io::Error::other);
        write(&self.account, &json.map_err(of(&self.account))?)
    }
}

fn of(path: &Path) -> impl Fn(std::io::Error) -> AcmeError + use<> {
    let path = path.to_owned();
    move |source| AcmeError::Cache { path: path.clone(), source }
}

fn digest<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.to_ascii_lowercase());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<Option<String>, AcmeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(of(path)(error)),
    }
}

/// Writes the whole file or nothing, for nobody else to read.
fn write(path: &Path, text: &str) -> Result<(), AcmeError> {
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(of(&new))?;
    std::fs::rename(&new, path).map_err(of(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_is_found_again_by_its_server_and_domains_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = AcmeConfig {
            domains: vec!["a.example".into(), "b.example".into()],
            cache_folder: folder.path().join("new"),
            ..AcmeConfig::default()
        };
        let cache = Cache::open(&config).unwrap();
        let now = SystemTime::now();
        assert!(cache.certificate(now).unwrap().is_none());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(config.domains.clone()).unwrap();
        let day = Duration::from_secs(86_400);
        parameters.not_before = now.into();
        parameters.not_after = (now + 90 * day).into();
        let made = parameters.self_signed(&key).unwrap();
        cache.store_certificate(&made.pem(), &key.serialize_pem()).unwrap();

        let (_, renew_at) = Cache::open(&config).unwrap().certificate(now).unwrap().unwrap();
        let renewed_after = renew_at.duration_since(now).unwrap();
        assert!((59 * day..61 * day).contains(&renewed_after), "{renewed_after:?}");
        assert!(cache.certificate(now + 91 * day).unwrap().is_none(), "it has ended");
        for other in [
            AcmeConfig { domains: vec!["a.example".into()], ..config.clone() },
            AcmeConfig { directory_url: "https://staging.example/".into(), ..config.clone() },
        ] {
            assert!(Cache::open(&other).unwrap().certificate(now).unwrap().is_none());
        }
        let mode = std::fs::metadata(&cache.certificate).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&cache.certificate, "half a certifi").unwrap();
        assert!(cache.certificate(now).unwrap().is_none());
    }
}
