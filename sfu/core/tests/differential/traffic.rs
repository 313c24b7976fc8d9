//! What the publisher sends: frames that tell what they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

pub(crate) const AUDIO_CID: &str = "microphone";
pub(crate) const VIDEO_CID: &str = "camera";

/// Payload of a packet of audio, in octets.
const AUDIO_BYTES: usize = 80;
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
const VIDEO_FRAME_RATE: u32 = 30;
const VIDEO_PACKET_BYTES_MAX: usize = 1000;
/// RTP header, extensions and tag.
const HEADER_BYTES: u32 = 40;
const ADAPTIVE_KBPS_MIN: u32 = 100;
/// Clock rates of RTP timestamps.
const AUDIO_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;
/// Octets before the numbers: VP8's payload descriptor, and the first of its payload header.
const VP8_BYTES: usize = 2;

/// Who a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stream {
    Audio,
    Video,
}

/// A packet to send.
pub(crate) struct Packet {
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) payload: Vec<u8>,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Video at so many kbit/s.
    Fixed(u32),
    /// Video that takes what the forwarder thinks the receiver has room for, up to so many kbit/s.
    Adaptive(u32),
}

impl Load {
    /// The rate of video's payloads for an estimate in bit/s.
    pub(crate) fn video_kbps(self, estimate: Option<u64>) -> u32 {
        match self {
            Self::Fixed(kbps) => kbps,
            Self::Adaptive(kbps_max) => {
                let kbps = estimate.map_or(0, |bps| (bps * 9 / 10 / 1000) as u32);
                kbps.saturating_sub(overhead_kbps(kbps)).clamp(ADAPTIVE_KBPS_MIN, kbps_max)
            }
        }
    }

    /// What audio and video take at most, with their headers.
    pub(crate) fn need_kbps(self) -> u32 {
        let (Self::Fixed(kbps) | Self::Adaptive(kbps)) = self;
        kbps + overhead_kbps(kbps)
    }
}

/// What audio, and the headers of video, take beside its payloads.
fn overhead_kbps(video_kbps: u32) -> u32 {
    let frame_bytes = (video_kbps * 1000 / 8).div_ceil(VIDEO_FRAME_RATE);
    let packets = VIDEO_FRAME_RATE * frame_bytes.div_ceil(VIDEO_PACKET_BYTES_MAX as u32);
    let audio_packets = 1000 / AUDIO_INTERVAL.as_millis() as u32;
    let bytes = packets * HEADER_BYTES + audio_packets * (HEADER_BYTES + AUDIO_BYTES as u32);
    bytes * 8 / 1000
}

/// Frames at a fixed pace.
pub(crate) struct Source {
    pub(crate) stream: Stream,
    /// The mean.
    frame_bytes: usize,
    next: Instant,
    frame: u32,
    /// Decides the sizes of the frames.
    random: fastrand::Rng,
    pub(crate) keyframe_wanted: bool,
}

impl Source {
    pub(crate) fn new(stream: Stream, start: Instant, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { stream, frame_bytes: AUDIO_BYTES, next: start, frame: 0, random, keyframe_wanted: true }
    }

    pub(crate) fn set_rate(&mut self, kbps: u32) {
        self.frame_bytes = kbps as usize * 1000 / 8 / VIDEO_FRAME_RATE as usize;
    }

    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// The next frame's packets.
    pub(crate) fn next_frame(&mut self) -> Vec<Packet> {
        let frame = self.frame;
        self.frame += 1;
        let (interval, clock, packet_bytes) = match self.stream {
            Stream::Audio => (AUDIO_INTERVAL, AUDIO_CLOCK, AUDIO_BYTES),
            Stream::Video => (Duration::from_secs(1) / VIDEO_FRAME_RATE, VIDEO_CLOCK, VIDEO_PACKET_BYTES_MAX),
        };
        self.next += interval;
        let ticks = u64::from(frame) * interval.as_micros() as u64 * u64::from(clock) / 1_000_000;
        let keyframe = std::mem::take(&mut self.keyframe_wanted);
        let frame_bytes = match self.stream {
            Stream::Audio => self.frame_bytes,
            Stream::Video => self.frame_bytes * self.random.usize(75..=125) / 100,
        };
        let count = frame_bytes.div_ceil(packet_bytes);
        let packet = |index: usize| {
            let mut payload = vec![0; frame_bytes.div_ceil(count)];
            // RFC 7741, section 4: the S bit where a frame begins, and there the P bit unless it is a keyframe.
            payload[0] = if index == 0 { 0x10 } else { 0 };
            payload[1] = u8::from(!keyframe);
            let numbers = Numbers { frame, index: index as u16, count: count as u16 };
            numbers.write(&mut payload[VP8_BYTES..]);
            Packet { timestamp: ticks as u32, marker: index + 1 == count, payload }
        };
        (0..count).map(packet).collect()
    }
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Numbers {
    pub(crate) frame: u32,
    pub(crate) index: u16,
    pub(crate) count: u16,
}

impl Numbers {
    fn write(self, octets: &mut [u8]) {
        octets[..4].copy_from_slice(&self.frame.to_be_bytes());
        octets[4..6].copy_from_slice(&self.index.to_be_bytes());
        octets[6..8].copy_from_slice(&self.count.to_be_bytes());
    }

    pub(crate) fn parse(payload: &[u8]) -> Self {
        let octets = &payload[VP8_BYTES..];
        let short = |at: usize| u16::from_be_bytes(octets[at..at + 2].try_into().unwrap());
        let frame = u32::from_be_bytes(octets[..4].try_into().unwrap());
        Self { frame, index: short(4), count: short(6) }
    }
}

/// Frames as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Frames(BTreeMap<u32, (u16, BTreeSet<u16>)>);

impl Frames {
    pub(crate) fn add(&mut self, numbers: Numbers) {
        let (_, packets) = self.0.entry(numbers.frame).or_insert((numbers.count, BTreeSet::new()));
        packets.insert(numbers.index);
    }

    /// Those of the first `count` of which every packet came.
    pub(crate) fn complete(&self, count: u32) -> BTreeSet<u32> {
        let complete = |(frame, (packets, came)): (&u32, &(u16, BTreeSet<u16>))| {
            (came.len() == usize::from(*packets)).then_some(*frame)
        };
        self.0.range(..count).filter_map(complete).collect()
    }
}
