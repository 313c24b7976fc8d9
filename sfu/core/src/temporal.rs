//! Temporal layers: frames that can be left out without harm to those of the layers below, so that a stream has a lower
//! frame rate.
//!
//! ```text
//!   layer 2      2   2   2   2          a frame depends on frames of its own layer and of those below
//!   layer 1    1       1                ┐
//!   layer 0  0       0       0          ┘ with the highest layer 1, half of the frames are left
//! ```
//! Layers can be left out from any picture on. They come back with a frame that the publisher marks for it.

/// Stands for the highest temporal layer, whichever that is.
pub(crate) const TOP_TEMPORAL: u8 = 7;

/// A frame's place among the temporal layers of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TemporalLayer {
    /// 0 is that of the lowest frame rate.
    pub(crate) id: u8,
    /// The frame depends on frames of layer 0 alone: who has those decodes it (VP8's Y bit).
    pub(crate) from_base: bool,
    /// Who decodes the frame decodes the frames of the layers up to this one from here on (VP9's U bit, "switch" in a
    /// dependency descriptor).
    pub(crate) opens: u8,
}

/// A subscription's choice among the temporal layers of one stream.
#[derive(Debug)]
pub(crate) struct TemporalSelector {
    /// The highest that is sent of the newest picture.
    current: u8,
    /// The newest picture's timestamp.
    newest: Option<u32>,
    /// When `current` last changed: the first picture's timestamp, and what it was before.
    changed: Option<(u32, u8)>,
}

impl Default for TemporalSelector {
    fn default() -> Self {
        Self { current: TOP_TEMPORAL, newest: None, changed: None }
    }
}

impl TemporalSelector {
    /// A stream begins: with a keyframe all layers do.
    pub(crate) fn start(&mut self, target: u8) {
        *self = Self { current: target, ..Self::default() };
    }

    /// Whether a packet of the picture with `timestamp` is sent; `target` is the highest layer that is wanted.
    pub(crate) fn select(
        &mut self,
        timestamp: u32,
        layer: TemporalLayer,
        keyframe: bool,
        target: u8,
    ) -> bool {
        let age = self.newest.map(|newest| newest.wrapping_sub(timestamp));
        match age {
            Some(0) => {}
            // Late: as was chosen for its time.
            Some(1..0x8000_0000) if !keyframe => return layer.id <= self.at(timestamp),
            _ => {
                self.newest = Some(timestamp);
                if target < self.current {
                    self.change(timestamp, target);
                }
            }
        }
        let decodes = layer.id <= self.current || layer.from_base;
        let opened = if keyframe { TOP_TEMPORAL } else { layer.opens.max(layer.id) };
        if decodes && self.current < opened.min(target) {
            self.change(timestamp, opened.min(target));
        }
        layer.id <= self.current
    }

    /// What was sent of a picture's time, as far as it is known.
    fn at(&self, timestamp: u32) -> u8 {
        match self.changed {
            Some((since, before)) if since.wrapping_sub(timestamp).wrapping_sub(1) < 1 << 31 => before,
            _ => self.current,
        }
    }

    fn change(&mut self, timestamp: u32, to: u8) {
        self.changed = Some((timestamp, self.current));
        self.current = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of VP8, as libwebrtc marks three layers: the first of a cycle's upper frames depend on the base.
    fn vp8(id: u8, from_base: bool) -> TemporalLayer {
        TemporalLayer { id, from_base, opens: id }
    }

    fn opening(id: u8, opens: u8) -> TemporalLayer {
        TemporalLayer { id, from_base: false, opens }
    }

    #[test]
    fn layers_go_at_a_picture_and_come_back_where_they_can() {
        let mut selector = TemporalSelector::default();
        selector.start(TOP_TEMPORAL);
        assert!(selector.select(0, vp8(0, false), true, TOP_TEMPORAL));
        assert!(selector.select(1, vp8(2, true), false, TOP_TEMPORAL));
        assert!(selector.select(1, vp8(2, true), false, 0), "the rest of a picture that has begun");
        assert!(!selector.select(2, vp8(1, true), false, 0));
        assert!(selector.select(4, vp8(0, false), false, 0));
        assert!(!selector.select(5, vp8(2, false), false, 2), "depends on what was not sent");
        assert!(selector.select(6, vp8(1, true), false, 2));
        assert!(!selector.select(7, vp8(2, false), false, 1), "not wanted");
        assert!(!selector.select(11, vp8(2, false), false, 2));
        assert!(selector.select(13, vp8(2, true), false, 2));
    }

    #[test]
    fn a_frame_that_is_sent_opens_the_layers_above() {
        let mut selector = TemporalSelector::default();
        selector.start(0);
        assert!(selector.select(0, opening(0, 0), false, 2));
        assert!(!selector.select(1, opening(2, 2), false, 2));
        assert!(!selector.select(2, opening(1, 2), false, 2), "not decodable itself");
        assert!(selector.select(4, opening(0, 2), false, 2));
        assert!(selector.select(5, opening(2, 2), false, 2));
    }

    #[test]
    fn a_keyframe_brings_all_that_is_wanted() {
        let mut selector = TemporalSelector::default();
        selector.start(0);
        assert!(selector.select(9, opening(0, 0), true, 1));
        assert!(selector.select(10, opening(1, 1), false, 1));
        assert!(!selector.select(11, opening(2, 2), false, 1));
    }

    #[test]
    fn late_packets_go_as_those_of_their_picture_did() {
        let mut selector = TemporalSelector::default();
        selector.start(2);
        selector.select(u32::MAX, opening(0, 0), false, 2);
        assert!(selector.select(1, opening(2, 2), false, 2));
        assert!(!selector.select(4, opening(2, 2), false, 0));
        assert!(selector.select(1, opening(2, 2), false, 0));
        assert!(!selector.select(4, opening(1, 1), false, 0));
    }
}
