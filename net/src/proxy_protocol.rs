//! The PROXY protocol, versions 1 and 2: what a balancer puts in front of a connection to tell whose it is
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Who is believed is the caller's to say.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_header::{ParseConfig, Protocol, ProxyHeader};

/// What version 2 begins with; the four bytes after it say how long the rest is (section 2.2).
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES_V2: usize = 16;

/// What version 1 begins with (section 2.1).
const GREETING_V1: &[u8; 6] = b"PROXY ";

/// The longest line of version 1 (section 2.1).
const LINE_BYTES_MAX_V1: usize = 107;

/// The longest header of version 2 that is read. Addresses take 36 bytes; the rest is notes that nobody reads here. A
/// longer one is refused.
const HEADER_BYTES_MAX_V2: usize = 4096;

/// A connection does not begin with a PROXY header although it comes from where it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection from a trusted balancer does not begin with a PROXY header")]
pub struct ProxyHeaderError;

/// Reads one header, and not a byte of what follows: read at most [`ProxyHeaderReader::wanted`] bytes at a time.
///
/// ```
/// use zynk_net::ProxyHeaderReader;
///
/// let sent = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nhello";
/// let (mut reader, mut at) = (ProxyHeaderReader::default(), 0);
/// let client = loop {
///     let piece = &sent[at..at + reader.wanted()];
///     at += piece.len();
///     if let Some(client) = reader.push(piece)? {
///         break client;
///     }
/// };
/// assert_eq!((client, &sent[at..]), (Some("192.0.2.7:50000".parse().unwrap()), &b"hello"[..]));
/// # Ok::<(), zynk_net::ProxyHeaderError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ProxyHeaderReader {
    bytes: Vec<u8>,
}

impl ProxyHeaderReader {
    /// Bytes that are still missing of the part that can be told; at least 1.
    pub fn wanted(&self) -> usize {
        let length = self.bytes.len();
        match () {
            () if length < SIGNATURE_V2.len() => SIGNATURE_V2.len() - length,
            // A line ends where it ends.
            () if !self.is_v2() => 1,
            () if length < FIXED_BYTES_V2 => FIXED_BYTES_V2 - length,
            () => (FIXED_BYTES_V2 + self.rest_bytes_v2()).saturating_sub(length).max(1),
        }
    }

    /// Takes what was read. Once the header is whole, tells the client's address, or none if the balancer speaks for itself
    /// (`LOCAL`, `UNKNOWN`, as health checks do): then the connection's own address holds.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Option<SocketAddr>>, ProxyHeaderError> {
        self.bytes.extend_from_slice(bytes);
        let length = self.bytes.len();
        let is_whole = match () {
            () if length < SIGNATURE_V2.len() => false,
            () if self.is_v2() => {
                if FIXED_BYTES_V2 + self.rest_bytes_v2() > HEADER_BYTES_MAX_V2 {
                    return Err(ProxyHeaderError);
                }
                length >= FIXED_BYTES_V2 && length >= FIXED_BYTES_V2 + self.rest_bytes_v2()
            }
            () if self.bytes.starts_with(GREETING_V1) && length <= LINE_BYTES_MAX_V1 => {
                self.bytes.ends_with(b"\n")
            }
            () => return Err(ProxyHeaderError),
        };
        if !is_whole {
            return Ok(None);
        }
        let config = ParseConfig::default();
        let (header, consumed) = ProxyHeader::parse(&self.bytes, config).map_err(|_| ProxyHeaderError)?;
        if consumed != length {
            return Err(ProxyHeaderError);
        }
        match header.proxied_address() {
            None => Ok(Some(None)),
            Some(address) if address.protocol == Protocol::Stream => Ok(Some(Some(address.source))),
            Some(_) => Err(ProxyHeaderError),
        }
    }

    fn is_v2(&self) -> bool {
        self.bytes.starts_with(SIGNATURE_V2)
    }

    /// What follows the fixed part, as that says; 0 as long as it does not.
    fn rest_bytes_v2(&self) -> usize {
        match self.bytes.get(14..FIXED_BYTES_V2) {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        }
    }
}

/// Whether connections from an address must begin with a header: it is in one of the networks.
pub fn is_trusted_balancer(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2, TCP over IPv4 or what `family` says, with these addresses and notes.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE_V2[..], &[0x20 | command, family], &length, rest].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 1, 0xbb];

    type Told = Result<Option<SocketAddr>, ProxyHeaderError>;

    /// Reads from `sent` as a socket would give it, `piece` bytes at a time at most; tells what was left, too.
    fn read(sent: &[u8], piece: usize) -> Option<(Told, &[u8])> {
        let (mut reader, mut at) = (ProxyHeaderReader::default(), 0);
        while at < sent.len() {
            let end = (at + reader.wanted().min(piece)).min(sent.len());
            match reader.push(&sent[at..end]) {
                Ok(None) => at = end,
                Ok(Some(client)) => return Some((Ok(client), &sent[end..])),
                Err(error) => return Some((Err(error), &sent[end..])),
            }
        }
        None
    }

    #[test]
    fn headers_of_both_versions_are_read_to_their_end_whatever_the_pieces() {
        let client = "192.0.2.7:50000".parse().ok();
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[0xc3, 0x50, 1, 0xbb]].concat();
        let noted = [V4, &[4, 0, 3, 1, 2, 3]].concat();
        let cases = [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n".to_vec(), client),
            (b"PROXY TCP6 2001:db8::7 ::1 50000 443\r\n".to_vec(), "[2001:db8::7]:50000".parse().ok()),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(1, 0x11, V4), client),
            (v2(1, 0x11, &noted), client),
            (v2(1, 0x21, &v6), "[2001:db8::7]:50000".parse().ok()),
            (v2(0, 0, &[]), None),
        ];
        for (header, client) in cases {
            let sent = [&header[..], b"\x16\x03\x01 what follows"].concat();
            for piece in [1, 3, 16, 4096] {
                assert_eq!(read(&sent, piece), Some((Ok(client), &b"\x16\x03\x01 what follows"[..])));
            }
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut], 4096), None, "{cut} of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        let cases = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 ClientHello".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 50000 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 443\r\n".to_vec(),
            long.into_bytes(),
            // Over UDP, of another version, with too little in it, and too long.
            v2(1, 0x12, V4),
            [&SIGNATURE_V2[..], &[0x31, 0x11, 0, 12], V4].concat(),
            v2(1, 0x11, &V4[..8]),
            v2(1, 0x11, &[0; HEADER_BYTES_MAX_V2]),
        ];
        for sent in cases {
            let outcome = read(&sent, 4096).map(|(outcome, _)| outcome);
            assert_eq!(outcome, Some(Err(ProxyHeaderError)), "{:?}", String::from_utf8_lossy(&sent));
        }
    }

    #[test]
    fn whatever_byte_is_wrong_the_header_is_read_or_refused() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 28], &[0xc3, 0x50, 1, 0xbb]].concat();
        let noted = [V4, &[4, 0, 3, 1, 2, 3, 0x20, 0, 2, 9, 9]].concat();
        for header in [
            b"PROXY TCP6 2001:db8::7 ::1 50000 443\r\n".to_vec(),
            b"PROXY UNKNOWN 1 2\r\n".to_vec(),
            v2(1, 0x11, &noted),
            v2(1, 0x21, &v6),
            v2(1, 0x31, &[0; 216]),
        ] {
            for (at, byte) in (0..header.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                // Enough after it for whatever length it says.
                let mut sent = [&header[..], &[b'\n'; 70_000]].concat();
                sent[at] = byte;
                let outcome = read(&sent, 4096);
                let read = outcome.map(|(_, left)| sent.len() - left.len());
                assert!(read.is_some_and(|read| read <= HEADER_BYTES_MAX_V2), "{byte} at {at}: {read:?}");
            }
        }
    }

    #[test]
    fn balancers_are_known_by_their_networks() {
        let networks = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("11.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_trusted_balancer(&networks, address.parse().unwrap()), expected, "{address}");
        }
    }
}
