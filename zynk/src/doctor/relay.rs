//! Whether a relay works: connect, be seen, be refused without credentials, be taken with them, and get something
//! through to the media server and back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::ice::MediaServer;
use super::link::{Framing, Link, LinkError, STEP_TIMEOUT, connect_tcp};
use super::relay_url::{RelayUrl, Transport};
use super::report::{Check, ms};
use super::tls;
use super::turn_client::{RelayCredentials, TurnClient, TurnFailure, step_end};

/// The application protocol of TURN over TLS (RFC 7443).
const ALPN_TURN: &[u8] = b"stun.turn";

/// How often data is sent through a relay until something comes back: datagrams may be lost.
const DATA_INTERVAL: Duration = Duration::from_millis(500);

/// A relay that clients may be told.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) url: RelayUrl,
    pub(super) credentials: Option<RelayCredentials>,
}

/// What came of looking at one.
#[derive(Debug)]
pub(super) struct RelayReport {
    pub(super) url: RelayUrl,
    pub(super) checks: Vec<Check>,
    /// Whether a client here can use it.
    pub(super) works: bool,
    /// Nothing at all came back, so that the reason is known only beside other ways.
    pub(super) silent_at: Option<SocketAddr>,
    /// Where it is, if it answers STUN over UDP.
    pub(super) stun_server: Option<SocketAddr>,
    is_answering: bool,
}

/// A step that failed, after which nothing else can be tried.
struct Stopped(Check);

impl RelayReport {
    fn new(url: RelayUrl) -> Self {
        Self {
            url,
            checks: Vec::new(),
            works: false,
            silent_at: None,
            stun_server: None,
            is_answering: false,
        }
    }

    /// What is left of one that was given up.
    pub(super) fn unfinished(url: RelayUrl, limit: Duration) -> Self {
        let check = Check::fail("relay", url.to_string(), format!("not done after {}", ms(limit)));
        let check = check.advise("packets to it are lost, or it is overloaded");
        Self { checks: vec![check], ..Self::new(url) }
    }

    /// Whether it says anything at all.
    pub(super) fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Says why there probably is silence, given the transports that work to the same host.
    pub(super) fn explain_silence(&mut self, working: &[String]) {
        let Some(address) = self.silent_at else { return };
        let transport = match self.url.transport {
            Transport::Udp => "UDP",
            _ => "TCP",
        };
        let to = format!("{transport} to {address}");
        let advice = match working {
            [] => format!(
                "{to}: the relay is down, or a firewall on the way drops it; open {transport} port {} to clients",
                address.port()
            ),
            working => format!(
                "{to} gets no answer, while {} to the same machine {}: a firewall here or on the way drops it. Clients \
                 in this network need another way",
                working.join(" and "),
                if working.len() == 1 { "works" } else { "work" }
            ),
        };
        if let Some(check) = self.checks.pop() {
            self.checks.push(check.advise(advice));
        }
    }
}

/// Looks at a relay. With a media server, what is sent through the relay is for it; otherwise for a second client of the
/// relay.
pub(super) async fn look(relay: &Relay, media: Option<&MediaServer>) -> RelayReport {
    let mut report = RelayReport::new(relay.url.clone());
    if relay.url.transport == Transport::Dtls {
        let detail = "DTLS is left out: no browser reaches a relay by it";
        report.checks.push(Check::skip("relay", relay.url.to_string(), detail));
        return report;
    }
    let stopped = steps(relay, media, &mut report).await;
    report.works = stopped.is_ok();
    report.checks.extend(stopped.err().map(|Stopped(check)| check));
    report
}

async fn steps(relay: &Relay, media: Option<&MediaServer>, report: &mut RelayReport) -> Result<(), Stopped> {
    let target = relay.url.to_string();
    let server = resolve(&relay.url).await?;
    let mut client = connect(&relay.url, server, report).await?;
    let seen = client.bind().await;
    let (mapped, rtt) = match seen {
        Ok(seen) => seen,
        Err(failure) => return Err(silence_or(failure, server, "relay stun", &target, report)),
    };
    let by = client.local().map_or(String::new(), |local| match local == mapped {
        true => String::new(),
        false => ", through a NAT".to_owned(),
    });
    report.checks.push(Check::ok("relay stun", &target, format!("sees us as {mapped}{by}")).took(rtt));
    report.is_answering = true;
    if relay.url.transport == Transport::Udp {
        report.stun_server = Some(server);
    }
    let Some(credentials) = &relay.credentials else {
        return Err(Stopped(Check::skip("relay allocate", &target, "no credentials for it are known")));
    };
    let relayed = allocate(&mut client, credentials, &target, report).await?;
    let passed = match media {
        Some(media) => to_media(&mut client, media, relayed).await,
        None => to_second_client(&relay.url, server, credentials, &mut client, relayed).await,
    };
    client.release().await;
    match passed {
        Ok((what, rtt)) => {
            report.checks.push(Check::ok("relay data", &target, format!("{what} and back")).took(rtt));
            Ok(())
        }
        Err(DataFailure { detail, advice }) => {
            Err(Stopped(Check::fail("relay data", &target, detail).advise(advice)))
        }
    }
}

async fn resolve(url: &RelayUrl) -> Result<SocketAddr, Stopped> {
    let found = timeout(STEP_TIMEOUT, lookup_host((url.host.as_str(), url.port))).await;
    let problem = match found {
        Ok(Ok(mut addresses)) => match addresses.next() {
            Some(address) => return Ok(address),
            None => "has no address".to_owned(),
        },
        Ok(Err(error)) => format!("has no address: {error}"),
        Err(_) => "name servers do not answer".to_owned(),
    };
    let check = Check::fail("relay dns", url.to_string(), format!("{} {problem}", url.host));
    Err(Stopped(check.advise("set the name in the DNS, or use the relay's address in the URL")))
}

/// Connects and, over TLS, shakes hands.
async fn connect(
    url: &RelayUrl,
    server: SocketAddr,
    report: &mut RelayReport,
) -> Result<TurnClient, Stopped> {
    let target = url.to_string();
    if url.transport == Transport::Udp {
        let link = Link::udp(server).await;
        return link.map(TurnClient::new).map_err(|error| {
            Stopped(Check::fail("relay stun", &target, error.to_string()).advise(link_advice(&error, server)))
        });
    }
    let start = Instant::now();
    let stream = match connect_tcp(server).await {
        Ok(stream) => stream,
        Err(error) => return Err(silence_or(error.into(), server, "relay connect", &target, report)),
    };
    let connected = Check::ok("relay connect", &target, format!("TCP to {server}")).took(start.elapsed());
    report.checks.push(connected);
    if url.transport == Transport::Tcp {
        return Ok(TurnClient::new(Link::stream(stream, Framing::Turn)));
    }
    let start = Instant::now();
    let stream = tls::handshake(stream, &url.host, &[ALPN_TURN]).await.map_err(|error| {
        Stopped(Check::fail("relay tls", &target, error.to_string()).advise(error.advice()))
    })?;
    report.checks.push(Check::ok("relay tls", &target, tls::describe(&stream)).took(start.elapsed()));
    Ok(TurnClient::new(Link::stream(stream, Framing::Turn)))
}

/// A failed step; if it failed by silence, the reason is said later.
fn silence_or(
    failure: TurnFailure,
    server: SocketAddr,
    check: &'static str,
    target: &str,
    report: &mut RelayReport,
) -> Stopped {
    let failed = Check::fail(check, target, failure.to_string());
    Stopped(match &failure {
        TurnFailure::Link(LinkError::Silent) => {
            report.silent_at = Some(server);
            failed
        }
        TurnFailure::Link(error) => failed.advise(link_advice(error, server)),
        TurnFailure::Refused(_) | TurnFailure::Malformed(_) => failed.advise("it may be no TURN server"),
    })
}

/// What to do about a link that does not come about. Silence is explained elsewhere.
pub(super) fn link_advice(error: &LinkError, server: SocketAddr) -> String {
    match error {
        LinkError::Silent => format!("nothing answers at {server}, or a firewall on the way drops it"),
        LinkError::Refused => {
            format!("nothing listens at {server}: start it there, or correct the address and port")
        }
        LinkError::Unreachable(_) => {
            "this machine has no way there: look at its network, and whether it has this IP version".to_owned()
        }
        LinkError::Closed => {
            "the other side, or something on the way that looks into the traffic, hung up: it may be another protocol's \
             port, or a firewall that lets HTTPS alone pass"
                .to_owned()
        }
        LinkError::Tls(error) => error.advice().to_owned(),
    }
}

/// Asks without credentials, then with them.
async fn allocate(
    client: &mut TurnClient,
    credentials: &RelayCredentials,
    target: &str,
    report: &mut RelayReport,
) -> Result<SocketAddr, Stopped> {
    let failed = |failure: &TurnFailure| {
        let check = Check::fail("relay allocate", target, failure.to_string());
        Stopped(check.advise(allocate_advice(failure, credentials)))
    };
    match client.is_open_to_everybody().await {
        Ok(false) => {}
        Ok(true) => {
            let check = Check::fail("relay allocate", target, "it gives allocations without credentials");
            let advice = "everybody on the Internet can relay through it: set a secret or users";
            return Err(Stopped(check.advise(advice)));
        }
        Err(failure) => return Err(failed(&failure)),
    }
    let (relayed, rtt) = client.allocate(credentials).await.map_err(|failure| match failure {
        TurnFailure::Refused(401) => {
            let check = Check::fail("relay allocate", target, "401 again, with credentials");
            Stopped(check.advise(allocate_advice(&failure, credentials)))
        }
        failure => failed(&failure),
    })?;
    let detail = format!("relays at {relayed}");
    report.checks.push(Check::ok("relay allocate", target, detail).took(rtt));
    Ok(relayed)
}

fn allocate_advice(failure: &TurnFailure, credentials: &RelayCredentials) -> String {
    match failure {
        TurnFailure::Refused(401) => {
            let end = zynk_auth::turn_expiry(&credentials.username)
                .map(|end| format!(" (these end at {})", humantime::format_rfc3339_seconds(end)))
                .unwrap_or_default();
            format!(
                "the relay's secret or password differs from the one that made these credentials, or a clock is \
                 wrong{end}: compare `zynk turn secret` with what the relay has, and the clocks"
            )
        }
        TurnFailure::Refused(300 | 508) => "the relay is full or ends: see how many allocations it has".to_owned(),
        TurnFailure::Refused(440) => "the relay has no address of this IP version".to_owned(),
        TurnFailure::Refused(442) => "the relay does not relay UDP".to_owned(),
        TurnFailure::Refused(486) => "this user has as many allocations as the relay gives anybody".to_owned(),
        TurnFailure::Refused(code) => format!("see the relay's log for why it refuses with {code}"),
        TurnFailure::Link(_) | TurnFailure::Malformed(_) => {
            "it answered before: the relay limits answers to addresses that it does not know, or packets are lost"
                .to_owned()
        }
    }
}

/// Why nothing came back.
struct DataFailure {
    detail: String,
    advice: String,
}

impl DataFailure {
    fn of(failure: &TurnFailure) -> Self {
        let advice = "the relay let us in and then no further: see its log".to_owned();
        Self { detail: failure.to_string(), advice }
    }
}

/// Sends checks to the media server's addresses, until one is answered.
async fn to_media(
    client: &mut TurnClient,
    media: &MediaServer,
    relayed: SocketAddr,
) -> Result<(String, Duration), DataFailure> {
    let udp =
        media.candidates.iter().filter(|candidate| !candidate.is_tcp).map(|candidate| candidate.address);
    let peers: Vec<_> = udp.filter(|peer| peer.is_ipv4() == relayed.is_ipv4()).collect();
    let (mut permitted, mut refused) = (Vec::new(), Vec::new());
    for peer in peers {
        match client.permit(peer).await {
            Ok(()) => permitted.push(peer),
            Err(TurnFailure::Refused(403)) => refused.push(peer.ip().to_string()),
            Err(failure) => return Err(DataFailure::of(&failure)),
        }
    }
    if permitted.is_empty() {
        return Err(match refused.is_empty() {
            true => DataFailure {
                detail: "the media server has no address of the relayed one's IP version".to_owned(),
                advice: "announce one (sfu.announce), or give the relay an address of the other version"
                    .to_owned(),
            },
            false => {
                refused.dedup();
                DataFailure {
                    detail: format!("403: the relay may not reach {}", refused.join(", ")),
                    advice: "that is the media server: add its address to turn.allow_peers of the relay \
                             (allowed-peer-ip of coturn), or announce the address at which everybody reaches it \
                             (sfu.announce)"
                        .to_owned(),
                }
            }
        });
    }
    let end = step_end();
    let mut checks = Vec::new();
    while Instant::now() < end {
        let (check, transaction) = media.check();
        let sent_at = Instant::now();
        for peer in &permitted {
            client.send(*peer, &check).await.map_err(|failure| DataFailure::of(&failure))?;
        }
        checks.push((transaction, sent_at));
        let until = end.min(sent_at + DATA_INTERVAL);
        while let Ok((peer, data)) = client.receive(until).await {
            let answered = checks.iter().find(|(check, _)| media.read_answer(&data, check).is_some());
            if let Some((_, sent_at)) = answered {
                return Ok((format!("through the relay to media at {peer}"), sent_at.elapsed()));
            }
        }
    }
    let peers: Vec<_> = permitted.iter().map(ToString::to_string).collect();
    Err(DataFailure {
        detail: format!("nothing came back from media at {} within {}", peers.join(", "), ms(STEP_TIMEOUT)),
        advice: format!(
            "a firewall stands between the relay and the media server, or one of them announces an address that the \
             other cannot reach: the relay sends from {relayed}, and must be let out to, and in from, these addresses"
        ),
    })
}

/// Sends data to a second client of the relay, which sends it back.
async fn to_second_client(
    url: &RelayUrl,
    server: SocketAddr,
    credentials: &RelayCredentials,
    client: &mut TurnClient,
    relayed: SocketAddr,
) -> Result<(String, Duration), DataFailure> {
    let mut unseen = RelayReport::new(url.clone());
    let of_check = |_: Stopped| DataFailure {
        detail: "a second client is not let in".to_owned(),
        advice: "see the relay's log: a quota may be reached".to_owned(),
    };
    let mut second = connect(url, server, &mut unseen).await.map_err(of_check)?;
    let other = allocate(&mut second, credentials, "", &mut unseen).await.map_err(of_check)?;
    let result = there_and_back((client, relayed), (&mut second, other));
    let result = result.await;
    second.release().await;
    match result {
        Ok(rtt) => Ok((format!("from {relayed} to another client's {other}"), rtt)),
        Err(TurnFailure::Refused(403)) => Err(DataFailure {
            detail: "403: the relay does not let its clients reach each other".to_owned(),
            advice: "calls through a media server do without; for others, allow the relay's own address".to_owned(),
        }),
        Err(TurnFailure::Link(LinkError::Silent)) => Err(DataFailure {
            detail: format!("nothing came back within {}", ms(STEP_TIMEOUT)),
            advice: "the relay's own addresses do not reach each other: behind a NAT, it must send what is for its \
                     public address back in"
                .to_owned(),
        }),
        Err(failure) => Err(DataFailure::of(&failure)),
    }
}

async fn there_and_back(
    (client, relayed): (&mut TurnClient, SocketAddr),
    (second, other): (&mut TurnClient, SocketAddr),
) -> Result<Duration, TurnFailure> {
    client.permit(other).await?;
    second.permit(relayed).await?;
    let data: [u8; 16] = rand::random();
    let start = Instant::now();
    let end = step_end();
    loop {
        client.send(other, &data).await?;
        let until = end.min(Instant::now() + DATA_INTERVAL);
        match second.receive(until).await {
            Ok((_, received)) if received == data => break,
            Err(failure) if Instant::now() >= end => return Err(failure),
            _ => {}
        }
    }
    loop {
        second.send(relayed, &data).await?;
        let until = end.min(Instant::now() + DATA_INTERVAL);
        match client.receive(until).await {
            Ok((_, received)) if received == data => return Ok(start.elapsed()),
            Err(failure) if Instant::now() >= end => return Err(failure),
            _ => {}
        }
    }
}
