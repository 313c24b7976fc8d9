//! A stream with three spatial layers (`L3T3_KEY`), and what a subscriber gets of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use zynk_protocol::TrackQuality;

use super::*;
use crate::{connection::MediaPacket, layers::StreamLayers};

/// Packets of a layer's frame.
const PACKETS: [u64; 3] = [1, 2, 3];
const PICTURE_TICKS: u32 = 3000;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

/// The packets of one picture of all three layers: VP9, flexible mode, 15-bit picture ids.
fn picture(number: u32, keyframe: bool, first_sequence: u64) -> Vec<MediaPacket<'static>> {
    let mut packets = Vec::new();
    for (layer, count) in PACKETS.into_iter().enumerate() {
        let spatial = u8::try_from(layer).unwrap();
        for index in 0..count {
            let begins = index == 0;
            let ends = index + 1 == count;
            let structure = keyframe && begins && layer == 0;
            let [.., high, low] = number.to_be_bytes();
            let flags = 0x80
                | 0x20
                | 0x10
                | if keyframe { 0 } else { 0x40 }
                | if begins { 0x08 } else { 0 }
                | if ends { 0x04 } else { 0 }
                | if structure { 0x02 } else { 0 };
            let on_layer_below = u8::from(keyframe && layer > 0);
            let mut payload = vec![flags, 0x80 | high & 0x7f, low, spatial << 1 | on_layer_below];
            if !keyframe {
                payload.push(1 << 1);
            }
            if structure {
                payload.push(2 << 5);
            }
            payload.push(0x55);
            let sequence = first_sequence + u64::try_from(packets.len()).unwrap();
            let timestamp = number.wrapping_mul(PICTURE_TICKS).wrapping_add(u32::MAX - 20_000);
            let packet = MediaPacket::unreceived(Codec::Vp9, sequence, timestamp, &payload);
            packets.push(MediaPacket { marker: ends && layer == 2, ..packet });
        }
    }
    packets
}

/// Pictures from 0 on, with keyframes where they are said to be.
fn stream(pictures: u32, keyframes: &[u32]) -> Vec<MediaPacket<'static>> {
    let each: u64 = PACKETS.iter().sum();
    (0..pictures).flat_map(|n| picture(n, keyframes.contains(&n), 1000 + u64::from(n) * each)).collect()
}

fn arrival<'a>(packet: &'a PacketHead, active: &'a [bool], highest_layer: u8) -> Arrival<'a> {
    Arrival {
        kind: MediaKind::Video,
        packet,
        handle: PacketHandle::default(),
        encoding: 0,
        active,
        highest_layer,
        track_serial: 0,
        live_from: None,
        earlier_payloads: 0,
    }
}

fn target(quality: TrackQuality) -> Target {
    Target { encoding: 0, spatial: wanted_spatial(1, quality), temporal: TOP_TEMPORAL, bridges: true }
}

struct Subscriber {
    forwarder: Forwarder,
    layers: StreamLayers,
    now: Instant,
    /// By outgoing number: picture, layer and marker; nothing for an empty packet.
    received: BTreeMap<u64, Option<(u32, u8, bool)>>,
    first_timestamp: Option<u32>,
    keyframes_wanted: usize,
}

impl Subscriber {
    fn new() -> Self {
        let rewriter = Some(Box::new(Rewriter::new(&mut Pcg64Mcg::seed_from_u64(1))));
        let forwarder = Forwarder { rewriter, ..Forwarder::default() };
        Self {
            forwarder,
            layers: StreamLayers::default(),
            now: start(),
            received: BTreeMap::new(),
            first_timestamp: None,
            keyframes_wanted: 0,
        }
    }

    fn take(&mut self, packet: &MediaPacket<'static>, quality: TrackQuality) {
        self.now += std::time::Duration::from_millis(5);
        self.layers.observe(self.now, packet);
        let highest_layer = self.layers.highest(self.now);
        let head = &packet.head();
        let arrival = arrival(head, &[true], highest_layer);
        let choice = self.forwarder.choose(arrival, target(quality));
        self.keyframes_wanted += usize::from(choice.keyframe.is_some());
        let rewriter = self.forwarder.rewriter.as_mut().unwrap();
        let (numbers, content) = match choice.action {
            Action::Send { marker, .. } => {
                let layer = packet.layer.unwrap().spatial;
                (rewriter.rewrite(self.now, head), Some((packet.timestamp, layer, marker)))
            }
            Action::LeaveOut => (rewriter.leave_out(head), None),
            Action::Ignore => (None, None),
        };
        let Some(numbers) = numbers else { return };
        let first = *self.first_timestamp.get_or_insert(packet.timestamp);
        let content =
            content.map(|(at, layer, marker)| (at.wrapping_sub(first) / PICTURE_TICKS, layer, marker));
        assert!(self.received.insert(numbers.sequence, content).is_none(), "{numbers:?} is used twice");
    }

    fn take_all<'a>(
        &mut self,
        packets: impl IntoIterator<Item = &'a MediaPacket<'static>>,
        quality: TrackQuality,
    ) {
        packets.into_iter().for_each(|packet| self.take(packet, quality));
    }

    fn assert_no_gap(&self) {
        let numbers: Vec<u64> = self.received.keys().copied().collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    }

    /// The highest complete layer of each picture. The order of numbers must be that of pictures and layers.
    fn pictures(&self) -> BTreeMap<u32, u8> {
        let contents: Vec<(u32, u8, bool)> = self.received.values().copied().flatten().collect();
        assert!(contents.is_sorted_by_key(|(picture, layer, _)| (*picture, *layer)), "{contents:?}");
        let mut pictures = BTreeMap::new();
        for number in contents.iter().map(|(picture, ..)| *picture).collect::<BTreeSet<u32>>() {
            let packets: Vec<_> = contents.iter().filter(|(picture, ..)| *picture == number).collect();
            let complete = |layer: &u8| {
                let count = packets.iter().filter(|(_, other, _)| other == layer).count();
                count as u64 == PACKETS[usize::from(*layer)]
            };
            let (_, highest, _) = **packets.last().unwrap();
            assert!((0..=highest).all(|layer| complete(&layer)), "picture {number}: {packets:?}");
            let markers: Vec<bool> = packets.iter().map(|(.., marker)| *marker).collect();
            let (last, others) = markers.split_last().unwrap();
            assert!(*last && !others.contains(&true), "picture {number}: {packets:?}");
            pictures.insert(number, highest);
        }
        pictures
    }
}

/// A receiver can decode this: layers come back with keyframes only.
fn assert_decodable(pictures: &BTreeMap<u32, u8>, keyframes: &[u32]) {
    let mut decodable = 0;
    for (expected, (number, highest)) in (0..).zip(pictures) {
        assert_eq!(*number, expected, "no picture is missing");
        assert!(keyframes.contains(number) || *highest <= decodable, "{number}: {pictures:?}");
        decodable = *highest;
    }
}

#[test]
fn l3t3_key_goes_down_at_once_and_up_at_a_keyframe() {
    let keyframes = [0, 40];
    let packets = stream(60, &keyframes);
    let mut subscriber = Subscriber::new();
    let (high, rest) = packets.split_at(6 * 10);
    let (low, rest) = rest.split_at(6 * 10);
    let (medium, rest) = rest.split_at(6 * 10);
    subscriber.take_all(high, TrackQuality::High);
    assert_eq!(subscriber.keyframes_wanted, 0);
    subscriber.take_all(low, TrackQuality::Low);
    assert_eq!(subscriber.keyframes_wanted, 0, "less needs no keyframe");
    subscriber.take_all(medium, TrackQuality::Medium);
    assert!(subscriber.keyframes_wanted > 0);
    subscriber.take_all(rest, TrackQuality::High);
    let pictures = subscriber.pictures();
    subscriber.assert_no_gap();
    assert_decodable(&pictures, &keyframes);
    let expected = |number| match number {
        0..10 | 40.. => 2,
        _ => 0,
    };
    assert!(pictures.iter().all(|(number, highest)| *highest == expected(*number)), "{pictures:?}");
    let before = subscriber.keyframes_wanted;
    subscriber.take_all(&picture(60, false, 2000), TrackQuality::High);
    assert_eq!(subscriber.keyframes_wanted, before, "it has all there is");
}

#[test]
fn the_quality_may_change_within_a_picture() {
    let packets = stream(3, &[0]);
    let mut subscriber = Subscriber::new();
    subscriber.take_all(&packets[..6 + 2], TrackQuality::High);
    subscriber.take_all(&packets[6 + 2..], TrackQuality::Low);
    assert_eq!(subscriber.pictures(), BTreeMap::from([(0, 2), (1, 2), (2, 0)]));
    subscriber.assert_no_gap();
}

#[test]
fn late_packets_take_the_places_that_were_kept_for_them() {
    let packets = stream(30, &[0]);
    let mut subscriber = Subscriber::new();
    // Of picture 12 the base layer, and of 13 and 14 an upper layer, come two pictures later.
    let late = [12 * 6, 13 * 6 + 2, 14 * 6 + 5];
    let (on_time, delayed): (Vec<_>, Vec<_>) =
        packets.iter().enumerate().partition(|(index, _)| !late.contains(index));
    let quality = |index| if index < 6 * 10 { TrackQuality::High } else { TrackQuality::Low };
    for (index, packet) in on_time {
        subscriber.take(packet, quality(index));
        if index == 16 * 6 + 5 {
            delayed.iter().for_each(|(_, packet)| subscriber.take(packet, TrackQuality::Low));
        }
    }
    subscriber.assert_no_gap();
    let pictures = subscriber.pictures();
    assert_decodable(&pictures, &[0]);
    assert_eq!(pictures.len(), 30);
    // Between two packets that are left out, a third is known to be; at a picture's end it is not.
    assert_eq!(subscriber.received.values().filter(|content| content.is_none()).count(), 1);
}

#[test]
fn encodings_of_a_simulcast_keep_all_their_layers() {
    let mut subscriber = Subscriber::new();
    for packet in &stream(3, &[0]) {
        let head = packet.head();
        let arrival = arrival(&head, &[true, false], 2);
        let spatial = wanted_spatial(2, TrackQuality::Low);
        let choice = subscriber.forwarder.choose(arrival, Target { spatial, ..target(TrackQuality::Low) });
        assert!(matches!(choice.action, Action::Send { marker, .. } if marker == packet.marker));
    }
}

#[test]
fn padding_is_left_out() {
    let mut packets = stream(2, &[0]);
    for packet in &mut packets[6..] {
        packet.sequence += 1;
    }
    let padding = MediaPacket::unreceived(Codec::Vp9, packets[5].sequence + 1, packets[5].timestamp, &[]);
    packets.insert(6, padding);
    let mut subscriber = Subscriber::new();
    subscriber.take_all(&packets, TrackQuality::High);
    subscriber.assert_no_gap();
    assert_eq!(subscriber.received.len(), 12);
}

proptest! {
    /// Whatever quality is wanted, and however late packets come, the numbers have no gap and the pictures
    /// their order.
    #[test]
    fn numbers_have_no_gap(
        qualities in prop::collection::vec(0_usize..3, 8),
        keyframes in prop::collection::btree_set(1_u32..40, 0..4),
        delays in prop::collection::vec((0_usize..240, 1_usize..20), 0..12),
    ) {
        let keyframes: Vec<u32> = std::iter::once(0).chain(keyframes).collect();
        let packets = stream(40, &keyframes);
        let mut order: Vec<(usize, usize)> = (0..packets.len()).map(|index| (index, index)).collect();
        for (index, delay) in delays {
            if index > 0 {
                order[index].0 = index + delay;
            }
        }
        order.sort_unstable();
        let mut subscriber = Subscriber::new();
        for (place, (_, index)) in order.into_iter().enumerate() {
            let quality = [TrackQuality::Low, TrackQuality::Medium, TrackQuality::High];
            subscriber.take(&packets[index], quality[qualities[place / 30]]);
        }
        subscriber.assert_no_gap();
        let contents: Vec<_> = subscriber.received.values().copied().flatten().collect();
        prop_assert!(contents.is_sorted_by_key(|(picture, layer, _)| (*picture, *layer)));
        let base_layers = contents.iter().filter(|(_, layer, _)| *layer == 0).count();
        prop_assert_eq!(base_layers, 40, "the lowest layer is always sent");
    }

    /// With packets in their order, every picture can be decoded.
    #[test]
    fn pictures_are_decodable(
        qualities in prop::collection::vec(0_usize..3, 40),
        keyframes in prop::collection::btree_set(1_u32..40, 0..6),
    ) {
        let keyframes: Vec<u32> = std::iter::once(0).chain(keyframes).collect();
        let mut subscriber = Subscriber::new();
        for (number, packets) in stream(40, &keyframes).chunks(6).enumerate() {
            let quality = [TrackQuality::Low, TrackQuality::Medium, TrackQuality::High];
            subscriber.take_all(packets, quality[qualities[number]]);
        }
        subscriber.assert_no_gap();
        assert_decodable(&subscriber.pictures(), &keyframes);
    }
}
