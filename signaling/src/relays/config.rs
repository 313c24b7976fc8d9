//! How relays are configured, and what is wrong with it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::coordinates::{Coordinates, is_latitude, is_longitude};
use crate::config::SignalingConfig;

/// Shortest life of credentials, in seconds: clients need some of it until they have made their allocations, and clocks
/// differ.
const CREDENTIALS_TTL_S_MIN: u64 = 60;

/// Longest life of credentials, in seconds: a year. What is good for longer is no better than a password for all.
const CREDENTIALS_TTL_S_MAX: u64 = 365 * 86_400;

/// Longest name of a region.
const REGION_BYTES_MAX: usize = 64;

/// The TURN relays of a region, which share a secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// The region's name, such as `eu-west`: letters, digits, `-`, `_` and `.`. The relay of this process
    /// is one of the region that has the name `signaling.region`.
    pub region: String,
    /// Where the relays are: `turn:relay.example.org:3478?transport=udp`, the same with `transport=tcp`,
    /// `turns:relay.example.org:443?transport=tcp`. Clients wait for those that do not answer: few are better.
    pub urls: Vec<String>,
    /// Where the region is, in degrees, north of the equator positive.
    #[schemars(with = "f64")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    /// Where the region is, in degrees, east of Greenwich positive.
    #[schemars(with = "f64")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// What the relays check passwords with (`static-auth-secret` of coturn), or `secret_file`, a file that
    /// holds it. Left out, it is what follows from the first API key, which `zynk run --roles turn` with the
    /// same keys takes; `zynk turn secret` prints it.
    #[serde(skip_serializing)]
    #[schemars(with = "String")]
    pub secret: Option<SecretString>,
    /// Where clients that want this region reach signaling, such as `wss://eu.example.org`. Regions that have
    /// one are listed at `/settings/regions`. May be empty.
    pub signal_url: String,
}

/// What is wrong with the configuration of the signaling role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SignalingConfigError {
    /// The key within the section `signaling`, such as `relays.0.latitude`.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

impl SignalingConfigError {
    fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

impl RelayConfig {
    pub(super) fn coordinates(&self) -> Option<Coordinates> {
        Coordinates::new(self.latitude?, self.longitude?)
    }

    /// Refuses what is wrong by itself, as a key and a problem.
    fn check(&self) -> Result<(), (String, String)> {
        let error = |key: &str, problem: String| Err((key.to_owned(), problem));
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if self.region.is_empty()
            || self.region.len() > REGION_BYTES_MAX
            || !self.region.chars().all(is_plain)
        {
            let problem = "1 to 64 letters, digits, `-`, `_` and `.` are needed, such as `eu-west`";
            return error("region", problem.into());
        }
        if self.urls.is_empty() {
            return error("urls", "at least one turn: or turns: URL is needed".into());
        }
        for (index, url) in self.urls.iter().enumerate() {
            if let Err(problem) = check_turn_url(url) {
                return error(&format!("urls.{index}"), problem);
            }
        }
        match (self.latitude, self.longitude) {
            (Some(latitude), _) if !is_latitude(latitude) => {
                return error("latitude", format!("{latitude} is not within -90 to 90 degrees"));
            }
            (_, Some(longitude)) if !is_longitude(longitude) => {
                return error("longitude", format!("{longitude} is not within -180 to 180 degrees"));
            }
            (Some(_), None) => return error("latitude", "longitude is missing".into()),
            (None, Some(_)) => return error("longitude", "latitude is missing".into()),
            _ => {}
        }
        if self.secret.as_ref().is_some_and(|secret| secret.expose_secret().is_empty()) {
            return error("secret", "it is empty; left out, it is made from the first API key".into());
        }
        if !self.signal_url.is_empty() {
            let url = reqwest::Url::parse(&self.signal_url);
            let is_usable = url.is_ok_and(|url| ["ws", "wss", "http", "https"].contains(&url.scheme()));
            if !is_usable {
                return error("signal_url", "not a ws:, wss:, http: or https: URL".into());
            }
        }
        Ok(())
    }
}

impl SignalingConfig {
    /// Refuses what types cannot: relays that no client could use or find.
    pub fn check(&self) -> Result<(), SignalingConfigError> {
        let mut regions = HashSet::new();
        for (index, relay) in self.relays.iter().enumerate() {
            let at = |key: &str| format!("relays.{index}.{key}");
            relay.check().map_err(|(key, problem)| SignalingConfigError::new(at(&key), problem))?;
            if !regions.insert(&relay.region) {
                let problem = format!("there is another entry for {}; urls takes several", relay.region);
                return Err(SignalingConfigError::new(at("region"), problem));
            }
            if self.has_geoip_database() && relay.coordinates().is_none() {
                let problem = "latitude and longitude are needed where a geoip_database is set";
                return Err(SignalingConfigError::new(at("region"), problem));
            }
        }
        if !(CREDENTIALS_TTL_S_MIN..=CREDENTIALS_TTL_S_MAX).contains(&self.relay_credentials_ttl_s) {
            let problem = format!("must be {CREDENTIALS_TTL_S_MIN} to {CREDENTIALS_TTL_S_MAX}");
            return Err(SignalingConfigError::new("relay_credentials_ttl_s", problem));
        }
        if self.relay_regions_max == 0 {
            return Err(SignalingConfigError::new("relay_regions_max", "must be at least 1"));
        }
        Ok(())
    }

    pub(super) fn has_geoip_database(&self) -> bool {
        !self.geoip_database.as_os_str().is_empty()
    }
}

/// Refuses what browsers refuse (RFC 7065, section 3.1), for which they would drop the whole list of servers.
fn check_turn_url(url: &str) -> Result<(), String> {
    let problem = |what: &str| Err(format!("{url:?} {what}"));
    let Some((scheme, rest)) = url.split_once(':').filter(|(scheme, _)| ["turn", "turns"].contains(scheme))
    else {
        return match url.starts_with("stun") {
            true => problem("is a STUN server, which belongs in signaling.ice_servers"),
            false => {
                problem("is no turn: or turns: URL, such as \"turn:relay.example.org:3478?transport=udp\"")
            }
        };
    };
    if rest.starts_with("//") {
        return Err(format!(
            "{url:?} has slashes, which turn: URLs have not: \"{scheme}:relay.example.org\""
        ));
    }
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    if query.is_some_and(|query| !["transport=udp", "transport=tcp"].contains(&query)) {
        return problem(
            "may have ?transport=udp or ?transport=tcp after its host and port, and nothing else",
        );
    }
    if place.contains('@') {
        return problem("has a user in it: clients get user name and password apart");
    }
    let Some((host, port)) = host_and_port(place) else {
        return problem("has no IPv6 address between brackets");
    };
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    match place.starts_with('[') {
        true if host.parse::<Ipv6Addr>().is_err() => return problem("has no IPv6 address between brackets"),
        false if port.matches(':').count() > 1 => return problem("needs brackets around its IPv6 address"),
        false if host.is_empty() || !host.chars().all(is_plain) => {
            return problem("has no host name or address");
        }
        _ => {}
    }
    match port.strip_prefix(':').map(str::parse::<NonZeroU16>) {
        None if port.is_empty() => Ok(()),
        Some(Ok(_)) => Ok(()),
        _ => problem("has a port that is none of 1 to 65535"),
    }
}

/// Whether a URL is one of TLS to an IP address.
pub(super) fn is_secure_without_name(url: &str) -> bool {
    let place = url.strip_prefix("turns:").and_then(|rest| rest.split('?').next());
    place.and_then(host_and_port).is_some_and(|(host, _)| host.parse::<IpAddr>().is_ok())
}

/// The host without brackets, and what follows it; none if a bracket is not closed.
fn host_and_port(place: &str) -> Option<(&str, &str)> {
    match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']'),
        None => Some(place.split_at(place.find(':').unwrap_or(place.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(region: &str) -> RelayConfig {
        let urls = vec!["turn:relay.example.org:3478?transport=udp".to_owned()];
        RelayConfig { region: region.into(), urls, ..Default::default() }
    }

    fn problem(set_up: impl FnOnce(&mut SignalingConfig)) -> String {
        let mut config = SignalingConfig { relays: vec![relay("eu"), relay("us")], ..Default::default() };
        set_up(&mut config);
        config.check().map_or_else(|error| error.to_string(), |()| "good".into())
    }

    #[test]
    fn urls_of_relays_are_those_of_the_rfc() {
        for url in [
            "turn:relay.example.org",
            "turn:relay.example.org:3478",
            "turn:relay.example.org?transport=tcp",
            "turns:relay.example.org:443?transport=tcp",
            "turn:192.0.2.1:3478?transport=udp",
            "turns:[2001:db8::1]:5349",
            "turn:[::1]?transport=udp",
        ] {
            assert_eq!(check_turn_url(url), Ok(()), "{url}");
        }
        for (url, expected) in [
            ("", "is no turn: or turns: URL"),
            ("relay.example.org:3478", "is no turn: or turns: URL"),
            ("https://relay.example.org", "is no turn: or turns: URL"),
            ("TURN:relay.example.org", "is no turn: or turns: URL"),
            ("stun:relay.example.org", "belongs in signaling.ice_servers"),
            ("turn://relay.example.org", "has slashes"),
            ("turn:", "has no host"),
            ("turn::3478", "has no host"),
            ("turn:relay example", "has no host"),
            ("turn:user:pass@relay.example.org", "has a user in it"),
            ("turn:2001:db8::1:3478", "needs brackets"),
            ("turn:[relay.example.org]:3478", "has no IPv6 address"),
            ("turn:[2001:db8::1", "has no IPv6 address"),
            ("turn:relay.example.org:0", "has a port"),
            ("turn:relay.example.org:65536", "has a port"),
            ("turn:relay.example.org:", "has a port"),
            ("turn:[::1]3478", "has a port"),
            ("turn:relay.example.org?transport=sctp", "may have ?transport="),
            ("turn:relay.example.org?transport=udp&a=b", "may have ?transport="),
        ] {
            let problem = check_turn_url(url).unwrap_err();
            assert!(problem.starts_with(&format!("{url:?} ")) && problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(problem(|_| {}), "good");
        let expected = "relays.1.region: there is another entry for eu; urls takes several";
        assert_eq!(problem(|config| config.relays[1].region = "eu".into()), expected);
        let expected = "relays.0.latitude: 91 is not within -90 to 90 degrees";
        assert_eq!(problem(|config| config.relays[0].latitude = Some(91.0)), expected);
        let longitude = |config: &mut SignalingConfig| {
            config.relays[1].latitude = Some(0.0);
            config.relays[1].longitude = Some(-180.5);
        };
        assert_eq!(problem(longitude), "relays.1.longitude: -180.5 is not within -180 to 180 degrees");
        let expected = "relays.0.latitude: longitude is missing";
        assert_eq!(problem(|config| config.relays[0].latitude = Some(1.0)), expected);
        let expected = "relays.0.longitude: latitude is missing";
        assert_eq!(problem(|config| config.relays[0].longitude = Some(1.0)), expected);
        let expected = "relays.0.urls: at least one turn: or turns: URL is needed";
        assert_eq!(problem(|config| config.relays[0].urls.clear()), expected);
        let stun = problem(|config| config.relays[0].urls.push("stun:s.example.org".into()));
        assert!(stun.starts_with("relays.0.urls.1: \"stun:s.example.org\" is a STUN server"), "{stun}");
        for region in ["", "eu west", "Zürich", &"x".repeat(65)] {
            let problem = problem(|config| config.relays[0].region = region.into());
            assert!(problem.starts_with("relays.0.region: 1 to 64 letters"), "{problem}");
        }
        let expected = "relays.0.secret: it is empty; left out, it is made from the first API key";
        assert_eq!(problem(|config| config.relays[0].secret = Some("".into())), expected);
        let expected = "relays.0.signal_url: not a ws:, wss:, http: or https: URL";
        assert_eq!(problem(|config| config.relays[0].signal_url = "eu.example.org".into()), expected);
        let expected = "relays.0.region: latitude and longitude are needed where a geoip_database is set";
        assert_eq!(problem(|config| config.geoip_database = "city.mmdb".into()), expected);
        for seconds in [0, 59, 31_536_001, u64::MAX] {
            let expected = "relay_credentials_ttl_s: must be 60 to 31536000";
            assert_eq!(problem(|config| config.relay_credentials_ttl_s = seconds), expected);
        }
        assert_eq!(problem(|config| config.relay_regions_max = 0), "relay_regions_max: must be at least 1");
    }

    #[test]
    fn secrets_of_relays_are_not_shown() {
        let relay = RelayConfig { secret: Some("hunter2".into()), ..relay("eu") };
        let shown = format!("{relay:?} {}", serde_json::to_string(&relay).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
