//! What a client reports on a stream.

use super::{Downstream, Reported, ReportedLoss};

/// A client's last report on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamReception {
    /// The highest number that it got; wraps.
    pub(crate) highest: u32,
    /// Lost since the beginning.
    pub(crate) lost: i32,
    /// In units of the stream's timestamps.
    pub(crate) jitter: u32,
}

/// Counters of a stream when its losses were last taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) highest_seq: u32,
    pub(super) cumulative_lost: i32,
    /// None before the first time.
    pub(super) sent: Option<u64>,
}

impl Downstream {
    /// What the client reported last on the stream of this SSRC.
    pub(crate) fn stream_reception(&self, ssrc: u32) -> Option<StreamReception> {
        let reported = self.reported.get(&ssrc)?;
        Some(StreamReception {
            highest: reported.highest_seq,
            lost: reported.cumulative_lost,
            jitter: reported.jitter,
        })
    }

    /// What the client reported lost of the stream of this SSRC since the last time. `sent` is how many packets it has been
    /// sent so far: what was never sent, because it had not come, is not lost on the way to the client.
    pub(crate) fn take_stream_loss(&mut self, ssrc: u32, sent: u64) -> ReportedLoss {
        let Some(reported) = self.reported.get_mut(&ssrc) else { return ReportedLoss::default() };
        let Reported { highest_seq, cumulative_lost, .. } = *reported;
        let now = Taken { highest_seq, cumulative_lost, sent: Some(sent) };
        let before = std::mem::replace(&mut reported.taken, now);
        // Numbers that go back belong to an old report, or to a lie.
        let numbers = Some(highest_seq.wrapping_sub(before.highest_seq)).filter(|count| *count < 1 << 20);
        let numbers = u64::from(numbers.unwrap_or(0));
        let never_sent = before.sent.map_or(0, |before| numbers.saturating_sub(sent.saturating_sub(before)));
        let expected = numbers - never_sent;
        let lost = u64::from(cumulative_lost.saturating_sub(before.cumulative_lost).max(0).cast_unsigned());
        ReportedLoss { expected, lost: lost.saturating_sub(never_sent).min(expected) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::media::receiver::ReportBlock;

    #[test]
    fn what_was_never_sent_was_not_lost() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut downstream = Downstream::default();
        let mut report = |highest_seq, cumulative_lost, sent| {
            let block = ReportBlock {
                ssrc: 1,
                fraction_lost: 0,
                cumulative_lost,
                highest_seq,
                jitter: 0,
                last_sr: 0,
                delay_since_last_sr: 0,
            };
            downstream.on_report(now, 0, &block);
            let ReportedLoss { expected, lost } = downstream.take_stream_loss(1, sent);
            (expected, lost)
        };
        assert_eq!(report(u32::MAX - 9, 5, 100), (0, 0), "where it begins");
        assert_eq!(report(90, 15, 200), (100, 10));
        assert_eq!(report(190, 25, 290), (90, 0), "ten had not come");
        assert_eq!(report(290, 45, 380), (90, 10), "and ten were lost besides");
        assert_eq!(report(290, 45, 480), (0, 0), "no report since");
        assert_eq!(report(100, 5, 580), (0, 0), "numbers go back");
        assert_eq!(downstream.take_stream_loss(2, 5), ReportedLoss::default(), "unknown");
    }
}
