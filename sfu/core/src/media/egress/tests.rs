use proptest::prelude::*;

use super::*;
use crate::media::extensions::{
    AudioLevel, CaptureTime, ExtensionForm, ExtensionKind, Extensions, PlayoutDelay, VideoOrientation,
};
use crate::media::srtp::{DtlsRole, KeyingMaterial, OpenedRtp, Opener, Profile};
use crate::media::store::{FrameInfo, PacketInfo, PacketStore, StoreConfig};

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

/// A server's sender, its client's receiver, and a store with packets.
struct Bench {
    sealer: Sealer,
    opener: Opener,
    map: ExtensionMap,
    store: PacketStore,
    stream: EgressStream,
}

fn map(ids: impl IntoIterator<Item = (u8, ExtensionKind)>) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    ids.into_iter().for_each(|(id, kind)| assert!(map.set(id, kind)));
    map
}

fn bench_with(map: ExtensionMap, profile: Profile, rtx_config: RtxConfig) -> Bench {
    bench_of(map, true, profile, rtx_config)
}

fn bench_of(map: ExtensionMap, mixed_forms: bool, profile: Profile, rtx_config: RtxConfig) -> Bench {
    let octets: Vec<u8> = (0..profile.keying_material_bytes()).map(|n| n as u8).collect();
    let material = KeyingMaterial::new(profile, &octets).unwrap();
    let (_, mut sealer) = material.session(DtlsRole::Server, 0).unwrap();
    let (opener, _) = material.session(DtlsRole::Client, 0).unwrap();
    let config = EgressConfig {
        mid: "v1",
        extensions: &map,
        mixed_forms,
        ssrc: 1000,
        rtx: Some((2000, 500)),
        rtx_config,
    };
    let stream = EgressStream::new(&mut sealer, config).unwrap();
    Bench { sealer, opener, map, store: PacketStore::new(StoreConfig::VIDEO), stream }
}

fn bench() -> Bench {
    bench_with(map((1..).zip(ExtensionKind::ALL)), Profile::AeadAes128Gcm, RtxConfig::default())
}

fn info() -> PacketInfo {
    PacketInfo {
        sequence: 70_000,
        timestamp: 1,
        marker: true,
        frame: FrameInfo::default(),
        arrived: start(),
        audio_level: None,
        orientation: None,
        playout_delay: None,
        capture_time: None,
    }
}

fn out(sequence: u64) -> Outgoing<'static> {
    Outgoing {
        payload_type: 101,
        rtx_payload_type: Some(102),
        sequence,
        timestamp: 0x1122_3344,
        marker: true,
        patch: None,
        descriptor: None,
        transport_sequence: 0xabcd,
        send_time: SendTime(0x01_0203),
    }
}

impl Bench {
    fn forward(
        &mut self,
        info: PacketInfo,
        descriptor: &[u8],
        payload: &[u8],
        out: &Outgoing<'_>,
    ) -> Vec<u8> {
        let handle = self.store.insert(info, descriptor, payload).unwrap();
        let packet = self.store.get(handle).unwrap();
        let mut buffer = vec![0xee; buffer_bytes(payload.len())];
        let bytes = self.stream.write(&self.sealer, &mut buffer, &packet, handle, 7, out).unwrap();
        buffer.truncate(bytes);
        buffer
    }

    fn open(&mut self, packet: &mut [u8]) -> OpenedRtp {
        self.opener.open_rtp(packet).unwrap()
    }
}

/// What every packet of [`out`] carries.
fn session_values<'a>() -> Extensions<'a> {
    Extensions {
        mid: Some("v1"),
        transport_sequence: Some(0xabcd),
        send_time: Some(SendTime(0x01_0203)),
        ..Extensions::default()
    }
}

#[test]
fn a_receiver_gets_the_payload_under_its_own_numbers() {
    let mut bench = bench();
    let mut packet = bench.forward(info(), b"", b"payload", &out(300));
    let opened = bench.open(&mut packet);
    assert_eq!((opened.index, opened.header.ssrc, opened.header.timestamp), (300, 1000, 0x1122_3344));
    assert_eq!((opened.header.payload_type, opened.header.marker), (101, true));
    assert_eq!(&packet[opened.payload.clone()], b"payload");
    let values = Extensions::read(&bench.map, opened.header.extensions(&packet));
    assert_eq!(values, session_values());
    assert_eq!((bench.stream.stats().packets, bench.stream.stats().octets), (1, 7));
}

#[test]
fn extensions_of_the_packet_follow_those_of_the_session() {
    let info = PacketInfo {
        audio_level: Some(AudioLevel { attenuation: 30, voice: true }),
        orientation: Some(VideoOrientation(1)),
        playout_delay: Some(PlayoutDelay { min_10ms: 1, max_10ms: 2 }),
        capture_time: Some(CaptureTime { ntp: 5, clock_offset: Some(-5) }),
        ..info()
    };
    // One-byte form, two-byte form because of a long descriptor, two-byte form because of an id.
    let high = (1..).zip(ExtensionKind::ALL).map(|(id, kind)| (if id == 7 { 77 } else { id }, kind));
    for (map, descriptor) in [
        (map((1..).zip(ExtensionKind::ALL)), &[1u8; 16][..]),
        (map((1..).zip(ExtensionKind::ALL)), &[1u8; 255][..]),
        (map(high), &[1u8; 3][..]),
    ] {
        let mut bench = bench_with(map, Profile::AeadAes128Gcm, RtxConfig::default());
        let mut packet = bench.forward(info, descriptor, b"payload", &out(1));
        let opened = bench.open(&mut packet);
        assert_eq!(&packet[opened.payload.clone()], b"payload");
        let expected = Extensions {
            audio_level: info.audio_level,
            orientation: info.orientation,
            playout_delay: info.playout_delay,
            capture_time: info.capture_time,
            dependency_descriptor: Some(descriptor),
            ..session_values()
        };
        assert_eq!(Extensions::read(&bench.map, opened.header.extensions(&packet)), expected);

        // The rewriter's descriptor takes the place of the packet's.
        let replaced = Outgoing { descriptor: Some(&[9; 4]), ..out(2) };
        let mut packet = bench.forward(info, descriptor, b"payload", &replaced);
        let opened = bench.open(&mut packet);
        let values = Extensions::read(&bench.map, opened.header.extensions(&packet));
        assert_eq!(values.dependency_descriptor, Some(&[9u8; 4][..]));
    }
}

#[test]
fn forms_do_not_alternate_where_that_was_not_negotiated() {
    let map = map((1..).zip(ExtensionKind::ALL));
    let mut bench = bench_of(map, false, Profile::AeadAes128Gcm, RtxConfig::default());
    for (sequence, descriptor, expected) in [(1, &[1u8; 16][..], Some(&[1u8; 16][..])), (2, &[1; 17], None)] {
        let mut packet = bench.forward(info(), descriptor, b"payload", &out(sequence));
        let opened = bench.open(&mut packet);
        assert_eq!(&packet[opened.payload.clone()], b"payload");
        let block = opened.header.extensions(&packet);
        assert_eq!(block.form(), ExtensionForm::OneByte);
        let values = Extensions::read(&bench.map, block);
        assert_eq!(values, Extensions { dependency_descriptor: expected, ..session_values() });
    }
}

#[test]
fn what_was_not_negotiated_is_not_sent() {
    let mut bench = bench_with(ExtensionMap::default(), Profile::AeadAes128Gcm, RtxConfig::default());
    let info = PacketInfo { audio_level: Some(AudioLevel { attenuation: 1, voice: false }), ..info() };
    let mut packet = bench.forward(info, &[1; 40], b"payload", &out(1));
    let opened = bench.open(&mut packet);
    assert_eq!(opened.header.bytes(), 12, "no extension at all");
    assert_eq!(&packet[opened.payload], b"payload");

    let handle = bench.store.insert(info, b"", b"x").unwrap();
    let packet = bench.store.get(handle).unwrap();
    let bare = Outgoing { rtx_payload_type: None, ..out(2) };
    let written = bench.stream.write_rtx(&bench.sealer, &mut [0; 200], &packet, &bare);
    assert_eq!(written, Err(EgressError::NoRtx));
}

#[test]
fn a_patch_changes_one_receivers_payload() {
    let mut bench = bench();
    let patch = PayloadPatch { at: 2, bytes: 3, octets: *b"XYZ...".first_chunk().unwrap() };
    let patched = Outgoing { patch: Some(patch), ..out(1) };
    let mut packet = bench.forward(info(), b"", b"payload", &patched);
    let opened = bench.open(&mut packet);
    assert_eq!(&packet[opened.payload], b"paXYZad");

    let mut packet = bench.forward(info(), b"", b"payload", &out(2));
    let opened = bench.open(&mut packet);
    assert_eq!(&packet[opened.payload], b"payload");

    let handle = bench.store.insert(info(), b"", b"four").unwrap();
    let packet = bench.store.get(handle).unwrap();
    let beyond = Outgoing { patch: Some(patch), ..out(3) };
    let written = bench.stream.write(&bench.sealer, &mut [0; 200], &packet, handle, 0, &beyond);
    assert_eq!(written, Err(EgressError::Patch));
}

#[test]
fn a_lost_packet_is_sent_again_on_its_own_stream() {
    for profile in [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80] {
        let mut bench = bench_with(map((1..).zip(ExtensionKind::ALL)), profile, RtxConfig::default());
        let now = start();
        bench.forward(info(), b"", b"first", &out(65_535));
        bench.forward(info(), b"", b"second", &out(65_536));
        let sent = bench.stream.resend(now, 0, Duration::from_millis(50)).unwrap();
        assert_eq!((sent.sequence, sent.tag), (0, 7));
        let packet = bench.store.get_recent(sent.handle, now).unwrap();
        let mut buffer = vec![0; buffer_bytes(packet.payload.len())];
        let bytes = bench.stream.write_rtx(&bench.sealer, &mut buffer, &packet, &out(65_536)).unwrap();
        let opened = bench.opener.open_rtp(&mut buffer[..bytes]).unwrap();
        assert_eq!((opened.header.ssrc, opened.header.payload_type, opened.index), (2000, 102, 500));
        assert_eq!(opened.header.timestamp, 0x1122_3344);
        assert_eq!(&buffer[opened.payload], b"\0\0second");
        assert_eq!((bench.stream.stats().rtx_packets, bench.stream.stats().rtx_octets), (1, 6));
    }
}

#[test]
fn t38_a_storm_of_nacks_is_bounded() {
    let config = RtxConfig { packets_max: 16, per_mille: 250, burst_bytes: 4000, resends_max: 3 };
    let mut bench = bench_with(map([]), Profile::AeadAes128Gcm, config);
    let mut now = start();
    let rtt = Duration::from_millis(40);
    let resend = |bench: &mut Bench, now, sequence: u16| -> usize {
        let Some(sent) = bench.stream.resend(now, sequence, rtt) else { return 0 };
        let packet = bench.store.get(sent.handle).unwrap();
        let mut buffer = [0; 1500];
        bench.stream.write_rtx(&bench.sealer, &mut buffer, &packet, &out(u64::from(sequence))).unwrap()
    };
    for sequence in 0..20 {
        bench.forward(info(), b"", &[1; 1000], &out(sequence));
    }
    assert_eq!(resend(&mut bench, now, 3), 0, "out of the map");
    assert_eq!(resend(&mut bench, now, 20), 0, "never sent");
    assert_eq!(bench.stream.stats().rtx_unknown, 2);

    assert!(resend(&mut bench, now, 10) > 0);
    assert_eq!(resend(&mut bench, now, 10), 0, "it is on its way");
    now += rtt;
    assert!(resend(&mut bench, now, 10) > 0);
    now += rtt;
    assert!(resend(&mut bench, now, 10) > 0);
    now += rtt;
    assert_eq!(resend(&mut bench, now, 10), 0, "three times is enough");

    // Everything is asked for over and over while 100 packets are sent.
    let mut resent = 0;
    for sequence in 20..120u64 {
        bench.forward(info(), b"", &[1; 1000], &out(sequence));
        now += rtt;
        resent +=
            (0..=sequence).rev().take(16).map(|asked| resend(&mut bench, now, asked as u16)).sum::<usize>();
    }
    let sent = 100 * 1028;
    assert!(resent <= sent / 4 + 4000 + 1100, "{resent} of {sent}");
    assert!(resent >= sent / 5, "{resent} of {sent}");
    assert!(bench.stream.stats().rtx_refused > 100);
}

#[test]
fn padding_has_its_own_numbers() {
    let mut bench = bench();
    let padding = bench.stream.write_padding(&bench.sealer, &mut [0; 400], 9, 0, 0, SendTime(0));
    assert_eq!(padding, Err(EgressError::NoRtx), "its payload type is that of what is sent");
    bench.forward(info(), b"", b"x", &out(1));
    for (n, (asked, given)) in [(0, 1), (100, 100), (255, 255), (9999, 255)].into_iter().enumerate() {
        let mut buffer = [0xee; 400];
        let bytes = bench
            .stream
            .write_padding(&bench.sealer, &mut buffer, asked, 5, 0xabcd, SendTime(0x01_0203))
            .unwrap();
        let opened = bench.opener.open_rtp(&mut buffer[..bytes]).unwrap();
        assert_eq!((opened.header.ssrc, opened.index), (2000, 500 + n as u64));
        assert!(opened.payload.is_empty());
        assert_eq!(bytes - opened.header.bytes() - 16, given);
        let values = Extensions::read(&bench.map, opened.header.extensions(&buffer));
        assert_eq!(values, session_values());
    }
}

#[test]
fn a_packet_is_forwarded_once() {
    let mut bench = bench();
    bench.forward(info(), b"", b"x", &out(9));
    let handle = bench.store.insert(info(), b"", b"x").unwrap();
    let packet = bench.store.get(handle).unwrap();
    let again = bench.stream.write(&bench.sealer, &mut [0; 200], &packet, handle, 0, &out(9));
    assert_eq!(again, Err(EgressError::Seal(SealError::IndexUsed)));
    assert_eq!(bench.stream.stats().packets, 1);
}

#[test]
fn a_streams_numbers_reach_its_reports() {
    let mut bench = bench();
    bench.forward(info(), b"", &[0; 10], &out(1));
    bench.forward(info(), b"", &[0; 20], &out(2));
    let clock = RtpClock::from_packet(NtpTime(1 << 32), 1000, 90_000);
    let report = bench.stream.sender_info(&clock, NtpTime(3 << 32));
    assert_eq!(report, SenderInfo { ntp: NtpTime(3 << 32), rtp: 181_000, packets: 2, octets: 30 });
}

#[test]
fn small_buffers_are_refused() {
    let mut bench = bench();
    let handle = bench.store.insert(info(), b"", &[1; 100]).unwrap();
    let packet = bench.store.get(handle).unwrap();
    for bytes in 0..144 {
        let mut buffer = vec![0; bytes];
        let sequence = 10 + bytes as u64;
        let written = bench.stream.write(&bench.sealer, &mut buffer, &packet, handle, 0, &out(sequence));
        assert!(
            matches!(written, Err(EgressError::Bounds | EgressError::Seal(SealError::Bounds))),
            "{bytes}"
        );
        let written = bench.stream.write_rtx(&bench.sealer, &mut buffer, &packet, &out(sequence));
        assert!(
            matches!(written, Err(EgressError::Bounds | EgressError::Seal(SealError::Bounds))),
            "{bytes}"
        );
    }
    assert_eq!(bench.stream.stats(), EgressStats::default());
    bench.forward(info(), b"", b"x", &out(1));
    assert!(bench.stream.write_padding(&bench.sealer, &mut [0; 200], 9, 0, 0, SendTime(0)).is_ok());
}

#[test]
fn a_subscription_is_small() {
    let mut bench = bench();
    bench.forward(info(), b"", b"x", &out(1));
    let bytes = size_of::<EgressStream>() + 256 * 12;
    assert!(bytes <= 4096, "{bytes} octets");
}

proptest! {
    #[test]
    fn anything_fits_the_buffer_and_comes_back(
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        descriptor in prop::collection::vec(any::<u8>(), 0..=255),
        ids in prop::sample::subsequence((1u8..30).filter(|id| *id != 15).collect::<Vec<_>>(), 11),
        kinds in prop::sample::subsequence(ExtensionKind::ALL.to_vec(), 0..=11),
        sequence in 0u64..0x8000,
    ) {
        let map = map(ids.into_iter().zip(kinds));
        let mut bench = bench_with(map, Profile::AeadAes256Gcm, RtxConfig::default());
        let info = PacketInfo {
            audio_level: Some(AudioLevel { attenuation: 30, voice: true }),
            capture_time: Some(CaptureTime { ntp: 5, clock_offset: Some(-5) }),
            ..info()
        };
        let mut packet = bench.forward(info, &descriptor, &payload, &out(sequence));
        let opened = bench.open(&mut packet);
        prop_assert_eq!(opened.index, sequence);
        prop_assert_eq!(&packet[opened.payload.clone()], &payload[..]);
        let values = Extensions::read(&bench.map, opened.header.extensions(&packet));
        let negotiated = |kind| bench.map.id(kind).is_some();
        prop_assert_eq!(values.mid.is_some(), negotiated(ExtensionKind::Mid));
        prop_assert_eq!(values.audio_level.is_some(), negotiated(ExtensionKind::AudioLevel));
        prop_assert_eq!(values.capture_time.is_some(), negotiated(ExtensionKind::AbsoluteCaptureTime));
        if descriptor.len() >= 3 && negotiated(ExtensionKind::DependencyDescriptor) {
            prop_assert_eq!(values.dependency_descriptor, Some(&descriptor[..]));
        }
    }
}
