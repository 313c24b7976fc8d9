//! `zynk turn`.

mod allocations;

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use zynk_auth::TurnSecret;
use zynk_signaling::RelayConfig;
use zynk_turn_server::TurnAddresses;

use crate::cli::{KeyFlags, TurnCommand, TurnCredentialsArguments};
use crate::config::{self, Config, Role};
use crate::token;

/// What a client needs, in the words of draft-uberti-behave-turn-rest-00, section 2.1.
#[derive(Debug, Serialize)]
struct Credentials {
    username: String,
    credential: String,
    /// In seconds.
    ttl: u64,
    uris: Vec<String>,
}

/// What the command prints.
pub(crate) async fn execute(command: &TurnCommand) -> Result<String> {
    match command {
        TurnCommand::Credentials(arguments) => {
            let credentials = credentials(arguments, SystemTime::now())?;
            match arguments.json {
                true => Ok(serde_json::to_string(&credentials)? + "\n"),
                false => Ok(text(&credentials)),
            }
        }
        TurnCommand::Secret { of, key } => Ok(secret(of.as_deref(), key)?.expose().to_owned() + "\n"),
        TurnCommand::List { json, server } => allocations::list(server, *json).await,
        TurnCommand::Kick { ids, server } => allocations::kick(server, ids).await,
    }
}

fn credentials(arguments: &TurnCredentialsArguments, now: SystemTime) -> Result<Credentials> {
    // Their end is in whole seconds.
    if arguments.ttl < Duration::from_secs(1) {
        bail!("--ttl is less than a second: the credentials would be void at once");
    }
    if now.checked_add(arguments.ttl).is_none() {
        bail!("--ttl is too long: no clock goes that far");
    }
    let config = config::read(arguments.key.config.as_deref())?;
    let relays = &config.signaling.relays;
    let region = match &arguments.region {
        Some(name) => Some(region(relays, name)?),
        None => None,
    };
    let secret = match region.and_then(|relay| relay.secret.clone()) {
        Some(secret) => TurnSecret::new(secret),
        None => shared_secret(&config, &arguments.key)?,
    };
    let uris = match (arguments.urls.is_empty(), region) {
        (false, _) => arguments.urls.clone(),
        (true, Some(relay)) => relay.urls.clone(),
        (true, None) => sharing_urls(&config),
    };
    let made = secret.credentials(&arguments.user, arguments.ttl, now);
    let credential = made.credential.expose_secret().to_owned();
    Ok(Credentials { username: made.username, credential, ttl: arguments.ttl.as_secs(), uris })
}

fn region<'a>(relays: &'a [RelayConfig], name: &str) -> Result<&'a RelayConfig> {
    relays.iter().find(|relay| relay.region == name).with_context(|| {
        let known: Vec<&str> = relays.iter().map(|relay| relay.region.as_str()).collect();
        match known.is_empty() {
            true => format!("no region {name}: the configuration has no signaling.relays"),
            false => format!("no region {name}; the configuration has {}", known.join(", ")),
        }
    })
}

/// What the relay of this configuration checks passwords with: the first of `turn.auth_secrets`, or what follows from the
/// first API key, as relays without a secret of their own have it. A key on the command line goes before the file.
pub(crate) fn shared_secret(config: &Config, flags: &KeyFlags) -> Result<TurnSecret> {
    match flags.api_key {
        Some(_) => secret(None, flags),
        None => config
            .turn
            .secret(&config.key_ring())
            .context("there is no API key, and nothing in turn.auth_secrets"),
    }
}

/// The relays that check passwords with [`shared_secret`]: that of the configuration, if clients are told of it, and those of
/// `signaling.relays` that share the API keys.
fn sharing_urls(config: &Config) -> Vec<String> {
    let turn = &config.turn;
    let at = |ports: &[u16]| ports.iter().map(|port| (Ipv4Addr::UNSPECIFIED, *port).into()).collect();
    let addresses = TurnAddresses {
        udp: if turn.udp { at(&[turn.port]) } else { Vec::new() },
        tcp: if turn.tcp { at(&[turn.port]) } else { Vec::new() },
        tls: match config.tls.enabled {
            true => at(&[&[config.tls.port], turn.tls_ports.as_slice()].concat()),
            false => at(&turn.tls_ports),
        },
        announced: turn.announced(),
        ..TurnAddresses::default()
    };
    let mut urls = match config.roles.contains(&Role::Turn) {
        true => turn.urls(&addresses),
        false => Vec::new(),
    };
    if turn.auth_secrets.is_empty() {
        let sharing = config.signaling.relays.iter().filter(|relay| relay.secret.is_none());
        urls.extend(sharing.flat_map(|relay| &relay.urls).cloned());
    }
    urls
}

/// The secret made from the key `of`, or from the first one.
fn secret(of: Option<&str>, flags: &KeyFlags) -> Result<TurnSecret> {
    let keys = token::key_ring(flags)?;
    let is_meant = |name: &str| of.is_none_or(|of| of == name);
    let found = keys.names().zip(keys.turn_secrets()).find(|(name, _)| is_meant(name));
    match (found, of) {
        (Some((_, secret)), _) => Ok(secret),
        (None, Some(name)) => bail!("there is no API key {name}"),
        (None, None) => bail!("there is no API key"),
    }
}

fn text(credentials: &Credentials) -> String {
    let Credentials { username, credential, ttl, uris } = credentials;
    let uris: String = uris.iter().map(|uri| format!("uri         {uri}\n")).collect();
    format!("username    {username}\ncredential  {credential}\nttl         {ttl}\n{uris}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    const CONFIG: &str = "[keys]
a = '0123456789abcdef0123456789abcdef'
b = 'fedcba9876543210fedcba9876543210'
[[signaling.relays]]
region = 'eu'
urls = ['turn:eu.example.org?transport=udp', 'turns:eu.example.org:443?transport=tcp']
[[signaling.relays]]
region = 'us'
urls = ['turn:us.example.org']
secret = 'north'
";

    fn run(arguments: &[&str]) -> Result<String> {
        run_with(CONFIG, arguments)
    }

    fn run_with(config: &str, arguments: &[&str]) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let line = ["zynk", "turn"].iter().chain(arguments).copied();
        let line = line.chain(["--config", file.path().to_str().unwrap()]);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Turn(command) => {
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(execute(&command))
            }
            _ => unreachable!("the line says turn"),
        }
    }

    fn json(arguments: &[&str]) -> serde_json::Value {
        let line = ["credentials", "--json"].iter().chain(arguments).copied().collect::<Vec<_>>();
        serde_json::from_str(&run(&line).unwrap()).unwrap()
    }

    fn now_s() -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
    }

    #[test]
    fn credentials_are_of_the_first_key_and_for_the_relays_that_share_it() {
        let made = json(&["--user", "alice", "--ttl", "10m"]);
        let username = made["username"].as_str().unwrap();
        let (end, user) = username.split_once(':').unwrap();
        let left = end.parse::<u64>().unwrap() - now_s();
        assert!((595..=600).contains(&left), "{left}");
        assert_eq!((user, made["ttl"].as_u64()), ("alice", Some(600)));
        let uris = ["turn:eu.example.org?transport=udp", "turns:eu.example.org:443?transport=tcp"];
        assert_eq!(made["uris"], serde_json::json!(uris));
        let secret = TurnSecret::new(run(&["secret"]).unwrap().trim_end());
        assert_eq!(made["credential"], secret.credential(username).expose_secret());
    }

    #[test]
    fn a_region_has_its_own_secret() {
        let made = json(&["--region", "us"]);
        assert_eq!(made["uris"], serde_json::json!(["turn:us.example.org"]));
        let expected = TurnSecret::new("north").credential(made["username"].as_str().unwrap());
        assert_eq!(made["credential"], expected.expose_secret());
        assert_eq!(made["ttl"], 43_200);
        let made = json(&["--region", "us", "--url", "turn:other.example.org"]);
        assert_eq!(made["uris"], serde_json::json!(["turn:other.example.org"]));
        let error = run(&["credentials", "--region", "mars"]).unwrap_err().to_string();
        assert_eq!(error, "no region mars; the configuration has eu, us");
    }

    #[test]
    fn a_relay_makes_credentials_with_its_own_configuration() {
        let relay = "roles = ['turn']
[turn]
domain = 'relay.example.org'
auth_secrets = ['north', 'south']
tls_ports = [443]
";
        let text = run_with(relay, &["credentials", "--json"]).unwrap();
        let made: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = TurnSecret::new("north").credential(made["username"].as_str().unwrap());
        assert_eq!(made["credential"], expected.expose_secret());
        let uris = [
            "turn:relay.example.org:3478?transport=udp",
            "turn:relay.example.org:3478?transport=tcp",
            "turns:relay.example.org:443?transport=tcp",
        ];
        assert_eq!(made["uris"], serde_json::json!(uris));
        let error = run_with("roles = ['turn']", &["credentials"]).unwrap_err().to_string();
        assert_eq!(error, "there is no API key, and nothing in turn.auth_secrets");
    }

    #[test]
    fn the_port_shared_with_https_comes_first() {
        let config = "[tls]\nenabled = true\nport = 8443\n[turn]\ndomain = 'relay.example.org'\nudp = false\ntls_ports = [5349]\nauth_secrets = ['north']";
        let made = run_with(&format!("{CONFIG}{config}"), &["credentials", "--json"]).unwrap();
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let uris = [
            "turn:relay.example.org:3478?transport=tcp",
            "turns:relay.example.org:8443?transport=tcp",
            "turns:relay.example.org:5349?transport=tcp",
        ];
        assert_eq!(made["uris"], serde_json::json!(uris));
    }

    #[test]
    fn credentials_are_printed_for_people_too() {
        let text = run(&["credentials", "--user", "alice"]).unwrap();
        let heads: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(heads, ["username", "credential", "ttl", "uri", "uri"]);
        let error = run(&["credentials", "--ttl", "999ms"]).unwrap_err().to_string();
        assert!(error.starts_with("--ttl is less than a second"), "{error}");
        let error = run(&["credentials", "--ttl", "18446744073709551615s"]).unwrap_err().to_string();
        assert!(error.starts_with("--ttl is too long"), "{error}");
    }

    #[test]
    fn each_key_has_a_secret() {
        let (first, second) = (run(&["secret"]).unwrap(), run(&["secret", "--of", "b"]).unwrap());
        assert_eq!(first, run(&["secret", "--of", "a"]).unwrap());
        assert_ne!(first, second);
        assert_eq!(run(&["secret", "--of", "c"]).unwrap_err().to_string(), "there is no API key c");
        let keys = ["secret", "--api-key", "b", "--api-secret", "fedcba9876543210fedcba9876543210"];
        assert_eq!(run(&keys).unwrap(), second, "flags go before the configuration");
    }
}
