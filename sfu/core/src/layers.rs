//! Spatial layers inside one stream (SVC): which there are, and which of them a subscription forwards.
//!
//! A layer's frame depends on earlier frames of its own layer, on the layer below in the same picture, or on
//! both; never on a layer above. So layers can be left out from the top at any picture, and come back where
//! their frame depends on no earlier picture: with `L3T3_KEY` that is a keyframe.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use zynk_protocol::TrackQuality;

use crate::{
    connection::{Codec, MediaPacket, PacketHead},
    dependency_descriptor::DescriptorReader,
};

/// Spatial layers that descriptors can number.
const LAYERS_MAX: usize = 8;
/// Stands for the highest layer, whichever that is.
pub(crate) const TOP_LAYER: u8 = 7;
/// A layer counts as stopped when nothing came for so long.
const LAYER_IDLE: Duration = Duration::from_millis(1500);
/// Pictures whose choice of layers is remembered, for packets that come late. Packets of older ones are
/// left out.
const PICTURES_MAX: usize = 64;

/// The place of a packet in a stream with spatial layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// 0 is the smallest.
    pub(crate) spatial: u8,
    /// Its frame is predicted from no earlier picture.
    pub(crate) refresh: bool,
    /// The packet is its frame's last.
    pub(crate) frame_end: bool,
}

/// The highest layer that a subscriber wants.
pub(crate) fn wanted_layer(quality: TrackQuality) -> u8 {
    match quality {
        TrackQuality::Low => 0,
        TrackQuality::Medium => 1,
        TrackQuality::High => TOP_LAYER,
    }
}

/// The layers of an encoding that are being sent.
#[derive(Debug, Default)]
pub(crate) struct StreamLayers {
    seen_at: [Option<Instant>; LAYERS_MAX],
    descriptors: DescriptorReader,
}

impl StreamLayers {
    /// Completes a publisher's packet with what its dependency descriptor says.
    pub(crate) fn describe(&mut self, packet: &mut MediaPacket<'_>) {
        let codec = packet.format.codec;
        if matches!(codec, Codec::Av1 | Codec::Vp9 | Codec::H264 | Codec::Other)
            && let Some(descriptor) = packet.extensions.dependency_descriptor
            && let Some(described) = self.descriptors.read(descriptor, packet.timestamp)
        {
            packet.temporal = packet.temporal.or(Some(described.temporal));
            if matches!(codec, Codec::Av1 | Codec::Vp9) {
                packet.layer = packet.layer.or(Some(described.layer));
                packet.layers = packet.layers.or(described.layers);
                packet.targets = Some(described.targets);
            } else {
                packet.keyframe |= described.structure;
            }
        }
    }

    /// Notes which layers a packet shows to be there.
    pub(crate) fn observe(&mut self, now: Instant, packet: &MediaPacket<'_>) {
        if let Some(count) = packet.layers {
            for gone in self.seen_at.iter_mut().skip(usize::from(count)) {
                *gone = None;
            }
        }
        if let Some(layer) = packet.layer
            && let Some(seen) = self.seen_at.get_mut(usize::from(layer.spatial))
        {
            *seen = Some(now);
        }
    }

    /// The highest one that is being sent; 0 for a stream without layers.
    pub(crate) fn highest(&self, now: Instant) -> u8 {
        let fresh =
            |at: &Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < LAYER_IDLE);
        let index = self.seen_at.iter().rposition(fresh).unwrap_or(0);
        u8::try_from(index).unwrap_or(0)
    }
}

/// What to do with a packet of a running stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerSelection {
    /// Send it on; `picture_end` if it is the last that is sent of its picture.
    Forward { picture_end: bool, announce: Option<Announcement> },
    /// Leave it out.
    Drop,
}

/// What to tell the receiver about the layers that are sent from a picture on. Said with its lowest layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) highest: u8,
    /// Less was announced since the last keyframe.
    pub(crate) explicit: bool,
}

/// A subscription's choice among the spatial layers of one stream.
#[derive(Debug, Default)]
pub(crate) struct LayerSelector {
    /// The lowest layer there is, with which the stream began.
    lowest: u8,
    /// The highest that pictures to come may have.
    current: u8,
    /// The least that was announced since the last keyframe.
    announced: u8,
    /// From oldest to newest.
    pictures: VecDeque<Picture>,
}

/// What was chosen for a picture. All its packets have one timestamp.
#[derive(Clone, Copy, Debug)]
struct Picture {
    timestamp: u32,
    highest: u8,
    /// One bit for each layer of which a packet was left out.
    dropped: u8,
}

impl LayerSelector {
    /// The stream begins with a packet of `layer`.
    pub(crate) fn start(&mut self, layer: Option<Layer>) {
        self.lowest = layer.map_or(0, |layer| layer.spatial);
        self.current = self.lowest;
        self.pictures.clear();
    }

    /// Decides on a packet, with `target` as the highest layer that is wanted.
    pub(crate) fn select(&mut self, packet: &PacketHead, layer: Layer, target: u8) -> LayerSelection {
        let mut known = self.picture(packet.timestamp, target.max(self.lowest));
        if known.is_none() && packet.keyframe {
            // The publisher's clock was set back.
            self.start(Some(layer));
            known = self.picture(packet.timestamp, target.max(self.lowest));
        }
        let target = target.max(self.lowest);
        let Some(index) = known else { return LayerSelection::Drop };
        let newest = index + 1 == self.pictures.len();
        let Some(picture) = self.pictures.get_mut(index) else { return LayerSelection::Drop };
        let bit = 1_u8 << (layer.spatial & TOP_LAYER);
        // With all below it: what is missing of them is late, not left out.
        let complete = picture.dropped & (bit | (bit - 1)) == 0;
        if newest && layer.refresh && complete && (picture.highest + 1..=target).contains(&layer.spatial) {
            picture.highest = layer.spatial;
            self.current = layer.spatial;
        }
        if layer.spatial > picture.highest {
            picture.dropped |= bit;
            return LayerSelection::Drop;
        }
        // At a refresh the next layer may be about to come back.
        let is_last = layer.spatial == picture.highest && (!layer.refresh || layer.spatial >= target);
        let announce = (layer.spatial == self.lowest).then(|| {
            let highest = if layer.refresh { target } else { picture.highest };
            self.announced = if layer.refresh { highest } else { self.announced.min(highest) };
            Announcement { highest, explicit: self.announced < highest }
        });
        LayerSelection::Forward { picture_end: layer.frame_end && is_last, announce }
    }

    /// Whether a keyframe would add a layer; `available` is the highest that is being sent.
    pub(crate) fn wants(&self, target: u8, available: u8) -> bool {
        self.current < target.min(available)
    }

    /// Where the picture stands among those remembered; it is added if it is new.
    fn picture(&mut self, timestamp: u32, target: u8) -> Option<usize> {
        let is_later = |other: &Picture| timestamp.wrapping_sub(other.timestamp) < 1 << 31;
        let position = self.pictures.iter().rposition(is_later).map_or(0, |index| index + 1);
        let before = position.checked_sub(1).and_then(|index| self.pictures.get(index)).copied();
        if let Some(picture) = before
            && picture.timestamp == timestamp
        {
            return position.checked_sub(1);
        }
        if before.is_none() && !self.pictures.is_empty() {
            return None; // older than all that is remembered
        }
        let full = self.pictures.len() >= PICTURES_MAX;
        if full {
            self.pictures.pop_front();
        }
        let position = position.saturating_sub(usize::from(full));
        if position == self.pictures.len() {
            self.current = self.current.min(target);
            self.pictures.push_back(Picture { timestamp, highest: self.current, dropped: 0 });
            return Some(position);
        }
        // All of it is late: nothing is known of its layers but those of the picture before.
        let highest = before?.highest.min(self.current);
        self.pictures.insert(position, Picture { timestamp, highest, dropped: 0 });
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use LayerSelection::{Drop, Forward};

    use super::*;

    /// Asks about a frame of one packet.
    fn select(
        selector: &mut LayerSelector,
        picture: u32,
        spatial: u8,
        refresh: bool,
        target: u8,
    ) -> LayerSelection {
        let packet = MediaPacket::unreceived(Codec::Av1, 1, picture * 3000, &[1]).head();
        selector.select(&packet, Layer { spatial, refresh, frame_end: true }, target)
    }

    fn is_sent(selection: LayerSelection) -> bool {
        matches!(selection, Forward { .. })
    }

    fn started(target: u8) -> LayerSelector {
        let mut selector = LayerSelector::default();
        selector.start(Some(Layer { spatial: 0, refresh: true, frame_end: true }));
        for layer in 0..3 {
            select(&mut selector, 0, layer, true, target);
        }
        selector
    }

    #[test]
    fn a_layer_comes_back_where_it_needs_no_earlier_picture() {
        let mut selector = started(0);
        assert!(selector.wants(TOP_LAYER, 2));
        assert!(!selector.wants(TOP_LAYER, 0), "there is no more than that");
        // Full SVC: the second layer is predicted anew from the first, which is not refreshed.
        let picture = |selector: &mut LayerSelector, number, refreshed: [bool; 3]| {
            [0, 1, 2].map(|layer: u8| {
                is_sent(select(selector, number, layer, refreshed[usize::from(layer)], TOP_LAYER))
            })
        };
        assert_eq!(picture(&mut selector, 1, [false, false, false]), [true, false, false]);
        assert_eq!(
            picture(&mut selector, 2, [false, false, true]),
            [true, false, false],
            "its base is missing"
        );
        assert_eq!(picture(&mut selector, 3, [false, true, false]), [true, true, false]);
        assert_eq!(picture(&mut selector, 4, [false, false, true]), [true, true, true]);
        assert!(!selector.wants(TOP_LAYER, 2));
    }

    #[test]
    fn layers_may_be_missing_in_the_stream() {
        let mut selector = LayerSelector::default();
        selector.start(Some(Layer { spatial: 1, refresh: true, frame_end: true }));
        assert!(is_sent(select(&mut selector, 0, 1, true, 0)), "the lowest there is");
        assert_eq!(select(&mut selector, 0, 3, true, 0), Drop);
        assert!(is_sent(select(&mut selector, 1, 1, true, TOP_LAYER)));
        assert!(is_sent(select(&mut selector, 1, 3, true, TOP_LAYER)));
    }

    #[test]
    fn the_receiver_is_told_what_to_expect() {
        let told = |selection| match selection {
            Forward { announce, .. } => announce.map(|told| (told.highest, told.explicit)),
            Drop => panic!("the lowest layer is always sent"),
        };
        let mut selector = started(TOP_LAYER);
        assert_eq!(told(select(&mut selector, 1, 0, false, TOP_LAYER)), Some((2, false)));
        assert_eq!(told(select(&mut selector, 2, 0, false, 1)), Some((1, false)));
        assert_eq!(told(select(&mut selector, 2, 1, false, 1)), None, "once a picture");
        assert_eq!(told(select(&mut selector, 3, 0, false, TOP_LAYER)), Some((1, false)));
        assert!(is_sent(select(&mut selector, 3, 2, true, TOP_LAYER)));
        assert_eq!(told(select(&mut selector, 4, 0, false, TOP_LAYER)), Some((2, true)));
        assert_eq!(told(select(&mut selector, 5, 0, true, TOP_LAYER)), Some((TOP_LAYER, false)));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_again_at_a_keyframe() {
        let mut selector = LayerSelector::default();
        let layer = Layer { spatial: 0, refresh: true, frame_end: true };
        let packet = |timestamp| MediaPacket::unreceived(Codec::Vp9, 1, timestamp, &[0x28, 0, 0]).head();
        selector.start(Some(layer));
        assert!(is_sent(selector.select(&packet(1 << 30), layer, TOP_LAYER)));
        let delta = PacketHead { keyframe: false, ..packet(7) };
        assert_eq!(selector.select(&delta, Layer { refresh: false, ..layer }, TOP_LAYER), Drop);
        assert!(is_sent(selector.select(&packet(7), layer, TOP_LAYER)));
        assert!(is_sent(selector.select(&PacketHead { timestamp: 3007, ..delta }, layer, TOP_LAYER)));
    }

    #[test]
    fn layers_are_known_while_they_are_sent() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut layers = StreamLayers::default();
        let packet = |spatial: u8| {
            let layer = Layer { spatial, refresh: false, frame_end: true };
            MediaPacket { layer: Some(layer), ..MediaPacket::unreceived(Codec::H264, 1, 0, &[1]) }
        };
        assert_eq!(layers.highest(at(0)), 0);
        layers.observe(at(0), &packet(2));
        layers.observe(at(0), &packet(1));
        layers.observe(at(1000), &packet(1));
        assert_eq!(layers.highest(at(1499)), 2);
        assert_eq!(layers.highest(at(1500)), 1);
        layers.observe(at(1600), &packet(2));
        layers.observe(at(1600), &MediaPacket { layers: Some(1), ..packet(0) });
        assert_eq!(layers.highest(at(1600)), 0, "a keyframe says that there is only one");
    }
}
