//! Synthetic media: payloads that say what they are, so that a receiver can tell what was lost, what came
//! twice and how long it took.
//!
//! ```text
//!   | codec's payload header | "ZYNK" | stream u32 | frame u32 | index u16 | count u16 | sent_us u64 | filler |
//! ```
//!
//! The codec's header is as real as an SFU looks: keyframes and frame starts can be told apart. What follows
//! is no picture and no sound; only a [`SyntheticHeader`] can be read from it.

use std::sync::Arc;

use crate::Codec;

/// Marks the start of a [`SyntheticHeader`].
const MAGIC: [u8; 4] = *b"ZYNK";
/// Bytes of a [`SyntheticHeader`] on the wire, the mark included.
const HEADER_BYTES: usize = 24;
/// The mark is looked for among the first bytes only: no codec's payload header is longer.
const SEARCH_BYTES_MAX: usize = 48;
/// Largest payload that is generated: fits a datagram of 1200 bytes with headers, extensions and SRTP's tag.
const PAYLOAD_BYTES_MAX: usize = 1100;
/// A keyframe is this many times as large as another frame.
const KEYFRAME_FACTOR: usize = 4;

/// What a synthetic payload says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticHeader {
    /// Which generator made it; chosen by the caller.
    pub stream: u32,
    /// The frame's number, from 0.
    pub frame: u32,
    /// The packet's place in its frame, from 0.
    pub index: u16,
    /// How many packets the frame has.
    pub count: u16,
    /// When it was made, in microseconds of the sender's clock.
    pub sent_us: u64,
}

impl SyntheticHeader {
    /// Finds the header in an RTP payload. None when the payload is not synthetic.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let searched = payload.get(..payload.len().min(SEARCH_BYTES_MAX))?;
        let start = searched.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        let fields = payload.get(start..start + HEADER_BYTES)?;
        let (_, fields) = fields.split_first_chunk::<4>()?;
        let (stream, fields) = fields.split_first_chunk::<4>()?;
        let (frame, fields) = fields.split_first_chunk::<4>()?;
        let (index, fields) = fields.split_first_chunk::<2>()?;
        let (count, fields) = fields.split_first_chunk::<2>()?;
        let (sent_us, _) = fields.split_first_chunk::<8>()?;
        Some(Self {
            stream: u32::from_be_bytes(*stream),
            frame: u32::from_be_bytes(*frame),
            index: u16::from_be_bytes(*index),
            count: u16::from_be_bytes(*count),
            sent_us: u64::from_be_bytes(*sent_us),
        })
    }

    fn write(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&self.stream.to_be_bytes());
        payload.extend_from_slice(&self.frame.to_be_bytes());
        payload.extend_from_slice(&self.index.to_be_bytes());
        payload.extend_from_slice(&self.count.to_be_bytes());
        payload.extend_from_slice(&self.sent_us.to_be_bytes());
    }
}

/// One RTP packet to send, without what the session adds (SSRC, sequence number, payload type).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpPayload {
    /// In units of the codec's clock: 90 kHz for video, 48 kHz for Opus.
    pub timestamp: u32,
    /// Last packet of a video frame; first packet of a talk spurt.
    pub marker: bool,
    /// The payload, codec's payload header included.
    pub payload: Arc<[u8]>,
    /// Loudness for RFC 6464's header extension: 0 is loudest, -127 silent. None for video.
    pub audio_level_dbov: Option<i8>,
}

/// A video track's worth of synthetic frames.
#[derive(Clone, Debug)]
pub struct SyntheticVideo {
    codec: Codec,
    stream: u32,
    frame_rate: u32,
    frame_bytes: usize,
    frame: u32,
    /// The frame's place in the pattern of temporal layers begins with the last keyframe's.
    keyframe: u32,
    temporal_layers: u8,
    tl0_pic_idx: u8,
}

impl SyntheticVideo {
    /// Frames of `codec` at `frame_rate` per second (at least 1) and about `bitrate_bps`, numbered from 0.
    /// The first one is a keyframe.
    pub fn new(codec: Codec, stream: u32, frame_rate: u32, bitrate_bps: u32) -> Self {
        let frame_rate = frame_rate.max(1);
        let frame_bytes = usize::try_from(bitrate_bps / 8 / frame_rate).unwrap_or(PAYLOAD_BYTES_MAX);
        Self {
            codec,
            stream,
            frame_rate,
            frame_bytes: frame_bytes.max(64),
            frame: 0,
            keyframe: 0,
            temporal_layers: 1,
            tl0_pic_idx: 0,
        }
    }

    /// Same, in three temporal layers: frames of the layers 0, 2, 1, 2 in turn, as libwebrtc's `L1T3`. Only VP8's payload
    /// descriptor tells them.
    #[must_use]
    pub fn in_temporal_layers(self) -> Self {
        Self { temporal_layers: 3, ..self }
    }

    /// How many frames have been made.
    pub fn frames(&self) -> u32 {
        self.frame
    }

    /// The running frame's temporal layer, and whether it depends on layer 0 alone.
    fn temporal_layer(&self) -> (u8, bool) {
        match self.frame.wrapping_sub(self.keyframe) % 4 {
            _ if self.temporal_layers < 3 => (0, false),
            0 => (0, false),
            1 => (2, true),
            2 => (1, true),
            _ => (2, false),
        }
    }

    /// The packets of the next frame, made at `now_us` of the sender's clock.
    pub fn next_frame(&mut self, now_us: u64, keyframe: bool) -> Vec<RtpPayload> {
        let keyframe = keyframe || self.frame == 0;
        let frame_bytes = if keyframe { self.frame_bytes * KEYFRAME_FACTOR } else { self.frame_bytes };
        let count = frame_bytes.div_ceil(PAYLOAD_BYTES_MAX).max(1);
        let filler_bytes = (frame_bytes / count).clamp(HEADER_BYTES, PAYLOAD_BYTES_MAX);
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let timestamp = self.frame.wrapping_mul(90_000 / self.frame_rate);
        if keyframe {
            self.keyframe = self.frame;
        }
        if self.temporal_layer().0 == 0 {
            self.tl0_pic_idx = self.tl0_pic_idx.wrapping_add(1);
        }
        let packets = (0..count)
            .map(|index| {
                let header =
                    SyntheticHeader { stream: self.stream, frame: self.frame, index, count, sent_us: now_us };
                let mut payload = Vec::with_capacity(filler_bytes + SEARCH_BYTES_MAX);
                self.write_codec_header(&mut payload, keyframe, index == 0, index + 1 == count);
                header.write(&mut payload);
                payload.resize(payload.len().max(filler_bytes), 0xa5);
                RtpPayload {
                    timestamp,
                    marker: index + 1 == count,
                    payload: payload.into(),
                    audio_level_dbov: None,
                }
            })
            .collect();
        self.frame = self.frame.wrapping_add(1);
        packets
    }

    fn write_codec_header(&self, payload: &mut Vec<u8>, keyframe: bool, first: bool, last: bool) {
        let [_, _, picture_high, picture_low] = self.frame.to_be_bytes();
        match self.codec {
            // RFC 7741, section 4.2: extended, with picture id, TL0PICIDX and TID; then 4.3 and RFC 6386, 9.1.
            Codec::Vp8 => {
                let (temporal, from_base) = self.temporal_layer();
                payload.extend_from_slice(&[
                    0x80 | if first { 0x10 } else { 0 },
                    0xe0,
                    0x80 | picture_high & 0x7f,
                    picture_low,
                    self.tl0_pic_idx,
                    temporal << 6 | if from_base { 0x20 } else { 0 },
                ]);
                if first && keyframe {
                    payload.extend_from_slice(&[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01]);
                } else if first {
                    payload.extend_from_slice(&[0x11, 0, 0]);
                }
            }
            // RFC 9628, section 4.2: picture id, P on dependent frames, B and E at the frame's ends.
            Codec::Vp9 => payload.extend_from_slice(&[
                0x80 | if keyframe { 0 } else { 0x40 }
                    | if first { 0x08 } else { 0 }
                    | if last { 0x04 } else { 0 },
                0x80 | picture_high & 0x7f,
                picture_low,
            ]),
            // RFC 6184, section 5.6: single NAL units, IDR or non-IDR slices.
            Codec::H264 => payload.push(if keyframe { 0x65 } else { 0x41 }),
            // AV1 RTP payload format, section 4.4: Z and Y on fragments, W = 1, N on a new coded sequence.
            Codec::Av1 => payload.extend_from_slice(&[
                0x10 | if first { 0 } else { 0x80 }
                    | if last { 0 } else { 0x40 }
                    | if first && keyframe { 0x08 } else { 0 },
                if keyframe { 0x08 } else { 0x30 },
            ]),
            Codec::Opus => payload.push(OPUS_TOC),
        }
    }
}

/// CELT, fullband, 20 ms, mono, one frame a packet (RFC 6716, section 3.1).
const OPUS_TOC: u8 = 0xf8;

/// An audio track's worth of synthetic Opus packets of 20 ms.
#[derive(Clone, Debug)]
pub struct SyntheticAudio {
    stream: u32,
    frame: u32,
}

impl SyntheticAudio {
    /// Packets per second.
    pub const PACKET_RATE: u32 = 50;
    /// Bytes of a packet: about 32 kbit/s.
    const PAYLOAD_BYTES: usize = 80;

    /// Packets numbered from 0.
    pub fn new(stream: u32) -> Self {
        Self { stream, frame: 0 }
    }

    /// How many packets have been made.
    pub fn frames(&self) -> u32 {
        self.frame
    }

    /// The next packet, made at `now_us` of the sender's clock, as loud as `level_dbov` (0 to -127).
    pub fn next_packet(&mut self, now_us: u64, level_dbov: i8) -> RtpPayload {
        let header =
            SyntheticHeader { stream: self.stream, frame: self.frame, index: 0, count: 1, sent_us: now_us };
        let mut payload = vec![OPUS_TOC];
        header.write(&mut payload);
        payload.resize(Self::PAYLOAD_BYTES, 0x5a);
        let packet = RtpPayload {
            timestamp: self.frame.wrapping_mul(960),
            marker: self.frame == 0,
            payload: payload.into(),
            audio_level_dbov: Some(level_dbov),
        };
        self.frame = self.frame.wrapping_add(1);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO_CODECS: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

    #[test]
    fn every_packet_of_a_frame_can_be_read_back() {
        for codec in VIDEO_CODECS {
            let mut video = SyntheticVideo::new(codec, 7, 25, 1_000_000);
            video.next_frame(0, false);
            let packets = video.next_frame(40_000, false);
            assert!(packets.len() > 1, "{codec:?}");
            for (index, packet) in packets.iter().enumerate() {
                let header = SyntheticHeader::parse(&packet.payload).unwrap();
                assert_eq!((header.stream, header.frame, header.sent_us), (7, 1, 40_000), "{codec:?}");
                assert_eq!(usize::from(header.index), index);
                assert_eq!(usize::from(header.count), packets.len());
                assert_eq!(packet.marker, index + 1 == packets.len());
                assert_eq!(packet.timestamp, 3_600);
                assert!(packet.payload.len() <= PAYLOAD_BYTES_MAX + SEARCH_BYTES_MAX);
            }
        }
    }

    #[test]
    fn keyframes_look_like_keyframes() {
        use str0m::format::{
            detect_av1_keyframe, detect_h264_keyframe, detect_vp8_keyframe, detect_vp9_keyframe,
        };
        let detectors: [fn(&[u8]) -> bool; 4] =
            [detect_vp8_keyframe, detect_vp9_keyframe, detect_h264_keyframe, detect_av1_keyframe];
        for (codec, is_keyframe) in VIDEO_CODECS.into_iter().zip(detectors) {
            let mut video = SyntheticVideo::new(codec, 1, 30, 600_000);
            let first = video.next_frame(0, false);
            let second = video.next_frame(1, false);
            let third = video.next_frame(2, true);
            let found = |packets: &[RtpPayload]| packets.iter().any(|packet| is_keyframe(&packet.payload));
            assert!(found(&first) && !found(&second) && found(&third), "{codec:?}");
        }
    }

    #[test]
    fn bitrate_is_about_what_was_asked_for() {
        let mut video = SyntheticVideo::new(Codec::Vp8, 1, 30, 900_000);
        video.next_frame(0, false);
        let bytes: usize =
            (0..300).flat_map(|_| video.next_frame(0, false)).map(|packet| packet.payload.len()).sum();
        let bps = bytes * 8 / 10;
        assert!((800_000..1_000_000).contains(&bps), "{bps}");
    }

    #[test]
    fn real_media_is_not_mistaken_for_synthetic() {
        assert_eq!(SyntheticHeader::parse(&[]), None);
        assert_eq!(SyntheticHeader::parse(&[0x90; 1200]), None);
        assert_eq!(SyntheticHeader::parse(b"\x90ZYNK short"), None);
    }

    #[test]
    fn audio_advances_by_twenty_milliseconds() {
        let mut audio = SyntheticAudio::new(3);
        let first = audio.next_packet(0, -20);
        let second = audio.next_packet(20_000, -20);
        assert_eq!(second.timestamp - first.timestamp, 960);
        assert!(first.marker && !second.marker);
        assert_eq!(SyntheticHeader::parse(&second.payload).unwrap().frame, 1);
    }
}
