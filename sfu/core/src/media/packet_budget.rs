//! How many packets one client may send: what it sends beyond costs others nothing.

use std::time::{Duration, Instant};

/// Packets a second: 75 Mbit/s in packets of 1200 octets, several times what three simulcast cameras and a shared screen
/// take.
pub const PACKETS_PER_SECOND_MAX: u32 = 8_000;
/// Packets at once, of a client that sent nothing for half a second: a keyframe of 4 MB.
pub const BURST_PACKETS_MAX: u32 = 4_000;

const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / PACKETS_PER_SECOND_MAX as u64);

/// A bucket of packets, as the time at which it will be full again (the virtual scheduling algorithm of ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketBudget {
    full_at: Option<Instant>,
}

impl PacketBudget {
    /// Takes a packet out. False if there is none left.
    #[inline]
    pub fn takes(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let takes = full_at.saturating_duration_since(now) < INTERVAL * BURST_PACKETS_MAX;
        if takes {
            self.full_at = Some(full_at + INTERVAL);
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_so_many_a_second() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut budget = PacketBudget::default();
        let taken = |budget: &mut PacketBudget, at| (0..20_000).filter(|_| budget.takes(at)).count();
        assert_eq!(taken(&mut budget, start), 4_000);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(100)), 800);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(60)), 4_000, "no more is saved up");
        let mut budget = PacketBudget::default();
        let at = |packet: u32| start + INTERVAL * packet;
        assert!((0..100_000).all(|packet| budget.takes(at(packet))), "that rate without end");
    }
}
