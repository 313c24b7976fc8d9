//! Which step comes next.

use std::time::Duration;

use super::config::{LinkConfig, REPEAT_MIN, Step};

/// The steps of a link, in order of time.
#[derive(Debug)]
pub(super) struct Schedule {
    steps: Vec<Step>,
    period: Option<Duration>,
    index: usize,
    /// When the present pass began.
    epoch: Duration,
}

impl Schedule {
    /// The steps of `config`, counted from `epoch`.
    pub(super) fn new(config: &LinkConfig, epoch: Duration) -> Self {
        let mut steps = config.steps.clone();
        steps.sort_by_key(|step| step.at);
        let last = steps.last().map(|step| step.at).unwrap_or_default();
        // As `LinkConfig::check` demands; whoever did not ask it gets a longer period.
        let shortest = REPEAT_MIN.max(last.saturating_add(Duration::from_nanos(1)));
        let period = config.repeat.map(|repeat| repeat.max(shortest)).filter(|_| !steps.is_empty());
        Self { steps, period, index: 0, epoch }
    }

    /// When the next step is due.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.steps.get(self.index).map(|step| self.epoch.saturating_add(step.at))
    }

    /// The next step, with its time as [`Schedule::next_at`] counts it.
    pub(super) fn next(&mut self) -> Option<Step> {
        let (at, step) = (self.next_at()?, *self.steps.get(self.index)?);
        self.index += 1;
        if let Some(period) = self.period
            && self.index == self.steps.len()
        {
            self.index = 0;
            self.epoch = self.epoch.saturating_add(period);
        }
        Some(Step { at, ..step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(at_ms: &[u64], repeat_ms: Option<u64>, count: usize) -> Vec<u128> {
        let steps = at_ms.iter().map(|ms| Step { at: Duration::from_millis(*ms), ..Step::default() });
        let config = LinkConfig {
            steps: steps.collect(),
            repeat: repeat_ms.map(Duration::from_millis),
            ..LinkConfig::IDEAL
        };
        let mut schedule = Schedule::new(&config, Duration::from_millis(100));
        std::iter::from_fn(|| schedule.next()).take(count).map(|step| step.at.as_millis()).collect()
    }

    #[test]
    fn steps_come_in_order_of_time_and_again_if_asked() {
        assert_eq!(times(&[5, 0, 2], None, 9), [100, 102, 105]);
        assert_eq!(times(&[5, 0, 2], Some(10), 7), [100, 102, 105, 110, 112, 115, 120]);
        assert_eq!(times(&[], Some(10), 9), [0; 0]);
    }

    #[test]
    fn an_impossible_period_does_not_stop_time() {
        let times = times(&[5], Some(0), 1000);
        assert!(times.last() > times.first(), "{times:?}");
    }
}
