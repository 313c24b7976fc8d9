use proptest::prelude::*;

use super::*;

fn map() -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for (id, kind) in (1..).zip(ExtensionKind::ALL) {
        assert!(map.set(id, kind));
    }
    map
}

fn read<'a>(map: &ExtensionMap, block: &'a [u8]) -> Extensions<'a> {
    let form = ExtensionForm::from_profile(u16::from_be_bytes([block[0], block[1]]));
    assert_eq!(usize::from(u16::from_be_bytes([block[2], block[3]])) * 4 + 4, block.len());
    Extensions::read(map, ExtensionBlock::new(form, &block[4..]))
}

#[test]
fn every_value_survives_a_round_trip() {
    let capture = CaptureTime { ntp: 0x0123_4567_89ab_cdef, clock_offset: Some(-7) };
    let (capture_octets, capture_bytes) = capture.to_octets();
    let delay = PlayoutDelay { min_10ms: 0xabc, max_10ms: 0x123 };
    let elements = [
        Element { id: 1, value: b"v0" },
        Element { id: 2, value: b"q" },
        Element { id: 3, value: b"h" },
        Element { id: 4, value: &[0xab, 0xcd] },
        Element { id: 5, value: &SendTime(0x12_3456).to_octets() },
        Element { id: 6, value: &capture_octets[..capture_bytes] },
        Element { id: 7, value: &[AudioLevel { attenuation: 17, voice: true }.to_octet()] },
        Element { id: 8, value: &[3] },
        Element { id: 9, value: &delay.to_octets() },
        Element { id: 10, value: &[0x80, 1, 2] },
        Element { id: 11, value: &[9, 9] },
    ];
    let expected = Extensions {
        mid: Some("v0"),
        rid: Some("q"),
        repaired_rid: Some("h"),
        transport_sequence: Some(0xabcd),
        send_time: Some(SendTime(0x12_3456)),
        capture_time: Some(capture),
        audio_level: Some(AudioLevel { attenuation: 17, voice: true }),
        orientation: Some(VideoOrientation(3)),
        playout_delay: Some(delay),
        dependency_descriptor: Some(&[0x80, 1, 2]),
        layers_allocation: Some(&[9, 9]),
    };
    let mut out = [0xff; 256];
    let bytes = write_elements(&mut out, &elements).unwrap();
    assert_eq!(out[..2], [0xbe, 0xde]);
    assert_eq!(read(&map(), &out[..bytes]), expected);

    // The same in the two-byte form, because one element is too long for the other.
    let long = [5; 60];
    let mut elements = elements;
    elements[9].value = &long;
    let bytes = write_elements(&mut out, &elements).unwrap();
    assert_eq!(out[..2], [0x10, 0x00]);
    assert_eq!(read(&map(), &out[..bytes]), Extensions { dependency_descriptor: Some(&long), ..expected });
}

#[test]
fn the_form_follows_from_what_must_fit() {
    let mut out = [0; 300];
    assert_eq!(write_elements(&mut out, &[]), Ok(0));
    assert_eq!(write_elements(&mut out, &[Element { id: 14, value: &[0; 16] }]), Ok(24));
    assert_eq!(out[..5], [0xbe, 0xde, 0, 5, 0xef]);
    assert_eq!(write_elements(&mut out, &[Element { id: 16, value: &[7] }]), Ok(8));
    assert_eq!(out[..8], [0x10, 0, 0, 1, 16, 1, 7, 0]);
    assert_eq!(write_elements(&mut out, &[Element { id: 1, value: &[] }]), Ok(8));
    assert_eq!(out[..8], [0x10, 0, 0, 1, 1, 0, 0, 0]);
    assert_eq!(
        write_elements(&mut out, &[Element { id: 1, value: &[0; 256] }]),
        Err(ExtensionError::Element)
    );
    assert_eq!(write_elements(&mut out, &[Element { id: 0, value: &[0] }]), Err(ExtensionError::Element));
    assert_eq!(
        write_elements(&mut out[..6], &[Element { id: 1, value: &[0; 3] }]),
        Err(ExtensionError::Bounds)
    );
}

#[test]
fn ids_mean_one_thing() {
    let mut map = ExtensionMap::default();
    assert!(map.set(3, ExtensionKind::Mid));
    assert!(map.set(3, ExtensionKind::Rid), "the id is given anew");
    assert_eq!((map.id(ExtensionKind::Mid), map.id(ExtensionKind::Rid)), (None, Some(3)));
    assert!(map.set(200, ExtensionKind::Rid), "the kind moves");
    assert_eq!((map.kind(3), map.kind(200)), (None, Some(ExtensionKind::Rid)));
    assert!(!map.set(0, ExtensionKind::Mid) && !map.set(15, ExtensionKind::Mid));
    for kind in ExtensionKind::ALL {
        assert_eq!(ExtensionKind::from_uri(kind.uri()), Some(kind));
    }
}

#[test]
fn t37_a_second_or_malformed_value_changes_nothing() {
    let mut out = [0; 64];
    let elements = [
        Element { id: 1, value: b"a b" },
        Element { id: 1, value: b"v0" },
        Element { id: 1, value: b"v1" },
        Element { id: 4, value: &[1] },
        Element { id: 7, value: &[1, 2, 3] },
    ];
    let bytes = write_elements(&mut out, &elements).unwrap();
    assert_eq!(read(&map(), &out[..bytes]), Extensions { mid: Some("v0"), ..Extensions::default() });
}

#[test]
fn blocks_end_where_the_rfc_says() {
    let skipped: Vec<_> =
        ExtensionBlock::new(ExtensionForm::OneByte, &[0, 0x10, 7, 0x02, 1, 2, 3, 0x20, 8, 0xf0, 9]).collect();
    assert_eq!(skipped, [(1, &[7u8][..]), (2, &[8][..])], "an id of 0 with a length is skipped whole");
    let stop: Vec<_> = ExtensionBlock::new(ExtensionForm::OneByte, &[0x10, 7, 0xf0, 0x20, 8]).collect();
    assert_eq!(stop, [(1, &[7u8][..])]);
    let truncated: Vec<_> = ExtensionBlock::new(ExtensionForm::TwoByte, &[1, 1, 7, 0, 2, 9, 1]).collect();
    assert_eq!(truncated, [(1, &[7u8][..])]);
    assert_eq!(ExtensionBlock::new(ExtensionForm::Other(1), &[0x10, 7]).count(), 0);
    assert_eq!(ExtensionBlock::new(ExtensionForm::Other(1), &[0, 0]).count(), 0);
}

proptest! {
    #[test]
    fn any_block_is_read_without_panic(
        profile in prop_oneof![Just(0xbedeu16), 0x1000u16..0x1010, any::<u16>()],
        data in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let form = ExtensionForm::from_profile(profile);
        let octets: usize = ExtensionBlock::new(form, &data).map(|(_, value)| value.len()).sum();
        prop_assert!(octets <= data.len());
        let _ = Extensions::read(&map(), ExtensionBlock::new(form, &data));
    }

    #[test]
    fn what_is_written_is_read(
        elements in prop::collection::vec((1u8..=255, prop::collection::vec(any::<u8>(), 0..40)), 1..10),
    ) {
        let elements: Vec<_> = elements.iter().map(|(id, value)| Element { id: *id, value }).collect();
        let mut out = [0xaa; 1024];
        let bytes = write_elements(&mut out, &elements).unwrap();
        let form = ExtensionForm::from_profile(u16::from_be_bytes([out[0], out[1]]));
        let read: Vec<_> = ExtensionBlock::new(form, &out[4..bytes]).collect();
        let written: Vec<_> = elements.iter().map(|element| (element.id, element.value)).collect();
        prop_assert_eq!(read, written);
    }
}
