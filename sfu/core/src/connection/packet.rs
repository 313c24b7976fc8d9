//! RTP packets as the forwarder sees them, and the formats they are in.

use std::sync::Arc;

use str0m::{
    format::{
        Codec as RtcCodec, PayloadParams, detect_av1_keyframe, detect_h264_keyframe, detect_h264_nalu,
        detect_vp8_keyframe,
    },
    media::{Mid, Pt, Rid},
    rtp::{ExtensionSerializer, ExtensionValues, Vp8Descriptor},
};
use zynk_protocol::MimeType;

use crate::{dependency_descriptor::DecodeTargets, layers::Layer, vp9};

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PayloadFormat {
    pub(crate) codec: Codec,
    /// RTP clock, Hz.
    pub(crate) clock_rate_hz: u32,
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
        Self { codec, clock_rate_hz, params: PayloadParams::new(96.into(), None, spec) }
    }
}

/// Header extension values that travel with a packet to its subscribers.
#[derive(Clone, Debug, Default)]
pub(crate) struct PacketExtensions(pub(super) ExtensionValues);

impl PacketExtensions {
    /// Loudness below the loudest possible, −dBov (RFC 6464): 0 loudest, 127 silent.
    pub(crate) fn audio_level(&self) -> Option<u8> {
        self.0.audio_level.map(|level| level.unsigned_abs())
    }

    /// The dependency descriptor, as it came.
    pub(crate) fn dependency_descriptor(&self) -> Option<&[u8]> {
        self.0.user_values.get().map(|DependencyDescriptor(bytes)| bytes.as_slice())
    }

    /// The number of the frame in the dependency descriptor, if there is one.
    pub(crate) fn frame_number(&self) -> Option<u16> {
        let bytes = self.dependency_descriptor()?;
        Some(u16::from_be_bytes([*bytes.get(1)?, *bytes.get(2)?]))
    }

    /// The same values with another frame number in the dependency descriptor.
    pub(crate) fn with_frame_number(&self, number: u16) -> Self {
        let mut bytes = self.dependency_descriptor().unwrap_or_default().to_vec();
        match bytes.get_mut(1..3) {
            Some(field) => {
                field.copy_from_slice(&number.to_be_bytes());
                self.clone().with_dependency_descriptor(bytes)
            }
            None => self.clone(),
        }
    }

    /// The values with another dependency descriptor.
    pub(crate) fn with_dependency_descriptor(mut self, bytes: Vec<u8>) -> Self {
        self.0.user_values.set(DependencyDescriptor(bytes));
        self
    }
}

/// An RTP packet from a publisher, decrypted.
#[derive(Clone, Debug)]
pub(crate) struct MediaPacket {
    /// The section it came on.
    pub(crate) mid: Mid,
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
    pub(crate) payload: Arc<[u8]>,
    pub(crate) extensions: PacketExtensions,
    /// Decoding can start with this packet. False for audio.
    pub(crate) keyframe: bool,
    /// Running numbers in the payload's descriptor.
    pub(crate) ids: Option<PictureIds>,
    /// Where it belongs in a stream with spatial layers.
    pub(crate) layer: Option<Layer>,
    /// How many spatial layers the stream has from here on, where it says so.
    pub(crate) layers: Option<u8>,
    /// What its dependency descriptor says of decode targets.
    pub(crate) targets: Option<DecodeTargets>,
}

impl MediaPacket {
    /// Reads the codec's descriptor, once for all subscribers.
    pub(super) fn describe(&mut self) {
        let payload = &self.payload;
        match self.format.codec {
            Codec::Vp8 => {
                self.keyframe = detect_vp8_keyframe(payload);
                self.ids = vp8_ids(payload);
            }
            Codec::Vp9 => {
                if let Some(descriptor) = vp9::Descriptor::parse(payload) {
                    self.keyframe = descriptor.is_start();
                    self.ids = descriptor.ids();
                    self.layer = descriptor.layer();
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
impl MediaPacket {
    /// A packet that no connection received.
    pub(crate) fn unreceived(codec: Codec, sequence: u64, timestamp: u32, payload: &[u8]) -> Self {
        let mut packet = Self {
            mid: Mid::from("0"),
            rid: None,
            format: PayloadFormat::unnegotiated(codec, 90_000),
            source: 1,
            sequence,
            timestamp,
            marker: false,
            payload: Arc::from(payload),
            extensions: PacketExtensions::default(),
            keyframe: false,
            ids: None,
            layer: None,
            layers: None,
            targets: None,
        };
        packet.describe();
        packet
    }
}

/// An RTP packet for one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedPacket {
    pub(crate) payload_type: Pt,
    /// Sequence number with rollovers; the first one of a stream is below 65 536.
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) payload: Arc<[u8]>,
    pub(crate) extensions: PacketExtensions,
    /// VP8 picture id and TL0PICIDX to write over the payload's.
    pub(crate) vp8: Option<PictureIds>,
    /// Kept for retransmission.
    pub(crate) retransmittable: bool,
}

/// Running numbers in the payload descriptors of VP8 (RFC 7741, section 4.2) and VP9 (RFC 9628, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PictureIds {
    /// 15 bits.
    pub(crate) picture_id: u16,
    pub(crate) tl0_pic_idx: Option<u8>,
}

/// None when the publisher does not send a 15-bit picture id.
fn vp8_ids(payload: &[u8]) -> Option<PictureIds> {
    let descriptor = Vp8Descriptor::parse(payload).ok()?;
    let long = payload.get(2).is_some_and(|byte| byte & 0x80 != 0);
    let picture_id = descriptor.picture_id().filter(|_| long)?;
    Some(PictureIds { picture_id, tl0_pic_idx: descriptor.tl0_pic_idx() })
}

/// The primary block of an RFC 2198 payload; none when it is malformed.
pub(crate) fn red_primary(payload: &[u8]) -> Option<Arc<[u8]>> {
    let blocks = str0m::rtp::RedDecoder::decode(payload).ok()?;
    blocks.iter().find(|block| block.is_primary).map(|block| Arc::from(block.payload))
}

pub(super) fn payload_format(params: PayloadParams, red: bool) -> PayloadFormat {
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
    PayloadFormat { codec, clock_rate_hz: spec.clock_rate.get(), params }
}

/// A dependency descriptor, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DependencyDescriptor(Vec<u8>);

/// Carries dependency descriptors through without reading them.
#[derive(Debug)]
pub(super) struct DependencyDescriptorSerializer;

impl ExtensionSerializer for DependencyDescriptorSerializer {
    fn write_to(&self, buffer: &mut [u8], values: &ExtensionValues) -> usize {
        let Some(DependencyDescriptor(bytes)) = values.user_values.get() else { return 0 };
        match buffer.get_mut(..bytes.len()) {
            Some(target) => {
                target.copy_from_slice(bytes);
                bytes.len()
            }
            None => 0,
        }
    }

    fn parse_value(&self, bytes: &[u8], values: &mut ExtensionValues) -> bool {
        values.user_values.set(DependencyDescriptor(bytes.to_vec()));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }

    fn requires_two_byte_form(&self, values: &ExtensionValues) -> bool {
        values.user_values.get().is_some_and(|DependencyDescriptor(bytes)| bytes.len() > 16)
    }
}
