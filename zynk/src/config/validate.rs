//! Rules that types cannot have. What passes here, `zynk run` takes, short of what is wrong with the machine.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use zynk_service::config::{ConfigError, Loader};
use zynk_sfu_server::SfuError;
use zynk_signaling::{AUDIO_TOP_N_MAX, WebhookDispatcher, WebhookError};
use zynk_turn_server::TurnError;

use super::{Config, Role};

/// Shortest secret that `zynk run` takes: as many bytes as HMAC-SHA-256 has (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// What `zynk run` and `zynk config check` refuse.
pub(super) fn all(config: &Config, loader: &Loader) -> Result<(), ConfigError> {
    keys(config, loader)?;
    roles(config, loader)
}

fn keys(config: &Config, loader: &Loader) -> Result<(), ConfigError> {
    // A relay alone can do with what it has of its own.
    let needs_keys =
        config.roles != [Role::Turn] || (config.turn.auth_secrets.is_empty() && config.turn.users.is_empty());
    if config.keys.is_empty() && needs_keys {
        let problem = "no API key: add the line that `zynk keys generate` prints to the section [keys]";
        return Err(loader.error_at("keys", problem));
    }
    for (name, secret) in &config.keys {
        let bytes = secret.expose_secret().len();
        if bytes < SECRET_BYTES_MIN {
            let problem =
                format!("the secret has {bytes} characters, at least {SECRET_BYTES_MIN} are needed");
            return Err(loader.error_at(&format!("keys.{name}"), problem));
        }
    }
    Ok(())
}

/// What `zynk dev` refuses too.
pub(super) fn roles(config: &Config, loader: &Loader) -> Result<(), ConfigError> {
    if config.roles.is_empty() {
        return Err(loader.error_at("roles", "at least one role is needed"));
    }
    let at = |key: &'static str| move |error: String| loader.error_at(key, error);
    zynk_bus::check_url(&config.bus).map_err(|error| at("bus")(error.to_string()))?;
    zynk_store::check_url(&config.store).map_err(|error| at("store")(error.to_string()))?;
    config.log.check().map_err(|error| at("log.level")(error.to_string()))?;
    let is_split = config.roles.contains(&Role::Sfu) != config.roles.contains(&Role::Signaling);
    if is_split && config.bus == "local:" {
        return Err(loader.error_at("roles", "the bus `local:` needs sfu and signaling in one process"));
    }
    config.sfu.check().map_err(|error| match error {
        SfuError::Ports { .. } => at("sfu.udp_port_first")(error.to_string()),
        error => at("sfu.workers")(error.to_string()),
    })?;
    config.turn.check().map_err(|error| match error {
        TurnError::Config { key, problem } => loader.error_at(&format!("turn.{key}"), problem),
        error => at("turn")(error.to_string()),
    })?;
    config.tls.check().map_err(|(key, problem)| loader.error_at(&format!("tls.{key}"), problem))?;
    if config.tls.enabled && config.tls.port != 0 && config.tls.port == config.port {
        return Err(loader.error_at("tls.port", "`port` is the same, which serves HTTP without TLS"));
    }
    let relays = config.roles.contains(&Role::Turn);
    if config.tls.enabled
        && relays
        && config.turn.tls_ports.contains(&config.tls.port)
        && config.tls.port != 0
    {
        let problem = "that is `tls.port`, on which TURN over TLS is served anyway";
        return Err(loader.error_at("turn.tls_ports", problem));
    }
    if config.signaling.room.enabled_codecs.is_empty() {
        return Err(loader.error_at("signaling.room.enabled_codecs", "at least one codec is needed"));
    }
    if config.signaling.room.audio_top_n > AUDIO_TOP_N_MAX {
        let error = format!("at most {AUDIO_TOP_N_MAX}, or 0 for all");
        return Err(loader.error_at("signaling.room.audio_top_n", error));
    }
    config
        .signaling
        .check()
        .map_err(|error| loader.error_at(&format!("signaling.{}", error.key), error.problem))?;
    let limits = &config.signaling.limits;
    let at_least_one = [
        ("http.connections_max", config.http.connections_max),
        ("http.header_timeout_s", usize::try_from(config.http.header_timeout_s).unwrap_or(usize::MAX)),
        ("signaling.limits.rooms_max", limits.rooms_max),
        ("signaling.limits.sessions_max", limits.sessions_max),
        ("signaling.limits.room_name_bytes_max", limits.room_name_bytes_max),
        ("signaling.limits.identity_bytes_max", limits.identity_bytes_max),
        ("signaling.limits.signal_message_bytes_max", limits.signal_message_bytes_max),
        ("signaling.limits.join_request_bytes_max", limits.join_request_bytes_max),
        (
            "webhooks.request_timeout_ms",
            usize::try_from(config.webhooks.request_timeout_ms).unwrap_or(usize::MAX),
        ),
    ];
    if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
        return Err(loader.error_at(key, "must be at least 1"));
    }
    match WebhookDispatcher::new(&config.webhooks, Arc::new(config.key_ring())) {
        Ok(_) => Ok(()),
        Err(WebhookError::Url { index, reason }) => {
            let problem = format!("not an http or https URL: {reason}");
            Err(loader.error_at(&format!("webhooks.urls.{index}"), problem))
        }
        Err(error) => Err(loader.error_at("webhooks", error.to_string())),
    }
}
