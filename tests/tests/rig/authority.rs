//! A certificate that can be verified: by an authority of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Files in PEM: an authority's certificate, and a certificate by it with its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`, for servers with these names or addresses.
    pub(crate) fn make(folder: &Path, names: &[&str]) -> Self {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.distinguished_name.push(DnType::CommonName, "Zynk tests' authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut leaf = CertificateParams::new(names).expect("names or addresses");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_params(&authority, &authority_key);
        let signed = leaf.signed_by(&key, &issuer).expect("a certificate");
        Self {
            authority: write(
                "authority.pem",
                authority.self_signed(&authority_key).expect("a certificate").pem(),
            ),
            certificate: write("server.pem", signed.pem()),
            key: write("server.key", key.serialize_pem()),
        }
    }
}
