//! The server's HTTP: its name, its port, its certificate, and what it says of itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use reqwest::Url;
use reqwest::header::DATE;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::link::{ByteStream, LinkError, STEP_TIMEOUT, connect_tcp};
use super::relay::link_advice;
use super::report::Check;
use super::tls;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Bytes of an answer that are shown.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// By how much clocks may differ before it is said; tokens bear about as much.
const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

/// Where the server is.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `http:` or `https:`.
    base: Url,
    /// The region that clients with this URL ask for.
    region: Option<String>,
    host: String,
    port: u16,
    address: Option<SocketAddr>,
}

impl Site {
    /// The place that a URL names.
    pub(super) fn new(url: &Url) -> Result<Self> {
        let mut base = crate::server_api::base(url);
        let region =
            base.query_pairs().find(|(name, _)| name == "region").map(|(_, value)| value.into_owned());
        // What may be secret is not printed.
        base.set_query(None);
        base.set_fragment(None);
        let _ = (base.set_username(""), base.set_password(None));
        let host = base.host_str().context("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let port = base.port_or_known_default().context("the URL is none of http, https, ws and wss")?;
        Ok(Self { base, region, host, port, address: None })
    }

    fn is_tls(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// A path of the server.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }

    /// Where the WebSocket is.
    pub(super) fn websocket_url(&self, query: &[(&str, &str)]) -> Result<Url> {
        let mut url: Url = self.url("/rtc").replacen("http", "ws", 1).parse()?;
        let region = self.region.as_deref().map(|region| ("region", region));
        url.query_pairs_mut().extend_pairs(query.iter().copied().chain(region));
        Ok(url)
    }

    /// Finds the way there. False if there is none.
    pub(super) async fn reach(&mut self, checks: &mut Vec<Check>) -> bool {
        let Some(addresses) = self.resolve(checks).await else { return false };
        let mut failures = Vec::new();
        for address in addresses {
            let start = Instant::now();
            match connect_tcp(address).await {
                Ok(stream) => {
                    self.address = Some(address);
                    checks.push(Check::ok("tcp", address.to_string(), "connected").took(start.elapsed()));
                    return !self.is_tls() || self.shake_hands(stream, checks).await;
                }
                Err(error) => failures.push((address, error)),
            }
        }
        for (address, error) in failures {
            let check = Check::fail("tcp", address.to_string(), error.to_string());
            checks.push(check.advise(link_advice(&error, address)));
        }
        false
    }

    async fn resolve(&self, checks: &mut Vec<Check>) -> Option<Vec<SocketAddr>> {
        let start = Instant::now();
        let found = timeout(STEP_TIMEOUT, lookup_host((self.host.as_str(), self.port))).await;
        let problem = match found {
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses.take(ADDRESSES_MAX).collect();
                if self.host.parse::<std::net::IpAddr>().is_err() {
                    let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
                    checks.push(Check::ok("dns", &self.host, list.join(", ")).took(start.elapsed()));
                }
                return Some(addresses);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("name servers do not answer within {} s", STEP_TIMEOUT.as_secs()),
        };
        let advice = "set the name in the DNS, or correct it in the URL; or this network's name server does not know it";
        checks.push(Check::fail("dns", &self.host, problem).advise(advice));
        None
    }

    async fn shake_hands(&self, stream: TcpStream, checks: &mut Vec<Check>) -> bool {
        let (start, target) = (Instant::now(), format!("{}:{}", self.host, self.port));
        match tls::handshake(stream, &self.host, &[]).await {
            Ok(stream) => {
                checks.push(Check::ok("certificate", target, tls::describe(&stream)).took(start.elapsed()));
                true
            }
            Err(error) => {
                checks.push(Check::fail("certificate", target, error.to_string()).advise(error.advice()));
                false
            }
        }
    }

    /// A connection, with TLS if the URL says so.
    pub(super) async fn connect(&self) -> Result<Box<dyn ByteStream>, LinkError> {
        let address = self.address.ok_or(LinkError::Closed)?;
        let stream = connect_tcp(address).await?;
        Ok(match self.is_tls() {
            true => Box::new(tls::handshake(stream, &self.host, &[]).await?),
            false => Box::new(stream),
        })
    }

    /// A client for its HTTP. Proxies of the environment are left out: media does not go by them.
    pub(super) fn client(&self) -> Result<reqwest::Client> {
        Ok(reqwest::Client::builder().timeout(STEP_TIMEOUT).no_proxy().build()?)
    }

    /// Whether the server lives and is ready, and what time it has. False if it speaks no HTTP.
    pub(super) async fn ask_health(&self, client: &reqwest::Client, checks: &mut Vec<Check>) -> bool {
        for (check, path) in [("alive", "/healthz"), ("ready", "/readyz")] {
            let (start, url) = (Instant::now(), self.url(path));
            let response = match client.get(&url).send().await {
                Ok(response) => response,
                Err(error) => {
                    checks.push(Check::fail(check, url, in_full(&error)));
                    return false;
                }
            };
            let (status, date) = (response.status(), response.headers().get(DATE).cloned());
            let body: String =
                response.text().await.unwrap_or_default().chars().take(SHOWN_CHARACTERS_MAX).collect();
            let detail = format!("{} {}", status.as_u16(), body.trim());
            if status.is_success() {
                checks.push(Check::ok(check, url, detail).took(start.elapsed()));
            } else {
                let advice = match path {
                    "/readyz" => "the answer says what is not ready; see the server's log",
                    _ => {
                        "something else answers there: a reverse proxy may not send this path on, which clients do not \
                          mind"
                    }
                };
                checks.push(Check::fail(check, url, detail).advise(advice));
            }
            if path == "/healthz" {
                let date = date.as_ref().and_then(|date| date.to_str().ok());
                checks.extend(date.and_then(|date| clock(date, SystemTime::now())));
            }
        }
        true
    }
}

/// Complains about clocks that differ.
fn clock(date: &str, now: SystemTime) -> Option<Check> {
    let theirs = http_date(date)?;
    let (word, difference) = match now.duration_since(theirs) {
        Ok(ahead) => ("ahead of", ahead),
        Err(error) => ("behind", error.duration()),
    };
    (difference > CLOCK_LEEWAY).then(|| {
        let difference = humantime::format_duration(Duration::from_secs(difference.as_secs()));
        let check =
            Check::fail("clock", "", format!("this machine is {difference} {word} the server ({date})"));
        check.advise(
            "tokens and relays' credentials are good until a time of day: set the clock that is wrong",
        )
    })
}

/// Reads `Fri, 27 Nov 2026 18:30:20 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

/// An error with its causes.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_noticed() {
        let date = "Fri, 27 Nov 2026 18:30:20 GMT";
        let theirs = http_date(date).unwrap();
        assert_eq!(humantime::format_rfc3339_seconds(theirs).to_string(), "2026-11-27T18:30:20Z");
        assert!(clock(date, theirs + Duration::from_secs(29)).is_none());
        let check = clock(date, theirs - Duration::from_secs(3600)).unwrap();
        assert!(serde_json::to_string(&check).unwrap().contains("this machine is 1h behind the server"));
        assert!(clock(date, theirs + Duration::from_secs(31)).is_some());
        for wrong in ["", "soon", "Fri, 27 Foo 2026 18:30:20 GMT", "Fri, 99 Nov 2026 18:30:20 GMT"] {
            assert!(http_date(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn sites_are_where_urls_say() {
        let site = |url: &str| Site::new(&url.parse().unwrap()).unwrap();
        let wss = site("wss://call.example.org/path/");
        assert_eq!((wss.host.as_str(), wss.port, wss.is_tls()), ("call.example.org", 443, true));
        assert_eq!(wss.url("/healthz"), "https://call.example.org/path/healthz");
        let query = wss.websocket_url(&[("a", "b c")]).unwrap();
        assert_eq!(query.as_str(), "wss://call.example.org/path/rtc?a=b+c");
        let secret = site("https://me:hunter2@call.example.org/?region=eu+west&access_token=x#y");
        assert_eq!(secret.url("/rtc"), "https://call.example.org/rtc");
        assert_eq!(secret.websocket_url(&[]).unwrap().query(), Some("region=eu+west"));
        let v6 = site("ws://[2001:db8::1]:7880");
        assert_eq!((v6.host.as_str(), v6.port, v6.is_tls()), ("2001:db8::1", 7880, false));
        assert!(Site::new(&"mailto:x".parse().unwrap()).is_err());
    }
}
