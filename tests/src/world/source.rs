//! Media that a client of a world sends.

use std::time::{Duration, Instant};

use zynk_client::{Codec, RtpPayload, SyntheticAudio, SyntheticVideo};

const VIDEO_FRAME_RATE: u32 = 30;
const VIDEO_BITRATE_BPS: u32 = 800_000;
const AUDIO_LEVEL_DBOV: i8 = -25;

pub(super) struct Source {
    pub(super) cid: String,
    pub(super) track: Option<String>,
    media: Media,
    next: Option<Instant>,
    keyframe_wanted: bool,
}

enum Media {
    Audio(SyntheticAudio),
    Video(Vec<(Option<String>, SyntheticVideo)>),
}

impl Source {
    pub(super) fn audio(cid: &str, stream: u32) -> Self {
        Self::new(cid, Media::Audio(SyntheticAudio::new(stream)))
    }

    /// Video in these simulcast encodings, lowest first, each of twice the bitrate of the one before; in a
    /// single stream if there are none.
    pub(super) fn video(cid: &str, stream: u32, codec: Codec, rids: &[String]) -> Self {
        let synthetic = |index: u32, bitrate_bps| {
            SyntheticVideo::new(codec, stream + index, VIDEO_FRAME_RATE, bitrate_bps)
        };
        let encodings = if rids.is_empty() {
            vec![(None, synthetic(0, VIDEO_BITRATE_BPS))]
        } else {
            let encoding =
                |(index, rid): (u32, &String)| (Some(rid.clone()), synthetic(index, 150_000 << index));
            (0..).zip(rids).map(encoding).collect()
        };
        Self::new(cid, Media::Video(encodings))
    }

    /// Video in simulcast encodings of so many kbit/s, lowest first, each in three temporal layers.
    pub(super) fn layered_video(cid: &str, stream: u32, rids: &[String], kbps: [u32; 3]) -> Self {
        let encodings = (0..).zip(rids).zip(kbps).map(|((index, rid), kbps)| {
            let video = SyntheticVideo::new(Codec::Vp8, stream + index, VIDEO_FRAME_RATE, kbps * 1000);
            (Some(rid.clone()), video.in_temporal_layers())
        });
        Self::new(cid, Media::Video(encodings.collect()))
    }

    /// Video in a single stream of so many kbit/s.
    pub(super) fn single_video(cid: &str, stream: u32, kbps: u32) -> Self {
        let video = SyntheticVideo::new(Codec::Vp8, stream, VIDEO_FRAME_RATE, kbps * 1000);
        Self::new(cid, Media::Video(vec![(None, video)]))
    }

    fn new(cid: &str, media: Media) -> Self {
        Self { cid: cid.to_owned(), track: None, media, next: None, keyframe_wanted: false }
    }

    pub(super) fn start(&mut self, now: Instant, track: String) {
        self.track = Some(track);
        self.next = Some(now);
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    pub(super) fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// How many frames or packets of audio have been made.
    pub(super) fn frames(&self) -> u32 {
        match &self.media {
            Media::Audio(audio) => audio.frames(),
            Media::Video(encodings) => encodings.first().map_or(0, |(_, video)| video.frames()),
        }
    }

    /// What is to be sent now, with the simulcast encoding it belongs to.
    pub(super) fn produce(&mut self, now: Instant, clock_us: u64) -> Vec<(Option<String>, RtpPayload)> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let keyframe = std::mem::take(&mut self.keyframe_wanted);
        let (interval, packets) = match &mut self.media {
            Media::Audio(audio) => (
                Duration::from_secs(1) / SyntheticAudio::PACKET_RATE,
                vec![(None, audio.next_packet(clock_us, AUDIO_LEVEL_DBOV))],
            ),
            Media::Video(encodings) => {
                let mut packets = Vec::new();
                for (rid, video) in encodings {
                    let frame = video.next_frame(clock_us, keyframe);
                    packets.extend(frame.into_iter().map(|packet| (rid.clone(), packet)));
                }
                (Duration::from_secs(1) / VIDEO_FRAME_RATE, packets)
            }
        };
        self.next = Some(now + interval);
        packets
    }
}
