//! VP9's RTP payload descriptor (RFC 9628, section 4.2). It stands before the frame's bytes and stays in the
//! clear when those are encrypted end to end.

use crate::{
    connection::PictureIds,
    layers::Layer,
    media::egress::{PATCH_BYTES_MAX, PayloadPatch},
    temporal::{TOP_TEMPORAL, TemporalLayer},
};

/// A picture id is present.
const I: u8 = 0x80;
/// The frame is predicted from earlier pictures.
const P: u8 = 0x40;
/// Layer indices are present.
const L: u8 = 0x20;
/// Flexible mode: references are listed in place of TL0PICIDX.
const F: u8 = 0x10;
/// The packet begins a layer's frame.
const B: u8 = 0x08;
/// The packet ends a layer's frame.
const E: u8 = 0x04;
/// A scalability structure is present.
const V: u8 = 0x02;
/// The picture id has 15 bits.
const M: u8 = 0x80;
/// The list of references goes on.
const N: u8 = 0x01;
/// The frame is predicted from the layer below in the same picture.
const D: u8 = 0x01;
/// Frames of higher temporal layers that follow depend on none before this one.
const U: u8 = 0x10;
/// References that one frame can list.
const REFERENCES_MAX: usize = 3;

/// What the forwarder needs of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    flags: u8,
    picture_id: Option<u16>,
    /// TID, U, SID and D.
    indices: Option<u8>,
    tl0_pic_idx: Option<u8>,
    layers: Option<u8>,
}

impl Descriptor {
    /// Reads the start of a payload; none when it is too short for what its flags promise.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut bytes = payload.iter().copied();
        let flags = bytes.next()?;
        let mut picture_id = None;
        if flags & I != 0 {
            let first = bytes.next()?;
            if first & M != 0 {
                picture_id = Some(u16::from_be_bytes([first & !M, bytes.next()?]));
            }
        }
        let mut indices = None;
        let mut tl0_pic_idx = None;
        if flags & L != 0 {
            indices = Some(bytes.next()?);
            if flags & F == 0 {
                tl0_pic_idx = Some(bytes.next()?);
            }
        }
        if flags & F != 0 && flags & P != 0 {
            for _ in 0..REFERENCES_MAX {
                if bytes.next()? & N == 0 {
                    break;
                }
            }
        }
        let layers = match flags & V {
            0 => None,
            _ => Some((bytes.next()? >> 5) + 1),
        };
        Some(Self { flags, picture_id, indices, tl0_pic_idx, layers })
    }

    /// Decoding can start with the packet: it begins a frame that depends on no other.
    pub(crate) fn is_start(&self) -> bool {
        let on_layer_below = self.indices.is_some_and(|indices| indices & D != 0);
        self.flags & (P | B) == B && !on_layer_below
    }

    /// The running numbers; none when the picture id has only 7 bits, or is missing.
    pub(crate) fn ids(&self) -> Option<PictureIds> {
        Some(PictureIds { picture_id: self.picture_id?, tl0_pic_idx: self.tl0_pic_idx })
    }

    /// The packet's place among the layers, if the stream has layers.
    pub(crate) fn layer(&self) -> Option<Layer> {
        let indices = self.indices?;
        Some(Layer {
            spatial: (indices >> 1) & 0x07,
            refresh: self.flags & P == 0,
            frame_end: self.flags & E != 0,
        })
    }

    /// The frame's temporal layer, if the stream has layers.
    pub(crate) fn temporal_layer(&self) -> Option<TemporalLayer> {
        let indices = self.indices?;
        let id = indices >> 5;
        let opens = if indices & U != 0 { TOP_TEMPORAL } else { id };
        Some(TemporalLayer { id, from_base: false, opens })
    }

    /// The number of spatial layers, where the descriptor tells it (with keyframes).
    pub(crate) fn layers(&self) -> Option<u8> {
        self.layers
    }
}

/// What makes a payload's running numbers `ids`; none if it has no place for them.
pub(crate) fn patch(payload: &[u8], ids: PictureIds) -> Option<PayloadPatch> {
    let present = Descriptor::parse(payload)?.ids()?;
    let mut octets = [0; PATCH_BYTES_MAX];
    let [high, low] = ids.picture_id.to_be_bytes();
    // Picture id of two bytes, layer indices, TL0PICIDX.
    let indices = payload.get(3).copied().unwrap_or(0);
    let tl0 = present.tl0_pic_idx.map(|present| ids.tl0_pic_idx.unwrap_or(present));
    for (octet, value) in octets.iter_mut().zip([high | M, low, indices, tl0.unwrap_or(0)]) {
        *octet = value;
    }
    Some(PayloadPatch { at: 1, bytes: if tl0.is_some() { 4 } else { 2 }, octets })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(payload: &[u8]) -> Descriptor {
        Descriptor::parse(payload).unwrap()
    }

    #[test]
    fn a_keyframe_of_three_layers_in_flexible_mode() {
        // I, L, F, B, V; picture id 0x1234; TID 0, SID 0; three layers with sizes.
        let structure =
            [0x5 << 4 | 0x8, 1, 0x40, 0, 0xb4, 2, 0x80, 1, 0x68, 5, 0, 2, 0xd0, 1, 0b0001_0000, 0x42];
        let mut payload = vec![I | L | F | B | V, 0x92, 0x34, 0b0000_0000];
        payload.extend(structure);
        let descriptor = parse(&payload);
        assert!(descriptor.is_start());
        assert_eq!(descriptor.layers(), Some(3));
        assert_eq!(descriptor.ids(), Some(PictureIds { picture_id: 0x1234, tl0_pic_idx: None }));
        assert_eq!(descriptor.layer(), Some(Layer { spatial: 0, refresh: true, frame_end: false }));
    }

    #[test]
    fn the_upper_layer_of_a_keyframe_is_no_start() {
        let middle = parse(&[I | L | F | B | E, 0x92, 0x34, 0x13, 0x42]);
        assert!(!middle.is_start());
        assert_eq!(middle.layer(), Some(Layer { spatial: 1, refresh: true, frame_end: true }));
        assert_eq!(middle.layers(), None);
        assert_eq!(
            middle.temporal_layer(),
            Some(TemporalLayer { id: 0, from_base: false, opens: TOP_TEMPORAL })
        );
        let upper = parse(&[I | L | F | P | B | E, 0x92, 0x34, 0x43, 4, 0x42]);
        assert_eq!(upper.temporal_layer(), Some(TemporalLayer { id: 2, from_base: false, opens: 2 }));
    }

    #[test]
    fn delta_frames_list_their_references_before_the_structure() {
        let delta = parse(&[I | P | L | F | V, 0x12, 0x44, 3, 5, 4, 0b0100_0000]);
        assert!(!delta.is_start());
        assert_eq!(delta.layer(), Some(Layer { spatial: 2, refresh: false, frame_end: false }));
        assert_eq!(delta.layers(), Some(3), "after the third reference");
        assert_eq!(delta.ids(), None, "7 bits are too few to go on with");
    }

    #[test]
    fn streams_without_layers_start_at_their_keyframes_first_packet() {
        assert!(parse(&[I | B, 0x80, 1, 0x42]).is_start());
        assert!(!parse(&[I, 0x80, 1, 0x42]).is_start(), "its second packet");
        assert!(!parse(&[I | P | B, 0x80, 1, 0x42]).is_start());
        assert_eq!(parse(&[I | B, 0x80, 1, 0x42]).layer(), None);
        assert!(parse(&[B]).is_start(), "no picture id at all");
    }

    #[test]
    fn running_numbers_are_written_over_the_old_ones() {
        let ids = PictureIds { picture_id: 0x7ffe, tl0_pic_idx: Some(9) };
        let mut payload = [I | P | L | B, 0x92, 0x34, 0x44, 200, 0x42, 0x43];
        patch(&payload, ids).unwrap().apply(&mut payload).unwrap();
        assert_eq!(payload, [I | P | L | B, 0xff, 0xfe, 0x44, 9, 0x42, 0x43]);
        assert_eq!(parse(&payload).ids(), Some(ids));
        assert_eq!(patch(&[I | B, 0x12, 0x42], ids), None);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = [I | P | L | F | V, 0x92, 0x34, 0x44, 3, 5, 4, 0b0100_0000];
        for length in 0..whole.len() {
            assert_eq!(Descriptor::parse(&whole[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(payload in prop::collection::vec(any::<u8>(), 0..24)) {
            let ids = PictureIds { picture_id: 77, tl0_pic_idx: Some(3) };
            if let Some(patch) = patch(&payload, ids) {
                prop_assert!(patch.apply(&mut payload.clone()).is_ok());
            }
            if let Some(layer) = Descriptor::parse(&payload).and_then(|descriptor| descriptor.layer()) {
                prop_assert!(layer.spatial < 8);
            }
        }
    }
}
