//! What flows in a room, told when somebody asks. Everything is read from what is there anyway: while nobody asks, it costs
//! nothing.

use std::time::Duration;

use zynk_protocol::{
    Bitrate, ConnectionReport, EncodingReport, LayersGiven, MediaKind, MediaTransport, NodeEvent,
    REPORT_ENTRIES_MAX, ReceptionReport, RoomReport, RoomSid, SubscriptionReport, TrackReport,
};

use super::{Shard, TrackKey};
use crate::{
    Transport,
    downstream::Capacity,
    endpoint::{Endpoint, Section},
    forwarder::{Allotment, Subscription},
    ladder::wanted_encoding,
    layers::TOP_LAYER,
    temporal::TOP_TEMPORAL,
    track::{Encoding, Track},
};

/// Rates of what arrives are those of so long.
const RECENT: Duration = Duration::from_secs(1);

/// Clocks of streams whose source is not known: those of RTP video, and of Opus (RFC 7587, section 4.1).
const CLOCK_RATES_HZ: (u32, u32) = (90_000, 48_000);

impl Shard {
    /// Tells what flows in this shard's share of a room: nothing if it has none.
    pub(super) fn report_room(&mut self, room: RoomSid, request: u64, shares: u32) {
        self.deliver_all();
        let mut report = RoomReport { request, shares, truncated: false, connections: Vec::new() };
        let mut left = REPORT_ENTRIES_MAX;
        for key in self.rooms.get(&room).map(|room| room.endpoints.as_slice()).unwrap_or_default() {
            let Some(endpoint) = self.endpoints.get(key.0) else { continue };
            let entries = 1 + endpoint.sections.len() + endpoint.order.len();
            let Some(rest) = left.checked_sub(entries) else {
                report.truncated = true;
                continue;
            };
            left = rest;
            report.connections.push(self.connection_report(endpoint));
        }
        self.events.push_back((room, NodeEvent::RoomReport(Box::new(report))));
    }

    fn connection_report(&self, endpoint: &Endpoint) -> ConnectionReport {
        let downstream = &endpoint.media.downstream;
        let published = endpoint.sections.iter().enumerate();
        let published = published.filter_map(|(index, section)| Some((index, section.track?)));
        ConnectionReport {
            connection: endpoint.id,
            participant: endpoint.participant.clone(),
            role: endpoint.role,
            connected: endpoint.connected_once && endpoint.disconnected_at.is_none(),
            transport: endpoint.media.path().map(|path| match path.transport {
                Transport::Udp => MediaTransport::Udp,
                Transport::Tcp => MediaTransport::Tcp,
            }),
            rtt_ms: endpoint.media.rtt().map(ms),
            estimate: match downstream.capacity(self.now) {
                Capacity::Unlimited => None,
                Capacity::AtLeast(rate) | Capacity::Measured(rate) => Some(Bitrate::from_bps(rate.as_bps())),
            },
            queue_ms: ms(downstream.queue_delay()),
            congested: downstream.is_congested(),
            tracks: published.filter_map(|(index, key)| self.track_report(endpoint, index, key)).collect(),
            subscriptions: endpoint
                .order
                .iter()
                .filter_map(|key| self.subscriptions.get(key.0))
                .map(|subscription| self.subscription_report(endpoint, subscription))
                .collect(),
        }
    }

    fn track_report(&self, endpoint: &Endpoint, section: usize, key: TrackKey) -> Option<TrackReport> {
        let track = self.tracks.get(key.0)?;
        let encodings = track.encodings.iter();
        Some(TrackReport {
            track: track.sid.clone(),
            backup: track.usage.is_some(),
            muted: track.muted,
            encodings: encodings
                .map(|encoding| self.encoding_report(endpoint, section, track, encoding))
                .collect(),
        })
    }

    fn encoding_report(
        &self,
        endpoint: &Endpoint,
        section: usize,
        track: &Track,
        encoding: &Encoding,
    ) -> EncodingReport {
        let recent = encoding.store.recent(self.now, RECENT);
        let reception = endpoint.media.upstream.reception(section, encoding.rid);
        EncodingReport {
            rid: encoding.rid.map(|rid| rid.to_string()),
            active: recent.packets > 0,
            bitrate: Bitrate::from_bps(recent.bytes.saturating_mul(8) / RECENT.as_secs()),
            frame_rate: (track.kind == MediaKind::Video).then(|| saturated(recent.frames / RECENT.as_secs())),
            packets: reception.expected,
            lost: reception.lost,
            jitter_ms: ms(reception.jitter),
        }
    }

    fn subscription_report(&self, endpoint: &Endpoint, subscription: &Subscription) -> SubscriptionReport {
        let track = subscription.source.and_then(|source| self.tracks.get(source.0));
        let section = subscription.mid.and_then(|_| endpoint.sections.get(subscription.section));
        let stream = section.and_then(|section| section.stream.as_ref());
        let sent = stream.map(|stream| stream.stats()).unwrap_or_default();
        let wanted = track.map(|track| wanted_encoding(track.encodings.len(), subscription.settings.quality));
        SubscriptionReport {
            track: subscription.track.clone(),
            negotiated: subscription.negotiated,
            settings: subscription.settings,
            wanted_encoding: wanted.and_then(|index| u8::try_from(index).ok()),
            starved: subscription.is_wanted() && subscription.allotment == Allotment::Nothing,
            given: track.and_then(|track| layers_given(subscription, track)),
            ssrc: stream.map(|stream| stream.ssrc()),
            packets: sent.packets,
            bytes: sent.octets,
            resent: sent.rtx_packets,
            reception: section.and_then(|section| reception_report(endpoint, section, subscription)),
        }
    }
}

fn layers_given(subscription: &Subscription, track: &Track) -> Option<LayersGiven> {
    let current = subscription.current_encoding()?;
    let layers = subscription.allotment.layers().filter(|_| subscription.is_flowing())?;
    let rates = track.encodings.get(current).and_then(|encoding| encoding.rates.as_deref());
    let below = |layer: u8, top: u8| (layer < top).then_some(layer);
    Some(LayersGiven {
        encoding: u8::try_from(current).ok()?,
        spatial: below(layers.spatial, TOP_LAYER),
        temporal: below(layers.temporal, TOP_TEMPORAL),
        frame_rate: rates.and_then(|rates| rates.frame_rate(layers.temporal)).map(saturated),
    })
}

fn reception_report(
    endpoint: &Endpoint,
    section: &Section,
    subscription: &Subscription,
) -> Option<ReceptionReport> {
    let ssrc = section.stream.as_ref()?.ssrc();
    let reception = endpoint.media.downstream.stream_reception(ssrc)?;
    let (video, audio) = CLOCK_RATES_HZ;
    let assumed = if section.kind == MediaKind::Video { video } else { audio };
    let clock_rate_hz = subscription.running_source().map_or(assumed, |source| source.clock_rate_hz);
    let jitter = Duration::from_secs(reception.jitter.into()).checked_div(clock_rate_hz).unwrap_or_default();
    Some(ReceptionReport { highest: reception.highest, lost: reception.lost, jitter_ms: ms(jitter) })
}

fn ms(time: Duration) -> f32 {
    time.as_secs_f32() * 1000.0
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
