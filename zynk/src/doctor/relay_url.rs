//! Where a relay is, as `turn:` and `turns:` URLs say it (RFC 7065).

use std::fmt;

/// How a client comes to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Dtls => "DTLS",
        })
    }
}

/// A relay's URL. It has no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayUrl {
    pub(super) transport: Transport,
    /// Without the brackets of IPv6 addresses.
    pub(super) host: String,
    pub(super) port: u16,
    text: String,
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RelayUrl {
    /// Reads a URL; an error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let invalid = |problem: &str| format!("{text} is no relay's URL: {problem}");
        let (scheme, rest) = text.split_once(':').ok_or_else(|| invalid("it has no scheme"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "turn" => false,
            "turns" => true,
            _ => return Err(invalid("it begins with neither turn: nor turns:")),
        };
        let transport = match (query, is_secure) {
            ("transport=udp" | "", false) => Transport::Udp,
            ("transport=tcp", false) => Transport::Tcp,
            ("transport=tcp" | "", true) => Transport::Tls,
            ("transport=udp", true) => Transport::Dtls,
            _ => return Err(invalid("after ? comes transport=udp or transport=tcp")),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| invalid("a bracket is not closed"))?;
                (host, port.strip_prefix(':'))
            }
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| invalid("the port is no number up to 65535"))?,
            None if is_secure => 5349,
            None => 3478,
        };
        if host.is_empty() || host.contains(['/', '@', ':']) != place.starts_with('[') {
            return Err(invalid("it has no host"));
        }
        Ok(Self { transport, host: host.to_owned(), port, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let read = |text| RelayUrl::parse(text).map(|url| (url.transport, url.host, url.port));
        let found = |transport, host: &str, port| Ok((transport, host.to_owned(), port));
        assert_eq!(read("turn:a.example"), found(Transport::Udp, "a.example", 3478));
        assert_eq!(read("turn:a.example:80?transport=tcp"), found(Transport::Tcp, "a.example", 80));
        assert_eq!(read("TURNS:192.0.2.1"), found(Transport::Tls, "192.0.2.1", 5349));
        assert_eq!(read("turns:[2001:db8::1]:443?transport=tcp"), found(Transport::Tls, "2001:db8::1", 443));
        assert_eq!(read("turn:[::1]"), found(Transport::Udp, "::1", 3478));
        assert_eq!(read("turns:a?transport=udp"), found(Transport::Dtls, "a", 5349));
        for wrong in
            ["", "stun:a", "turn:", "turn:a:b", "turn:a:70000", "turn:[::1", "turn:u@a", "turn:a?x=y"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
