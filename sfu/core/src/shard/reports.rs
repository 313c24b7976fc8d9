//! What a connection's media session says in RTCP: requests for what is missing, transport-wide feedback, keyframe
//! requests, and once a second reports on what was sent and received.

use std::time::Instant;

use slab::Slab;

use super::outbox::Outbox;
use crate::{
    connection::Path,
    endpoint::{Endpoint, Section},
    forwarder::Subscription,
    media::{
        egress::{NtpTime, RtpClock},
        receiver::ReportBlock,
        rtcp::{COUNT_MAX, RtcpWriteError, RtcpWriter},
        srtp::{RTCP_OVERHEAD_BYTES_MAX, Sealer},
    },
    track::Track,
};

/// Octets of a compound packet before protection.
const COMPOUND_BYTES_MAX: usize = 1150;

/// Sends what is due.
pub(super) fn send(
    endpoint: &mut Endpoint,
    subscriptions: &Slab<Subscription>,
    tracks: &Slab<Track>,
    outbox: &mut Outbox,
    now: Instant,
    ntp: NtpTime,
) {
    let Endpoint { media, sections, .. } = endpoint;
    let Some(path) = media.path() else { return };
    let reports_due = media.take_report(now);
    let Some(protection) = &mut media.protection else { return };
    let ours = media.feedback_ssrc;
    let mut something = false;
    let mut compound = Compound { sealer: &mut protection.sealer, path, outbox, bytes: 0 };
    if reports_due {
        media.blocks.clear();
        media.upstream.report(now, &mut media.blocks);
        let senders = send_reports(&mut compound, sections, subscriptions, tracks, ntp);
        for blocks in media.blocks.chunks(COUNT_MAX) {
            compound.add(|writer| writer.receiver_report(ours, blocks));
        }
        // Each compound that reports says who reports (RFC 3550, section 6.1). Our feedback has no stream's name.
        if !media.blocks.is_empty() {
            compound.add(|writer| writer.cname(ours, &format!("{ours:08x}")));
        }
        something = senders || !media.blocks.is_empty();
    }
    media.upstream.poll_nacks(now, &mut media.pairs, |source, pairs| {
        compound.add(|writer| writer.nack(ours, source, pairs));
    });
    for source in media.keyframes_wanted.drain(..) {
        compound.add(|writer| writer.picture_loss(ours, source));
    }
    media.feedback.clear();
    while media.upstream.poll_feedback(now, ours, &mut media.scratch, &mut media.feedback) {
        let packet = &media.feedback;
        compound.add(|writer| writer.packet(packet));
        media.feedback.clear();
    }
    compound.send();
    if something {
        // While something goes on there is something to report.
        media.report_soon(now);
    }
}

/// Sender reports of all streams that sent something since the last ones. False if none did.
fn send_reports(
    compound: &mut Compound<'_>,
    sections: &mut [Section],
    subscriptions: &Slab<Subscription>,
    tracks: &Slab<Track>,
    ntp: NtpTime,
) -> bool {
    let mut any = false;
    for section in sections {
        let (Some(stream), Some(key)) = (&section.stream, section.subscription) else { continue };
        let packets = stream.stats().packets;
        let Some(clock) = subscriptions.get(key.0).and_then(|subscription| clock(subscription, tracks))
        else {
            continue;
        };
        if std::mem::replace(&mut section.reported_packets, packets) == packets {
            continue;
        }
        any = true;
        let info = stream.sender_info(&clock, ntp);
        compound.add(|writer| {
            writer.sender_report(stream.ssrc(), &info, &[])?;
            writer.cname(stream.ssrc(), &section.cname)
        });
    }
    any
}

/// The clock of what a subscription forwards: by its publisher's reports. Until the first of those there is none, and
/// nothing to report: a mapping by guess would be corrected by a jump.
fn clock(subscription: &Subscription, tracks: &Slab<Track>) -> Option<RtpClock> {
    let source = subscription.running_source()?;
    let reported = tracks.get(source.track.0)?.encodings.get(source.encoding)?.clock()?;
    Some(RtpClock::from_report(reported.ntp, reported.rtp, 0, source.timestamp_offset, source.clock_rate_hz))
}

/// RTCP packets that go together (RFC 3550, section 6.1; reduced-size without a report, RFC 5506).
struct Compound<'a> {
    sealer: &'a mut Sealer,
    path: Path,
    outbox: &'a mut Outbox,
    bytes: usize,
}

impl Compound<'_> {
    /// Adds packets, in a compound of their own if this one has no room left.
    fn add(&mut self, write: impl Fn(&mut RtcpWriter<'_>) -> Result<(), RtcpWriteError>) {
        if self.try_add(&write) == Err(RtcpWriteError::Bounds) {
            self.send();
            let _ = self.try_add(&write);
        }
    }

    fn try_add(
        &mut self,
        write: impl Fn(&mut RtcpWriter<'_>) -> Result<(), RtcpWriteError>,
    ) -> Result<(), RtcpWriteError> {
        let room = self.outbox.buffer().get_mut(self.bytes..COMPOUND_BYTES_MAX).unwrap_or_default();
        let mut writer = RtcpWriter::new(room);
        write(&mut writer)?;
        self.bytes += writer.bytes();
        Ok(())
    }

    /// Seals and sends what was added.
    fn send(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes == 0 {
            return;
        }
        let buffer = self.outbox.buffer().get_mut(..bytes + RTCP_OVERHEAD_BYTES_MAX).unwrap_or_default();
        match self.sealer.seal_rtcp(buffer, bytes) {
            Ok(sealed) => self.outbox.commit(self.path, sealed),
            Err(error) => tracing::debug!(%error, "a report was not sent"),
        }
    }
}

/// Report blocks fit.
const _: () = assert!(COUNT_MAX * size_of::<ReportBlock>() < COMPOUND_BYTES_MAX);
