use proptest::prelude::*;

use super::{
    aes_cm_hmac::AesCmHmac,
    gcm::Gcm,
    keys::{SessionKeys, derive},
    transform::Transform,
    *,
};
use crate::media::rtp::HeaderFields;

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn to_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn keying(profile: Profile) -> KeyingMaterial {
    let octets: Vec<u8> = (0..profile.keying_material_bytes()).map(|i| (i * 7) as u8).collect();
    KeyingMaterial::new(profile, &octets).unwrap()
}

/// A client's sealer and the server's opener for it.
fn pair(profile: Profile) -> (Sealer, Opener) {
    let material = keying(profile);
    let (_, sealer) = material.session(DtlsRole::Client, 0).unwrap();
    let (opener, _) = material.session(DtlsRole::Server, 0).unwrap();
    (sealer, opener)
}

fn header(sequence: u16, ssrc: u32) -> [u8; 12] {
    let fields = HeaderFields {
        payload_type: 96,
        marker: false,
        sequence,
        timestamp: 90_000,
        ssrc,
        extended: false,
        padded: false,
    };
    fields.to_octets()
}

fn seal(sealer: &Sealer, stream: &mut SealStream, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = header(index as u16, stream.ssrc()).to_vec();
    packet.extend_from_slice(payload);
    let end = packet.len();
    packet.resize(end + RTP_OVERHEAD_BYTES_MAX, 0);
    let bytes = sealer.seal_rtp(stream, &mut packet, 12, end, index).unwrap();
    packet.truncate(bytes);
    packet
}

// ---------------------------------------------------------------- vectors

/// A session whose keys for both kinds are one transform, as the vectors of RFC 7714 have it.
fn gcm_session(key: &str) -> (Sealer, Opener, SealStream) {
    let profile = if key.len() == 64 { Profile::AeadAes256Gcm } else { Profile::AeadAes128Gcm };
    let transform = || Transform::Gcm(Gcm::new(&hex(key), b"Quid pro quo").unwrap());
    let keys = || SessionKeys { rtp: transform(), rtcp: transform() };
    let mut sealer = Sealer::new(profile, keys(), 0x5d4);
    let stream = sealer.stream(0x5501_a0b2).unwrap();
    (sealer, Opener::new(profile, keys()), stream)
}

const KEY_128: &str = "000102030405060708090a0b0c0d0e0f";
const KEY_256: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const RTP_HEADER: &str = "8040f17b8041f8d35501a0b2";

#[test]
fn rfc_7714_section_16_rtp() {
    let vectors = [
        (
            KEY_128,
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            KEY_256,
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (key, protected) in vectors {
        let (sealer, mut opener, mut stream) = gcm_session(key);
        let payload = b"Gallia est omnis divisa in partes tres";
        let mut packet = hex(RTP_HEADER);
        packet.extend_from_slice(payload);
        let mut buffer = packet.clone();
        buffer.resize(packet.len() + 16, 0);
        let bytes = sealer.seal_rtp(&mut stream, &mut buffer, 12, packet.len(), 0xf17b).unwrap();
        assert_eq!(bytes, buffer.len());
        assert_eq!(to_hex(&buffer), format!("{RTP_HEADER}{protected}"));

        let opened = opener.open_rtp(&mut buffer).unwrap();
        assert_eq!((opened.index, opened.payload.clone()), (0xf17b, 12..packet.len()));
        assert_eq!(&buffer[opened.payload], payload);
    }
}

#[test]
fn rfc_7714_section_17_rtcp() {
    let plain = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
    let vectors = [
        (
            KEY_128,
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        ),
        (
            KEY_256,
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        ),
    ];
    for (key, protected) in vectors {
        let (mut sealer, mut opener, _) = gcm_session(key);
        let mut buffer = hex(plain);
        let end = buffer.len();
        buffer.resize(end + RTCP_OVERHEAD_BYTES_MAX, 0);
        assert_eq!(sealer.seal_rtcp(&mut buffer, end), Ok(end + 20));
        assert_eq!(to_hex(&buffer), protected);
        assert_eq!(opener.open_rtcp(&mut buffer), Ok(OpenedRtcp { index: 0x5d4, bytes: end }));
        assert_eq!(to_hex(&buffer[..end]), plain);
    }
    // Section 17.3: authenticated, not encrypted.
    let mut tagged = hex(plain);
    tagged.extend(hex("841dd9683dd78ec92ae58790125f62b3000005d4"));
    let (_, mut opener, _) = gcm_session(KEY_128);
    assert_eq!(opener.open_rtcp(&mut tagged), Err(OpenError::NotEncrypted));
}

#[test]
fn rfc_3711_appendix_b_2_key_stream() {
    let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
    let cm = AesCmHmac::new(&key, &hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd"), &[0; 20]).unwrap();
    let mut stream = vec![0; 0xff02 * 16];
    cm.apply_key_stream(0, 0, &mut stream).unwrap();
    assert_eq!(
        to_hex(&stream[..48]),
        "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0"
    );
    assert_eq!(
        to_hex(&stream[0xfeff * 16..]),
        "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44"
    );
}

#[test]
fn rfc_3711_appendix_b_3_key_derivation() {
    let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
    let salt = hex("0ec675ad498afeebb6960b3aabe6");
    let derived = |label, bytes: usize| {
        let mut out = vec![0xff; bytes];
        derive(Profile::Aes128CmHmacSha1_80, &key, &salt, label, &mut out).unwrap();
        to_hex(&out)
    };
    assert_eq!(derived(0, 16), "c61e7a93744f39ee10734afe3ff7a087");
    assert_eq!(derived(2, 14), "30cbbc08863d8c85d49db34a9ae1");
    assert_eq!(derived(1, 20), "cebe321f6ff7716b6fd4ab49af256a156d38baa4");
}

#[test]
fn rfc_6188_section_7_key_derivation_with_256_bits() {
    let key = hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6");
    let salt = hex("3b04803de51ee7c96423ab5b78d2");
    let derived = |label, bytes: usize| {
        let mut out = vec![0; bytes];
        derive(Profile::AeadAes256Gcm, &key, &salt, label, &mut out).unwrap();
        to_hex(&out)
    };
    assert_eq!(derived(0, 32), "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4");
    assert_eq!(derived(2, 14), "fa31791685ca444a9e07c6c64e93");
    assert_eq!(derived(1, 20), "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05");
}

/// Reference packets of libsrtp's test driver: from master key to protected packet.
#[test]
fn reference_packets_of_libsrtp() {
    let vectors = [
        (
            Profile::Aes128CmHmacSha1_80,
            "e1f97a0d3e018be0d64fa32c06de4139",
            "0ec675ad498afeebb6960b3aabe6",
            "4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb",
            "7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798",
        ),
        (
            Profile::AeadAes128Gcm,
            "000102030405060708090a0b0c0d0e0f",
            "a0a1a2a3a4a5a6a7a8a9aaab",
            "c5002ede04cfdd2eb91159e0880aa06ed2976826f796b201df3131a127e8a392",
            "c98b8b5df0392a55852b6c21ac8e7025c52c6fbea2b3b446ea31123ba88ce61e80000001",
        ),
    ];
    for (profile, key, salt, rtp, rtcp) in vectors {
        let keys = SessionKeys::derive(profile, &hex(key), &hex(salt)).unwrap();
        let mut sealer = Sealer::new(profile, keys, 1);
        let mut stream = sealer.stream(0xcafe_babe).unwrap();
        let mut buffer = hex("800f1234decafbadcafebabe");
        buffer.extend([0xab; 16]);
        buffer.resize(28 + profile.rtp_overhead_bytes(), 0);
        sealer.seal_rtp(&mut stream, &mut buffer, 12, 28, 0x1234).unwrap();
        assert_eq!(to_hex(&buffer[12..]), rtp, "{profile:?}");

        let mut buffer = hex("81c8000bcafebabe");
        buffer.extend([0xab; 16]);
        buffer.resize(24 + profile.rtcp_overhead_bytes(), 0);
        sealer.seal_rtcp(&mut buffer, 24).unwrap();
        assert_eq!(to_hex(&buffer[8..]), rtcp, "{profile:?}");
    }
}

// ---------------------------------------------------------------- sessions

#[test]
fn both_roles_understand_each_other() {
    for profile in PROFILES {
        let material = keying(profile);
        let (mut client_opener, mut client_sealer) = material.session(DtlsRole::Client, 0).unwrap();
        let (mut server_opener, mut server_sealer) = material.session(DtlsRole::Server, 0).unwrap();
        for (sealer, opener) in
            [(&mut client_sealer, &mut server_opener), (&mut server_sealer, &mut client_opener)]
        {
            let mut stream = sealer.stream(7).unwrap();
            let mut packet = seal(sealer, &mut stream, 100, b"hello");
            assert_eq!(packet.len(), 12 + 5 + profile.rtp_overhead_bytes());
            let mut reflected = packet.clone();
            let opened = opener.open_rtp(&mut packet).unwrap();
            assert_eq!(&packet[opened.payload], b"hello");
            assert_eq!((opened.index, opened.header.payload_type), (100, 96));

            let mut report = hex("80c9000100000007");
            report.resize(8 + RTCP_OVERHEAD_BYTES_MAX, 0);
            let bytes = sealer.seal_rtcp(&mut report, 8).unwrap();
            assert_eq!(bytes, 8 + profile.rtcp_overhead_bytes());
            assert_eq!(opener.open_rtcp(&mut report[..bytes]), Ok(OpenedRtcp { index: 0, bytes: 8 }));
            assert_eq!(opener.open_rtp(&mut reflected), Err(OpenError::Replayed));
        }
    }
}

#[test]
fn t37_ones_own_packets_do_not_come_back() {
    for profile in PROFILES {
        let (mut opener, mut sealer) = keying(profile).session(DtlsRole::Server, 0).unwrap();
        let mut stream = sealer.stream(7).unwrap();
        let mut packet = seal(&sealer, &mut stream, 1, b"to the client");
        assert_eq!(opener.open_rtp(&mut packet), Err(OpenError::Authentication));
    }
}

#[test]
fn keying_material_has_its_length() {
    for profile in PROFILES {
        let expected = profile.keying_material_bytes();
        for actual in [0, expected - 1, expected + 1] {
            let error = KeyingMaterial::new(profile, &vec![0; actual]).unwrap_err();
            assert_eq!(error, KeyError::Length { expected, actual });
        }
        assert_eq!(Profile::from_id(profile.id()), Some(profile));
    }
    assert_eq!(Profile::from_id(2), None, "the 32-bit tag");
    assert!(!format!("{:?}", keying(Profile::AeadAes128Gcm)).contains("14"), "no key in the log");
}

#[test]
fn sequence_numbers_roll_over() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let mut stream = sealer.stream(1).unwrap();
        // Three rollovers, in order, with the odd gap.
        for index in (65_000..200_000u64).step_by(97) {
            let mut packet = seal(&sealer, &mut stream, index, &index.to_be_bytes());
            let opened = opener.open_rtp(&mut packet).unwrap();
            assert_eq!(opened.index, index);
            assert_eq!(packet[opened.payload], index.to_be_bytes());
        }
    }
}

#[test]
fn late_packets_around_a_rollover_are_opened_once() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let mut stream = sealer.stream(1).unwrap();
        for index in [65_530u64, 65_540, 65_535, 65_536, 65_531, 66_000, 65_534] {
            let packet = seal(&sealer, &mut stream, index, b"x");
            assert_eq!(opener.open_rtp(&mut packet.clone()).unwrap().index, index);
            assert_eq!(opener.open_rtp(&mut packet.clone()), Err(OpenError::Replayed));
        }
        // Out of the window of 1024.
        let old = seal(&sealer, &mut stream, 65_537, b"x");
        let newest = seal(&sealer, &mut stream, 65_537 + 1024, b"x");
        opener.open_rtp(&mut newest.clone()).unwrap();
        assert_eq!(opener.open_rtp(&mut old.clone()), Err(OpenError::Replayed));
    }
}

#[test]
fn t04_forged_packets_leave_no_trace() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let mut stream = sealer.stream(1).unwrap();
        let genuine = seal(&sealer, &mut stream, 10, b"genuine");
        for bit in 0..genuine.len() * 8 {
            let mut forged = genuine.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open_rtp(&mut forged).is_err(), "bit {bit}");
        }
        // A forged far-away sequence number did not move the rollover counter or the window.
        for sequence in (0..=u16::MAX).step_by(1000) {
            let mut forged = header(sequence, 1).to_vec();
            forged.extend([0; 40]);
            assert_eq!(opener.open_rtp(&mut forged), Err(OpenError::Authentication));
        }
        assert_eq!(opener.open_rtp(&mut genuine.clone()).unwrap().index, 10);

        let mut report = hex("80c9000100000001");
        report.resize(28, 0);
        let bytes = sealer.seal_rtcp(&mut report, 8).unwrap();
        report.truncate(bytes);
        for bit in 0..report.len() * 8 {
            let mut forged = report.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open_rtcp(&mut forged).is_err(), "bit {bit}");
        }
        assert!(opener.open_rtcp(&mut report).is_ok());
    }
}

#[test]
fn t37_rtcp_is_not_replayed() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let mut packets = Vec::new();
        for _ in 0..200 {
            let mut report = hex("80c9000100000007");
            report.resize(28, 0);
            let bytes = sealer.seal_rtcp(&mut report, 8).unwrap();
            report.truncate(bytes);
            packets.push(report);
        }
        // Another of the peer's sources counts for itself, as libsrtp does.
        packets[150..].iter().for_each(|packet| assert!(opener.open_rtcp(&mut packet.clone()).is_ok()));
        assert_eq!(opener.open_rtcp(&mut packets[150].clone()), Err(OpenError::Replayed));
        assert_eq!(opener.open_rtcp(&mut packets[71].clone()), Err(OpenError::Replayed), "128 old");
        assert_eq!(opener.open_rtcp(&mut packets[72].clone()).unwrap().index, 72);
    }
}

#[test]
fn an_index_is_sealed_once() {
    let (mut sealer, _) = pair(Profile::AeadAes128Gcm);
    let mut stream = sealer.stream(1).unwrap();
    assert_eq!(sealer.stream(1).unwrap_err(), SealError::SsrcTaken);
    let mut buffer = [0; 64];
    for index in [5000, 5002, 5001] {
        assert!(stream.is_free(index));
        assert!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 20, index).is_ok());
    }
    for index in [5000, 5001, 5002, 5002 - 1024] {
        assert!(!stream.is_free(index));
        assert_eq!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 20, index), Err(SealError::IndexUsed));
        assert_eq!(
            sealer.seal_rtp_from(&mut stream, &mut buffer, 12, b"x", index),
            Err(SealError::IndexUsed)
        );
    }
}

#[test]
fn a_session_ends_with_its_indices() {
    let material = keying(Profile::AeadAes256Gcm);
    let (_, mut sealer) = material.session(DtlsRole::Client, SRTCP_INDEX_MAX).unwrap();
    let mut report = hex("80c9000100000007");
    report.resize(28, 0);
    assert_eq!(sealer.seal_rtcp(&mut report, 8), Ok(28));
    assert_eq!(report[24..], [0xff; 4]);
    assert_eq!(sealer.seal_rtcp(&mut report, 8), Err(SealError::IndexExhausted));

    let mut stream = sealer.stream(9).unwrap();
    let mut buffer = [0; 64];
    assert!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 20, RTP_INDEX_MAX).is_ok());
    assert_eq!(
        sealer.seal_rtp(&mut stream, &mut buffer, 12, 20, RTP_INDEX_MAX + 1),
        Err(SealError::IndexExhausted)
    );
}

#[test]
fn bounds_are_checked() {
    for profile in PROFILES {
        let (mut sealer, _) = pair(profile);
        let mut stream = sealer.stream(1).unwrap();
        let mut buffer = [0; 40];
        assert_eq!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 39, 1), Err(SealError::Bounds));
        assert_eq!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 99, 2), Err(SealError::Bounds));
        assert_eq!(sealer.seal_rtp(&mut stream, &mut buffer, 12, 11, 3), Err(SealError::Bounds));
        assert_eq!(sealer.seal_rtp_from(&mut stream, &mut buffer, 12, &[0; 28], 4), Err(SealError::Bounds));
        assert!((1..5).all(|index| stream.is_free(index)), "no index is spent");
        assert_eq!(sealer.seal_rtcp(&mut buffer, 7), Err(SealError::Bounds));
        assert_eq!(sealer.seal_rtcp(&mut buffer, 39), Err(SealError::Bounds));
        assert_eq!(sealer.seal_rtcp(&mut buffer, 99), Err(SealError::Bounds));
    }
}

#[test]
fn wrong_padding_is_refused_after_authentication() {
    let (mut sealer, mut opener) = pair(Profile::AeadAes128Gcm);
    let mut stream = sealer.stream(1).unwrap();
    let mut packet = header(3, 1).to_vec();
    packet[0] |= 0x20;
    packet.extend([1, 2, 200]);
    packet.resize(15 + 16, 0);
    sealer.seal_rtp(&mut stream, &mut packet, 12, 15, 3).unwrap();
    assert!(matches!(opener.open_rtp(&mut packet), Err(OpenError::Rtp(_))));
}

proptest! {
    #[test]
    fn any_datagram_is_refused_without_panic(
        packet in prop::collection::vec(any::<u8>(), 0..200),
        profile in prop::sample::select(PROFILES.to_vec()),
        valid: bool,
    ) {
        let (_, mut opener) = pair(profile);
        let mut rtp = packet.clone();
        if valid && let Some(first) = rtp.first_mut() {
            *first = *first & 0x3f | 0x80;
        }
        prop_assert!(opener.open_rtp(&mut rtp).is_err());
        let mut rtcp = packet;
        if let Some(last) = rtcp.len().checked_sub(4).filter(|_| valid) {
            rtcp[last] |= 0x80;
        }
        prop_assert!(opener.open_rtcp(&mut rtcp).is_err());
    }

    #[test]
    fn what_is_sealed_opens(
        payload in prop::collection::vec(any::<u8>(), 0..1300),
        index in 0u64..0x8000,
        ssrc: u32,
        profile in prop::sample::select(PROFILES.to_vec()),
    ) {
        let (mut sealer, mut opener) = pair(profile);
        let mut stream = sealer.stream(ssrc).unwrap();
        let mut in_place = seal(&sealer, &mut stream, index, &payload);

        let mut other = SealStream::clone_for_test(&stream);
        let mut scattered = header(index as u16, ssrc).to_vec();
        scattered.resize(12 + payload.len() + profile.rtp_overhead_bytes(), 0);
        let bytes = sealer.seal_rtp_from(&mut other, &mut scattered, 12, &payload, index).unwrap();
        prop_assert_eq!(bytes, scattered.len());
        prop_assert_eq!(&scattered, &in_place, "both ways of sealing agree");

        let opened = opener.open_rtp(&mut in_place).unwrap();
        prop_assert_eq!(opened.index, index);
        prop_assert_eq!(&in_place[opened.payload], &payload[..]);
    }
}
