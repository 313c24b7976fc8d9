//! SRTP and SRTCP: what we did not seal is not opened.

use zynk_sfu_core::media::{
    rtp::{FIXED_HEADER_BYTES, HeaderFields},
    srtp::{DtlsRole, KeyingMaterial, Opener, Profile, SRTCP_INDEX_SHARED, Sealer},
};

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];
const PAYLOAD_BYTES: usize = 32;
const SSRC: u32 = 0x5eed;

/// Opens arbitrary octets, then a packet sealed by us that the input changes. The first octet picks the profile.
pub fn srtp(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let Some(profile) = PROFILES.get(usize::from(*choice) % PROFILES.len()).copied() else { return };
    let Some((mut opener, mut sealer)) = session(profile) else { panic!("no session") };
    // libFuzzer sees the comparisons below and may hand in the very packet that is sealed here.
    let Some((mut stranger, _)) = session(profile) else { panic!("no session") };
    let by_stranger = (stranger.open_rtp(&mut data.to_vec()), stranger.open_rtcp(&mut data.to_vec()));

    let header = HeaderFields {
        payload_type: 96,
        marker: true,
        sequence: 7,
        timestamp: 9,
        ssrc: SSRC,
        extended: false,
        padded: false,
    };
    let mut clear = header.to_octets().to_vec();
    clear.extend_from_slice(&[0xa5; PAYLOAD_BYTES]);
    let mut sealed = clear.clone();
    sealed.resize(clear.len() + profile.rtp_overhead_bytes(), 0);
    let Ok(mut stream) = sealer.stream(SSRC) else { panic!("the stream is free") };
    let result = sealer.seal_rtp(&mut stream, &mut sealed, FIXED_HEADER_BYTES, clear.len(), 7);
    assert_eq!(result, Ok(sealed.len()));
    assert!(by_stranger.0.is_err() || data == sealed, "opened forged RTP");
    let mut changed = change(&sealed, data);
    let is_same = changed == sealed;
    let opened = opener.open_rtp(&mut changed);
    assert_eq!(opened.is_ok(), is_same, "a changed packet was opened, or a good one refused");
    if let Ok(opened) = opened {
        assert_eq!(changed.get(..opened.payload.end), Some(clear.as_slice()));
        assert!(opener.open_rtp(&mut sealed).is_err(), "replayed");
    }

    // A receiver report without blocks, and 8 octets that are encrypted.
    let clear = [0x81, 201, 0, 3, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut sealed = clear.to_vec();
    sealed.resize(clear.len() + profile.rtcp_overhead_bytes(), 0);
    assert_eq!(sealer.seal_rtcp(&mut sealed, clear.len()), Ok(sealed.len()));
    assert!(by_stranger.1.is_err() || data == sealed, "opened forged RTCP");
    let mut changed = change(&sealed, data);
    let is_same = changed == sealed;
    let opened = opener.open_rtcp(&mut changed);
    assert_eq!(opened.is_ok(), is_same, "a changed packet was opened, or a good one refused");
    if let Ok(opened) = opened {
        assert_eq!(changed.get(..opened.bytes), Some(clear.as_slice()));
    }
}

/// Our opener for what the peer seals, and the peer's sealer.
fn session(profile: Profile) -> Option<(Opener, Sealer)> {
    let exported = vec![0x42; profile.keying_material_bytes()];
    let material = KeyingMaterial::new(profile, &exported).ok()?;
    let (opener, _) = material.session(DtlsRole::Server, SRTCP_INDEX_SHARED).ok()?;
    let (_, sealer) = material.session(DtlsRole::Client, SRTCP_INDEX_SHARED).ok()?;
    Some((opener, sealer))
}

/// Pairs of place and mask; a place beyond the end cuts or lengthens the packet.
fn change(packet: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut changed = packet.to_vec();
    for [place, mask] in edits.as_chunks::<2>().0 {
        match changed.get_mut(usize::from(*place)) {
            Some(octet) => *octet ^= mask,
            None if mask & 1 == 0 => {
                changed.pop();
            }
            None => changed.push(*mask),
        }
    }
    changed
}
