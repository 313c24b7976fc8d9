//! What a participant receives: counted by the plain header; a sample is opened, which proves it authentic and
//! says how old it is. Answers with the reports that a browser sends.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use zynk_sfu_core::media::{
    extensions::{ExtensionKind, ExtensionMap},
    receiver::ReportBlock,
    rtcp::{Packet, Packets, RtcpWriter},
    rtp::RtpHeader,
    srtp::{Opener, Sealer},
    twcc::ArrivalRecorder,
};

use super::{
    publisher::{MAGIC, STAMP_BYTES},
    sdp::Description,
    socket::{Received, Socket, unix_now},
};
use crate::histogram::Histogram;

/// One packet in so many is opened. A prime, so that every packet of a frame gets its turn.
const SAMPLE: u32 = 61;
/// How often transport-wide feedback leaves.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);
/// How often receiver reports leave.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Report blocks of one packet.
const BLOCKS_MAX: usize = 31;

/// Totals since the participant joined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Audio and video packets.
    pub packets: u64,
    /// Octets of all datagrams of RTP.
    pub octets: u64,
    /// Retransmissions and padding.
    pub other: u64,
    /// Sequence numbers that were skipped, less those that came late.
    pub lost: i64,
    /// Packets that were opened, and are authentic.
    pub opened: u64,
    /// Packets that were not.
    pub refused: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.octets += other.octets;
        self.other += other.other;
        self.lost += other.lost;
        self.opened += other.opened;
        self.refused += other.refused;
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            octets: self.octets - earlier.octets,
            other: self.other - earlier.other,
            lost: self.lost - earlier.lost,
            opened: self.opened - earlier.opened,
            refused: self.refused - earlier.refused,
        }
    }
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    /// Extended sequence numbers.
    first: u64,
    highest: u64,
    packets: u64,
    /// Of the last report.
    expected_then: u64,
    packets_then: u64,
    last_sr: Option<(u32, Instant)>,
}

pub(super) struct Receiver {
    /// Payload types of audio and video.
    media: Vec<u8>,
    extensions: ExtensionMap,
    streams: Vec<Stream>,
    recent: usize,
    recorder: ArrivalRecorder,
    own_ssrc: u32,
    next_feedback: Instant,
    next_report: Instant,
    until_sample: u32,
    pub(super) totals: Totals,
    pub(super) first_packet: Option<Instant>,
}

impl Receiver {
    /// `remote` is the server's description; `number` spreads what receivers do over time.
    pub(super) fn new(remote: &str, number: u32, now: Instant) -> Self {
        let description = Description::parse(remote);
        let mut media: Vec<u8> =
            description.sections.iter().filter_map(|section| section.payload_type).collect();
        media.sort_unstable();
        media.dedup();
        let phase = |interval: Duration| now + interval.mul_f64(f64::from(number % 17) / 17.0);
        Self {
            media,
            extensions: description.extensions,
            streams: Vec::new(),
            recent: 0,
            recorder: ArrivalRecorder::new(),
            own_ssrc: 0x1000_0000 + number,
            next_feedback: phase(FEEDBACK_INTERVAL),
            next_report: phase(REPORT_INTERVAL),
            until_sample: 1 + number % SAMPLE,
            totals: Totals::default(),
            first_packet: None,
        }
    }

    /// An RTP packet.
    pub(super) fn on_rtp(&mut self, received: Received<'_>, opener: &mut Opener, latencies: &mut Histogram) {
        let Received { unix, at, datagram, .. } = received;
        let Ok(header) = RtpHeader::parse(datagram) else { return };
        self.totals.octets += datagram.len() as u64;
        if let Some(id) = self.extensions.id(ExtensionKind::TransportSequence) {
            let value = header.extensions(datagram).find(|(element, _)| *element == id);
            if let Some((_, &[high, low])) = value {
                self.recorder.on_packet(at, u16::from_be_bytes([high, low]));
            }
        }
        if !self.media.contains(&header.payload_type) {
            self.totals.other += 1;
            return;
        }
        self.first_packet.get_or_insert(at);
        self.totals.packets += 1;
        self.totals.lost += self.stream(header.ssrc, header.sequence);
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.until_sample = SAMPLE;
            match opener.open_rtp(datagram) {
                Ok(opened) => {
                    self.totals.opened += 1;
                    let payload = datagram.get(opened.payload).unwrap_or_default();
                    if let Some(sent) = stamp(payload) {
                        latencies.record(unix.saturating_sub(sent));
                    }
                }
                Err(_) => self.totals.refused += 1,
            }
        }
    }

    /// Counts a packet of a stream; returns how many more are lost since.
    fn stream(&mut self, ssrc: u32, sequence: u16) -> i64 {
        if self.streams.get(self.recent).is_none_or(|stream| stream.ssrc != ssrc) {
            let found = self.streams.iter().position(|stream| stream.ssrc == ssrc);
            self.recent = found.unwrap_or(self.streams.len());
            if found.is_none() {
                let first = (1 << 16) + u64::from(sequence);
                self.streams.push(Stream {
                    ssrc,
                    first,
                    highest: first - 1,
                    packets: 0,
                    expected_then: 0,
                    packets_then: 0,
                    last_sr: None,
                });
            }
        }
        let Some(stream) = self.streams.get_mut(self.recent) else { return 0 };
        stream.packets += 1;
        let ahead = i64::from(sequence.wrapping_sub(stream.highest as u16) as i16);
        if ahead <= 0 {
            return -1;
        }
        stream.highest = stream.highest.saturating_add_signed(ahead);
        ahead - 1
    }

    /// An RTCP packet: the sender reports in it are answered by the next report.
    pub(super) fn on_rtcp(&mut self, now: Instant, packet: &[u8]) {
        for packet in Packets::new(packet).flatten() {
            if let Packet::SenderReport { ssrc, info, .. } = packet
                && let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc)
            {
                stream.last_sr = Some((info.ntp.middle(), now));
            }
        }
    }

    /// Feedback and reports that are due.
    pub(super) fn report(
        &mut self,
        now: Instant,
        sealer: &mut Sealer,
        socket: &Socket,
        to: SocketAddr,
        scratch: &mut Scratch,
    ) -> Result<()> {
        if now >= self.next_feedback {
            self.next_feedback = (self.next_feedback + FEEDBACK_INTERVAL).max(now);
            let media = self.streams.first().map_or(0, |stream| stream.ssrc);
            loop {
                scratch.packet.clear();
                let Scratch { packet, recorder, .. } = scratch;
                if !self.recorder.poll(now, self.own_ssrc, media, recorder, packet) {
                    break;
                }
                send(scratch, sealer, socket, to)?;
            }
        }
        if now >= self.next_report && !self.streams.is_empty() {
            self.next_report = (self.next_report + REPORT_INTERVAL).max(now);
            let blocks: Vec<_> = self.streams.iter_mut().map(|stream| stream.block(now)).collect();
            scratch.packet.clear();
            scratch.packet.resize(1200, 0);
            let mut writer = RtcpWriter::new(&mut scratch.packet);
            for blocks in blocks.chunks(BLOCKS_MAX) {
                writer.receiver_report(self.own_ssrc, blocks)?;
            }
            writer.cname(self.own_ssrc, "load")?;
            let end = writer.bytes();
            scratch.packet.truncate(end);
            send(scratch, sealer, socket, to)?;
        }
        Ok(())
    }
}

impl Stream {
    fn block(&mut self, now: Instant) -> ReportBlock {
        let expected = self.highest + 1 - self.first;
        let expected_now = expected - self.expected_then;
        let lost_now = expected_now.saturating_sub(self.packets - self.packets_then);
        (self.expected_then, self.packets_then) = (expected, self.packets);
        let (last_sr, since) = self.last_sr.map_or((0, 0.0), |(middle, at)| {
            (middle, now.saturating_duration_since(at).as_secs_f64() * 65_536.0)
        });
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            cumulative_lost: i32::try_from(expected.saturating_sub(self.packets)).unwrap_or(i32::MAX),
            highest_seq: (self.highest - (1 << 16)) as u32,
            jitter: 0,
            last_sr,
            delay_since_last_sr: since as u32,
        }
    }
}

/// Reused memory of what is written.
#[derive(Default)]
pub(super) struct Scratch {
    packet: Vec<u8>,
    recorder: Vec<u8>,
}

/// Seals and sends the packet in `scratch`.
fn send(scratch: &mut Scratch, sealer: &mut Sealer, socket: &Socket, to: SocketAddr) -> Result<()> {
    let end = scratch.packet.len();
    scratch.packet.resize(end + sealer.profile().rtcp_overhead_bytes(), 0);
    let bytes = sealer.seal_rtcp(&mut scratch.packet, end)?;
    socket.send(to, scratch.packet.get(..bytes).unwrap_or_default());
    Ok(())
}

/// When the packet was sent, if it is one of ours.
fn stamp(payload: &[u8]) -> Option<Duration> {
    let stamp = payload.get(payload.len().checked_sub(STAMP_BYTES)?..)?;
    let unix = stamp.strip_prefix(&MAGIC[..])?.first_chunk::<8>()?;
    Some(Duration::from_nanos(u64::from_be_bytes(*unix))).filter(|sent| *sent <= unix_now())
}
