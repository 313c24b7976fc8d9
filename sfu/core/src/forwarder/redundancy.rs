//! The earlier payloads that go out with a packet of audio: of the same source, from its track's store.
//!
//! What is found depends on nothing but what came before the packet, so that it is the same when the packet is sent
//! again.

use super::{EpochSource, RedTypes, Treatment};
use crate::{
    connection::Codec,
    media::store::{PacketHandle, PacketStore, StoredPacket},
    red::{self, RedPayload},
};

/// Packets before one among which the one with the number before is looked for: they may have come in another order.
const SEARCHED: u32 = 8;

impl EpochSource {
    /// A packet with the earlier payloads that it is to go out with, as far as they are there. None if they are no more
    /// than it came with.
    pub(super) fn with_earlier<'a>(
        &self,
        store: &'a PacketStore,
        handle: PacketHandle,
        packet: &StoredPacket<'a>,
        treatment: Treatment,
    ) -> Option<(RedPayload<'a>, RedTypes)> {
        let types = self.output.red?;
        let has_red = self.output.codec == Codec::Red;
        let own = |payload| if has_red { red::own_payload(payload) } else { Some(payload) };
        let came_with = if has_red { red::earlier_payloads(packet.payload)? } else { 0 };
        let mut red = RedPayload::new(own(packet.payload)?);
        for distance in 1..=u64::from(treatment.earlier_payloads) {
            // One that is missing ends it: a receiver takes blocks for those of adjoining packets.
            let number = packet.info.sequence.checked_sub(distance).filter(|number| *number >= self.first);
            let earlier = number.and_then(|number| store.find_before(handle, number, SEARCHED));
            let Some(earlier) = earlier else { break };
            let offset = packet.info.timestamp.wrapping_sub(earlier.info.timestamp);
            if !own(earlier.payload).is_some_and(|payload| red.add(offset, payload)) {
                break;
            }
        }
        (red.earlier_payloads() > came_with).then_some((red, types))
    }
}

#[cfg(test)]
mod tests;
