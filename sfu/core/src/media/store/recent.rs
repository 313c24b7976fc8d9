//! What came lately.

use std::time::{Duration, Instant};

use super::PacketStore;

/// What came of an encoding within a time before now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Packets.
    pub packets: u64,
    /// Octets of their payloads.
    pub bytes: u64,
    /// Different timestamps.
    pub frames: u64,
}

impl PacketStore {
    /// What came within `window` before `now`, as far as the store remembers.
    #[must_use]
    pub fn recent(&self, now: Instant, window: Duration) -> Recent {
        let newest_first = (1..)
            .map_while(|back| self.slots.get((self.next_serial.wrapping_sub(back) & self.mask) as usize));
        let came = newest_first
            .take(self.slots.len())
            .take_while(|slot| now.saturating_duration_since(slot.info.arrived) < window);
        let (mut recent, mut timestamps) = (Recent::default(), Vec::new());
        for slot in came.filter(|slot| slot.payload_bytes > 0) {
            recent.packets += 1;
            recent.bytes += u64::from(slot.payload_bytes);
            timestamps.push(slot.info.timestamp);
        }
        timestamps.sort_unstable();
        timestamps.dedup();
        recent.frames = timestamps.len() as u64;
        recent
    }
}
