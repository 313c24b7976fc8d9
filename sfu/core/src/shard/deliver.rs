//! The packets that came are chosen, renumbered and sent, a receiver at a time. What its pacer does not let pass waits
//! there, and leaves with [`Shard::serve_media`].

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use zynk_protocol::MediaKind;

use super::{
    EndpointKey, Measurement, Shard, SubscriptionKey, TrackKey,
    outbox::Outbox,
    transmission::{Sent, Transmission, schedule},
};
use crate::{
    forwarder::{Arrival, Treatment},
    media::{extensions::SendTime, pacer::PacketClass},
};

/// What receivers lack, to be seen to once all have been served.
#[derive(Debug, Default)]
struct Lacks {
    /// Keyframes of encodings.
    keyframes: Vec<(TrackKey, usize)>,
    /// Subscriptions whose track is sent in a codec that the receiver does not accept.
    codecs: Vec<SubscriptionKey>,
}

impl Shard {
    /// Delivers what came, until there is enough for the shell to send.
    pub(super) fn deliver(&mut self) {
        self.deliver_while(Outbox::has_room);
    }

    /// Delivers all that came: what follows must not change how it goes out.
    pub(super) fn deliver_all(&mut self) {
        self.deliver_while(|_| true);
    }

    fn deliver_while(&mut self, goes_on: impl Fn(&Outbox) -> bool) {
        if self.deliveries.is_empty() {
            return;
        }
        let mut lacks = Lacks::default();
        let current = Cell::new(None);
        let mut faulty = Vec::new();
        // One that fails is ended; the others after it get their packets.
        while catch_unwind(AssertUnwindSafe(|| self.deliver_to_each(&goes_on, &current, &mut lacks))).is_err()
        {
            faulty.extend(current.take());
        }
        for receiver in faulty {
            self.end_faulty(receiver);
        }
        for (track, encoding) in lacks.keyframes {
            self.want_keyframe(track, encoding, Duration::ZERO);
        }
        for subscription in lacks.codecs {
            self.replace_source(subscription);
        }
    }

    fn deliver_to_each(
        &mut self,
        goes_on: impl Fn(&Outbox) -> bool,
        current: &Cell<Option<EndpointKey>>,
        lacks: &mut Lacks,
    ) {
        let now = self.now;
        let send_time = SendTime::from_ntp(self.ntp.0);
        let Self { deliveries, endpoints, subscriptions, tracks, outbox, stats, .. } = self;
        let (media_timers, media_dirty) = (&mut self.media_timers, &mut self.media_dirty);
        let measurements = &mut self.measurements;
        while goes_on(outbox)
            && let Some((key, range)) = deliveries.next_receiver()
        {
            current.set(Some(key));
            let Some(receiver) = endpoints.get_mut(key.0) else { continue };
            let connection = &receiver.connection;
            let media = &mut receiver.media;
            let (Some(path), Some(protection)) = (media.path(), &media.protection) else { continue };
            let mut transmission = Transmission {
                now,
                send_time,
                path,
                sealer: &protection.sealer,
                downstream: &mut media.downstream,
                sections: &mut receiver.sections,
                outbox,
                sent: Sent::default(),
            };
            let mut waits = false;
            for (delivery, arrived) in range.filter_map(|index| deliveries.get(index)) {
                let Some(subscription) = subscriptions.get_mut(delivery.subscription.0) else { continue };
                if subscription.subscriber != key || subscription.source != Some(arrived.track) {
                    continue;
                }
                let arrival = Arrival {
                    kind: arrived.kind,
                    packet: &arrived.head,
                    handle: arrived.handle,
                    encoding: arrived.encoding,
                    active: &arrived.active,
                    highest_layer: arrived.highest_layer,
                    track_serial: arrived.track_serial,
                    live_from: arrived.live_from,
                    earlier_payloads: match arrived.protectable {
                        true => transmission.downstream.earlier_payloads(),
                        false => 0,
                    },
                };
                let outcome = subscription.forward(now, delivery.subscription, arrival, connection);
                if let Some(encoding) = outcome.keyframe
                    && !lacks.keyframes.contains(&(arrived.track, encoding))
                {
                    lacks.keyframes.push((arrived.track, encoding));
                }
                if outcome.unsupported && !lacks.codecs.contains(&delivery.subscription) {
                    lacks.codecs.push(delivery.subscription);
                }
                let Some(queued) = outcome.queued else { continue };
                if let Some(waited) = subscription.first_media.came(now) {
                    measurements.push(Measurement::FirstMedia { kind: arrived.kind, waited });
                }
                let class = match arrived.kind {
                    MediaKind::Audio => PacketClass::Audio,
                    MediaKind::Video => PacketClass::Video,
                };
                let bytes = arrived.bytes_with(Treatment::from_tag(queued.tag).earlier_payloads);
                if transmission.downstream.passes(now, class, bytes) {
                    transmission.packet((&queued, class, None), subscription, tracks);
                } else if transmission.downstream.push(now, class, bytes, queued) {
                    waits = true;
                } else {
                    transmission.leave_unsent(&queued, subscription);
                }
            }
            let mut sent = transmission.sent;
            sent.count(now, receiver, stats);
            let media = &mut receiver.media;
            if media.is_due(now) {
                media.attention = true;
                waits = true;
            } else if sent.timer {
                schedule(media_timers, key, media);
            }
            if waits && !media.dirty {
                media.dirty = true;
                media_dirty.push(key);
            }
        }
    }
}
