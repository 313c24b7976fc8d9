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
    found.then(|| with_checksum(forged))
}

fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[8..12].fill(0);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// `packet` with each of its chunks of a type changed; none if it has no such chunk.
fn with_chunks(packet: &[u8], kind: u8, change: impl Fn(&mut [u8])) -> Option<Vec<u8>> {
    let (mut forged, mut at, mut found) = (packet.to_vec(), HEADER_BYTES, false);
    while let Some(&[known, _, high, low]) = packet.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if known == kind {
            change(forged.get_mut(at..at + length)?);
            found = true;
        }
        at += length.next_multiple_of(4).max(4);
    }
    found.then(|| with_checksum(forged))
}

/// `packet`, whose sender says that it has no room for more (section 3.3.4).
pub fn with_closed_window(packet: &[u8]) -> Option<Vec<u8>> {
    with_chunks(packet, 3, |sack| sack[8..12].fill(0))
}

/// `packet` with messages that go on for ever: no fragment is the last (section 3.3.1).
pub fn with_endless_messages(packet: &[u8]) -> Option<Vec<u8>> {
    with_chunks(packet, 0, |data| data[1] &= !1)
}

/// `packet` and a request to reset these streams (RFC 6525, sections 3.1 and 4.1), with this number.
pub fn with_reset(packet: &[u8], number: u32, streams: &[u16]) -> Vec<u8> {
    let parameter_bytes = (16 + 2 * streams.len()) as u16;
    let mut forged = packet.to_vec();
    forged.extend_from_slice(&[130, 0]);
    forged.extend_from_slice(&(4 + parameter_bytes).to_be_bytes());
    forged.extend_from_slice(&[0, 13]);
    forged.extend_from_slice(&parameter_bytes.to_be_bytes());
    for field in [number, 0, 0] {
        forged.extend_from_slice(&field.to_be_bytes());
    }
    streams.iter().for_each(|stream| forged.extend_from_slice(&stream.to_be_bytes()));
    forged.resize(forged.len().next_multiple_of(4), 0);
    with_checksum(forged)
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
