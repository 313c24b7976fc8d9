//! The whole configuration: a section per role, and what roles share.

mod validate;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zynk_auth::KeyRing;
use zynk_service::config::{Loader, example_toml};
use zynk_service::http::HttpConfig;
use zynk_service::telemetry::LogConfig;
use zynk_service::tls::TlsConfig;
use zynk_sfu_server::SfuConfig;
use zynk_signaling::{GuestConfig, SignalingConfig, WebhookConfig};
use zynk_turn_server::TurnConfig;

use crate::cli::{RunArguments, ServerFlags};

/// What `zynk dev` sets. The key and secret are those of LiveKit's own development mode.
const DEV_CONFIG: &str = r#"
keys = { devkey = "secret" }
guests = { access = true }
log = { format = "text" }
turn = { tell_addresses = true }
"#;

/// Variables that mean something else than a key of the configuration.
const OTHER_VARIABLES: [&str; 6] =
    ["ZYNK_CONFIG", "ZYNK_URL", "ZYNK_API_KEY", "ZYNK_API_SECRET", "ZYNK_TOKEN", "ZYNK_TURN_CREDENTIAL"];

/// Configuration of a process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The address for HTTP and WebSocket. `0.0.0.0` or `::` opens it to other machines.
    pub(crate) bind: IpAddr,
    /// The port for HTTP and WebSocket. 0 takes a free one.
    pub(crate) port: u16,
    /// What this process does: `sfu` moves media, `signaling` serves clients and the server API, `turn` relays for clients
    /// whose networks let nothing else through.
    pub(crate) roles: Vec<Role>,
    /// How roles reach each other. `local:` is within this process.
    pub(crate) bus: String,
    /// What keeps the rooms: `memory:`, gone with the process, or `sqlite:zynk.db`.
    pub(crate) store: String,
    /// How long sessions and requests may take to end once the process is told to stop, in seconds.
    pub(crate) shutdown_timeout_s: u64,
    /// API keys and their secrets: `name = "secret"`, at least 32 characters, or
    /// `name_file = "/run/secrets/name"`, a file that holds the secret.
    #[serde(skip_serializing)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) keys: BTreeMap<String, SecretString>,
    /// Logs, written to standard error.
    pub(crate) log: LogConfig,
    /// The HTTP server.
    pub(crate) http: HttpConfig,
    /// HTTPS and secure WebSocket. If this process relays, TURN over TLS is served on the same port: firewalls that let
    /// nothing else out let that through.
    pub(crate) tls: TlsConfig,
    /// Media.
    pub(crate) sfu: SfuConfig,
    /// The relay.
    pub(crate) turn: TurnConfig,
    /// Rooms and sessions.
    pub(crate) signaling: SignalingConfig,
    /// People without an account.
    pub(crate) guests: GuestConfig,
    /// Where events of rooms are sent.
    pub(crate) webhooks: WebhookConfig,
}

/// A part of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Moves media.
    Sfu,
    /// Serves clients and the server API.
    Signaling,
    /// Relays for clients whose networks let nothing else through.
    Turn,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 7880,
            roles: vec![Role::Sfu, Role::Signaling, Role::Turn],
            bus: "local:".into(),
            store: "memory:".into(),
            shutdown_timeout_s: 10,
            keys: BTreeMap::new(),
            log: LogConfig::default(),
            http: HttpConfig::default(),
            tls: TlsConfig::default(),
            sfu: SfuConfig::default(),
            turn: TurnConfig::default(),
            signaling: SignalingConfig::default(),
            guests: GuestConfig::default(),
            webhooks: WebhookConfig::default(),
        }
    }
}

impl Config {
    /// The API keys, in the order of their names.
    pub(crate) fn key_ring(&self) -> KeyRing {
        KeyRing::new(self.keys.clone())
    }
}

/// Where a process has its configuration from.
#[derive(Debug)]
pub(crate) enum Source {
    /// `zynk dev` with its flags.
    Dev(ServerFlags),
    /// `zynk run` with its flags, which name the file.
    Run(RunArguments),
}

impl Source {
    /// Reads it.
    pub(crate) fn load(&self) -> Result<Config> {
        match self {
            Self::Dev(flags) => load_dev(flags),
            Self::Run(arguments) => load(arguments),
        }
    }
}

/// The configuration of `zynk dev`.
pub(crate) fn load_dev(flags: &ServerFlags) -> Result<Config> {
    let mut loader = with_flags(with_environment(Loader::new().file("zynk dev", DEV_CONFIG)), flags);
    // Media that is on loopback alone answers nobody else, and so not a relay at another address.
    if !flags.announce.is_empty() && flags.announce.iter().all(IpAddr::is_loopback) {
        let first = |v4: bool| flags.announce.iter().find(move |ip| ip.is_ipv4() == v4);
        let list: Vec<_> =
            [true, false].into_iter().filter_map(first).map(|ip| format!("\"{ip}\"")).collect();
        loader = loader.flag("--announce", "turn.relay_bind", format!("[{}]", list.join(",")));
    }
    let config: Config = loader.load()?;
    validate::roles(&config, &loader)?;
    Ok(config)
}

/// The configuration of `zynk run`.
pub(crate) fn load(arguments: &RunArguments) -> Result<Config> {
    let mut loader = with_flags(with_environment(with_file(arguments.config.as_deref())?), &arguments.server);
    if !arguments.roles.is_empty() {
        let roles: Vec<String> =
            arguments.roles.iter().map(|role| format!("{:?}", format!("{role:?}").to_lowercase())).collect();
        loader = loader.flag("--roles", "roles", format!("[{}]", roles.join(",")));
    }
    let config = loader.load()?;
    validate::all(&config, &loader)?;
    Ok(config)
}

/// Reads the configuration as `zynk run --config` would.
pub(crate) fn check(file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { bail!("name a file, or set ZYNK_CONFIG") };
    let loader = with_environment(with_file(Some(file))?);
    Ok(validate::all(&loader.load()?, &loader)?)
}

/// A configuration file as it is, or, without one, that of `zynk dev`, for commands that need a part of it.
pub(crate) fn read(file: Option<&Path>) -> Result<Config> {
    let loader = match file {
        Some(_) => with_environment(with_file(file)?),
        None => with_environment(Loader::new().file("zynk dev", DEV_CONFIG)),
    };
    Ok(loader.load()?)
}

/// A file with every key, its meaning and its default; with a fresh API key if asked.
pub(crate) fn example(with_key: bool) -> Result<String> {
    let mut defaults = Config::default();
    // Depends on the machine.
    defaults.sfu.workers = 1;
    let mut table = toml::Table::try_from(defaults).context("the defaults are no TOML")?;
    table.insert("keys".into(), toml::Table::new().into());
    // Secrets are not written; that there are none is.
    if let Some(toml::Value::Table(turn)) = table.get_mut("turn") {
        turn.insert("auth_secrets".into(), toml::value::Array::new().into());
        turn.insert("users".into(), toml::Table::new().into());
    }
    let heading = "# Configuration of Zynk, for `zynk run --config FILE`. Every key is shown with its default.\n\
                   # Environment variables win over this file: ZYNK_PORT is `port`, ZYNK_SFU__WORKERS is `workers`\n\
                   # in the section `sfu`. Flags win over both.\n\n";
    let text = example_toml::<Config>(&table);
    let text = match with_key {
        true => text.replacen("[keys]\n", &format!("[keys]\n{}\n", crate::keys::generate()), 1),
        false => text,
    };
    Ok(format!("{heading}{}\n", text.trim_end()))
}

fn with_file(file: Option<&Path>) -> Result<Loader> {
    let loader = Loader::new().secret("keys.*").secret("turn.users.*").secret("signaling.relays.*.secret");
    let Some(path) = file else { return Ok(loader) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
    Ok(loader.file(name, text))
}

fn with_environment(loader: Loader) -> Loader {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    loader.environment("ZYNK", variables.filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str())))
}

fn with_flags(loader: Loader, flags: &ServerFlags) -> Loader {
    // Port 0 means any port, and so for media too: two servers on one machine must not meet.
    let any = (flags.port == Some(0)).then_some(0);
    let announce: Vec<String> = flags.announce.iter().map(|address| format!("\"{address}\"")).collect();
    let settings = [
        ("--bind", "bind", flags.bind.map(|address| address.to_string())),
        ("--port", "port", flags.port.map(|port| port.to_string())),
        ("--ice-tcp-port", "sfu.ice_tcp_port", flags.ice_tcp_port.or(any).map(|port| port.to_string())),
        ("--udp-port", "sfu.udp_port_first", flags.udp_port.or(any).map(|port| port.to_string())),
        ("--port", "tls.port", any.map(|port: u16| port.to_string())),
        ("--turn-port", "turn.port", flags.turn_port.or(any).map(|port| port.to_string())),
        ("--workers", "sfu.workers", flags.workers.map(|count| count.to_string())),
        ("--announce", "sfu.announce", (!announce.is_empty()).then(|| format!("[{}]", announce.join(",")))),
        ("--log-level", "log.level", flags.log_level.clone()),
        ("--log-format", "log.format", flags.log_format.clone()),
    ];
    settings.into_iter().fold(loader, |loader, (flag, key, value)| match value {
        Some(value) => loader.flag(flag, key, value),
        None => loader,
    })
}

#[cfg(test)]
mod tests;
