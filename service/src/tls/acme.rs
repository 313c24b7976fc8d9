//! Certificates from an ACME server (RFC 8555), which looks at this server's TLS port to see that a domain is ours
//! (TLS-ALPN-01, RFC 8737).
//!
//! ```text
//!   cache_folder ─► shown at once, if it is good
//!   until a third of its life is left ─► order ─► challenge shown on the TLS port ─► new key, new certificate ─► cache_folder
//! ```

mod cache;
mod http;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::acceptor::TlsAcceptor;
use super::certificate::{Certificate, CertificateError};
use cache::Cache;

/// How long an ACME server may take to look at the challenges, and then to sign.
const SERVER_TIMEOUT: Duration = Duration::from_secs(120);

/// The least time between two certificates.
const ORDER_PAUSE: Duration = Duration::from_secs(3600);

/// After a failure the next try comes so much later, then twice as much, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(60);

/// The longest time between tries: servers have limits on failures in an hour.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);

/// Certificates without a file to care for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AcmeConfig {
    /// The names that the certificate is for, such as `call.example.org`. Each must lead to this server, from everywhere, with
    /// port 443 being `tls.port`. Empty asks for no certificate.
    pub domains: Vec<String>,
    /// Where the server writes to when something is wrong with the certificate. May be empty.
    pub email: String,
    /// The server's directory. Whoever uses it agrees to its terms.
    pub directory_url: String,
    /// Where certificate, key and account are kept; made if it is missing. Servers give only so many certificates in a week: it
    /// must outlive the process.
    pub cache_folder: PathBuf,
    /// The certificate that the server's own one is checked by, in PEM, if that is not one of those that everybody trusts.
    pub root_certificate_file: Option<PathBuf>,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            email: String::new(),
            directory_url: "https://acme-v02.api.letsencrypt.org/directory".into(),
            cache_folder: "acme".into(),
            root_certificate_file: None,
        }
    }
}

impl AcmeConfig {
    /// The key and what is wrong with it, if something is.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_name = |domain: &String| {
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            domain.len() <= 253
                && domain.split('.').all(is_label)
                && domain.parse::<std::net::IpAddr>().is_err()
        };
        match () {
            () if !self.domains.iter().all(is_name) => {
                Err(("acme.domains", "must be names such as call.example.org, without wildcards"))
            }
            () if !self.directory_url.starts_with("https://") => {
                Err(("acme.directory_url", "must be an https URL"))
            }
            () if self.email.chars().any(|character| character.is_control() || character == ' ') => {
                Err(("acme.email", "is no address"))
            }
            () => Ok(()),
        }
    }
}

/// A certificate was not given. Usually the domain does not lead here, or the server cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The server says no, or cannot be reached.
    #[error("{0}")]
    Server(#[from] instant_acme::Error),
    /// The server could not see that a domain is ours.
    #[error("{domain}: {problem}")]
    Domain {
        /// Which.
        domain: String,
        /// What the server says.
        problem: String,
    },
    /// What the server gave is no certificate, or what it must be shown cannot be made.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// The cache cannot be read or written.
    #[error("{path}: {source}")]
    Cache {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configured root certificate cannot be used.
    #[error("root certificate: {0}")]
    Root(String),
}

/// Gets certificates, and renews them.
#[derive(Debug)]
pub struct AcmeClient {
    config: AcmeConfig,
    cache: Cache,
    /// That of the cache, with the time when it should be renewed.
    current: Option<(Certificate, SystemTime)>,
}

impl AcmeClient {
    /// Looks into the cache. None if the configuration names no domain.
    pub fn new(config: &AcmeConfig) -> Result<Option<Self>, AcmeError> {
        if config.domains.is_empty() {
            return Ok(None);
        }
        let cache = Cache::open(config)?;
        let current = cache.certificate(SystemTime::now())?;
        Ok(Some(Self { config: config.clone(), cache, current }))
    }

    /// The certificate from the cache, if there is a good one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.current.as_ref().map(|(certificate, _)| certificate)
    }

    /// Orders certificates for ever, whenever one is due, and sends each to `renewed`. `acceptor` shows the challenges.
    pub async fn run(mut self, acceptor: TlsAcceptor, renewed: mpsc::Sender<Certificate>) {
        let mut retry = RETRY_FIRST;
        loop {
            if let Some((_, renew_at)) = self.current {
                // The clock may be set meanwhile.
                while let Ok(left) = renew_at.duration_since(SystemTime::now()) {
                    tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
                }
            }
            match self.order(&acceptor).await {
                Ok((certificate, renew_at)) => {
                    if renew_at <= SystemTime::now() {
                        tracing::warn!(
                            "the certificate is due for renewal already: is this machine's clock right?"
                        );
                    }
                    let pause_from = tokio::time::Instant::now();
                    tracing::info!(domains = %self.config.domains.join(", "), "certificate received by ACME");
                    self.current = Some((certificate.clone(), renew_at));
                    retry = RETRY_FIRST;
                    if renewed.send(certificate).await.is_err() {
                        return;
                    }
                    // Whatever the clock says, the authority's limits are for weeks.
                    tokio::time::sleep_until(pause_from + ORDER_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in_s = retry.as_secs(), "no certificate by ACME");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn order(&self, acceptor: &TlsAcceptor) -> Result<(Certificate, SystemTime), AcmeError> {
        let account = self.account().await?;
        let identifiers: Vec<_> = self.config.domains.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        // However this ends, they are shown no longer.
        let mut challenges = Challenges { acceptor, domains: Vec::new() };
        challenges.show_all(&mut order).await?;
        let patience = RetryPolicy::default().timeout(SERVER_TIMEOUT);
        let status = order.poll_ready(&patience).await;
        if !matches!(status, Ok(OrderStatus::Ready)) {
            return Err(match why_not(&mut order).await {
                Some(problem) => problem,
                None => status.err().unwrap_or(instant_acme::Error::Str("the order is not ready")).into(),
            });
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&patience).await?;
        let certificate = Certificate::from_pem(&chain, &key)?;
        let renew_at = certificate.renew_at()?;
        self.cache.store_certificate(&chain, &key)?;
        Ok((certificate, renew_at))
    }

    async fn account(&self) -> Result<Account, AcmeError> {
        let http = http::Client::new(self.config.root_certificate_file.as_deref())?;
        let builder = Account::builder_with_http(Box::new(http));
        if let Some(credentials) = self.cache.account()? {
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact = format!("mailto:{}", self.config.email);
        let contact = if self.config.email.is_empty() { Vec::new() } else { vec![contact.as_str()] };
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials): (_, AccountCredentials) =
            builder.create(&new, self.config.directory_url.clone(), None).await?;
        self.cache.store_account(&credentials)?;
        Ok(account)
    }
}

/// Challenges that are shown for as long as it lives.
struct Challenges<'a> {
    acceptor: &'a TlsAcceptor,
    domains: Vec<String>,
}

impl Challenges<'_> {
    async fn show_all(&mut self, order: &mut Order) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let domain = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => {
                    return Err(AcmeError::Domain {
                        domain,
                        problem: format!("the authorization is {status:?}"),
                    });
                }
            }
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let Some(mut challenge) = challenge else {
                let problem = "the server offers no challenge by TLS-ALPN-01".into();
                return Err(AcmeError::Domain { domain, problem });
            };
            let shown = Certificate::for_challenge(&domain, challenge.key_authorization().digest().as_ref())?;
            self.acceptor.set_challenge(&domain, shown)?;
            self.domains.push(domain);
            challenge.set_ready().await?;
        }
        Ok(())
    }
}

impl Drop for Challenges<'_> {
    fn drop(&mut self) {
        self.domains.iter().for_each(|domain| self.acceptor.remove_challenge(domain));
    }
}

/// What the server says of the first domain that it does not accept.
async fn why_not(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let domain = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return Some(AcmeError::Domain { domain, problem: problem.to_string() });
        }
    }
    None
}
