//! Where a message ends in a stream (RFC 8656, section 12.5; RFC 8489, section 6.2.2): STUN messages say their length,
//! ChannelData messages theirs, and are padded to four bytes.

use crate::stun::{HEADER_BYTES, MAGIC_COOKIE};

/// The longest STUN message that a client of a relay has use for over a stream: a Send indication with the largest
/// datagram. A header that announces more ends the stream.
pub const FRAME_BYTES_MAX: usize = 65_535 + 4 + 64;

/// What a stream's bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of that many bytes, of which all are there; the padding is part of it.
    Complete(usize),
    /// More bytes are needed to tell, or to have all of it.
    Incomplete,
    /// Nothing that a client may send: the stream cannot be understood any further.
    Invalid,
}

/// Tells what the bytes received so far begin with.
pub fn next_frame(bytes: &[u8]) -> Frame {
    let [first, _, length_high, length_low, rest @ ..] = bytes else {
        return match bytes.first() {
            Some(0x80..) => Frame::Invalid,
            _ => Frame::Incomplete,
        };
    };
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    let total = match first {
        0x00..=0x3f => {
            // Whoever speaks another protocol is found out by its first eight bytes.
            let cookie = MAGIC_COOKIE.to_be_bytes();
            let begins = rest.iter().zip(cookie).all(|(found, wanted)| *found == wanted);
            if !length.is_multiple_of(4) || !begins {
                return Frame::Invalid;
            }
            HEADER_BYTES + length
        }
        0x40..=0x7f => 4 + length.next_multiple_of(4),
        _ => return Frame::Invalid,
    };
    match total {
        total if total > FRAME_BYTES_MAX => Frame::Invalid,
        total if total <= bytes.len() => Frame::Complete(total),
        _ => Frame::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_where_they_end() {
        let channel = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40];
        for length in 0..12 {
            assert_eq!(next_frame(&channel[..length]), Frame::Incomplete, "{length} bytes");
        }
        assert_eq!(next_frame(&channel), Frame::Complete(12));
        let mut stun = vec![0, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42];
        stun.resize(24, 7);
        for length in 0..24 {
            assert_eq!(next_frame(&stun[..length]), Frame::Incomplete, "{length} bytes");
        }
        assert_eq!(next_frame(&stun), Frame::Complete(24));
    }

    #[test]
    fn other_protocols_are_found_out() {
        for bytes in [
            &b"\0\x01\0\x04HTTP"[..],
            &[0x16, 3, 1, 2, 0, 1],
            &[0x80; 40],
            b"\0\x01\0\x03",
            b"\0\x01\0\x04!!",
        ] {
            assert_eq!(next_frame(bytes), Frame::Invalid, "{bytes:?}");
        }
        assert_eq!(next_frame(b"\x80"), Frame::Invalid, "the first byte is enough");
        // These could be 21,536 bytes on channel 0x4745.
        assert_eq!(next_frame(b"GET / HTTP/1.1"), Frame::Incomplete);
    }
}
