//! What the media server says of itself in SDP, and checks of connectivity as ICE has them (RFC 8445, section 7): a server
//! with ICE answers who knows its password, on every path that works.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zynk_turn_core::stun::attribute::{USERNAME, XOR_MAPPED_ADDRESS};
use zynk_turn_core::stun::{Class, IntegrityKey, Message, Method, TransactionId, Writer};

use super::link::{Framing, Link, LinkError, connect_tcp};

/// RFC 8445, section 16.1.
const PRIORITY: u16 = 0x0024;
const ICE_CONTROLLING: u16 = 0x802a;

/// The priority of a peer-reflexive candidate (RFC 8445, section 7.1.1).
const PEER_REFLEXIVE_PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

/// Candidates of a server that are tried; further ones are left out.
const CANDIDATES_MAX: usize = 16;

/// One place at which media is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) is_tcp: bool,
    pub(super) address: SocketAddr,
}

/// What it takes to be answered by a media server.
#[derive(Clone, Debug)]
pub(super) struct MediaServer {
    username: String,
    key: IntegrityKey,
    pub(super) candidates: Vec<Candidate>,
}

impl MediaServer {
    /// Reads a description. None if it has no credentials.
    pub(super) fn from_sdp(sdp: &str, own_ufrag: &str) -> Option<Self> {
        let value = |name: &str| sdp.lines().find_map(|line| line.trim_end().strip_prefix(name));
        let key = IntegrityKey::short_term(value("a=ice-pwd:")?)?;
        let username = format!("{}:{own_ufrag}", value("a=ice-ufrag:")?);
        let mut server = Self { username, key, candidates: Vec::new() };
        for line in sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=")) {
            server.add_candidate(line);
        }
        Some(server)
    }

    /// Adds what a line says, if it is a candidate that can be tried (RFC 8839, section 5.1; RFC 6544, section 4.5).
    pub(super) fn add_candidate(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("candidate:") else { return };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "1", transport, _, ip, port, ..] = words[..] else { return };
        let (Ok(ip), Ok(port)) = (ip.parse::<IpAddr>(), port.parse::<u16>()) else { return };
        let is_tcp = transport.eq_ignore_ascii_case("tcp");
        let is_passive = words.windows(2).any(|pair| matches!(pair, ["tcptype", "passive"]));
        let candidate = Candidate { is_tcp, address: SocketAddr::new(ip, port) };
        if port > 0
            && (is_passive || transport.eq_ignore_ascii_case("udp"))
            && !self.candidates.contains(&candidate)
            && self.candidates.len() < CANDIDATES_MAX
        {
            self.candidates.push(candidate);
        }
    }

    /// A check, and what pairs its answer with it.
    pub(super) fn check(&self) -> (Vec<u8>, TransactionId) {
        let transaction: TransactionId = rand::random();
        let mut check = Vec::new();
        Writer::new(&mut check, Class::Request, Method::Binding, &transaction)
            .attribute(USERNAME, self.username.as_bytes())
            .number(PRIORITY, PEER_REFLEXIVE_PRIORITY)
            .attribute(ICE_CONTROLLING, &rand::random::<[u8; 8]>())
            .sign_sha1(&self.key)
            .fingerprint();
        (check, transaction)
    }

    /// The address from which the server has seen a check come, if this is the answer to it.
    pub(super) fn read_answer(&self, message: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
        let message = Message::parse(message).ok()?;
        let is_answer = message.class() == Class::Success && message.transaction() == transaction;
        (is_answer && message.is_signed_with(&self.key)).then(|| message.xor_address(XOR_MAPPED_ADDRESS))?
    }

    /// Checks a candidate: where we come from, and how long it took.
    pub(super) async fn try_candidate(
        &self,
        candidate: Candidate,
    ) -> Result<(SocketAddr, Duration), LinkError> {
        let mut link = match candidate.is_tcp {
            true => Link::stream(connect_tcp(candidate.address).await?, Framing::Ice),
            false => Link::udp(candidate.address).await?,
        };
        let (check, transaction) = self.check();
        link.exchange(&check, |message| self.read_answer(message, &transaction)).await
    }
}

/// A description of somebody with data channels alone, who never shakes hands.
pub(super) fn offer(ufrag: &str) -> String {
    let password = hex(&rand::random::<[u8; 16]>());
    let fingerprint = rand::random::<[u8; 32]>().map(|byte| format!("{byte:02X}")).join(":");
    let lines = [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        &format!("a=ice-ufrag:{ufrag}"),
        &format!("a=ice-pwd:{password}"),
        "a=ice-options:trickle",
        &format!("a=fingerprint:sha-256 {fingerprint}"),
        "a=setup:actpass",
        "a=mid:0",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
    ];
    lines.map(|line| format!("{line}\r\n")).concat()
}

/// A user fragment of ours.
pub(super) fn draw_ufrag() -> String {
    hex(&rand::random::<[u8; 4]>())
}

/// Octets as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "v=0\r\na=ice-lite\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        a=ice-ufrag:00theirs\r\na=ice-pwd:VOkJxbRl1RmTxUk/WvJxBt\r\n\
        a=candidate:1 1 udp 2130706431 203.0.113.5 7882 typ host\r\n\
        a=candidate:1 2 udp 2130706431 203.0.113.5 7883 typ host\r\n\
        a=candidate:2 1 TCP 1671430143 2001:db8::5 7881 typ host tcptype passive\r\n\
        a=candidate:3 1 tcp 1671430143 203.0.113.5 9 typ host tcptype active\r\n\
        a=candidate:4 1 udp 1 host.local 7882 typ host\r\na=candidate:5\r\na=end-of-candidates\r\n";

    #[test]
    fn candidates_are_read() {
        let server = MediaServer::from_sdp(ANSWER, "ours").unwrap();
        let expected = [(false, "203.0.113.5:7882"), (true, "[2001:db8::5]:7881")];
        let expected =
            expected.map(|(is_tcp, address)| Candidate { is_tcp, address: address.parse().unwrap() });
        assert_eq!(server.candidates, expected);
        assert_eq!(server.username, "00theirs:ours");
        assert!(MediaServer::from_sdp("v=0\r\n", "ours").is_none());
    }

    #[test]
    fn only_the_server_can_answer() {
        let server = MediaServer::from_sdp(ANSWER, "ours").unwrap();
        let (check, transaction) = server.check();
        assert!(Message::parse(&check).unwrap().is_signed_with_bytes(b"VOkJxbRl1RmTxUk/WvJxBt"));
        let answer = |transaction: &TransactionId, password: &str| {
            let mut answer = Vec::new();
            Writer::new(&mut answer, Class::Success, Method::Binding, transaction)
                .xor_address(XOR_MAPPED_ADDRESS, "192.0.2.1:5".parse().unwrap())
                .sign_sha1(&IntegrityKey::short_term(password).unwrap());
            server.read_answer(&answer, &[7; 12])
        };
        assert!(transaction != [7; 12]);
        assert_eq!(answer(&[7; 12], "VOkJxbRl1RmTxUk/WvJxBt"), Some("192.0.2.1:5".parse().unwrap()));
        assert_eq!(answer(&[7; 12], "another"), None);
        assert_eq!(answer(&[8; 12], "VOkJxbRl1RmTxUk/WvJxBt"), None);
        assert_eq!(server.read_answer(&check, &transaction), None);
    }
}
