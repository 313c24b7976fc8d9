//! One participant's camera and microphone: packets as a browser sends them, at the times at which it does.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use zynk_sfu_core::media::{
    egress::{NtpTime, SenderInfo},
    extensions::{Element, ExtensionKind, ExtensionMap, write_elements},
    rtcp::RtcpWriter,
    srtp::{SealStream, Sealer},
};

use super::{
    sdp::{Description, Kind},
    socket::{Socket, unix_now},
};

/// Video frames a second.
const FRAMES_PER_SECOND: u32 = 30;
/// Packets of a frame.
const FRAME_PACKETS: u32 = 6;
/// Payload of a video packet: 6 of them 30 times a second are 1.5 Mbit/s.
const VIDEO_PAYLOAD_BYTES: usize = 1041;
/// Between the packets of a frame: what Chromium 156 was seen to leave, median of 26 gaps, as its pacer sends bursts
/// of up to 40 ms (libwebrtc, `PacingController::kDefaultBurstInterval`).
const BURST_GAP: Duration = Duration::from_micros(50);
/// The same of a pacer without bursts, at 2.5 times the rate (libwebrtc until 2023).
const SPREAD_GAP: Duration = Duration::from_micros(2_222);
/// Time of an Opus packet.
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
const AUDIO_PAYLOAD_BYTES: usize = 100;
/// Packets a second of a publisher with both.
pub const PACKETS_PER_SECOND: u32 = FRAMES_PER_SECOND * FRAME_PACKETS + 50;
/// How often sender reports leave.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The last octets of a payload: this and the time of sending, since Unix's epoch, in nanoseconds.
pub(super) const MAGIC: [u8; 8] = *b"zynkload";
/// Octets of both.
pub(super) const STAMP_BYTES: usize = 16;

/// When packets leave, without what is in them: for the floor, which has the same rhythm.
#[derive(Clone, Debug)]
pub struct Rhythm {
    audio: Option<Instant>,
    frame: Option<Instant>,
    /// The next packet of the frame.
    packet: u32,
    gap: Duration,
}

/// One packet of the rhythm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Of which stream.
    pub kind: Kind,
    /// It begins a frame.
    pub first: bool,
    /// It ends one.
    pub last: bool,
}

/// What a publisher sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Opus, 50 packets/s of 100 octets.
    pub audio: bool,
    /// VP8, 180 packets/s of 1,041 octets.
    pub video: bool,
    /// The packets of a frame leave one by one, not in a burst.
    pub spread: bool,
}

impl Load {
    /// Both.
    pub const CALL: Self = Self { audio: true, video: true, spread: false };

    /// Packets a second.
    pub fn packets_per_second(self) -> u32 {
        let video = if self.video { FRAMES_PER_SECOND * FRAME_PACKETS } else { 0 };
        video + if self.audio { 50 } else { 0 }
    }
}

impl Rhythm {
    /// Begins at `start`; publishers that begin at different times do not send at the same ones.
    pub fn new(load: Load, start: Instant) -> Self {
        let gap = if load.spread { SPREAD_GAP } else { BURST_GAP };
        Self { audio: load.audio.then_some(start), frame: load.video.then_some(start), packet: 0, gap }
    }

    /// When the next packet is due.
    pub fn next_at(&self) -> Option<Instant> {
        match (self.audio, self.video_at()) {
            (Some(audio), Some(video)) => Some(audio.min(video)),
            (audio, video) => audio.or(video),
        }
    }

    fn video_at(&self) -> Option<Instant> {
        self.frame.map(|frame| frame + self.gap * self.packet)
    }

    /// Takes the packet that [`Self::next_at`] spoke of.
    pub fn advance(&mut self) -> Beat {
        let video = self.video_at();
        if let Some(audio) = self.audio
            && video.is_none_or(|video| audio <= video)
        {
            self.audio = Some(audio + AUDIO_INTERVAL);
            return Beat { kind: Kind::Audio, first: true, last: true };
        }
        let first = self.packet == 0;
        let last = self.packet + 1 == FRAME_PACKETS;
        if last {
            self.packet = 0;
            self.frame = self.frame.map(|frame| frame + Duration::from_secs(1) / FRAMES_PER_SECOND);
        } else {
            self.packet += 1;
        }
        Beat { kind: Kind::Video, first, last }
    }
}

impl Beat {
    /// Octets of its payload.
    pub fn payload_bytes(self) -> usize {
        match self.kind {
            Kind::Audio => AUDIO_PAYLOAD_BYTES,
            Kind::Video => VIDEO_PAYLOAD_BYTES,
        }
    }
}

struct Stream {
    mid: String,
    payload_type: u8,
    seal: SealStream,
    /// Extended sequence number of the next packet.
    index: u64,
    timestamp: u32,
    packets: u32,
    octets: u32,
}

pub(super) struct Publisher {
    rhythm: Rhythm,
    audio: Option<Stream>,
    video: Option<Stream>,
    extensions: ExtensionMap,
    transport_sequence: u16,
    picture_id: u16,
    keyframe_wanted: bool,
    /// The frame that is being sent is one.
    keyframe: bool,
    next_report: Instant,
    buffer: Vec<u8>,
    pub(super) packets: u64,
    pub(super) keyframes: u64,
}

impl Publisher {
    /// `offer` names the sources, `answer` what the server takes.
    pub(super) fn new(
        load: Load,
        offer: &str,
        answer: &str,
        sealer: &mut Sealer,
        start: Instant,
    ) -> Result<Self> {
        let (offer, answer) = (Description::parse(offer), Description::parse(answer));
        let mut stream = |kind: Kind| -> Result<Stream> {
            let section = offer.sections.iter().find(|section| section.kind == kind).context("a section")?;
            let answered = answer.section(&section.mid).and_then(|section| section.payload_type);
            let payload_type =
                answered.with_context(|| format!("the server's answer takes no {kind:?} of ours"))?;
            let ssrc = section.ssrc.context("the offer names no source")?;
            Ok(Stream {
                mid: section.mid.clone(),
                payload_type,
                seal: sealer.stream(ssrc)?,
                index: u64::from(ssrc % 20_000),
                timestamp: ssrc,
                packets: 0,
                octets: 0,
            })
        };
        Ok(Self {
            rhythm: Rhythm::new(load, start),
            audio: load.audio.then(|| stream(Kind::Audio)).transpose()?,
            video: load.video.then(|| stream(Kind::Video)).transpose()?,
            extensions: answer.extensions,
            transport_sequence: 0,
            picture_id: 0,
            keyframe_wanted: true,
            keyframe: false,
            next_report: start,
            buffer: vec![0; 2048],
            packets: 0,
            keyframes: 0,
        })
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.rhythm.next_at()
    }

    /// The server wants a keyframe: the next frame is one.
    pub(super) fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// The source of the video, else of the audio, and its next sequence number.
    pub(super) fn source(&self) -> Option<(u32, u16)> {
        let stream = self.video.as_ref().or(self.audio.as_ref())?;
        Some((stream.seal.ssrc(), stream.index as u16))
    }

    /// Sends the packet that is due.
    pub(super) fn send(&mut self, sealer: &Sealer, socket: &Socket, to: SocketAddr) -> Result<()> {
        let beat = self.rhythm.advance();
        if beat.kind == Kind::Video && beat.first {
            self.keyframe = std::mem::take(&mut self.keyframe_wanted);
            self.keyframes += u64::from(self.keyframe);
            self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        }
        let stream = match beat.kind {
            Kind::Audio => self.audio.as_mut(),
            Kind::Video => self.video.as_mut(),
        };
        let stream = stream.context("a stream")?;
        if beat.first {
            stream.timestamp = stream.timestamp.wrapping_add(match beat.kind {
                Kind::Audio => 960,
                Kind::Video => 3000,
            });
        }
        let header = header(&mut self.buffer, stream, beat, &self.extensions, self.transport_sequence)?;
        let end = header + beat.payload_bytes();
        let payload = self.buffer.get_mut(header..end).context("room")?;
        if beat.kind == Kind::Video {
            write_vp8(payload, beat.first, self.keyframe, self.picture_id);
        }
        let stamp = payload.len() - STAMP_BYTES;
        let unix = u64::try_from(unix_now().as_nanos()).unwrap_or(0);
        if let Some(octets) = payload.get_mut(stamp..) {
            octets.copy_from_slice(&[MAGIC, unix.to_be_bytes()].concat());
        }
        let bytes = sealer.seal_rtp(&mut stream.seal, &mut self.buffer, header, end, stream.index)?;
        stream.index += 1;
        stream.packets = stream.packets.wrapping_add(1);
        stream.octets = stream.octets.wrapping_add(beat.payload_bytes() as u32);
        self.transport_sequence = self.transport_sequence.wrapping_add(1);
        self.packets += 1;
        socket.send(to, self.buffer.get(..bytes).unwrap_or_default());
        Ok(())
    }

    /// Sender reports of both streams, once a second.
    pub(super) fn report(
        &mut self,
        now: Instant,
        sealer: &mut Sealer,
        socket: &Socket,
        to: SocketAddr,
    ) -> Result<()> {
        if now < self.next_report {
            return Ok(());
        }
        self.next_report = now + REPORT_INTERVAL;
        let ntp = NtpTime::from_unix(unix_now());
        let mut writer = RtcpWriter::new(&mut self.buffer);
        for stream in [&self.audio, &self.video].into_iter().flatten() {
            let info =
                SenderInfo { ntp, rtp: stream.timestamp, packets: stream.packets, octets: stream.octets };
            writer.sender_report(stream.seal.ssrc(), &info, &[])?;
            writer.cname(stream.seal.ssrc(), "load")?;
        }
        let end = writer.bytes();
        let bytes = sealer.seal_rtcp(&mut self.buffer, end)?;
        socket.send(to, self.buffer.get(..bytes).unwrap_or_default());
        Ok(())
    }
}

/// Writes the header and returns its octets.
fn header(
    buffer: &mut [u8],
    stream: &Stream,
    beat: Beat,
    extensions: &ExtensionMap,
    transport_sequence: u16,
) -> Result<usize> {
    let transport_sequence = transport_sequence.to_be_bytes();
    // -40 dBov with speech: somebody is speaking.
    let level = [0x80 | 40];
    let element = |kind: ExtensionKind, value| extensions.id(kind).map(|id| Element { id, value });
    let elements = [
        element(ExtensionKind::TransportSequence, &transport_sequence[..]),
        element(ExtensionKind::Mid, stream.mid.as_bytes()),
        element(ExtensionKind::AudioLevel, &level[..]).filter(|_| beat.kind == Kind::Audio),
    ];
    let mut written = Vec::with_capacity(elements.len());
    written.extend(elements.into_iter().flatten());
    let (fixed, rest) = buffer.split_at_mut_checked(12).context("room")?;
    let extension_bytes = write_elements(rest, &written)?;
    let marker = beat.kind == Kind::Video && beat.last;
    let [s0, s1] = (stream.index as u16).to_be_bytes();
    let [t0, t1, t2, t3] = stream.timestamp.to_be_bytes();
    let [c0, c1, c2, c3] = stream.seal.ssrc().to_be_bytes();
    fixed.copy_from_slice(&[
        0x80 | if extension_bytes > 0 { 0x10 } else { 0 },
        u8::from(marker) << 7 | stream.payload_type,
        s0,
        s1,
        t0,
        t1,
        t2,
        t3,
        c0,
        c1,
        c2,
        c3,
    ]);
    Ok(12 + extension_bytes)
}

/// The payload descriptor (RFC 7741, section 4.2) with a picture id of 15 bits, and at the front of a keyframe the
/// frame's header, of 640 x 480.
fn write_vp8(payload: &mut [u8], first: bool, keyframe: bool, picture_id: u16) {
    let [high, low] = picture_id.to_be_bytes();
    let frame: [u8; 10] = match (first, keyframe) {
        (true, true) => [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01],
        (true, false) => [0x11, 0, 0, 1, 2, 3, 4, 5, 6, 7],
        (false, _) => [0x5a; 10],
    };
    let descriptor = [0x80 | if first { 0x10 } else { 0 }, 0x80, 0x80 | high, low];
    for (octet, value) in payload.iter_mut().zip(descriptor.into_iter().chain(frame)) {
        *octet = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_as_many_packets_as_it_should() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(Load::CALL, start);
        let (mut audio, mut video, mut frames, mut before) = (0, 0, 0, start);
        while let Some(at) = rhythm.next_at()
            && at < start + Duration::from_millis(9_999)
        {
            assert!(at >= before, "time goes on");
            before = at;
            let beat = rhythm.advance();
            match beat.kind {
                Kind::Audio => audio += 1,
                Kind::Video => video += 1,
            }
            frames += u32::from(beat.kind == Kind::Video && beat.last);
        }
        assert_eq!((audio, video, frames), (500, 1800, 300));
        assert_eq!(PACKETS_PER_SECOND, Load::CALL.packets_per_second());
    }
}
