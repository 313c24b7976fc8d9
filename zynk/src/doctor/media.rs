//! Whether media's ports are reached, and what NAT is on the way.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use zynk_turn_core::stun::attribute::XOR_MAPPED_ADDRESS;
use zynk_turn_core::stun::{Class, Message, Method, TransactionId, Writer};

use super::ice::{Candidate, MediaServer};
use super::link::{LinkError, STEP_TIMEOUT, any_like};
use super::relay::link_advice;
use super::report::Check;

/// Servers that are asked where they see us.
const SERVERS_MAX: usize = 4;

/// How often they are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(300);

/// What came of trying a candidate.
pub(super) struct Tried {
    pub(super) candidate: Candidate,
    pub(super) outcome: Result<(SocketAddr, Duration), LinkError>,
}

/// Tries all candidates at once.
pub(super) async fn try_all(media: &MediaServer) -> Vec<Tried> {
    let tries = media.candidates.iter().map(|candidate| async {
        Tried { candidate: *candidate, outcome: media.try_candidate(*candidate).await }
    });
    join_all(tries).await
}

/// Whether media is reached by a transport.
pub(super) fn works(tried: &[Tried], is_tcp: bool) -> bool {
    tried.iter().any(|tried| tried.candidate.is_tcp == is_tcp && tried.outcome.is_ok())
}

/// What there is to say about the candidates of a transport. `others` names what else works.
pub(super) fn checks(tried: &[Tried], is_tcp: bool, others: &[String]) -> Vec<Check> {
    let (name, word) = if is_tcp { ("media tcp", "TCP") } else { ("media udp", "UDP") };
    let one_works = works(tried, is_tcp);
    let of_transport: Vec<_> = tried.iter().filter(|tried| tried.candidate.is_tcp == is_tcp).collect();
    if of_transport.is_empty() {
        return vec![Check::skip(name, "", format!("the server receives no media over {word}"))];
    }
    let check = |tried: &&Tried| {
        let address = tried.candidate.address;
        let target = address.to_string();
        match &tried.outcome {
            Ok((mapped, rtt)) => {
                Check::ok(name, target, format!("answers, and sees us as {mapped}")).took(*rtt)
            }
            Err(_) if one_works => {
                Check::skip(name, target, "not reached from here; another address of the server is")
            }
            Err(_) if address.ip().is_loopback() => {
                Check::skip(name, target, "not reached: it is for clients on the server's own machine alone")
            }
            Err(error) => {
                Check::fail(name, target, error.to_string()).advise(advice(error, address, word, others))
            }
        }
    };
    of_transport.iter().map(check).collect()
}

fn advice(error: &LinkError, address: SocketAddr, word: &str, others: &[String]) -> String {
    if is_private(address.ip()) && !matches!(error, LinkError::Refused) {
        return format!(
            "{} is reached within its own network alone: set sfu.announce to the address at which clients reach the \
             server",
            address.ip()
        );
    }
    let port = address.port();
    match error {
        LinkError::Silent if others.is_empty() => {
            format!(
                "{word} to {address}: open {word} port {port} at the server; or a firewall on the way drops it"
            )
        }
        LinkError::Silent => format!(
            "{word} to {address} gets no answer, while this works: {}. Either {word} port {port} is not open at the \
             server, or a firewall here or on the way drops {word}",
            others.join(", ")
        ),
        error => link_advice(error, address),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// A server that says from where it is asked.
enum Mirror<'m> {
    Relay(SocketAddr),
    Media(SocketAddr, &'m MediaServer),
}

impl Mirror<'_> {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Relay(address) | Self::Media(address, _) => *address,
        }
    }

    fn question(&self) -> (Vec<u8>, TransactionId) {
        match self {
            Self::Media(_, media) => media.check(),
            Self::Relay(_) => {
                let (mut question, transaction) = (Vec::new(), rand::random());
                Writer::new(&mut question, Class::Request, Method::Binding, &transaction);
                (question, transaction)
            }
        }
    }

    fn read(&self, answer: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
        match self {
            Self::Media(_, media) => media.read_answer(answer, transaction),
            Self::Relay(_) => {
                let message = Message::parse(answer).ok()?;
                let is_answer = message.class() == Class::Success && message.transaction() == transaction;
                is_answer.then(|| message.xor_address(XOR_MAPPED_ADDRESS))?
            }
        }
    }
}

/// Compares where several servers see one and the same socket. They are known to answer over UDP.
pub(super) async fn nat(relays: &[SocketAddr], media: Option<&MediaServer>, tried: &[Tried]) -> Check {
    let relays = relays.iter().map(|address| Mirror::Relay(*address));
    let reached = tried.iter().filter(|tried| !tried.candidate.is_tcp && tried.outcome.is_ok());
    let media = reached.filter_map(|tried| Some(Mirror::Media(tried.candidate.address, media?)));
    let mut mirrors: Vec<Mirror<'_>> = Vec::new();
    for mirror in media.chain(relays) {
        let is_v4 = mirror.address().is_ipv4();
        // One socket has one family, and loopback is behind no NAT.
        let fits = mirrors.first().is_none_or(|first| {
            (first.address().is_ipv4(), first.address().ip().is_loopback())
                == (is_v4, mirror.address().ip().is_loopback())
        });
        if fits && mirrors.len() < SERVERS_MAX {
            mirrors.push(mirror);
        }
    }
    let Some(first) = mirrors.first() else {
        return Check::skip("nat", "", "cannot tell: nothing answers over UDP");
    };
    let seen = ask(first.address(), &mirrors).await.unwrap_or_default();
    describe(&seen)
}

/// Asks all from one socket. Who does not answer is left out.
async fn ask(first: SocketAddr, mirrors: &[Mirror<'_>]) -> std::io::Result<Seen> {
    let local = {
        // Connecting sends nothing; it asks the kernel for our address on the way.
        let probe = UdpSocket::bind(any_like(first.ip())).await?;
        probe.connect(first).await?;
        probe.local_addr()?.ip()
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    let mut seen = Seen { local: Some(socket.local_addr()?), mapped: Vec::new() };
    let end = Instant::now() + STEP_TIMEOUT;
    let mut buffer = vec![0; 2_048];
    while Instant::now() < end && seen.mapped.len() < mirrors.len() {
        let missing = |seen: &Seen, mirror: &Mirror<'_>| {
            seen.mapped.iter().all(|(server, _)| *server != mirror.address())
        };
        let mut asked = Vec::new();
        for mirror in mirrors {
            if missing(&seen, mirror) {
                let (question, transaction) = mirror.question();
                socket.send_to(&question, mirror.address()).await?;
                asked.push((mirror, transaction));
            }
        }
        let until = end.min(Instant::now() + ASK_INTERVAL);
        while let Ok(Ok((length, source))) = timeout_at(until, socket.recv_from(&mut buffer)).await {
            let answer = buffer.get(..length).unwrap_or_default();
            let from = asked.iter().find(|(mirror, _)| mirror.address() == source);
            let Some((mirror, transaction)) = from else { continue };
            if let Some(mapped) = mirror.read(answer, transaction)
                && missing(&seen, mirror)
            {
                seen.mapped.push((source, mapped));
            }
            if seen.mapped.len() == mirrors.len() {
                break;
            }
        }
    }
    Ok(seen)
}

/// Our address, and what servers take for it.
#[derive(Debug, Default)]
struct Seen {
    local: Option<SocketAddr>,
    mapped: Vec<(SocketAddr, SocketAddr)>,
}

fn describe(Seen { local, mapped }: &Seen) -> Check {
    let (Some(local), Some((_, first))) = (local, mapped.first()) else {
        return Check::skip("nat", "", "cannot tell: nothing answers over UDP");
    };
    if mapped.iter().all(|(_, mapped)| mapped == local) {
        return Check::ok("nat", "", format!("none: servers see {local} as it is"));
    }
    let list: Vec<_> = mapped.iter().map(|(server, mapped)| format!("{server} sees {mapped}")).collect();
    let list = list.join(", ");
    let detail = if mapped.iter().any(|(_, mapped)| mapped != first) {
        format!(
            "symmetric: another address for each server ({list}). Calls through a server do not mind; two such clients \
             reach each other through a relay alone"
        )
    } else if mapped.len() > 1 {
        format!("the same address towards every server ({list})")
    } else {
        format!("there is one ({list}); with one server alone, nobody can tell whether it is symmetric")
    };
    Check::ok("nat", "", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn described(mapped: &[(&str, &str)]) -> String {
        let mapped = mapped.iter().map(|(server, mapped)| (at(server), at(mapped))).collect();
        serde_json::to_string(&describe(&Seen { local: Some(at("10.0.0.2:5")), mapped })).unwrap()
    }

    #[test]
    fn nats_are_told_apart() {
        let (a, b) = ("192.0.2.1:3478", "192.0.2.2:3478");
        assert!(described(&[]).contains("cannot tell"));
        assert!(described(&[(a, "10.0.0.2:5"), (b, "10.0.0.2:5")]).contains("none: servers see"));
        assert!(described(&[(a, "203.0.113.9:5"), (b, "203.0.113.9:6")]).contains("symmetric: another"));
        assert!(described(&[(a, "203.0.113.9:5"), (b, "203.0.113.9:5")]).contains("the same address"));
        assert!(described(&[(a, "203.0.113.9:5")]).contains("nobody can tell"));
    }

    #[test]
    fn one_address_that_works_is_enough() {
        let tried = |address: &str, outcome| Tried {
            candidate: Candidate { is_tcp: false, address: at(address) },
            outcome,
        };
        let texts = |tried: &[Tried], others: &[String]| {
            checks(tried, false, others)
                .iter()
                .map(|check| serde_json::to_string(check).unwrap())
                .collect::<Vec<_>>()
        };
        let (local, public) = ("127.0.0.1:7882", "198.51.100.1:7882");
        let reached = || Ok((at("192.0.2.9:7"), Duration::ZERO));
        let found = texts(&[tried(local, Err(LinkError::Refused)), tried(public, reached())], &[]);
        assert!(found[0].contains("\"skip\"") && found[1].contains("sees us as 192.0.2.9:7"), "{found:?}");
        let silent = [tried(public, Err(LinkError::Silent)), tried("10.0.0.1:7882", Err(LinkError::Silent))];
        let found = texts(&silent, &["TCP".into()]);
        assert!(found[0].contains("drops UDP") && found[1].contains("sfu.announce"), "{found:?}");
        let found = texts(&[tried(local, Err(LinkError::Refused))], &[]);
        assert!(found[0].contains("\"skip\"") && found[0].contains("own machine"), "{found:?}");
        assert!(!works(&silent, false) && works(&[tried(public, reached())], false));
        assert!(texts(&[], &[])[0].contains("skip"));
    }
}
