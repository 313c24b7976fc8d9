use super::*;
use crate::{connection::Codec, media::egress::NtpTime};

const fn link(serial: u32) -> TrackLink {
    TrackLink { index: 1, serial }
}

fn packet(sequence: u64, payload: &'static [u8], descriptor: &'static [u8]) -> MediaPacket<'static> {
    let extensions = Extensions {
        dependency_descriptor: Some(descriptor).filter(|descriptor| !descriptor.is_empty()),
        audio_level: Some(AudioLevel { attenuation: 30, voice: true }),
        mid: Some("0"),
        ..Extensions::default()
    };
    MediaPacket { extensions, ..MediaPacket::unreceived(Codec::Vp8, sequence, 3000, payload) }
}

fn flow(serial: u32, on: bool) -> RelayWord {
    RelayWord::Flow { link: link(serial), on }
}

/// Numbers of packets and of the tracks that words are about, in order.
fn order(batch: &RelayBatch) -> Vec<String> {
    let entry = |entry: &RelayEntry| match entry {
        RelayEntry::Packet(packet) => {
            let media = batch.media(packet).unwrap();
            format!("{}:{:?}", media.sequence, media.payload)
        }
        RelayEntry::Word(RelayWord::Flow { link, on }) => format!("flow {} {on}", link.serial),
        RelayEntry::Word(word) => format!("{word:?}").split([' ', '{']).next().unwrap().to_owned(),
    };
    batch.entries().iter().map(entry).collect()
}

#[test]
fn a_packet_comes_out_as_it_went_in() {
    let mut batch = RelayBatch::default();
    batch.push(link(1), 2, &packet(70_000, &[0x10, 0, 1, 2], &[0xc0, 0, 1]));
    batch.push(link(2), 0, &packet(5, &[], &[]));
    let [RelayEntry::Packet(first), RelayEntry::Packet(second)] = batch.entries() else {
        panic!("{batch:?}")
    };
    assert_eq!((first.link, first.encoding), (link(1), 2));
    let media = batch.media(first).unwrap();
    let original = packet(70_000, &[0x10, 0, 1, 2], &[0xc0, 0, 1]);
    assert_eq!(media.payload, original.payload);
    assert_eq!((media.sequence, media.keyframe, media.timestamp), (70_000, original.keyframe, 3000));
    assert_eq!(media.extensions.dependency_descriptor, Some([0xc0, 0, 1].as_slice()));
    assert_eq!(media.extensions.audio_level, original.extensions.audio_level);
    let media = batch.media(second).unwrap();
    assert_eq!((media.payload.len(), media.extensions.dependency_descriptor), (0, None));
}

#[test]
fn what_is_appended_comes_after() {
    let mut batch = RelayBatch::default();
    batch.say(flow(1, true));
    batch.push(link(1), 0, &packet(1, &[1, 1], &[9, 9, 9]));
    let mut later = RelayBatch::default();
    later.push(link(1), 0, &packet(2, &[2, 2], &[8, 8, 8]));
    later.say(flow(1, false));
    let bytes = batch.bytes() + later.bytes();
    batch.append(later);
    assert_eq!(order(&batch), ["flow 1 true", "1:[1, 1]", "2:[2, 2]", "flow 1 false"]);
    assert_eq!((batch.packets(), batch.bytes()), (2, bytes));
}

#[test]
fn media_and_what_is_repeated_is_dropped_and_no_other_word() {
    let mut batch = RelayBatch::default();
    let clock = PublisherClock { source: 1, ntp: NtpTime(1), rtp: 1 };
    batch.say(flow(1, true));
    batch.push(link(1), 0, &packet(1, &[1], &[]));
    batch.say(RelayWord::Keyframe { link: link(1), encoding: 0, sent_before: Duration::ZERO });
    batch.say(RelayWord::Clock { link: link(1), encoding: 0, clock });
    batch.say(RelayWord::Muted { link: link(1), muted: true });
    batch.push(link(1), 0, &packet(2, &[1], &[]));
    batch.say(RelayWord::Stopped { link: link(1) });
    assert_eq!(batch.drop_media(), 2);
    assert_eq!(order(&batch), ["flow 1 true", "Muted", "Stopped"]);
    assert_eq!((batch.packets(), batch.is_empty()), (0, false));
    assert!(batch.bytes() < 3 * 1024);
}

/// The other side does not listen for as long as it likes.
#[test]
fn words_that_are_kept_are_bounded_by_what_they_are_about() {
    let mut kept = RelayBatch::default();
    for round in 0..100_000_u32 {
        let mut batch = RelayBatch::default();
        batch.say(flow(round % 10, round % 20 < 10));
        kept.append(batch);
        assert_eq!(kept.drop_media(), 0);
        assert!(kept.entries().len() <= WORDS_MAX + 1);
    }
    kept.forget_replaced();
    let last: Vec<String> = (0..10).map(|serial| format!("flow {serial} false")).collect();
    assert_eq!(order(&kept), last, "what was said last holds");
}
