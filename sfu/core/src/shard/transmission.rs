//! What one receiver is sent in a turn, written and sealed into the outbox.

use std::time::Instant;

use slab::Slab;

use super::{EndpointKey, ShardStats, outbox::Outbox};
use crate::{
    connection::Path,
    downstream::{Downstream, Queued},
    endpoint::{Endpoint, Section},
    forwarder::{Subscription, Treatment, WriteTo},
    media::{
        extensions::SendTime, pacer::PacketClass, srtp::Sealer, timers::TimerWheel, twcc::ProbeClusterId,
    },
    media_session::MediaSession,
    track::Track,
};

/// What a receiver was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) packets: u64,
    /// Of payload.
    pub(super) bytes: u64,
    /// Those that carried other packets' payloads besides what came with them, and the octets of that.
    pub(super) protected: u64,
    pub(super) redundant_bytes: u64,
    /// The time at which the connection is to be served next may have changed.
    pub(super) timer: bool,
}

impl Sent {
    /// Counts it; reports on it are due from now on.
    pub(super) fn count(&mut self, now: Instant, endpoint: &mut Endpoint, stats: &mut ShardStats) {
        stats.rtp_packets_sent += self.packets;
        stats.rtp_bytes_sent += self.bytes;
        stats.rtp_packets_protected += self.protected;
        stats.rtp_bytes_redundant += self.redundant_bytes;
        endpoint.traffic.packets_sent += self.packets;
        endpoint.silence.send(self.packets);
        endpoint.traffic.bytes_sent += self.bytes;
        self.timer |= self.packets > 0 && endpoint.media.report_soon(now);
    }
}

/// Writes what one receiver is sent.
pub(super) struct Transmission<'a> {
    pub(super) now: Instant,
    pub(super) send_time: SendTime,
    pub(super) path: Path,
    pub(super) sealer: &'a Sealer,
    pub(super) downstream: &'a mut Downstream,
    pub(super) sections: &'a mut [Section],
    pub(super) outbox: &'a mut Outbox,
    pub(super) sent: Sent,
}

impl Transmission<'_> {
    /// Writes a packet of a subscription, if it is still there.
    pub(super) fn packet(
        &mut self,
        (item, class, probe): (&Queued, PacketClass, Option<ProbeClusterId>),
        subscription: &Subscription,
        tracks: &Slab<Track>,
    ) {
        let stream = self.sections.get_mut(subscription.section).and_then(|section| section.stream.as_mut());
        let Some(stream) = stream else { return };
        let mut output = WriteTo {
            now: self.now,
            sealer: self.sealer,
            buffer: self.outbox.buffer(),
            transport_sequence: self.downstream.next_number(),
            send_time: self.send_time,
        };
        let again = class == PacketClass::Retransmission;
        let Some(written) = subscription.write(item, again, tracks, stream, &mut output) else {
            if again {
                stream.forgo_resend();
            }
            return;
        };
        self.outbox.commit(self.path, written.bytes);
        self.sent.timer |= self.downstream.register(self.now, written.bytes, probe);
        if !again {
            self.sent.packets += 1;
            self.sent.bytes += written.payload_bytes as u64;
            self.sent.protected += u64::from(written.redundant_bytes > 0);
            self.sent.redundant_bytes += written.redundant_bytes as u64;
        }
    }

    /// Notes a packet for which there is no room: the receiver sees a gap, and may ask for it.
    pub(super) fn leave_unsent(&mut self, item: &Queued, subscription: &Subscription) {
        let stream = self.sections.get_mut(subscription.section).and_then(|section| section.stream.as_mut());
        if let Some(stream) = stream {
            // By then those that it would have gone out with may be gone.
            let tag = Treatment::from_tag(item.tag).alone().to_tag();
            stream.leave_unsent(item.sequence, item.handle, tag, self.send_time);
        }
    }

    /// Writes so many bytes of padding, with the retransmissions of some stream that sends video.
    pub(super) fn padding(&mut self, bytes: usize, probe: Option<ProbeClusterId>) {
        let stream = self
            .sections
            .iter_mut()
            .filter(|section| section.subscription.is_some())
            .filter_map(|section| section.stream.as_mut())
            .find(|stream| stream.rtx_ssrc().is_some() && stream.stats().packets > 0);
        let sequence = self.downstream.next_number();
        let written = stream.and_then(|stream| {
            let buffer = self.outbox.buffer();
            stream.write_padding(self.sealer, buffer, bytes, 0, sequence, self.send_time).ok()
        });
        let written = written.unwrap_or(0);
        if written > 0 {
            self.outbox.commit(self.path, written);
            self.sent.timer |= self.downstream.register(self.now, written, probe);
        }
        self.downstream.on_padding(self.now, written, probe);
    }
}

/// Has a connection served when its time comes.
pub(super) fn schedule(timers: &mut TimerWheel, key: EndpointKey, media: &MediaSession) {
    let Ok(slot) = u32::try_from(key.0) else { return };
    match media.next_timeout() {
        Some(at) => timers.schedule(slot, at),
        None => timers.cancel(slot),
    }
}
