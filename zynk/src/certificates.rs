//! The certificates of this process, and whether their files have changed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use zynk_service::tls::{Certificate, TlsConfig};
use zynk_turn_server::TurnCertificate;

use crate::config::Config;

/// The certificate of `[tls]`, if files are named there.
pub(crate) fn read(config: &TlsConfig) -> Result<Option<Certificate>> {
    match (&config.certificate_file, &config.private_key_file) {
        (Some(chain), Some(key)) => {
            Certificate::read(chain, key).map(Some).context("the certificate of [tls] cannot be used")
        }
        _ => Ok(None),
    }
}

/// A certificate as the relay takes it.
pub(crate) fn for_relay(certificate: &Certificate) -> TurnCertificate {
    TurnCertificate { chain: certificate.chain().to_vec(), key: Arc::new(certificate.key().clone_key()) }
}

/// Knows what files held when they were last looked at, by a digest.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    hasher: RandomState,
    seen: Option<u64>,
}

impl Watched {
    /// Whether the files of the configuration's certificates hold something else than they did. What cannot be read counts as
    /// nothing in it: whoever reads it next says why.
    pub(crate) async fn have_changed(&mut self, config: &Config) -> bool {
        let paths: Vec<PathBuf> = [
            &config.tls.certificate_file,
            &config.tls.private_key_file,
            &config.turn.certificate_file,
            &config.turn.private_key_file,
        ]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
        let hasher = self.hasher.clone();
        let digest = move || {
            let contents: Vec<Option<Vec<u8>>> = paths.iter().map(|path| std::fs::read(path).ok()).collect();
            hasher.hash_one(contents)
        };
        let Ok(digest) = tokio::task::spawn_blocking(digest).await else { return false };
        self.seen.replace(digest).is_some_and(|seen| seen != digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.pem");
        let mut config = Config::default();
        config.turn.certificate_file = Some(path.clone());
        let mut watched = Watched::default();
        assert!(!watched.have_changed(&config).await, "the first look has nothing to compare with");
        for content in ["one", "two"] {
            std::fs::write(&path, content).unwrap();
            assert!(watched.have_changed(&config).await, "{content}");
            assert!(!watched.have_changed(&config).await, "{content}");
        }
    }
}
