//! Packets that came since output was last taken, and who is to get them: receiver by receiver, so that what a receiver
//! is made of is looked at once a turn, and what it gets leaves together.
//!
//! ```text
//!   arrivals    p0 p1 p2 …                     each packet once
//!   deliveries  (A p0) (B p0) (A p1) (B p2)    in order of arrival
//!     sorted    (A p0) (A p1) │ (B p0) (B p2)  a receiver at a time, its audio last
//! ```

use std::ops::Range;

use zynk_protocol::MediaKind;

use super::{EndpointKey, SubscriptionKey, TrackKey};
use crate::{
    connection::PacketHead,
    keyframe_cache::CachedPacket,
    media::store::PacketHandle,
    red::EARLIER_HEADER_BYTES,
    track::{ActiveEncodings, OVERHEAD_BYTES_ASSUMED, Track},
};

/// Packets and deliveries for which room is kept.
const ARRIVED_KEPT: usize = 256;
const DELIVERIES_KEPT: usize = 16 * 1024;

/// A packet that lies in its track's store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) track: TrackKey,
    /// See [`crate::track::Track::serial`].
    pub(super) track_serial: u32,
    pub(super) kind: MediaKind,
    pub(super) encoding: usize,
    pub(super) handle: PacketHandle,
    pub(super) head: PacketHead,
    /// Octets, as far as the pacer needs to know.
    pub(super) bytes: usize,
    /// What the track was sending when it came.
    pub(super) active: ActiveEncodings,
    pub(super) highest_layer: u8,
    /// See [`crate::forwarder::Arrival::live_from`].
    pub(super) live_from: Option<u32>,
    /// It may go out with earlier payloads.
    pub(super) protectable: bool,
}

impl Arrived {
    /// A packet of one of a track's encodings: of the lowest spatial layer, of now, and sent as it is, unless something else is
    /// said of it.
    pub(super) fn new(key: TrackKey, track: &Track, encoding: usize, packet: CachedPacket) -> Self {
        Self {
            track: key,
            track_serial: track.serial,
            kind: track.kind,
            encoding,
            handle: packet.handle,
            head: packet.head,
            bytes: packet.bytes,
            active: track.active(),
            highest_layer: 0,
            live_from: None,
            protectable: false,
        }
    }

    /// What it takes with so many earlier payloads, which are taken for as long as its own.
    pub(super) fn bytes_with(&self, earlier_payloads: u8) -> usize {
        let came_with = self.head.earlier_payloads;
        let payload = self.bytes.saturating_sub(OVERHEAD_BYTES_ASSUMED) / (usize::from(came_with) + 1);
        let added = usize::from(earlier_payloads.saturating_sub(came_with));
        self.bytes + added * (payload + EARLIER_HEADER_BYTES)
    }
}

/// One packet for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Delivery {
    pub(super) receiver: EndpointKey,
    /// A short packet ends a segmented send.
    is_audio: bool,
    packet: u32,
    pub(super) subscription: SubscriptionKey,
}

/// What waits to be delivered.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    arrived: Vec<Arrived>,
    deliveries: Vec<Delivery>,
    /// Those before have been begun.
    next: usize,
    sorted: bool,
}

impl Deliveries {
    /// Adds a packet and those who are to get it.
    pub(super) fn push(
        &mut self,
        arrived: Arrived,
        receivers: impl Iterator<Item = (EndpointKey, SubscriptionKey)>,
    ) {
        // Turns end long before there are so many.
        let Ok(packet) = u32::try_from(self.arrived.len()) else { return };
        let is_audio = arrived.kind == MediaKind::Audio;
        let before = self.deliveries.len();
        self.deliveries.extend(receivers.map(|(receiver, subscription)| Delivery {
            receiver,
            is_audio,
            packet,
            subscription,
        }));
        if self.deliveries.len() > before {
            self.arrived.push(arrived);
            self.sorted = false;
        }
    }

    /// Whether all has been delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.deliveries.len()
    }

    /// Goes on to the next receiver, all of whose deliveries are in the range.
    pub(super) fn next_receiver(&mut self) -> Option<(EndpointKey, Range<usize>)> {
        if !self.sorted {
            self.sorted = true;
            // Those of a single packet have a receiver each.
            if self.arrived.len() > 1
                && let Some(waiting) = self.deliveries.get_mut(self.next..)
            {
                waiting.sort_unstable();
            }
        }
        let start = self.next;
        let waiting = self.deliveries.get(start..).unwrap_or_default();
        let Some(Delivery { receiver, .. }) = waiting.first().copied() else {
            self.arrived.clear();
            self.deliveries.clear();
            self.next = 0;
            return None;
        };
        let count = waiting.iter().take_while(|delivery| delivery.receiver == receiver).count();
        self.next = start + count;
        Some((receiver, start..self.next))
    }

    /// Gives memory back that a rare turn took.
    pub(super) fn shrink(&mut self) {
        self.arrived.shrink_to(ARRIVED_KEPT);
        self.deliveries.shrink_to(DELIVERIES_KEPT);
    }

    /// A delivery of a receiver that has been begun.
    pub(super) fn get(&self, index: usize) -> Option<(Delivery, &Arrived)> {
        let delivery = *self.deliveries.get(index)?;
        Some((delivery, self.arrived.get(delivery.packet as usize)?))
    }
}
