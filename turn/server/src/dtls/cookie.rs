//! The exchange of cookies before a DTLS handshake, without state (RFC 6347, section 4.2.1): who answers from the address
//! that it says it has is remembered, and nobody else.
//!
//! ```text
//!   ClientHello ──────────────►  no cookie, or not ours: answered and forgotten
//!            ◄──────── HelloVerifyRequest (HMAC over time, address and the client's random)
//!   ClientHello with it ──────►  a handshake begins
//! ```
//!
//! The library makes cookies with a secret of each connection, so that it needs the connection first. Here it is given the
//! two messages when the second has come: a ClientHello that stands in for the first, and the real one, whose cookie it
//! takes for its own, because what it computes cookies with is [`StandIn`].

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider};

/// Bytes of a cookie: the library takes no others.
const COOKIE_BYTES: usize = 32;

/// How long a cookie is good, at least; twice that at most.
const COOKIE_LIFETIME: Duration = Duration::from_secs(30);

/// Bytes before a handshake message: of the record (RFC 6347, section 4.1) and of the message (section 4.2.2).
const RECORD_HEADER_BYTES: usize = 13;
const MESSAGE_HEADER_BYTES: usize = 12;

/// A ClientHello without a cookie, after which the library expects one with a cookie: DTLS 1.2, a random of zeros, no
/// session, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression. What the library answers is not to be sent: the client
/// has had its answer.
#[rustfmt::skip]
pub(super) const FIRST_HELLO: [u8; 67] = [
    22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54,
    1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42,
    0xfe, 0xfd,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 2, 0xc0, 0x2b, 1, 0,
];

/// The beginning of a client's ClientHello, as far as cookies are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello<'a> {
    record_number: [u8; 6],
    version: [u8; 2],
    random: [u8; 32],
    cookie: &'a [u8],
}

impl<'a> Hello<'a> {
    /// None if a datagram does not begin with a ClientHello, or if the part of it that the cookie is in is missing.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        // A record of a handshake in epoch 0.
        let [22, 0xfe, _, 0, 0, record_number @ .., length_high, length_low] = header else { return None };
        let record = rest.get(..usize::from(u16::from_be_bytes([*length_high, *length_low])))?;
        let (header, body) = record.split_first_chunk::<MESSAGE_HEADER_BYTES>()?;
        // A ClientHello from its first byte on.
        let [1, _, _, _, _, _, 0, 0, 0, ..] = header else { return None };
        let (version, body) = body.split_first_chunk::<2>()?;
        let (random, rest) = body.split_first_chunk::<32>()?;
        let (session_bytes, rest) = rest.split_first()?;
        let (cookie_bytes, rest) = rest.get(usize::from(*session_bytes)..)?.split_first()?;
        let cookie = rest.get(..usize::from(*cookie_bytes))?;
        Some(Self { record_number: *record_number, version: *version, random: *random, cookie })
    }
}

impl Hello<'_> {
    /// The alert for a client that speaks nothing newer than DTLS 1.0, which nobody should (RFC 8996): fatal,
    /// protocol_version (RFC 5246, section 7.2). None for any other.
    pub(super) fn refusal(&self) -> Option<[u8; 15]> {
        // Newer versions have lower numbers.
        let is_old = matches!(self.version, [0xfe, minor] if minor > 0xfd);
        let [r0, r1, r2, r3, r4, r5] = self.record_number;
        is_old.then_some([21, 0xfe, 0xff, 0, 0, r0, r1, r2, r3, r4, r5, 0, 2, 2, 70])
    }
}

/// Makes cookies and knows them again.
pub(super) struct Cookies {
    key: hmac::Key,
    begin: Instant,
}

/// A client that has shown a cookie: what the library has to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    random: [u8; 32],
    cookie: [u8; COOKIE_BYTES],
}

impl Cookies {
    /// `secret` must be unpredictable.
    pub(super) fn new(secret: &[u8; 32], now: Instant) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), begin: now }
    }

    /// What a client has proven, if its hello has a cookie for this address that is still good.
    pub(super) fn check(&self, hello: &Hello<'_>, client: SocketAddr, now: Instant) -> Option<Proof> {
        let cookie: [u8; COOKIE_BYTES] = hello.cookie.try_into().ok()?;
        let period = self.period(now);
        let is_ours =
            |period| hmac::verify(&self.key, &content(period, client, &hello.random), &cookie).is_ok();
        let is_good = is_ours(period) || period.checked_sub(1).is_some_and(is_ours);
        is_good.then_some(Proof { random: hello.random, cookie })
    }

    /// The HelloVerifyRequest that answers a hello; shorter than any.
    pub(super) fn answer(&self, hello: &Hello<'_>, client: SocketAddr, now: Instant) -> [u8; 60] {
        let cookie = hmac::sign(&self.key, &content(self.period(now), client, &hello.random));
        let mut answer = [0; 60];
        let [r0, r1, r2, r3, r4, r5] = hello.record_number;
        // The record has the number of the client's, and the message says DTLS 1.0 whatever follows (section 4.2.1).
        let head = [
            22, 0xfe, 0xff, 0, 0, r0, r1, r2, r3, r4, r5, 0, 47, 3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35, 0xfe,
            0xff, 32,
        ];
        let parts = head.iter().chain(cookie.as_ref());
        answer.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        answer
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_secs() / COOKIE_LIFETIME.as_secs()
    }
}

/// What a cookie signs.
fn content(period: u64, client: SocketAddr, random: &[u8; 32]) -> [u8; 58] {
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let (period, ip, port) = (period.to_be_bytes(), ip.octets(), client.port().to_be_bytes());
    let parts = period.iter().chain(&ip).chain(&port).chain(random);
    let mut content = [0; 58];
    content.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    content
}

impl Proof {
    /// Does something with a connection of the library, to which the client's cookie is its own.
    pub(super) fn with<T>(self, act: impl FnOnce() -> T) -> T {
        BELIEVED.set(Some(self));
        let done = act();
        BELIEVED.set(None);
        done
    }
}

thread_local! {
    static BELIEVED: Cell<Option<Proof>> = const { Cell::new(None) };
}

/// The library's HMAC, but for the one that makes the cookie of a client that has shown one.
#[derive(Debug)]
struct StandIn(&'static dyn HmacProvider);

impl HmacProvider for StandIn {
    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, dimpl::CryptoError> {
        match (BELIEVED.get(), out.get_mut(..COOKIE_BYTES)) {
            // Nothing but the cookie is made of the client's random alone.
            (Some(proof), Some(out)) if hash == HashAlgorithm::SHA256 && data == proof.random => {
                out.copy_from_slice(&proof.cookie);
                Ok(COOKIE_BYTES)
            }
            _ => self.0.hmac(hash, key, data, out),
        }
    }
}

/// The library's cryptography, with [`StandIn`].
pub(super) fn provider() -> CryptoProvider {
    static STAND_IN: std::sync::OnceLock<StandIn> = std::sync::OnceLock::new();
    let provider = dimpl::crypto::aws_lc_rs::default_provider();
    let hmac_provider = STAND_IN.get_or_init(|| StandIn(provider.hmac_provider));
    CryptoProvider { hmac_provider, ..provider }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(cookie: &[u8]) -> Vec<u8> {
        let (head, tail) = FIRST_HELLO.split_at(61);
        let mut hello = head.to_vec();
        hello[60] = cookie.len() as u8;
        hello.extend_from_slice(cookie);
        hello.extend_from_slice(tail);
        let (record, message) = (hello.len() - 13, hello.len() - 25);
        hello[12] = record as u8;
        hello[16] = message as u8;
        hello[24] = message as u8;
        hello
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_its_time() {
        let begin = Instant::now();
        let cookies = Cookies::new(&[7; 32], begin);
        let client: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let first = hello(&[]);
        let first = Hello::parse(&first).unwrap();
        assert_eq!(cookies.check(&first, client, begin), None);
        let answer = cookies.answer(&first, client, begin);
        let second = hello(&answer[28..]);
        let second = Hello::parse(&second).unwrap();
        assert!(cookies.check(&second, client, begin).is_some());
        assert!(cookies.check(&second, client, begin + COOKIE_LIFETIME).is_some());
        assert_eq!(cookies.check(&second, client, begin + 2 * COOKIE_LIFETIME), None);
        assert_eq!(cookies.check(&second, "192.0.2.1:4001".parse().unwrap(), begin), None);
        assert_eq!(cookies.check(&second, "192.0.2.2:4000".parse().unwrap(), begin), None);
        assert_eq!(Cookies::new(&[8; 32], begin).check(&second, client, begin), None);
        assert_eq!(cookies.check(&Hello { random: [1; 32], ..second }, client, begin), None);
    }

    #[test]
    fn who_speaks_an_old_version_is_told() {
        let mut old = hello(&[]);
        assert_eq!(Hello::parse(&old).unwrap().refusal(), None);
        old[26] = 0xff;
        old[10] = 9;
        let alert = [21, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 70];
        assert_eq!(Hello::parse(&old).unwrap().refusal(), Some(alert));
    }

    #[test]
    fn only_whole_hellos_are_answered() {
        let whole = hello(&[5; 32]);
        assert!(Hello::parse(&whole).is_some());
        for length in 0..whole.len() {
            // A record that says it is longer than the datagram is none.
            assert_eq!(Hello::parse(&whole[..length]), None, "{length} bytes");
        }
        for (at, value) in [(0, 23), (4, 1), (13, 2), (19, 1)] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(Hello::parse(&other), None, "byte {at}");
        }
    }
}
