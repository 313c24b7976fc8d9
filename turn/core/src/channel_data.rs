//! ChannelData messages (RFC 8656, section 12.4): four bytes before the data of a peer.

/// Bytes before the data.
pub const CHANNEL_HEADER_BYTES: usize = 4;

/// A channel's number: 0x4000 to 0x7fff. RFC 8656 (section 12) leaves the numbers from 0x5000 on to other protocols that
/// share a socket; clients of its predecessor (RFC 5766, section 11), coturn's among them, use them, and nothing else
/// shares a socket with the relay's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// A number that may be bound; none for any other.
    pub fn new(number: u16) -> Option<Self> {
        (0x4000..=0x7fff).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The value of CHANNEL-NUMBER: the number, and two bytes of nothing.
    pub(crate) fn from_value(value: &[u8]) -> Option<Self> {
        let [high, low, _, _] = value else { return None };
        Self::new(u16::from_be_bytes([*high, *low]))
    }
}

/// Reads a message: the channel and the data. What follows the data is padding; a message may lack it (it must over
/// UDP's like, section 12.5). None if it is no such message, or its data is not all there.
pub fn parse_channel_data(bytes: &[u8]) -> Option<(ChannelNumber, &[u8])> {
    let [number_high, number_low, length_high, length_low, rest @ ..] = bytes else { return None };
    let number = ChannelNumber::new(u16::from_be_bytes([*number_high, *number_low]))?;
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    Some((number, rest.get(..length)?))
}

/// The header before `data` on a channel. Data is never longer than a datagram.
pub(crate) fn channel_header(number: ChannelNumber, data: &[u8]) -> [u8; CHANNEL_HEADER_BYTES] {
    let [number_high, number_low] = number.get().to_be_bytes();
    let [length_high, length_low] = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
    [number_high, number_low, length_high, length_low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_may_be_padded_but_not_cut() {
        let number = ChannelNumber::new(0x4001).unwrap();
        let mut bytes = channel_header(number, b"hello").to_vec();
        bytes.extend_from_slice(b"hello");
        assert_eq!(parse_channel_data(&bytes), Some((number, &b"hello"[..])));
        bytes.extend_from_slice(&[0; 3]);
        assert_eq!(parse_channel_data(&bytes), Some((number, &b"hello"[..])));
        for length in 0..9 {
            assert_eq!(parse_channel_data(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn only_numbers_of_channels_are_channels() {
        for number in [0, 0x3fff, 0x8000, 0xffff] {
            assert_eq!(ChannelNumber::new(number), None);
        }
        assert!(ChannelNumber::new(0x4000).is_some() && ChannelNumber::new(0x7fff).is_some());
    }
}
