//! RTP packets as the forwarder sees them, and the formats they are in.

use std::borrow::Cow;

use str0m::{
    format::{
        Codec as RtcCodec, PayloadParams, detect_av1_keyframe, detect_h264_keyframe, detect_h264_nalu,
        detect_vp8_keyframe,
    },
    media::Rid,
    rtp::{ExtensionSerializer, ExtensionValues},
};
use zynk_protocol::MimeType;

use crate::{
    dependency_descriptor::{DecodeTargets, frame_number},
    layers::Layer,
    media::{egress::PayloadPatch, extensions::Extensions, rtp::RtpHeader},
    red,
    temporal::TemporalLayer,
    vp8, vp9,
};

/// NALU type of an H.264 sequence parameter set (ITU-T H.264, table 7-1), which begins a decodable picture.
const H264_SPS: u8 = 7;

/// The codec families that the forwarder treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Opus, plain.
    Opus,
    /// Opus with redundancy (RFC 2198).
    Red,
    Vp8,
    Vp9,
    H264,
    Av1,
    /// Anything else that was negotiated.
    Other,
}

/// A negotiated payload format of the publisher, to be matched with a subscriber's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PayloadFormat {
    pub(crate) codec: Codec,
    /// RTP clock, Hz.
    pub(crate) clock_rate_hz: u32,
    /// Tells it from the other formats of its connection, those negotiated later included.
    pub(crate) number: u32,
    pub(super) params: PayloadParams,
}

impl PayloadFormat {
    /// Canonical MIME type of the codec.
    pub(crate) fn mime(&self) -> MimeType {
        match self.codec {
            Codec::Opus => MimeType::new("audio/opus"),
            Codec::Red => MimeType::new("audio/red"),
            Codec::Vp8 => MimeType::new("video/VP8"),
            Codec::Vp9 => MimeType::new("video/VP9"),
            Codec::H264 => MimeType::new("video/H264"),
            Codec::Av1 => MimeType::new("video/AV1"),
            Codec::Other => MimeType::new(format!("{:?}", self.params.spec().codec).to_lowercase()),
        }
    }
}

#[cfg(test)]
impl PayloadFormat {
    /// A format that no connection negotiated.
    pub(crate) fn unnegotiated(codec: Codec, clock_rate_hz: u32) -> Self {
        let spec = str0m::format::CodecSpec {
            codec: RtcCodec::Vp8,
            clock_rate: str0m::media::Frequency::NINETY_KHZ,
            channels: None,
            format: Default::default(),
        };
        Self { codec, clock_rate_hz, number: codec as u32, params: PayloadParams::new(96.into(), None, spec) }
    }
}

/// An RTP packet from a publisher, decrypted.
#[derive(Clone, Debug)]
pub(crate) struct MediaPacket<'a> {
    /// Its simulcast encoding.
    pub(crate) rid: Option<Rid>,
    pub(crate) format: PayloadFormat,
    /// Its source, as the publisher numbers it (SSRC).
    pub(crate) source: u32,
    /// Sequence number with rollovers.
    pub(crate) sequence: u64,
    /// RTP timestamp, in units of the format's clock.
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    /// Where the datagram was received, without padding.
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) extensions: Extensions<'a>,
    /// Decoding can start with this packet. False for audio.
    pub(crate) keyframe: bool,
    /// Running numbers in the payload's descriptor.
    pub(crate) ids: Option<PictureIds>,
    /// Where it belongs in a stream with spatial layers.
    pub(crate) layer: Option<Layer>,
    /// The same among temporal layers.
    pub(crate) temporal: Option<TemporalLayer>,
    /// How many spatial layers the stream has from here on, where it says so.
    pub(crate) layers: Option<u8>,
    /// What its dependency descriptor says of decode targets.
    pub(crate) targets: Option<DecodeTargets>,
}

/// What choosing and renumbering look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketHead {
    pub(crate) format: PayloadFormat,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) keyframe: bool,
    /// Nothing but padding.
    pub(crate) empty: bool,
    /// How many earlier payloads it carries.
    pub(crate) earlier_payloads: u8,
    pub(crate) ids: Option<PictureIds>,
    pub(crate) layer: Option<Layer>,
    pub(crate) temporal: Option<TemporalLayer>,
    /// Its dependency descriptor tells its decode targets.
    pub(crate) has_targets: bool,
    /// The frame number in its dependency descriptor.
    pub(crate) frame: Option<u16>,
}

impl<'a> MediaPacket<'a> {
    /// What choosing and renumbering look at.
    pub(crate) fn head(&self) -> PacketHead {
        PacketHead {
            format: self.format,
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker: self.marker,
            keyframe: self.keyframe,
            empty: self.payload.is_empty(),
            earlier_payloads: match self.format.codec {
                Codec::Red => red::earlier_payloads(&self.payload).unwrap_or(0),
                _ => 0,
            },
            ids: self.ids,
            layer: self.layer,
            temporal: self.temporal,
            has_targets: self.targets.is_some(),
            frame: self.extensions.dependency_descriptor.and_then(frame_number),
        }
    }

    /// Of a source, under an extended number of it. Reads the codec's descriptor, once for all subscribers.
    pub(crate) fn received(
        format: PayloadFormat,
        rid: Option<Rid>,
        (source, sequence): (u32, u64),
        header: &RtpHeader,
        payload: &'a [u8],
        extensions: Extensions<'a>,
    ) -> Self {
        let mut packet = Self {
            rid,
            format,
            source,
            sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            payload: Cow::Borrowed(payload),
            extensions,
            keyframe: false,
            ids: None,
            layer: None,
            temporal: None,
            layers: None,
            targets: None,
        };
        packet.describe();
        packet
    }

    fn describe(&mut self) {
        let payload = self.payload.as_ref();
        match self.format.codec {
            Codec::Vp8 => {
                self.keyframe = detect_vp8_keyframe(payload);
                self.ids = vp8::ids(payload);
                self.temporal = vp8::temporal_layer(payload);
            }
            Codec::Vp9 => {
                if let Some(descriptor) = vp9::Descriptor::parse(payload) {
                    self.keyframe = descriptor.is_start();
                    self.ids = descriptor.ids();
                    self.layer = descriptor.layer();
                    self.temporal = descriptor.temporal_layer();
                    self.layers = descriptor.layers();
                }
            }
            Codec::H264 => {
                self.keyframe = detect_h264_keyframe(payload) || detect_h264_nalu(payload, H264_SPS);
            }
            Codec::Av1 => self.keyframe = detect_av1_keyframe(payload),
            Codec::Opus | Codec::Red | Codec::Other => {}
        }
    }
}

#[cfg(test)]
impl MediaPacket<'static> {
    /// A packet that no connection received.
    pub(crate) fn unreceived(codec: Codec, sequence: u64, timestamp: u32, payload: &[u8]) -> Self {
        let mut packet = Self {
            rid: None,
            format: PayloadFormat::unnegotiated(codec, 90_000),
            source: 1,
            sequence,
            timestamp,
            marker: false,
            payload: Cow::Owned(payload.to_vec()),
            extensions: Extensions::default(),
            keyframe: false,
            ids: None,
            layer: None,
            temporal: None,
            layers: None,
            targets: None,
        };
        packet.describe();
        packet
    }
}

/// Running numbers in the payload descriptors of VP8 (RFC 7741, section 4.2) and VP9 (RFC 9628, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PictureIds {
    /// 15 bits.
    pub(crate) picture_id: u16,
    pub(crate) tl0_pic_idx: Option<u8>,
}

impl PictureIds {
    /// The running numbers of a payload; none where the codec has none, or a picture id of 7 bits.
    pub(crate) fn of(codec: Codec, payload: &[u8]) -> Option<Self> {
        match codec {
            Codec::Vp8 => vp8::ids(payload),
            Codec::Vp9 => vp9::Descriptor::parse(payload)?.ids(),
            _ => None,
        }
    }

    /// What has to change in a payload for it to have these numbers; none if it has no place for them.
    pub(crate) fn patch(self, codec: Codec, payload: &[u8]) -> Option<PayloadPatch> {
        match codec {
            Codec::Vp8 => vp8::patch(payload, self),
            Codec::Vp9 => vp9::patch(payload, self),
            _ => None,
        }
    }
}

/// `negotiation` counts the connection's.
pub(super) fn payload_format(params: PayloadParams, red: bool, negotiation: u32) -> PayloadFormat {
    let spec = params.spec();
    let codec = match spec.codec {
        RtcCodec::Opus if red => Codec::Red,
        RtcCodec::Opus => Codec::Opus,
        RtcCodec::Vp8 => Codec::Vp8,
        RtcCodec::Vp9 => Codec::Vp9,
        RtcCodec::H264 => Codec::H264,
        RtcCodec::Av1 => Codec::Av1,
        _ => Codec::Other,
    };
    let payload_type = params.red().filter(|_| red).unwrap_or(params.pt());
    let number = negotiation << 8 | u32::from(*payload_type);
    PayloadFormat { codec, clock_rate_hz: spec.clock_rate.get(), number, params }
}

/// Lets str0m negotiate an extension that it does not read: no RTP reaches it.
#[derive(Debug)]
pub(super) struct NegotiatedOnly;

impl ExtensionSerializer for NegotiatedOnly {
    fn write_to(&self, _: &mut [u8], _: &ExtensionValues) -> usize {
        0
    }

    fn parse_value(&self, _: &[u8], _: &mut ExtensionValues) -> bool {
        false
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }
}
