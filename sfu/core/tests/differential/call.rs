//! A publisher and a receiver with a forwarder between them, in virtual time.
//!
//! ```text
//!   Source ─► publisher ══ clean ══► Forwarder ══ link under test ══► receiver ─► Outcome
//!                       ◄═ clean ══           ◄══════ clean ═════════
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m::{
    Event,
    change::SdpAnswer,
    format::Codec,
    media::{Direction, MediaKind, Mid, Pt},
    rtp::{ExtensionValues, RawPacket, RtpWrite, SeqNo, rtcp::Rtcp},
};
use zynk_netlab::LinkConfig;

use crate::{
    forwarder::{ADDRESS, Forwarder},
    link::Link,
    peer::{CONNECT_MAX, Peer},
    traffic::{AUDIO_CID, Frames, Load, Numbers, Source, Stream, VIDEO_CID},
};

pub(crate) const PUBLISHER: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);
const RECEIVER: ([u8; 4], u16) = ([10, 0, 0, 2], 4000);
/// The links that are not under test.
const CLEAN: LinkConfig = LinkConfig::delayed(Duration::from_millis(5));
/// Until then the estimates may differ.
const WARM_UP: Duration = Duration::from_secs(10);
/// Then they are compared for so long.
const COMPARED: Duration = Duration::from_secs(10);
/// So many frames come until then.
const AUDIO_FRAMES: u32 = 1000;
pub(crate) const VIDEO_FRAMES: u32 = 600;
/// Frames that come later do not count: what is lost of those that do shows by these, and is sent again meanwhile.
const TRAILER: Duration = Duration::from_secs(1);
/// How often the load follows the estimate.
const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// str0m may ask for another turn at the same instant again and again: time goes on by so much at least.
const STEP_MIN: Duration = Duration::from_micros(100);
/// Turns at one instant: as many as a burst of packets needs.
const TURNS_MAX: usize = 64;

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Frames of which everything arrived, as far as they count.
    pub(crate) complete: BTreeMap<Stream, BTreeSet<u32>>,
    /// Packets of video that the receiver asked for again.
    pub(crate) nacked: BTreeSet<u16>,
    /// Packets of video that it got as retransmissions.
    pub(crate) retransmitted: BTreeSet<u16>,
    /// What the packets of video are, by their sequence numbers.
    pub(crate) numbers: BTreeMap<u16, Numbers>,
    /// The forwarder's estimates in bit/s, while they are compared.
    pub(crate) estimates: Vec<u64>,
    /// Octets that the forwarder sent to the receiver until then.
    pub(crate) downlink_bytes: usize,
}

pub(crate) struct Call<F> {
    now: Instant,
    forwarder: F,
    publisher: Peer,
    receiver: Peer,
    uplinks: [Link; 2],
    downlink: Link,
    publisher_downlink: Link,
    formats: Formats,
    sources: Vec<(Source, Mid, Pt, SeqNo)>,
    frames: BTreeMap<Stream, Frames>,
    nacked: BTreeSet<u16>,
    retransmitted: BTreeSet<u16>,
    numbers: BTreeMap<u16, Numbers>,
    downlink_bytes: usize,
}

/// Payload types, the same everywhere.
#[derive(Clone, Copy)]
struct Formats {
    audio: Pt,
    video: Pt,
    video_rtx: Pt,
}

impl<F: Forwarder> Call<F> {
    /// Connects both clients, sends audio and video, and returns what came of it.
    pub(crate) fn run(now: Instant, forwarder: F, link: &LinkConfig, seed: u64, load: Load) -> Outcome {
        let publisher = Peer::new(now, PUBLISHER.into(), |config| config);
        let receiver = Peer::new(now, RECEIVER.into(), |config| config.enable_raw_packets(true));
        let formats = {
            let params = |codec: Codec| {
                let mut all = publisher.rtc.codec_config().iter();
                *all.find(|params| params.spec().codec == codec).unwrap()
            };
            let video = params(Codec::Vp8);
            Formats { audio: params(Codec::Opus).pt(), video: video.pt(), video_rtx: video.resend().unwrap() }
        };
        let mut call = Self {
            now,
            forwarder,
            publisher,
            receiver,
            uplinks: [Link::new(&CLEAN, 0, now), Link::new(&CLEAN, 0, now)],
            downlink: Link::new(link, seed, now),
            publisher_downlink: Link::new(&CLEAN, 0, now),
            formats,
            sources: Vec::new(),
            frames: BTreeMap::new(),
            nacked: BTreeSet::new(),
            retransmitted: BTreeSet::new(),
            numbers: BTreeMap::new(),
            downlink_bytes: 0,
        };
        let mids = call.negotiate();
        // Both begin to send at the same time, however long the handshakes took.
        call.run_for(CONNECT_MAX);
        assert!(call.publisher.connected && call.receiver.connected, "no connection");
        let start = call.now;
        call.sources = vec![
            (Source::new(Stream::Audio, start, seed), mids[0], formats.audio, SeqNo::default()),
            (Source::new(Stream::Video, start, seed), mids[1], formats.video, SeqNo::default()),
        ];
        call.downlink_bytes = 0;
        call.flow(WARM_UP, load);
        let estimates = call.flow(COMPARED, load);
        let downlink_bytes = call.downlink_bytes;
        call.flow(TRAILER, load);
        call.finish(estimates, downlink_bytes)
    }

    /// Lets media flow, and returns the estimates meanwhile.
    fn flow(&mut self, time: Duration, load: Load) -> Vec<u64> {
        let end = self.now + time;
        let mut estimates = Vec::new();
        while self.now < end {
            let estimate = self.forwarder.estimate_bps();
            estimates.extend(estimate);
            self.sources[1].0.set_rate(load.video_kbps(estimate));
            self.run_for(LOAD_INTERVAL);
        }
        estimates
    }

    /// Keeps what counts: packets up to the last of the frames that do. The receiver's sequence numbers begin low and
    /// do not wrap in so short a time.
    fn finish(self, estimates: Vec<u64>, downlink_bytes: usize) -> Outcome {
        let last = self.numbers.iter().rfind(|(_, numbers)| numbers.frame < VIDEO_FRAMES).unwrap();
        let complete = self.frames.iter().map(|(stream, frames)| {
            let count = if *stream == Stream::Audio { AUDIO_FRAMES } else { VIDEO_FRAMES };
            (*stream, frames.complete(count))
        });
        Outcome {
            complete: complete.collect(),
            nacked: self.nacked.range(..=last.0).copied().collect(),
            retransmitted: self.retransmitted,
            numbers: self.numbers,
            estimates,
            downlink_bytes,
        }
    }

    /// Returns the publisher's sections.
    fn negotiate(&mut self) -> [Mid; 2] {
        let now = self.now;
        let mut api = self.publisher.rtc.sdp_api();
        let mids = [(MediaKind::Audio, AUDIO_CID), (MediaKind::Video, VIDEO_CID)].map(|(kind, cid)| {
            api.add_media(kind, Direction::SendOnly, Some(cid.to_owned()), Some(cid.to_owned()), None)
        });
        let (offer, pending) = api.apply().unwrap();
        self.publisher.drain();
        let answer = self.forwarder.publish(now, &offer.to_sdp_string());
        let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
        self.publisher.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        self.publisher.drain();

        let mut api = self.receiver.rtc.sdp_api();
        for kind in [MediaKind::Audio, MediaKind::Video] {
            api.add_media(kind, Direction::RecvOnly, None, None, None);
        }
        let (offer, pending) = api.apply().unwrap();
        self.receiver.drain();
        let answer = self.forwarder.subscribe(now, &offer.to_sdp_string());
        let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
        self.receiver.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        self.receiver.drain();
        mids
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.next_event().max(self.now + STEP_MIN);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }

    fn next_event(&self) -> Instant {
        let parts = [self.publisher.deadline(), self.receiver.deadline(), self.forwarder.deadline()];
        let links = self.uplinks.iter().chain([&self.downlink, &self.publisher_downlink]);
        let sources = self.sources.iter().map(|(source, ..)| source.next());
        parts.into_iter().chain(links.filter_map(Link::next_arrival)).chain(sources).min().unwrap()
    }

    /// What happens at this instant.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if !self.turn() {
                return;
            }
        }
    }

    /// Everything that is due, once. False if nothing was.
    fn turn(&mut self) -> bool {
        let now = self.now;
        let mut busy = false;
        for index in 0..self.sources.len() {
            while self.sources[index].0.next() <= now {
                busy = true;
                self.produce(index);
            }
        }
        for index in 0..self.uplinks.len() {
            while let Some(datagram) = self.uplinks[index].receive(now) {
                busy = true;
                self.forwarder.handle_datagram(now, datagram);
            }
        }
        while let Some(datagram) = self.publisher_downlink.receive(now) {
            busy = true;
            self.publisher.handle_datagram(now, &datagram);
        }
        while let Some(datagram) = self.downlink.receive(now) {
            busy = true;
            self.receiver.handle_datagram(now, &datagram);
        }
        for peer in [&mut self.publisher, &mut self.receiver] {
            if peer.deadline() <= now {
                busy = true;
                peer.handle_timeout(now);
            }
        }
        if self.forwarder.deadline() <= now {
            busy = true;
            self.forwarder.handle_timeout(now);
        }
        self.note_events();
        for (peer, link) in [&mut self.publisher, &mut self.receiver].into_iter().zip(&mut self.uplinks) {
            peer.take_sent().into_iter().for_each(|datagram| link.send(now, datagram));
        }
        for datagram in self.forwarder.take_sent() {
            debug_assert_eq!(datagram.source, SocketAddr::from(ADDRESS));
            if datagram.destination == self.receiver.address() {
                self.downlink_bytes += datagram.payload.len();
                self.downlink.send(now, datagram);
            } else {
                self.publisher_downlink.send(now, datagram);
            }
        }
        busy
    }

    fn produce(&mut self, index: usize) {
        let now = self.now;
        let (source, mid, payload_type, sequence) = &mut self.sources[index];
        for packet in source.next_frame() {
            let mut api = self.publisher.rtc.direct_api();
            let stream = api.stream_tx_by_mid(*mid, None).unwrap();
            let write = RtpWrite::new(*payload_type, *sequence, packet.timestamp, now, packet.payload);
            let extensions = ExtensionValues { audio_level: Some(-25), ..ExtensionValues::default() };
            let is_video = source.stream == Stream::Video;
            let extensions = if is_video { ExtensionValues::default() } else { extensions };
            sequence.inc();
            stream.write_rtp(write.marker(packet.marker).nackable(is_video).ext_vals(extensions));
            self.publisher.drain();
            // A written packet leaves with the next timeout.
            self.publisher.handle_timeout(now);
        }
    }

    fn note_events(&mut self) {
        for event in self.publisher.take_events() {
            if let Event::KeyframeRequest(_) = event {
                let video = self.sources.iter_mut().find(|(source, ..)| source.stream == Stream::Video);
                if let Some((source, ..)) = video {
                    source.keyframe_wanted = true;
                }
            }
        }
        for event in self.receiver.take_events() {
            match event {
                Event::RtpPacket(packet) if !packet.payload.is_empty() => {
                    let numbers = Numbers::parse(&packet.payload);
                    let is_video = packet.header.payload_type != self.formats.audio;
                    let stream = if is_video { Stream::Video } else { Stream::Audio };
                    self.frames.entry(stream).or_default().add(numbers);
                    if is_video {
                        self.numbers.insert(*packet.seq_no as u16, numbers);
                    }
                }
                Event::RawPacket(packet) => self.note_packet(&packet),
                _ => {}
            }
        }
    }

    fn note_packet(&mut self, packet: &RawPacket) {
        match packet {
            RawPacket::RtcpTx(Rtcp::Nack(nack)) => {
                for entry in nack.reports.iter() {
                    let more = (0..16).filter(|bit| entry.blp & 1 << bit != 0).map(|bit| bit + 1);
                    let asked = [0].into_iter().chain(more).map(|step| entry.pid.wrapping_add(step));
                    self.nacked.extend(asked);
                }
            }
            RawPacket::RtpRx(header, payload) if header.payload_type == self.formats.video_rtx => {
                // RFC 4588, section 4; without payload it is padding.
                if let Some(original) = payload.first_chunk() {
                    self.retransmitted.insert(u16::from_be_bytes(*original));
                }
            }
            _ => {}
        }
    }
}
