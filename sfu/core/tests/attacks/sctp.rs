//! SCTP packets (RFC 9260) that no honest client sends.

/// Of a packet before its first chunk.
const HEADER_BYTES: usize = 12;
/// Of a DATA chunk before its payload.
const DATA_BYTES: usize = 16;
/// Payload protocol of messages that open a data channel (RFC 8832, section 8.1).
const OPENING: [u8; 4] = [0, 0, 0, 50];

/// `packet` with `message` in place of the one that opens a data channel; none if it has no such message.
pub fn with_open(packet: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let (mut forged, mut at, mut found) = (packet.get(..HEADER_BYTES)?.to_vec(), HEADER_BYTES, false);
    while let Some(&[kind, flags, high, low]) = packet.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let chunk = packet.get(at..at + length)?;
        // An OPEN, not an ACK.
        let opens = kind == 0 && chunk.get(12..DATA_BYTES) == Some(&OPENING) && chunk.get(16) == Some(&3);
        if opens {
            let length = (DATA_BYTES + message.len()) as u16;
            forged.extend_from_slice(&[kind, flags]);
            forged.extend_from_slice(&length.to_be_bytes());
            forged.extend_from_slice(&chunk[4..DATA_BYTES]);
            forged.extend_from_slice(message);
        } else {
            forged.extend_from_slice(chunk);
        }
        forged.resize(forged.len().next_multiple_of(4), 0);
        at += length.next_multiple_of(4);
        found |= opens;
    }
    forged[8..12].fill(0);
    let checksum = crc32c(&forged);
    forged[8..12].copy_from_slice(&checksum.to_le_bytes());
    found.then_some(forged)
}

/// The checksum of RFC 9260, appendix A.
fn crc32c(octets: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !octets.iter().fold(!0, |crc, octet| (0..8).fold(crc ^ u32::from(*octet), step))
}

#[test]
fn the_checksum_is_that_of_the_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
