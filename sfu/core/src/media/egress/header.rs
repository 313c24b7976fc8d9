//! A receiver's header, prebuilt.

use super::{EgressError, Outgoing, StoredPacket};
use crate::media::extensions::{
    Element, ExtensionKind, ExtensionMap, ONE_BYTE_ID_MAX, ONE_BYTE_VALUE_BYTES_MAX, STREAM_ID_BYTES_MAX,
    write_elements,
};
use crate::media::rtp::{FIXED_HEADER_BYTES, HeaderFields};

/// Octets of a template: fixed header, block head, transport sequence, send time, mid; rounded to what is copied
/// at once.
pub const TEMPLATE_BYTES_MAX: usize = 64;
/// Longest header that can come out: the template's elements, those of the packet, a descriptor of 255 octets.
pub(super) const HEADER_BYTES_MAX: usize = 384;
/// Elements of a packet at most: three of the session, five of the packet.
const ELEMENTS_MAX: usize = 8;

/// What changes in the fixed header from packet to packet, besides [`Outgoing`].
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderValues {
    pub(super) payload_type: u8,
    pub(super) sequence: u16,
    pub(super) padded: bool,
}

/// Ids that the receiver negotiated for what a packet brings along.
#[derive(Clone, Copy, Debug, Default)]
struct PacketIds {
    audio_level: Option<u8>,
    orientation: Option<u8>,
    playout_delay: Option<u8>,
    capture_time: Option<u8>,
    descriptor: Option<u8>,
}

/// The octets that all packets of a stream share, and where those are that change.
///
/// Extensions of the session (transport sequence, send time, mid) are laid out once, in the one-byte form;
/// packets with extensions of their own append them. A packet that needs the two-byte form (a long dependency
/// descriptor, which comes with keyframes) or a receiver with ids above 14 takes the slow way.
#[derive(Debug)]
pub struct HeaderTemplate {
    octets: [u8; TEMPLATE_BYTES_MAX],
    /// Where the elements of the session end, without padding.
    end: u8,
    ssrc: u32,
    one_byte: bool,
    mixed_forms: bool,
    transport_at: Option<u8>,
    send_time_at: Option<u8>,
    transport_id: Option<u8>,
    send_time_id: Option<u8>,
    mid_id: Option<u8>,
    mid: [u8; STREAM_ID_BYTES_MAX],
    mid_bytes: u8,
    ids: PacketIds,
}

impl HeaderTemplate {
    /// A template for an SSRC; `None` if the mid is too long.
    pub(super) fn new(ssrc: u32, mid: &str, map: &ExtensionMap, mixed_forms: bool) -> Option<Self> {
        let mut template = Self {
            octets: [0; TEMPLATE_BYTES_MAX],
            end: 0,
            ssrc,
            one_byte: ExtensionKind::ALL
                .iter()
                .filter_map(|kind| map.id(*kind))
                .all(|id| id <= ONE_BYTE_ID_MAX)
                && mid.len() <= ONE_BYTE_VALUE_BYTES_MAX,
            mixed_forms,
            transport_at: None,
            send_time_at: None,
            transport_id: map.id(ExtensionKind::TransportSequence),
            send_time_id: map.id(ExtensionKind::AbsoluteSendTime),
            mid_id: map.id(ExtensionKind::Mid).filter(|_| !mid.is_empty()),
            mid: [0; STREAM_ID_BYTES_MAX],
            mid_bytes: u8::try_from(mid.len()).ok()?,
            ids: PacketIds {
                audio_level: map.id(ExtensionKind::AudioLevel),
                orientation: map.id(ExtensionKind::VideoOrientation),
                playout_delay: map.id(ExtensionKind::PlayoutDelay),
                capture_time: map.id(ExtensionKind::AbsoluteCaptureTime),
                descriptor: map.id(ExtensionKind::DependencyDescriptor),
            },
        };
        template.mid.get_mut(..mid.len())?.copy_from_slice(mid.as_bytes());
        if template.one_byte {
            template.lay_out()?;
        }
        Some(template)
    }

    fn lay_out(&mut self) -> Option<()> {
        let mut at = FIXED_HEADER_BYTES;
        put(&mut self.octets, &mut at, &[0xbe, 0xde, 0, 0])?;
        if let Some(id) = self.transport_id {
            self.transport_at = u8::try_from(at + 1).ok();
            put(&mut self.octets, &mut at, &[id << 4 | 1, 0, 0])?;
        }
        if let Some(id) = self.send_time_id {
            self.send_time_at = u8::try_from(at + 1).ok();
            put(&mut self.octets, &mut at, &[id << 4 | 2, 0, 0, 0])?;
        }
        if let Some(id) = self.mid_id {
            put(&mut self.octets, &mut at, &[id << 4 | self.mid_bytes.checked_sub(1)?])?;
            put(&mut self.octets, &mut at, self.mid.get(..usize::from(self.mid_bytes))?)?;
        }
        self.end = u8::try_from(at).ok()?;
        Some(())
    }

    /// Writes a header; returns its octets.
    #[inline]
    pub(super) fn write(
        &self,
        buffer: &mut [u8],
        values: &HeaderValues,
        out: &Outgoing<'_>,
        packet: Option<&StoredPacket<'_>>,
    ) -> Result<usize, EgressError> {
        let mut descriptor = match packet {
            Some(packet) if self.ids.descriptor.is_some() => out.descriptor.unwrap_or(packet.descriptor),
            _ => &[],
        };
        let too_long = descriptor.len() > ONE_BYTE_VALUE_BYTES_MAX;
        if self.one_byte && too_long && !self.mixed_forms {
            descriptor = &[];
        } else if !self.one_byte || too_long {
            return self.write_elements(buffer, values, out, packet, descriptor);
        }
        self.write_one_byte(buffer, values, out, packet, descriptor).ok_or(EgressError::Bounds)
    }

    #[inline]
    fn write_one_byte(
        &self,
        buffer: &mut [u8],
        values: &HeaderValues,
        out: &Outgoing<'_>,
        packet: Option<&StoredPacket<'_>>,
        descriptor: &[u8],
    ) -> Option<usize> {
        // One copy of constant size; what is too much of it is overwritten.
        *buffer.first_chunk_mut::<TEMPLATE_BYTES_MAX>()? = self.octets;
        if let Some(at) = self.transport_at {
            put(buffer, &mut usize::from(at), &out.transport_sequence.to_be_bytes())?;
        }
        if let Some(at) = self.send_time_at {
            put(buffer, &mut usize::from(at), &out.send_time.to_octets())?;
        }
        let mut at = usize::from(self.end);
        if let Some(packet) = packet {
            let info = packet.info;
            if let (Some(level), Some(id)) = (info.audio_level, self.ids.audio_level) {
                put(buffer, &mut at, &[id << 4, level.to_octet()])?;
            }
            if let (Some(orientation), Some(id)) = (info.orientation, self.ids.orientation) {
                put(buffer, &mut at, &[id << 4, orientation.0])?;
            }
            if let (Some(delay), Some(id)) = (info.playout_delay, self.ids.playout_delay) {
                let [a, b, c] = delay.to_octets();
                put(buffer, &mut at, &[id << 4 | 2, a, b, c])?;
            }
            if let (Some(time), Some(id)) = (info.capture_time, self.ids.capture_time) {
                let (octets, bytes) = time.to_octets();
                put(buffer, &mut at, &[id << 4 | (bytes as u8 - 1)])?;
                put(buffer, &mut at, octets.get(..bytes)?)?;
            }
            if let (Some(id), [_, ..]) = (self.ids.descriptor, descriptor) {
                put(buffer, &mut at, &[id << 4 | (descriptor.len() as u8 - 1)])?;
                put(buffer, &mut at, descriptor)?;
            }
        }
        let extended = at > FIXED_HEADER_BYTES + 4;
        if extended {
            let padded = at.next_multiple_of(4);
            buffer.get_mut(at..padded)?.fill(0);
            at = padded;
            let words = ((at - FIXED_HEADER_BYTES) / 4 - 1) as u16;
            put(buffer, &mut (FIXED_HEADER_BYTES + 2), &words.to_be_bytes())?;
        } else {
            at = FIXED_HEADER_BYTES;
        }
        *buffer.first_chunk_mut()? = self.fixed(values, out, extended);
        Some(at)
    }

    /// The slow way: any id, any length.
    #[cold]
    fn write_elements(
        &self,
        buffer: &mut [u8],
        values: &HeaderValues,
        out: &Outgoing<'_>,
        packet: Option<&StoredPacket<'_>>,
        descriptor: &[u8],
    ) -> Result<usize, EgressError> {
        let info = packet.map(|packet| packet.info);
        let transport = out.transport_sequence.to_be_bytes();
        let send_time = out.send_time.to_octets();
        let mid = self.mid.get(..usize::from(self.mid_bytes)).unwrap_or_default();
        let level = info.and_then(|info| info.audio_level).map(|level| [level.to_octet()]);
        let orientation = info.and_then(|info| info.orientation).map(|orientation| [orientation.0]);
        let delay = info.and_then(|info| info.playout_delay).map(|delay| delay.to_octets());
        let time = info.and_then(|info| info.capture_time).map(|time| time.to_octets());
        let candidates: [(Option<u8>, Option<&[u8]>); ELEMENTS_MAX] = [
            (self.transport_id, Some(&transport)),
            (self.send_time_id, Some(&send_time)),
            (self.mid_id, Some(mid)),
            (self.ids.audio_level, level.as_ref().map(|octets| &octets[..])),
            (self.ids.orientation, orientation.as_ref().map(|octets| &octets[..])),
            (self.ids.playout_delay, delay.as_ref().map(|octets| &octets[..])),
            (self.ids.capture_time, time.as_ref().and_then(|(octets, bytes)| octets.get(..*bytes))),
            (self.ids.descriptor, Some(descriptor).filter(|descriptor| !descriptor.is_empty())),
        ];
        let mut elements = [Element { id: 0, value: &[] }; ELEMENTS_MAX];
        let mut count = 0;
        for (slot, (id, value)) in
            elements.iter_mut().zip(candidates.into_iter().filter_map(|(id, value)| Some((id?, value?))))
        {
            *slot = Element { id, value };
            count += 1;
        }
        let (fixed, rest) =
            buffer.split_first_chunk_mut::<FIXED_HEADER_BYTES>().ok_or(EgressError::Bounds)?;
        let elements = elements.get(..count).unwrap_or_default();
        let bytes = write_elements(rest, elements).map_err(|_| EgressError::Bounds)?;
        *fixed = self.fixed(values, out, bytes > 0);
        Ok(FIXED_HEADER_BYTES + bytes)
    }

    #[inline]
    fn fixed(&self, values: &HeaderValues, out: &Outgoing<'_>, extended: bool) -> [u8; FIXED_HEADER_BYTES] {
        let fields = HeaderFields {
            payload_type: values.payload_type,
            marker: out.marker,
            sequence: values.sequence,
            timestamp: out.timestamp,
            ssrc: self.ssrc,
            extended,
            padded: values.padded,
        };
        fields.to_octets()
    }
}

#[inline]
fn put(buffer: &mut [u8], at: &mut usize, octets: &[u8]) -> Option<()> {
    let end = *at + octets.len();
    buffer.get_mut(*at..end)?.copy_from_slice(octets);
    *at = end;
    Some(())
}
