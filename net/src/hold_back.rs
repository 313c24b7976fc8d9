//! How long a loop lets datagrams wait, to have more of them for each receiver.
//!
//! A send costs what it costs however many segments it carries, so packets that wait for each other are cheaper. They
//! also come later: a loop with time to spare sends at once, a busy one waits, the longer the busier.
//!
//! ```text
//!   held │              ┌───── max
//!        │           ／
//!    min ├─────────／
//!        └────────┴─────┴──── share of the time in which the loop works
//!               30 %   70 %
//! ```
//! Waiting makes the loop less busy, so the two settle where they meet.

use std::time::{Duration, Instant};

/// Below this share of work, in percent, the least time is held.
const BUSY_MIN_PERCENT: u128 = 30;
/// Above this, the most.
const BUSY_MAX_PERCENT: u128 = 70;
/// How long work is summed up before the time held follows it.
const WINDOW: Duration = Duration::from_millis(50);

/// The time that datagrams are held, as it follows the load: nothing is held by a loop that works for 30 % of its time or
/// less, the most from 70 % on.
#[derive(Debug)]
pub struct HoldBack {
    min: Duration,
    max: Duration,
    held: Duration,
    busy: Duration,
    window_began: Instant,
}

impl HoldBack {
    /// Between `min` and `max`; the greater of the two wins.
    pub fn new(min: Duration, max: Duration, now: Instant) -> Self {
        Self { min, max: max.max(min), held: min, busy: Duration::ZERO, window_began: now }
    }

    /// How long datagrams wait now.
    pub fn held(&self) -> Duration {
        self.held
    }

    /// A turn has ended, after so much work.
    pub fn on_turn(&mut self, ended: Instant, worked: Duration) {
        self.busy += worked;
        let window = ended.saturating_duration_since(self.window_began);
        if window < WINDOW {
            return;
        }
        let percent = self.busy.as_nanos() * 100 / window.as_nanos().max(1);
        let above = percent.clamp(BUSY_MIN_PERCENT, BUSY_MAX_PERCENT) - BUSY_MIN_PERCENT;
        let share = u32::try_from(above).unwrap_or(0);
        let target = self.min + (self.max - self.min) * share / (BUSY_MAX_PERCENT - BUSY_MIN_PERCENT) as u32;
        // Half the way, so that load and time held do not chase each other.
        self.held = (self.held + target) / 2;
        if self.held.abs_diff(target) < Duration::from_micros(50) {
            self.held = target;
        }
        self.busy = Duration::ZERO;
        self.window_began = ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time held after a second in which each turn of 10 ms worked so many percent of it.
    fn after(min_ms: u64, max_ms: u64, percent: u64) -> Duration {
        let began = Instant::now();
        let ms = Duration::from_millis;
        let mut hold_back = HoldBack::new(ms(min_ms), ms(max_ms), began);
        for turn in 1..=100 {
            hold_back.on_turn(began + ms(turn * 10), Duration::from_micros(percent * 100));
        }
        hold_back.held()
    }

    #[test]
    fn a_worker_with_time_to_spare_holds_nothing() {
        assert_eq!(after(0, 5, 0), Duration::ZERO);
        assert_eq!(after(0, 5, 30), Duration::ZERO);
        assert_eq!(after(1, 5, 30), Duration::from_millis(1));
    }

    #[test]
    fn a_busy_one_holds_more_up_to_the_limit() {
        assert_eq!(after(0, 5, 50), Duration::from_micros(2500));
        assert_eq!(after(0, 5, 70), Duration::from_millis(5));
        assert_eq!(after(0, 5, 100), Duration::from_millis(5));
        assert_eq!(after(2, 1, 100), Duration::from_millis(2), "limits in the wrong order");
    }

    #[test]
    fn it_follows_within_a_second_and_back() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        let mut hold_back = HoldBack::new(Duration::ZERO, ms(5), began);
        hold_back.on_turn(began + ms(50), ms(50));
        assert_eq!(hold_back.held(), Duration::from_micros(2500), "half the way in one window");
        for window in 2..=10 {
            hold_back.on_turn(began + ms(window * 50), Duration::ZERO);
        }
        assert_eq!(hold_back.held(), Duration::ZERO);
    }
}
