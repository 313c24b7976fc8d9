//! Nonces that cost no memory: each proves by itself when it was made and for whom (RFC 8489, section 9.2).
//!
//! ```text
//!   "obMatJos2" "AAAB"     9 characters of cookie, 4 of security features (RFC 8489, section 9.2: password algorithms)
//!   time and port          7 characters: seconds / 16, modulo 2^24, and the port of whom it was made for
//!   HMAC-SHA-256           16 characters: the first 96 bits over those and the client's IP address
//! ```
//! No two ports are given the same nonce, as RFC 8489, section 9.2.4, wants it, but a nonce is good from any port of its IP
//! address: clients use that of their first connection on the next (RFC 6062's data connections).
//!
//! 36 characters: 401 goes to addresses that may be forged, so it is short.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Cookie and the one feature that is offered: bit 0 (the lowest), password algorithms.
const PREFIX: &[u8; 13] = b"obMatJos2AAAB";
const STAMP_CHARS: usize = 7;
/// Bytes of time and port.
const STAMP_BYTES: usize = 5;
const TAG_CHARS: usize = 16;
/// Characters of a nonce.
pub(crate) const NONCE_BYTES: usize = PREFIX.len() + STAMP_CHARS + TAG_CHARS;
/// Bytes of the HMAC that are kept.
const TAG_BYTES: usize = 12;
/// Seconds of one step of a nonce's time.
const STEP_S: u64 = 16;
/// Time wraps after that many steps: eight years.
const STEPS: u64 = 1 << 24;

/// Makes nonces and knows them again.
#[derive(Clone)]
pub(crate) struct Nonces {
    key: hmac::Key,
    life_steps: u64,
}

/// What becomes of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceVerdict {
    Good,
    /// It was good once, or is another address's or server's: the client may try again with a new one.
    Stale,
}

impl Nonces {
    /// `key` is the same for all workers, so that each knows the others' nonces.
    pub(crate) fn new(key: &[u8; 32], life_s: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), life_steps: (life_s / STEP_S).max(1) }
    }

    /// A nonce for an address.
    pub(crate) fn make(&self, unix_s: u64, client: SocketAddr) -> [u8; NONCE_BYTES] {
        let [.., high, middle, low] = (unix_s / STEP_S % STEPS).to_be_bytes();
        let [port_high, port_low] = client.port().to_be_bytes();
        self.sign([high, middle, low, port_high, port_low], client.ip())
    }

    fn sign(&self, stamp: [u8; STAMP_BYTES], client: IpAddr) -> [u8; NONCE_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&stamp);
        match client {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        let tag = context.sign();
        let tag = tag.as_ref().get(..TAG_BYTES).unwrap_or_default();
        let mut nonce = [0; NONCE_BYTES];
        let (prefix, rest) = nonce.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX);
        let (stamp_at, tag_at) = rest.split_at_mut(STAMP_CHARS);
        // Both have exactly the room that they need.
        let _ = STANDARD_NO_PAD.encode_slice(stamp, stamp_at);
        let _ = STANDARD_NO_PAD.encode_slice(tag, tag_at);
        nonce
    }

    pub(crate) fn check(&self, nonce: &[u8], unix_s: u64, client: SocketAddr) -> NonceVerdict {
        let mut stamp = [0; STAMP_BYTES];
        let text = nonce.get(PREFIX.len()..PREFIX.len() + STAMP_CHARS).unwrap_or_default();
        if nonce.len() != NONCE_BYTES || STANDARD_NO_PAD.decode_slice(text, &mut stamp) != Ok(STAMP_BYTES) {
            return NonceVerdict::Stale;
        }
        let [high, middle, low, ..] = stamp;
        let made = u64::from(u32::from_be_bytes([0, high, middle, low]));
        let age = (unix_s / STEP_S % STEPS + STEPS - made) % STEPS;
        let wanted = self.sign(stamp, client.ip());
        match bool::from(subtle::ConstantTimeEq::ct_eq(&wanted[..], nonce)) && age <= self.life_steps {
            true => NonceVerdict::Good,
            false => NonceVerdict::Stale,
        }
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nonces").field("life_steps", &self.life_steps).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn nonces_end_and_are_for_one_address_of_one_server() {
        let nonces = Nonces::new(&[7; 32], 600);
        let begin = STEPS * STEP_S - 100; // just before time wraps
        let nonce = nonces.make(begin, client(1));
        assert!(nonce.starts_with(b"obMatJos2AAAB") && nonce.is_ascii());
        assert_eq!(nonces.check(&nonce, begin, client(1)), NonceVerdict::Good);
        assert_eq!(nonces.check(&nonce, begin + 590, client(1)), NonceVerdict::Good);
        assert_eq!(nonces.check(&nonce, begin + 640, client(1)), NonceVerdict::Stale);
        assert_eq!(
            nonces.check(&nonce, begin, client(2)),
            NonceVerdict::Good,
            "the same address's next connection"
        );
        assert_ne!(nonces.make(begin, client(2)), nonce);
        let other = SocketAddr::from(([192, 0, 2, 2], 1));
        assert_eq!(nonces.check(&nonce, begin, other), NonceVerdict::Stale);
        assert_eq!(Nonces::new(&[8; 32], 600).check(&nonce, begin, client(1)), NonceVerdict::Stale);
        // From the future: another server's clock, or a forgery.
        assert_eq!(nonces.check(&nonces.make(begin + 999, client(1)), begin, client(1)), NonceVerdict::Stale);
    }

    #[test]
    fn no_change_of_a_nonce_is_good() {
        let nonces = Nonces::new(&[7; 32], 600);
        let nonce = nonces.make(1_000_000, client(1));
        for at in 0..nonce.len() {
            let mut changed = nonce;
            changed[at] ^= 1;
            assert_eq!(nonces.check(&changed, 1_000_000, client(1)), NonceVerdict::Stale, "byte {at}");
        }
        for length in 0..nonce.len() {
            assert_eq!(nonces.check(&nonce[..length], 1_000_000, client(1)), NonceVerdict::Stale);
        }
    }
}
