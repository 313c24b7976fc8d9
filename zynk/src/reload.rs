//! What changes while the process runs: on SIGHUP whatever of the configuration can, and certificates whenever their files
//! do.

use anyhow::Result;
use secrecy::ExposeSecret as _;
use toml::Value;
use zynk_service::telemetry::LogControl;
use zynk_service::tls::{Certificate, TlsAcceptor};
use zynk_turn_server::TurnConfig;

use crate::certificates::{self, Watched};
use crate::config::{Config, Source};
use crate::roles::Roles;

/// Settings that are applied to a running process; of a section, all of its.
const LIVE: [&str; 17] = [
    "log.level",
    "tls.certificate_file",
    "tls.private_key_file",
    "tls.certificate_check_interval_s",
    "turn.certificate_file",
    "turn.private_key_file",
    "turn.realm",
    "turn.auth_secrets",
    "turn.users",
    "turn.deny_peers",
    "turn.allow_peers",
    "turn.lifetime_s",
    "turn.lifetime_s_max",
    "turn.nonce_lifetime_s",
    "turn.alternate_servers",
    "turn.proxy_protocol_from",
    "turn.limits",
];

/// Applies changes to the running process.
#[derive(Debug)]
pub(crate) struct Reloader {
    source: Source,
    /// What holds now.
    config: Config,
    log: LogControl,
    acceptor: Option<TlsAcceptor>,
    /// That of `[tls]`.
    certificate: Option<Certificate>,
    watched: Watched,
}

impl Reloader {
    /// `certificate` is that of `[tls]`, which `acceptor` shows if there is one; `watched` has looked before it was read.
    pub(crate) fn new(
        source: Source,
        config: Config,
        log: LogControl,
        acceptor: Option<TlsAcceptor>,
        certificate: Option<Certificate>,
        watched: Watched,
    ) -> Self {
        Self { source, config, log, acceptor, certificate, watched }
    }

    /// How often [`Reloader::look_at_certificates`] wants to be called.
    pub(crate) fn certificate_check_interval(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.config.tls.certificate_check_interval_s)
    }

    /// Reads the configuration anew. If it is wrong, or cannot be applied, all stays as it is, and the log says why.
    pub(crate) async fn reload(&mut self, roles: &mut Roles) {
        let new = match self.source.load() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(error = %format_args!("{error:#}"), "the configuration was not reloaded");
                return;
            }
        };
        let changed = changed_keys(&self.config, &new);
        let (live, restart): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| is_live(key));
        let effective = effective(&self.config, &new);
        // What changes from here on is seen at the next look.
        self.watched.have_changed(&effective).await;
        if let Err(error) = self.apply(effective, roles) {
            tracing::error!(error = %format_args!("{error:#}"), "the configuration was not reloaded");
            return;
        }
        tracing::info!(changed = %live.join(", "), "configuration reloaded");
        if !restart.is_empty() {
            tracing::warn!(keys = %restart.join(", "), "changed settings that take a restart");
        }
    }

    /// Takes the certificates from their files if those have changed. What cannot be used, or is half written, changes
    /// nothing, and the log says so.
    pub(crate) async fn look_at_certificates(&mut self, roles: &mut Roles) {
        if !self.watched.have_changed(&self.config).await {
            return;
        }
        match self.apply(self.config.clone(), roles) {
            Ok(()) => tracing::info!("certificates reloaded"),
            Err(error) => tracing::warn!(
                error = %format_args!("{error:#}"),
                "the files of a certificate have changed, and the old one stays in use"
            ),
        }
    }

    /// Shows a certificate that ACME's server gave.
    pub(crate) fn renewed(&mut self, certificate: Certificate, roles: &mut Roles) {
        let old = self.certificate.replace(certificate);
        match self.apply(self.config.clone(), roles) {
            Ok(()) => tracing::info!("certificate renewed"),
            Err(error) => {
                self.certificate = old;
                let error = format_args!("{error:#}");
                tracing::warn!(%error, "a new certificate cannot be used, and the old one stays");
            }
        }
    }

    fn apply(&mut self, config: Config, roles: &mut Roles) -> Result<()> {
        // Everything that may fail comes before what cannot be undone.
        let read = certificates::read(&config.tls)?;
        let certificate =
            read.or_else(|| self.certificate.clone().filter(|_| config.tls.certificate_file.is_none()));
        roles.reload(&config, certificate.as_ref())?;
        if let (Some(acceptor), Some(certificate)) = (&self.acceptor, &certificate) {
            acceptor.set_certificate(certificate)?;
        }
        self.log.set_level(&config.log)?;
        self.certificate = certificate;
        self.config = config;
        Ok(())
    }
}

fn is_live(key: &str) -> bool {
    LIVE.iter()
        .any(|live| key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// What a process that runs with `old` makes of `new`.
fn effective(old: &Config, new: &Config) -> Config {
    let mut effective = old.clone();
    effective.log.level = new.log.level.clone();
    effective.tls.certificate_file = new.tls.certificate_file.clone();
    effective.tls.private_key_file = new.tls.private_key_file.clone();
    effective.tls.certificate_check_interval_s = new.tls.certificate_check_interval_s;
    let kept = old.turn.clone();
    effective.turn = TurnConfig {
        domain: kept.domain,
        bind: kept.bind,
        port: kept.port,
        udp: kept.udp,
        tcp: kept.tcp,
        tls_ports: kept.tls_ports,
        dtls_ports: kept.dtls_ports,
        relay_bind: kept.relay_bind,
        announce: kept.announce,
        relay_port_first: kept.relay_port_first,
        relay_port_last: kept.relay_port_last,
        workers: kept.workers,
        hold_back_us_max: kept.hold_back_us_max,
        ..new.turn.clone()
    };
    effective
}

/// The keys whose values differ, dotted.
fn changed_keys(old: &Config, new: &Config) -> Vec<String> {
    let table = |config: &Config| toml::Table::try_from(config).map(Value::Table).ok();
    let mut keys = Vec::new();
    compare("", table(old).as_ref(), table(new).as_ref(), &mut keys);
    // Secrets are not written, and so not compared so far.
    let exposed = |config: &Config| {
        let secrets = config.turn.auth_secrets.iter().map(|secret| secret.expose_secret().to_owned());
        let relays = config.signaling.relays.iter();
        let relays =
            relays.map(|relay| relay.secret.as_ref().map(|secret| secret.expose_secret().to_owned()));
        (secrets.collect::<Vec<_>>(), relays.collect::<Vec<_>>())
    };
    let users = |users: &std::collections::BTreeMap<String, secrecy::SecretString>| {
        let one = |(name, secret): (&String, &secrecy::SecretString)| {
            (name.clone(), secret.expose_secret().to_owned())
        };
        users.iter().map(one).collect::<Vec<_>>()
    };
    let ((old_secrets, old_relays), (new_secrets, new_relays)) = (exposed(old), exposed(new));
    for (key, differs) in [
        ("keys", users(&old.keys) != users(&new.keys)),
        ("signaling.relays", old_relays != new_relays),
        ("turn.auth_secrets", old_secrets != new_secrets),
        ("turn.users", users(&old.turn.users) != users(&new.turn.users)),
    ] {
        if differs && !keys.iter().any(|known| known == key) {
            keys.push(key.to_owned());
        }
    }
    keys
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, keys: &mut Vec<String>) {
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) => {
            let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, old.get(name), new.get(name), keys);
            }
        }
        (old, new) if old != new => keys.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_key_and_only_what_can_be_is_applied() {
        let old = Config::default();
        let mut new = old.clone();
        new.port = 1;
        new.log.level = "debug".into();
        new.log.format = zynk_service::telemetry::LogFormat::Text;
        new.keys.insert("main".into(), "0123456789abcdef0123456789abcdef".into());
        new.tls.port = 8443;
        new.tls.certificate_file = Some("new.pem".into());
        new.turn.port = 3479;
        new.turn.realm = "new".into();
        new.turn.users.insert("alice".into(), "wonderland".into());
        new.turn.auth_secrets.push("open sesame".into());
        new.turn.limits.user_allocations_max = 1;
        let changed = changed_keys(&old, &new);
        let (live, restart): (Vec<_>, Vec<_>) =
            changed.iter().map(String::as_str).partition(|key| is_live(key));
        assert_eq!(
            live,
            [
                "log.level",
                "tls.certificate_file",
                "turn.limits.user_allocations_max",
                "turn.realm",
                "turn.auth_secrets",
                "turn.users"
            ]
        );
        assert_eq!(restart, ["log.format", "port", "tls.port", "turn.port", "keys"]);
        // What is applied differs from the old by what is live, and from the new by the rest.
        let applied = effective(&old, &new);
        assert_eq!(changed_keys(&old, &applied), live);
        assert_eq!(changed_keys(&applied, &new), restart);
    }

    #[test]
    fn every_setting_of_the_relay_is_applied_or_told_to_take_a_restart() {
        let Value::Table(turn) = Value::try_from(TurnConfig::default()).unwrap() else { panic!("a table") };
        let restart =
            ["bind", "port", "udp", "tcp", "tls_ports", "dtls_ports", "workers", "domain", "relay_bind"];
        let restart = [
            &restart[..],
            &["announce", "relay_port_first", "relay_port_last", "hold_back_us_max", "tell_addresses"],
        ]
        .concat();
        for key in turn.keys() {
            assert_ne!(is_live(&format!("turn.{key}")), restart.contains(&key.as_str()), "{key}");
        }
    }

    #[test]
    fn names_of_changed_secrets_are_told_and_not_the_secrets() {
        let old = Config::default();
        let mut new = old.clone();
        new.turn.users.insert("alice".into(), "hunter2".into());
        assert_eq!(changed_keys(&old, &new), ["turn.users"]);
        assert!(changed_keys(&new, &new).is_empty());
    }
}
