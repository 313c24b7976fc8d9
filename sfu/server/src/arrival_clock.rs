//! When datagrams came, on the clock that the shard goes by.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A datagram that is said to have come so much earlier or later than now came now: the system's clock was set.
const SPAN_MAX: Duration = Duration::from_millis(50);

/// What both clocks read at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivalClock {
    instant: Instant,
    /// Since the Unix epoch.
    unix: Option<Duration>,
    /// For what has no time of its own.
    turn: Instant,
}

impl ArrivalClock {
    /// Reads both, in a turn that began at `turn`.
    pub(crate) fn read(turn: Instant) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        Self { instant: Instant::now(), unix, turn }
    }

    /// The instant of a time that the kernel told, since the Unix epoch.
    pub(crate) fn instant(&self, arrived: Option<Duration>) -> Instant {
        let on_our_clock = || {
            let (unix, arrived) = (self.unix?, arrived?);
            if unix.abs_diff(arrived) > SPAN_MAX {
                return None;
            }
            (self.instant + arrived.saturating_sub(unix)).checked_sub(unix.saturating_sub(arrived))
        };
        on_our_clock().unwrap_or(self.turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_kernel_are_put_on_the_other_clock() {
        let instant = Instant::now();
        let turn = instant.checked_sub(Duration::from_millis(3)).unwrap();
        let clock = ArrivalClock { instant, unix: Some(Duration::from_secs(1_000)), turn };
        let ms = Duration::from_millis;
        assert_eq!(clock.instant(Some(ms(999_990))) + ms(10), instant, "before it was read");
        assert_eq!(clock.instant(Some(ms(1_000_002))), instant + ms(2), "after it");
        for arrived in [None, Some(ms(999_900)), Some(ms(1_000_100)), Some(Duration::ZERO)] {
            assert_eq!(clock.instant(arrived), turn, "{arrived:?}");
        }
    }
}
