//! VP8's RTP payload descriptor (RFC 7741, section 4.2), as far as forwarding needs it: the running numbers, and
//! what has to be written to change them. Both bits of the picture id and TL0PICIDX stand in the clear, side by
//! side, also where the frame is encrypted end to end.

use crate::{
    connection::PictureIds,
    media::egress::{PATCH_BYTES_MAX, PayloadPatch},
    temporal::TemporalLayer,
};

/// The descriptor is extended.
const X: u8 = 0x80;
/// A picture id is present.
const I: u8 = 0x80;
/// TL0PICIDX is present.
const L: u8 = 0x40;
/// The temporal layer is present.
const T: u8 = 0x20;
/// The frame depends on the lowest temporal layer alone.
const Y: u8 = 0x20;
/// The picture id has 15 bits.
const M: u8 = 0x80;

/// The running numbers; none when the picture id has only 7 bits, or is missing.
pub(crate) fn ids(payload: &[u8]) -> Option<PictureIds> {
    let [first, extension, high, low, ..] = *payload else { return None };
    if first & X == 0 || extension & I == 0 || high & M == 0 {
        return None;
    }
    let tl0_pic_idx = match extension & L {
        0 => None,
        _ => Some(*payload.get(4)?),
    };
    Some(PictureIds { picture_id: u16::from_be_bytes([high & !M, low]), tl0_pic_idx })
}

/// The frame's temporal layer, where the stream has any.
pub(crate) fn temporal_layer(payload: &[u8]) -> Option<TemporalLayer> {
    let [first, extension, ..] = *payload else { return None };
    if first & X == 0 || extension & T == 0 {
        return None;
    }
    let id_bytes = match extension & I {
        0 => 0,
        _ if payload.get(2)? & M == 0 => 1,
        _ => 2,
    };
    let octet = *payload.get(2 + id_bytes + usize::from(extension & L != 0))?;
    let id = octet >> 6;
    Some(TemporalLayer { id, from_base: octet & Y != 0, opens: id })
}

/// What makes a payload's running numbers `ids`; none if it has no place for them.
pub(crate) fn patch(payload: &[u8], ids: PictureIds) -> Option<PayloadPatch> {
    let present = self::ids(payload)?;
    let mut octets = [0; PATCH_BYTES_MAX];
    let [high, low] = ids.picture_id.to_be_bytes();
    let tl0 = present.tl0_pic_idx.map(|present| ids.tl0_pic_idx.unwrap_or(present));
    for (octet, value) in octets.iter_mut().zip([high | M, low, tl0.unwrap_or(0)]) {
        *octet = value;
    }
    Some(PayloadPatch { at: 2, bytes: if tl0.is_some() { 3 } else { 2 }, octets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_in_place() {
        let payload = [0x90, 0xe0, 0x80 | 0x12, 0x34, 7, 0x20, 0x55];
        assert_eq!(ids(&payload), Some(PictureIds { picture_id: 0x1234, tl0_pic_idx: Some(7) }));
        let wished = PictureIds { picture_id: 0x7fff, tl0_pic_idx: Some(255) };
        let mut changed = payload;
        patch(&payload, wished).unwrap().apply(&mut changed).unwrap();
        assert_eq!(ids(&changed), Some(wished));
        assert_eq!((&changed[..2], &changed[5..]), (&payload[..2], &payload[5..]));
    }

    #[test]
    fn temporal_layers_stand_behind_the_running_numbers() {
        let layer = |id, from_base| Some(TemporalLayer { id, from_base, opens: id });
        assert_eq!(temporal_layer(&[0x90, 0xe0, 0x92, 0x34, 7, 0x80 | Y, 0x55]), layer(2, true));
        assert_eq!(temporal_layer(&[0x90, 0xa0, 0x12, 0x40, 0x55]), layer(1, false), "a short picture id");
        assert_eq!(temporal_layer(&[0x90, 0x60, 7, 0x00]), layer(0, false), "no picture id");
        assert_eq!(temporal_layer(&[0x90, 0xc0, 0x92, 0x34, 7, 0x55]), None);
        assert_eq!(temporal_layer(&[0x90, 0xe0, 0x92, 0x34, 7]), None, "cut off");
        assert_eq!(temporal_layer(&[0x10, 0xe0, 0x92, 0x34, 7, 0x80]), None, "no extension");
    }

    #[test]
    fn payloads_without_a_long_picture_id_are_left_alone() {
        let wished = PictureIds { picture_id: 1, tl0_pic_idx: None };
        for payload in [&[0x10, 0x00, 0x9d, 0x01][..], &[0x90, 0x80, 0x12, 0x10], &[0x90, 0x80, 0x92], &[]] {
            assert_eq!(ids(payload), None, "{payload:?}");
            assert_eq!(patch(payload, wished), None, "{payload:?}");
        }
    }
}
