//! RTP and RTCP of the connections: datagrams in, and what each connection has to send in a turn.
//!
//! ```text
//!   datagram ─► Opener ─┬─ RTP ──► Upstream ─► forward.rs ─► Downstream of each receiver
//!                       └─ RTCP ─► reports, feedback ─► estimate;  NACK ─► Downstream;  PLI ─► publisher
//!   once a turn, for each connection touched: pacer ─► EgressStream ─► outbox;  NACKs, feedback, reports ─► outbox
//! ```

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rand::RngExt;
use slab::Slab;
use zynk_protocol::MediaKind;

use super::{
    EndpointKey, Shard, reports,
    transmission::{Sent, Transmission, schedule},
};
use crate::{
    Transport,
    connection::{Mid, NegotiatedFormats, Rid},
    downstream::Queued,
    endpoint::{Endpoint, Section},
    forwarder::Subscription,
    media::{
        egress::{EgressConfig, EgressStream, NtpTime, RtxConfig},
        extensions::{ExtensionKind, SendTime},
        keyframes::KeyframeAllowance,
        nack::NackPair,
        pacer::{PacketClass, Release},
        rtcp::{Packet, Packets, ReportBlocks},
    },
    media_session::MediaSession,
    sdp::RemoteDescription,
    track::PublisherClock,
};

/// Octets of a received packet; larger ones are dropped. Browsers send up to 1200, gateways up to an Ethernet
/// frame's 1500.
const PACKET_BYTES_MAX: usize = 1500;
/// Packets that one connection is sent in one turn; what is left goes with the next.
const PACKETS_PER_TURN_MAX: usize = 512;
/// Sent packets of video that can be asked for again: two seconds at 2.5 Mbit/s.
const RTX_PACKETS: usize = 512;
/// Retransmissions for a thousand octets sent. A burst of loss takes more than the usual 15 %, and a frame that
/// lacks one packet costs a keyframe.
const RTX_PER_MILLE: u32 = 350;

/// Taken for a retransmission's size in the pacer, which does not look it up: that of a full packet.
const RTX_BYTES_ASSUMED: usize = 1200;

/// What RTCP asks of others than its sender's own streams.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// A keyframe of what is sent in this section.
    Keyframe(Mid),
    /// The publisher's clock, of what it sends in this section.
    Clock { section: usize, rid: Option<Rid>, clock: PublisherClock },
}

impl Shard {
    /// Takes an RTP or RTCP datagram of a connection; it is opened in place. False if it was dropped.
    pub(super) fn handle_media(
        &mut self,
        key: EndpointKey,
        from: (Transport, SocketAddr),
        arrived: Instant,
        datagram: &mut [u8],
    ) -> bool {
        if datagram.len() > PACKET_BYTES_MAX {
            return false;
        }
        // RFC 5761, section 4: the packet types 192 to 223 are RTCP's.
        match datagram.get(1) {
            Some(192..=223) => self.handle_rtcp(key, from, datagram),
            Some(_) => self.handle_rtp(key, from, arrived, datagram),
            None => false,
        }
    }

    fn handle_rtp(
        &mut self,
        key: EndpointKey,
        (transport, source): (Transport, SocketAddr),
        arrived: Instant,
        datagram: &mut [u8],
    ) -> bool {
        let now = self.now;
        let opened = self.guard(key, |endpoint| {
            let protection = endpoint.media.protection.as_mut()?;
            let opened = protection.opener.open_rtp(datagram).ok()?;
            endpoint.media.heard_on(now, transport, source);
            endpoint.silence.hear(now);
            Some((opened, endpoint.media.budget.takes(now)))
        });
        let Some(Some((opened, within_budget))) = opened else { return false };
        if !within_budget {
            self.stats.rtp_packets_over_budget += 1;
            return true;
        }
        let datagram = &*datagram;
        let packet = self.guard(key, |endpoint| {
            endpoint.media.report_soon(now);
            endpoint.media.upstream.receive(now, arrived, datagram, &opened, &endpoint.sections)
        });
        self.mark_media(key);
        if let Some(Some((section, packet))) = packet
            && catch_unwind(AssertUnwindSafe(|| self.forward(key, section, packet))).is_err()
        {
            self.end_faulty(key);
        }
        true
    }

    fn handle_rtcp(
        &mut self,
        key: EndpointKey,
        (transport, source): (Transport, SocketAddr),
        datagram: &mut [u8],
    ) -> bool {
        let now = self.now;
        let ntp = self.ntp;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return false };
        let (subscriptions, reports) = (&self.subscriptions, &mut self.feedback_reports);
        let mut wishes = Vec::new();
        let taken = catch_unwind(AssertUnwindSafe(|| {
            let Some(protection) = endpoint.media.protection.as_mut() else { return false };
            let Ok(opened) = protection.opener.open_rtcp(datagram) else { return false };
            endpoint.media.heard_on(now, transport, source);
            endpoint.silence.hear(now);
            let compound = datagram.get(..opened.bytes).unwrap_or_default();
            // What stands before a malformed packet counts.
            for packet in Packets::new(compound).map_while(Result::ok) {
                if let Packet::TransportFeedback { fci, .. } = packet {
                    endpoint.media.downstream.on_feedback(now, fci, reports);
                } else {
                    take_rtcp(endpoint, subscriptions, now, ntp, packet, &mut wishes);
                }
            }
            true
        }));
        let Ok(taken) = taken else {
            self.end_faulty(key);
            return true;
        };
        self.mark_media(key);
        self.allocate_on_feedback(key);
        for wish in wishes {
            match wish {
                Wish::Keyframe(mid) => self.handle_keyframe_request(key, mid),
                Wish::Clock { section, rid, clock } => self.note_clock(key, section, rid, clock),
            }
        }
        taken
    }

    fn note_clock(&mut self, key: EndpointKey, section: usize, rid: Option<Rid>, clock: PublisherClock) {
        let track_key = self.endpoints.get(key.0).and_then(|endpoint| endpoint.sections.get(section)?.track);
        let Some(track_key) = track_key else { return };
        let Some(track) = self.tracks.get_mut(track_key.0) else { return };
        let Some(index) = track.encoding_index(rid) else { return };
        if track.encodings.get_mut(index).is_some_and(|encoding| encoding.set_clock(clock)) {
            self.tell_clock(track_key, index, clock);
        }
    }

    /// The NTP time of an instant.
    pub(super) fn ntp_of(&self, now: Instant) -> NtpTime {
        NtpTime::from_unix(self.config.unix_time + now.saturating_duration_since(self.started_at))
    }

    /// Both sides agreed on something: takes over formats, extensions and the sources that the client declares.
    pub(super) fn media_negotiated(&mut self, key: EndpointKey, description: &RemoteDescription) {
        self.guard(key, |endpoint| {
            let Endpoint { connection, media, sections, .. } = endpoint;
            let map = connection.extensions(sections.iter().map(|section| section.mid));
            media.mixed_extension_forms = description.mixed_extension_forms;
            media.downstream.set_twcc(map.id(ExtensionKind::TransportSequence).is_some());
            media.extensions = map.clone();
            let declared = description.sections.iter().flat_map(|remote| {
                let index = sections.iter().position(|section| section.name == remote.mid);
                remote.sources.iter().filter_map(move |source| Some((index?, *source)))
            });
            // Who only receives needs no formats to be received in.
            let sends = description.sections.iter().any(|remote| remote.sends);
            let formats = if sends { connection.formats() } else { NegotiatedFormats::default() };
            media.upstream.negotiated(map, formats, declared);
        });
    }

    /// Makes the outgoing streams of the sections that carry a subscription, as far as there are keys.
    pub(super) fn open_streams(&mut self, key: EndpointKey) {
        let random = &mut self.random;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let Endpoint { connection, media, sections, .. } = endpoint;
        // Before that, the other side's certificate may be anybody's.
        if media.protection.is_none()
            && connection.is_connected()
            && let Some(keys) = connection.take_keys()
            && let Err(error) = media.set_keys(&keys)
        {
            tracing::warn!(%error, "no media will flow on a connection");
        }
        let Some(protection) = &mut media.protection else { return };
        let waits = |section: &Section| section.stream.is_none() && section.subscription.is_some();
        for (index, section) in sections.iter_mut().enumerate().filter(|(_, section)| waits(section)) {
            let Some(sending) = connection.sending_stream(section.mid) else { continue };
            let first: u16 = random.random_range(1..0x8000);
            let rtx = sending.rtx.filter(|_| section.kind == MediaKind::Video).map(|rtx| (rtx, first));
            let config = EgressConfig {
                mid: &section.name,
                extensions: &media.extensions,
                mixed_forms: media.mixed_extension_forms,
                ssrc: sending.ssrc,
                rtx,
                rtx_config: RtxConfig {
                    packets_max: RTX_PACKETS,
                    per_mille: RTX_PER_MILLE,
                    ..RtxConfig::default()
                },
            };
            match EgressStream::new(&mut protection.sealer, config) {
                Ok(stream) => {
                    section.cname = sending.cname;
                    media.streams.insert(sending.ssrc, index);
                    section.stream = Some(Box::new(stream));
                }
                Err(error) => tracing::debug!(%error, "a section cannot send"),
            }
        }
    }

    /// Has a connection served in this turn, with everything that may be due.
    pub(super) fn mark_media(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.media.attention = true;
        if !endpoint.media.dirty {
            endpoint.media.dirty = true;
            self.media_dirty.push(key);
        }
    }

    /// Sends what is due on a connection: packets that waited, and if it needs attention requests, feedback and
    /// reports.
    pub(super) fn serve_media(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.media.dirty = false;
        let attention = std::mem::take(&mut endpoint.media.attention);
        let Ok(wishes) = catch_unwind(AssertUnwindSafe(|| self.send_due(key, attention))) else {
            self.end_faulty(key);
            return;
        };
        for (section, rid) in wishes {
            self.want_keyframe_from(key, section, rid);
        }
    }

    /// Returns what the connection lacks keyframes of.
    fn send_due(&mut self, key: EndpointKey, attention: bool) -> Vec<(usize, Option<Rid>)> {
        let now = self.now;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return Vec::new() };
        if attention {
            endpoint.media.downstream.handle_timeout(now);
        }
        let (mut sent, mut polls) = (Sent::default(), 0);
        let media = &mut endpoint.media;
        if let (Some(path), Some(protection)) = (media.path(), &media.protection) {
            let mut transmission = Transmission {
                now,
                send_time: SendTime::from_ntp(self.ntp.0),
                path,
                sealer: &protection.sealer,
                downstream: &mut media.downstream,
                sections: &mut endpoint.sections,
                outbox: &mut self.outbox,
                sent,
            };
            while polls < PACKETS_PER_TURN_MAX
                && let Some(release) = transmission.downstream.poll(now)
            {
                polls += 1;
                match release {
                    Release::Packet { item, class, probe } => {
                        let subscription = self.subscriptions.get(item.subscription.0);
                        let is_meant = |subscription: &&Subscription| {
                            subscription.serial == item.serial && subscription.subscriber == key
                        };
                        if let Some(subscription) = subscription.filter(is_meant) {
                            transmission.packet((&item, class, probe), subscription, &self.tracks);
                        }
                    }
                    Release::Padding { bytes, probe } => transmission.padding(usize::from(bytes), probe),
                }
            }
            sent = transmission.sent;
        }
        sent.count(now, endpoint, &mut self.stats);
        if attention {
            reports::send(endpoint, &self.subscriptions, &self.tracks, &mut self.outbox, now, self.ntp);
        }
        let wishes = if attention { endpoint.media.upstream.take_keyframe_wishes() } else { Vec::new() };
        if attention || sent.timer || !endpoint.media.downstream.is_idle() {
            schedule(&mut self.media_timers, key, &endpoint.media);
        }
        if polls == PACKETS_PER_TURN_MAX
            && let Some(endpoint) = self.endpoints.get_mut(key.0)
        {
            endpoint.media.dirty = true;
            self.media_put_off.push(key);
        }
        wishes
    }
}

fn take_rtcp(
    endpoint: &mut Endpoint,
    subscriptions: &Slab<Subscription>,
    now: Instant,
    ntp: NtpTime,
    packet: Packet<'_>,
    wishes: &mut Vec<Wish>,
) {
    let Endpoint { media, sections, .. } = endpoint;
    match packet {
        Packet::SenderReport { ssrc, info, blocks } => {
            if let Some((section, rid)) = media.upstream.on_sender_report(now, ssrc, info.ntp.0) {
                let ntp = media.on_our_clock(info.ntp, ntp);
                let clock = PublisherClock { source: ssrc, ntp, rtp: info.rtp };
                wishes.push(Wish::Clock { section, rid, clock });
            }
            take_reports(media, blocks, now, ntp);
        }
        Packet::ReceiverReport { blocks, .. } => {
            take_reports(media, blocks, now, ntp);
        }
        Packet::Nack { media: ssrc, pairs, .. } => {
            let index = media.streams.get(&ssrc).copied();
            let Some(section) = index.and_then(|index| sections.get_mut(index)) else { return };
            let Some(key) = section.subscription else { return };
            let Some(subscription) = subscriptions.get(key.0) else { return };
            let Some(stream) = &mut section.stream else { return };
            let rtt = media.downstream.rtt_or_default();
            let congested = media.downstream.is_congested();
            for sequence in pairs.flat_map(NackPair::seqs) {
                let tag = congested.then(|| stream.sent_tag(sequence)).flatten();
                let left_behind = tag.is_some_and(|tag| subscription.has_left_behind(tag));
                if left_behind || !media.downstream.may_resend(now) {
                    continue;
                }
                let Some(sent) = stream.resend(now, sequence, rtt) else { continue };
                let queued = Queued {
                    subscription: key,
                    serial: subscription.serial,
                    handle: sent.handle,
                    sequence: u64::from(sent.sequence),
                    tag: sent.tag,
                };
                let mut copies = media.downstream.resend_copies(now);
                loop {
                    if !media.downstream.push(now, PacketClass::Retransmission, RTX_BYTES_ASSUMED, queued) {
                        stream.forgo_resend();
                    }
                    copies -= 1;
                    if copies == 0 || !stream.copy_resend() {
                        break;
                    }
                }
            }
        }
        Packet::Remb { bitrate_bps, .. } => media.downstream.on_remb(now, bitrate_bps),
        Packet::PictureLoss { media: ssrc, .. } => {
            wish_keyframe(media, sections, ssrc, wishes, |allowance| allowance.on_pli(now));
        }
        Packet::FullIntraRequest { entries, .. } => {
            for (ssrc, number) in entries {
                wish_keyframe(media, sections, ssrc, wishes, |allowance| allowance.on_fir(now, number));
            }
        }
        _ => {}
    }
}

fn take_reports(media: &mut MediaSession, blocks: ReportBlocks<'_>, now: Instant, ntp: NtpTime) {
    let MediaSession { streams, downstream, .. } = media;
    for block in blocks.filter(|block| streams.contains_key(&block.ssrc)) {
        downstream.on_report(now, ntp.0, &block);
    }
    if let Some(rtt) = media.downstream.rtt() {
        media.upstream.on_rtt(rtt);
    }
}

fn wish_keyframe(
    media: &MediaSession,
    sections: &mut [Section],
    ssrc: u32,
    wishes: &mut Vec<Wish>,
    allowed: impl FnOnce(&mut KeyframeAllowance) -> bool,
) {
    if let Some(section) = media.streams.get(&ssrc).and_then(|index| sections.get_mut(*index))
        && allowed(&mut section.allowance)
    {
        wishes.push(Wish::Keyframe(section.mid));
    }
}
