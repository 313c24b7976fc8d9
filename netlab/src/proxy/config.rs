//! What a proxy does.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

use crate::link::{LinkConfig, LinkConfigError};

/// Configuration of a [`Proxy`](super::Proxy).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Where to listen and where to send what comes: `["127.0.0.2:7882=127.0.0.1:7882"]`.
    pub forward: Vec<Forward>,
    /// What happens to datagrams from clients to the target.
    pub upstream: LinkConfig,
    /// What happens to datagrams from the target to clients.
    pub downstream: LinkConfig,
    /// Whether all clients share one link in each direction. Otherwise each has its own.
    pub shared: bool,
    /// Decides everything that is random. A client's links depend on how many clients came before it.
    pub seed: u64,
    /// Most clients at a time, each with a socket. Datagrams of further ones are dropped and counted.
    pub clients_max: usize,
    /// Bytes that all links together hold, counted as [`HELD_BYTES_MAX`](crate::HELD_BYTES_MAX) counts those of one.
    /// What comes then is dropped and counted.
    pub held_bytes_max: u64,
    /// A client with whom nothing was exchanged for so long is forgotten, with what is under way to and from it.
    /// `idle_ms`.
    #[serde(rename = "idle_ms", deserialize_with = "crate::units::milliseconds")]
    pub idle: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            forward: Vec::new(),
            upstream: LinkConfig::IDEAL,
            downstream: LinkConfig::IDEAL,
            shared: false,
            seed: 0,
            clients_max: 256,
            held_bytes_max: 256 * 1024 * 1024,
            idle: Duration::from_secs(60),
        }
    }
}

impl ProxyConfig {
    /// From one address to one target, the rest as by default.
    pub fn new(listen: SocketAddr, target: SocketAddr) -> Self {
        Self { forward: vec![Forward { listen, target }], ..Self::default() }
    }

    /// Whether the values go together. Opens nothing.
    pub fn check(&self) -> Result<(), ProxyConfigError> {
        if self.forward.is_empty() {
            return Err(ProxyConfigError::NoForward);
        }
        for Forward { listen, target } in &self.forward {
            if listen.ip().is_unspecified() {
                return Err(ProxyConfigError::Listen { listen: *listen });
            }
            if target.ip().is_unspecified() || target.port() == 0 {
                return Err(ProxyConfigError::Target { target: *target });
            }
            if self.forward.iter().any(|forward| forward.listen == *target) {
                return Err(ProxyConfigError::Loop { target: *target });
            }
        }
        self.upstream.check().map_err(ProxyConfigError::Upstream)?;
        self.downstream.check().map_err(ProxyConfigError::Downstream)
    }
}

/// The values of a proxy do not go together; the user's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyConfigError {
    /// There is nothing to do.
    #[error("name where to listen and where to send what comes")]
    NoForward,
    /// From an unspecified address, answers would not always leave from where the client expects them.
    #[error("listen on an address of this machine, not on {listen}")]
    Listen {
        /// What was asked for.
        listen: SocketAddr,
    },
    /// Nothing can be sent there.
    #[error("{target} is no target: name its address and port")]
    Target {
        /// What was asked for.
        target: SocketAddr,
    },
    /// What is sent there comes back as from a new client.
    #[error("{target} is the proxy itself")]
    Loop {
        /// What was asked for.
        target: SocketAddr,
    },
    /// [`ProxyConfig::upstream`].
    #[error("upstream: {0}")]
    Upstream(#[source] LinkConfigError),
    /// [`ProxyConfig::downstream`].
    #[error("downstream: {0}")]
    Downstream(#[source] LinkConfigError),
}

/// An address to listen on, and the target of what comes there. As text, `listen=target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The address that clients send to. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where that goes.
    pub target: SocketAddr,
}

/// The text is not `listen=target`, two addresses with their ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not like 127.0.0.2:7882=127.0.0.1:7882")]
pub struct ForwardError(String);

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let parse = || {
            let (listen, target) = text.split_once('=')?;
            Some(Self { listen: listen.trim().parse().ok()?, target: target.trim().parse().ok()? })
        };
        parse().ok_or_else(|| ForwardError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Forward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bitrate;

    fn parse(text: &str) -> Result<ProxyConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_holds_everything() {
        let config = parse(
            r#"
            forward = ["127.0.0.2:7882=127.0.0.1:7882", "[::1]:0 = [::1]:9"]
            shared = true
            seed = 7
            clients_max = 3
            held_bytes_max = 1000
            idle_ms = 1500

            [upstream]
            delay_ms = 20

            [downstream]
            rate_kbps = 500

            [[downstream.steps]]
            at_ms = 1000
            outage_ms = 100
            "#,
        )
        .unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.forward[1].target, "[::1]:9".parse().unwrap());
        assert_eq!((config.shared, config.seed), (true, 7));
        assert_eq!((config.clients_max, config.held_bytes_max), (3, 1000));
        assert_eq!(config.idle, Duration::from_millis(1500));
        assert_eq!(config.upstream.delay, Duration::from_millis(20));
        assert_eq!(config.downstream.rate, Bitrate::from_kbps(500));
        assert_eq!(config.downstream.steps[0].outage, Some(Duration::from_millis(100)));
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_says_why() {
        for (text, expected) in [
            ("forwards = []", "unknown field `forwards`"),
            ("forward = ['127.0.0.1:1']", "is not like"),
            ("forward = ['localhost:1=127.0.0.1:1']", "is not like"),
            ("[upstream]\ndelay = 1", "unknown field `delay`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("", "name where to listen"),
            ("forward = ['0.0.0.0:1=127.0.0.1:1']", "not on 0.0.0.0:1"),
            ("forward = ['127.0.0.1:1=127.0.0.1:0']", "127.0.0.1:0 is no target"),
            ("forward = ['127.0.0.1:1=[::]:1']", "[::]:1 is no target"),
            (
                "forward = ['127.0.0.1:1=127.0.0.1:2', '127.0.0.1:2=127.0.0.1:3']",
                "127.0.0.1:2 is the proxy itself",
            ),
            ("forward = ['127.0.0.1:1=127.0.0.1:2']\nupstream.repeat_ms = 0", "upstream: steps"),
            ("forward = ['127.0.0.1:1=127.0.0.1:2']\ndownstream.repeat_ms = 0", "downstream: steps"),
        ] {
            let error = parse(text).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
