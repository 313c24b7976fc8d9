//! Audio with redundancy (RFC 2198): a packet that carries earlier payloads before its own, so that those of packets
//! that were lost come with a later one.
//!
//! ```text
//!   |1| payload type 7 | timestamp offset 14 | length 10 |   for each earlier payload, the oldest first
//!   |0| payload type 7 |                                     the packet's own
//!   the earlier payloads, the packet's own
//! ```

/// Most earlier payloads that are sent along.
pub(crate) const EARLIER_MAX: usize = 2;
/// Octets that an earlier payload takes besides itself.
pub(crate) const EARLIER_HEADER_BYTES: usize = 4;
/// Octets of the header of the packet's own payload.
const OWN_HEADER_BYTES: usize = 1;
/// Longest payload that is made: with header, extensions and tag a datagram of 1200 octets, as libwebrtc makes them
/// (`kAudioMaxRtpPacketLen`).
const PAYLOAD_BYTES_MAX: usize = 1100;
/// Offsets have 14 bits, and lengths 10.
const OFFSET_END: u32 = 1 << 14;
const LENGTH_END: usize = 1 << 10;
/// Another header follows.
const FOLLOWED: u8 = 0x80;

/// The packet's own payload, which is the last block; none when it is malformed.
pub(crate) fn own_payload(payload: &[u8]) -> Option<&[u8]> {
    let (earlier, bytes) = headers(payload)?;
    payload.get(earlier * EARLIER_HEADER_BYTES + OWN_HEADER_BYTES + bytes..)
}

/// How many earlier payloads there are; none when it is malformed.
pub(crate) fn earlier_payloads(payload: &[u8]) -> Option<u8> {
    headers(payload).map(|(earlier, _)| u8::try_from(earlier).unwrap_or(u8::MAX))
}

/// The number of earlier payloads, and their octets.
fn headers(payload: &[u8]) -> Option<(usize, usize)> {
    let mut earlier = 0;
    let mut bytes = 0;
    loop {
        let at = earlier * EARLIER_HEADER_BYTES;
        if payload.get(at)? & FOLLOWED == 0 {
            return Some((earlier, bytes));
        }
        let [high, low] = *payload.get(at + 2..at + 4)?.first_chunk()?;
        bytes += usize::from(u16::from_be_bytes([high & 0x03, low]));
        earlier += 1;
    }
}

/// A payload that was sent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Earlier<'a> {
    /// How much earlier, in units of the RTP clock.
    offset: u32,
    payload: &'a [u8],
}

/// A packet's own payload and earlier ones, as far as they go with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedPayload<'a> {
    own: &'a [u8],
    /// The latest first.
    earlier: [Earlier<'a>; EARLIER_MAX],
    count: u8,
}

impl<'a> RedPayload<'a> {
    /// A packet without earlier payloads.
    pub(crate) fn new(own: &'a [u8]) -> Self {
        Self { own, earlier: [Earlier::default(); EARLIER_MAX], count: 0 }
    }

    /// Adds what was sent before all that is there, by an `offset` of the RTP clock before the packet's own. False if it
    /// cannot be said how long ago or how long it is, or if the packet would be too large.
    pub(crate) fn add(&mut self, offset: u32, payload: &'a [u8]) -> bool {
        let fits = (1..OFFSET_END).contains(&offset)
            && (1..LENGTH_END).contains(&payload.len())
            && self.bytes() + EARLIER_HEADER_BYTES + payload.len() <= PAYLOAD_BYTES_MAX;
        match self.earlier.get_mut(usize::from(self.count)).filter(|_| fits) {
            Some(slot) => {
                *slot = Earlier { offset, payload };
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// How many earlier payloads there are.
    pub(crate) fn earlier_payloads(&self) -> u8 {
        self.count
    }

    /// How many octets it takes.
    pub(crate) fn bytes(&self) -> usize {
        let earlier: usize =
            self.latest_first().map(|earlier| EARLIER_HEADER_BYTES + earlier.payload.len()).sum();
        earlier + OWN_HEADER_BYTES + self.own.len()
    }

    fn latest_first(&self) -> impl DoubleEndedIterator<Item = &Earlier<'a>> {
        self.earlier.iter().take(usize::from(self.count))
    }
}

/// Room for one payload.
#[derive(Debug)]
pub(crate) struct RedBuffer {
    octets: [u8; PAYLOAD_BYTES_MAX],
}

impl Default for RedBuffer {
    fn default() -> Self {
        Self { octets: [0; PAYLOAD_BYTES_MAX] }
    }
}

impl RedBuffer {
    /// Writes a packet, all of whose payloads have the same type; none if it is too long.
    pub(crate) fn write(&mut self, red: &RedPayload<'_>, payload_type: u8) -> Option<&[u8]> {
        let mut at = 0;
        for Earlier { offset, payload } in red.latest_first().rev() {
            let [_, a, b, c] = (offset << 10 | u32::try_from(payload.len()).ok()?).to_be_bytes();
            self.put(&mut at, &[FOLLOWED | payload_type, a, b, c])?;
        }
        self.put(&mut at, &[payload_type & !FOLLOWED])?;
        for Earlier { payload, .. } in red.latest_first().rev() {
            self.put(&mut at, payload)?;
        }
        self.put(&mut at, red.own)?;
        self.octets.get(..at)
    }

    fn put(&mut self, at: &mut usize, octets: &[u8]) -> Option<()> {
        let end = *at + octets.len();
        self.octets.get_mut(*at..end)?.copy_from_slice(octets);
        *at = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What RFC 2198, section 3, says of a payload's blocks: payload type, timestamp offset and octets, bit by bit.
    fn blocks(payload: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        let bits: Vec<u32> =
            payload.iter().flat_map(|octet| (0..8).rev().map(move |at| u32::from(octet >> at & 1))).collect();
        let number = |from: usize, bits_count: usize| {
            bits[from..from + bits_count].iter().fold(0, |number, bit| number << 1 | bit)
        };
        let (mut at, mut headers) = (0, Vec::new());
        while number(at, 1) == 1 {
            headers.push((number(at + 1, 7) as u8, number(at + 8, 14), number(at + 22, 10) as usize));
            at += 32;
        }
        let own_type = number(at + 1, 7) as u8;
        let mut rest = &payload[at / 8 + 1..];
        let mut blocks = Vec::new();
        for (payload_type, offset, length) in headers {
            let (block, after) = rest.split_at(length);
            blocks.push((payload_type, offset, block.to_vec()));
            rest = after;
        }
        blocks.push((own_type, 0, rest.to_vec()));
        blocks
    }

    #[test]
    fn the_own_payload_is_the_last() {
        assert_eq!(own_payload(&[111, 1, 2]), Some([1, 2].as_slice()));
        // Two blocks of earlier audio, of 2 and 1 octets (RFC 2198, section 3).
        let payload = [0x80 | 111, 0, 0, 2, 0x80 | 111, 0, 0, 1, 111, 9, 9, 8, 1, 2, 3];
        assert_eq!(own_payload(&payload), Some([1, 2, 3].as_slice()));
        assert_eq!(earlier_payloads(&payload), Some(2));
        assert_eq!(own_payload(&[111]), Some([].as_slice()));
        for malformed in [&[][..], &[0x80 | 111], &[0x80 | 111, 0, 0, 9, 111, 1], &[0x80 | 111, 0, 3, 0xff]] {
            assert_eq!(own_payload(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn two_earlier_payloads_are_laid_out_as_in_the_rfc() {
        let mut red = RedPayload::new(&[7, 8, 9]);
        assert!(red.add(960, &[5, 6]) && red.add(1920, &[4]));
        let mut buffer = RedBuffer::default();
        // 1920 is 0b00_0111_1000_0000 in 14 bits, then the length in 10.
        let expected = [0x80 | 111, 0x1e, 0, 1, 0x80 | 111, 0x0f, 0, 2, 111, 4, 5, 6, 7, 8, 9];
        assert_eq!(buffer.write(&red, 111), Some(expected.as_slice()));
        assert_eq!(red.bytes(), expected.len());
    }

    #[test]
    fn what_cannot_be_said_is_left_out() {
        let long = [1; LENGTH_END];
        for (offset, payload) in [
            (0, &long[..1]),
            (OFFSET_END, &long[..1]),
            (u32::MAX, &long[..1]),
            (960, &long[..0]),
            (960, &long[..]),
        ] {
            let mut red = RedPayload::new(&[1]);
            assert!(!red.add(offset, payload), "{offset}, {} octets", payload.len());
            assert_eq!(red.earlier_payloads(), 0);
        }
        let mut red = RedPayload::new(&long[..500]);
        assert!(red.add(OFFSET_END - 1, &long[..500]));
        assert!(!red.add(OFFSET_END - 1, &long[..92]), "more than a datagram holds");
        assert!(red.add(OFFSET_END - 1, &long[..91]));
        assert!(!red.add(OFFSET_END - 1, &long[..1]), "no more than two");
        assert_eq!(RedBuffer::default().write(&red, 111).unwrap().len(), PAYLOAD_BYTES_MAX);
        assert_eq!(RedBuffer::default().write(&RedPayload::new(&[1; PAYLOAD_BYTES_MAX]), 111), None);
    }

    proptest! {
        #[test]
        fn whatever_is_taken_can_be_read(
            own in prop::collection::vec(any::<u8>(), 0..1200),
            earlier in prop::collection::vec((0..20_000_u32, prop::collection::vec(any::<u8>(), 0..1200)), 0..4),
            payload_type in 0..128_u8,
        ) {
            let mut red = RedPayload::new(&own);
            let mut taken: Vec<(u8, u32, Vec<u8>)> = vec![(payload_type, 0, own.clone())];
            for (offset, payload) in &earlier {
                if red.add(*offset, payload) {
                    taken.insert(0, (payload_type, *offset, payload.clone()));
                }
            }
            let mut buffer = RedBuffer::default();
            match buffer.write(&red, payload_type) {
                Some(written) => {
                    prop_assert_eq!(blocks(written), taken);
                    prop_assert_eq!(written.len(), red.bytes());
                    prop_assert_eq!(own_payload(written), Some(own.as_slice()));
                    prop_assert_eq!(earlier_payloads(written), Some(red.earlier_payloads()));
                }
                None => prop_assert!(own.len() >= PAYLOAD_BYTES_MAX && red.earlier_payloads() == 0),
            }
        }
    }
}
