use proptest::prelude::*;

use super::*;

#[test]
fn a_header_with_everything() {
    let mut packet = vec![0xb2, 0x80 | 96, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8];
    packet.extend([0, 0, 0, 9, 0, 0, 0, 10]);
    packet.extend([0xbe, 0xde, 0, 1, 0x10, 0x61, 0, 0]);
    packet.extend([1, 2, 3, 0, 2]);
    let header = RtpHeader::parse(&packet).unwrap();
    assert_eq!((header.payload_type, header.marker, header.sequence), (96, true, 0x1234));
    assert_eq!((header.timestamp, header.ssrc, header.bytes()), (0x0102_0304, 0x0506_0708, 28));
    assert_eq!(header.csrcs(&packet).collect::<Vec<_>>(), [9, 10]);
    assert_eq!(header.extensions(&packet).collect::<Vec<_>>(), [(1, &b"a"[..])]);
    assert_eq!(header.payload(&packet), Ok(28..31));
}

#[test]
fn t33_padding_must_lie_within_the_payload() {
    let packet = |payload: &[u8]| {
        let mut packet = vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        packet.extend_from_slice(payload);
        packet
    };
    let range = |payload: &[u8]| {
        let packet = packet(payload);
        RtpHeader::parse(&packet).unwrap().payload(&packet)
    };
    assert_eq!(range(&[7, 7, 2]), Ok(12..13));
    assert_eq!(range(&[0, 0, 3]), Ok(12..12), "nothing but padding");
    assert_eq!(range(&[0, 0, 4]), Err(RtpError::Padding { padding: 4, payload: 3 }));
    assert_eq!(range(&[0]), Err(RtpError::Padding { padding: 0, payload: 1 }));
    assert_eq!(range(&[]), Err(RtpError::Padding { padding: 0, payload: 0 }));
}

#[test]
fn what_is_no_rtp_is_refused() {
    assert_eq!(RtpHeader::parse(&[0x80; 11]), Err(RtpError::Truncated));
    assert_eq!(RtpHeader::parse(&[0x40; 12]), Err(RtpError::Version(1)));
    assert_eq!(RtpHeader::parse(&[0x8f; 71]), Err(RtpError::Truncated), "15 CSRCs");
    assert_eq!(RtpHeader::parse(&[0x90; 15]), Err(RtpError::Truncated), "an extension without length");
    assert_eq!(RtpHeader::parse(&vec![0x80; 65_536]), Err(RtpError::TooLong));
}

#[test]
fn written_headers_are_parsed() {
    let fields = HeaderFields {
        payload_type: 111,
        marker: true,
        sequence: 0xfffe,
        timestamp: 0xdead_beef,
        ssrc: 0x1234_5678,
        extended: false,
        padded: false,
    };
    let octets = fields.to_octets();
    let header = RtpHeader::parse(&octets).unwrap();
    assert_eq!((header.payload_type, header.marker, header.sequence), (111, true, 0xfffe));
    assert_eq!((header.timestamp, header.ssrc, header.bytes()), (0xdead_beef, 0x1234_5678, 12));
    assert_eq!(HeaderFields { padded: true, extended: true, ..fields }.to_octets()[0], 0xb0);
}

proptest! {
    #[test]
    fn any_octets_are_parsed_without_panic(mut packet in prop::collection::vec(any::<u8>(), 0..200), valid: bool) {
        if valid && let Some(first) = packet.first_mut() {
            *first = *first & 0x3f | 0x80;
        }
        if let Ok(header) = RtpHeader::parse(&packet) {
            prop_assert!(header.bytes() <= packet.len());
            prop_assert!(header.extensions(&packet).count() <= packet.len());
            prop_assert!(header.csrcs(&packet).count() <= 15);
            if let Ok(payload) = header.payload(&packet) {
                prop_assert!(payload.start == header.bytes() && payload.start <= payload.end);
                prop_assert!(payload.end <= packet.len());
            }
        }
    }

    /// `rtp-types` as an oracle, where both look: it has no opinion on empty payloads that are padded.
    #[test]
    fn as_another_parser_would(mut packet in prop::collection::vec(any::<u8>(), 12..120)) {
        packet[0] = packet[0] & 0x37 | 0x80;
        let ours = RtpHeader::parse(&packet).and_then(|header| Ok((header, header.payload(&packet)?)));
        match (ours, rtp_types::RtpPacket::parse(&packet)) {
            (Ok((header, payload)), Ok(theirs)) => {
                prop_assert_eq!(header.payload_type, theirs.payload_type());
                prop_assert_eq!(header.marker, theirs.marker_bit());
                prop_assert_eq!(header.sequence, theirs.sequence_number());
                prop_assert_eq!(header.timestamp, theirs.timestamp());
                prop_assert_eq!(header.ssrc, theirs.ssrc());
                prop_assert_eq!(&packet[payload], theirs.payload());
                prop_assert_eq!(header.csrcs(&packet).collect::<Vec<_>>(), theirs.csrc().collect::<Vec<_>>());
            }
            (ours, theirs) => prop_assert_eq!(ours.is_err(), theirs.is_err(), "{:?} {:?}", ours, theirs),
        }
    }
}
