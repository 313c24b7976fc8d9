//! How an encoding arrives.

use std::time::Duration;

use super::{Upstream, source::Place};
use crate::connection::Rid;

/// What has come of an encoding's sources so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reception {
    /// Packets that should have come.
    pub(crate) expected: u64,
    /// How many of them did not, retransmissions not counted.
    pub(crate) lost: u64,
    /// Of the source that jitters most.
    pub(crate) jitter: Duration,
}

impl Upstream {
    /// What has come of an encoding.
    pub(crate) fn reception(&self, section: usize, rid: Option<Rid>) -> Reception {
        let place = Place { section, rid };
        let sources = self.sources.values().filter(|source| source.place == place);
        let mut sum = Reception::default();
        for media in sources.filter_map(|source| source.media.as_ref()) {
            sum.expected += media.stats.expected();
            sum.lost += u64::try_from(media.stats.lost()).unwrap_or(0);
            sum.jitter = sum.jitter.max(media.stats.jitter_time());
        }
        sum
    }

    /// What has come of some sections since the last time.
    pub(crate) fn take_reception(&mut self, is_meant: impl Fn(usize) -> bool) -> Reception {
        let mut sum = Reception::default();
        let sources = self.sources.values_mut().filter(|source| is_meant(source.place.section));
        for media in sources.filter_map(|source| source.media.as_mut()) {
            let (expected, lost) = media.take_loss();
            sum.expected += expected;
            sum.lost += lost;
            if expected > 0 {
                sum.jitter = sum.jitter.max(media.stats.jitter_time());
            }
        }
        sum
    }
}
