//! How many earlier payloads the audio for a client carries: none, unless its path loses packets.
//!
//! Packets come at 50 a second where there is audio alone, so that one lost in half a second is 4 % of it: the loss is
//! smoothed over some seconds, and what was begun goes on until there is clearly less of it.
//!
//! Transport-wide feedback tells it soon, but not all of it: there are clients (str0m) whose feedback begins with the first
//! packet that came after the last, and says nothing of those lost between. Reports count them, seconds later.

use std::time::{Duration, Instant};

/// Loss is measured over so long at least, and so many packets.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOW_PACKETS_MIN: u64 = 20;
/// A measurement over so long, and of so many packets, takes the place of what was measured before; of less, a part of it.
const SMOOTHED_MS: u64 = 4_000;
const SMOOTHED_PACKETS: u64 = 200;
/// Loss of which nothing was heard for so long is none.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);
/// The whole: losses are counted in millionths.
const ALL: i64 = 1_000_000;

/// From so much loss on there is one earlier payload, or two; below so much there is one less.
const RISES_AT: [i64; 2] = [ALL / 50, ALL * 8 / 100];
const FALLS_BELOW: [i64; 2] = [ALL / 100, ALL * 5 / 100];
/// Where audio takes more of a full path than this, in percent, it is a reason why the path is full.
const SHARE_PERCENT_MAX: u64 = 50;

/// What stands in the way of sending more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing, as far as is known.
    Free,
    /// A queue stood in the path lately: losses are of what was too much.
    Queued,
    /// One does now, and audio takes `percent` of the path.
    Full { percent: u64 },
}

/// Who tells of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    Feedback,
    Reports,
}

/// The loss that one of them tells of.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    since: Option<Instant>,
    /// Packets of the running window.
    expected: u64,
    lost: u64,
    /// A queue stood in the path meanwhile.
    queued: bool,
    smoothed: i64,
}

impl Loss {
    /// Takes what was found out about so many packets. True if that ends a window.
    fn on_packets(&mut self, now: Instant, expected: u64, lost: u64) -> bool {
        let since = *self.since.get_or_insert(now);
        self.expected = self.expected.saturating_add(expected);
        self.lost = self.lost.saturating_add(lost).min(self.expected);
        let elapsed = now.saturating_duration_since(since);
        if self.expected < WINDOW_PACKETS_MIN || elapsed < WINDOW {
            return false;
        }
        let share = |part: u64, whole: u64| {
            i64::try_from(part.min(whole).saturating_mul(ALL.unsigned_abs()) / whole.max(1)).unwrap_or(ALL)
        };
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let weight = share(ms, SMOOTHED_MS).min(share(self.expected, SMOOTHED_PACKETS));
        let change = (share(self.lost, self.expected) - self.smoothed) * weight / ALL;
        self.smoothed += if self.queued { change.min(0) } else { change };
        *self = Self { since: Some(now), smoothed: self.smoothed, ..Self::default() };
        true
    }

    fn now(&self, now: Instant) -> i64 {
        let fresh = self.since.is_some_and(|since| now.saturating_duration_since(since) < FORGOTTEN_AFTER);
        if fresh { self.smoothed } else { 0 }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Redundancy {
    feedback: Loss,
    reports: Loss,
    earlier_payloads: u8,
}

impl Redundancy {
    /// Takes what a witness says of so many packets.
    pub(super) fn on_packets(
        &mut self,
        now: Instant,
        witness: Witness,
        (expected, lost): (u64, u64),
        room: Room,
    ) {
        if room != Room::Free {
            self.feedback.queued = true;
            self.reports.queued = true;
        }
        let loss = match witness {
            Witness::Feedback => &mut self.feedback,
            Witness::Reports => &mut self.reports,
        };
        if loss.on_packets(now, expected, lost) {
            self.choose(self.feedback.now(now).max(self.reports.now(now)), room);
        }
    }

    fn choose(&mut self, loss: i64, room: Room) {
        let level = usize::from(self.earlier_payloads);
        let beyond = |thresholds: &[i64], at: Option<usize>| {
            at.and_then(|at| thresholds.get(at)).map(|threshold| loss.cmp(threshold))
        };
        let rises = beyond(&RISES_AT, Some(level)).is_some_and(|order| order.is_ge());
        let falls = beyond(&FALLS_BELOW, level.checked_sub(1)).is_some_and(|order| order.is_lt());
        let crowds = matches!(room, Room::Full { percent } if percent > SHARE_PERCENT_MAX);
        if falls || crowds {
            self.earlier_payloads = self.earlier_payloads.saturating_sub(1);
        } else if rises && room == Room::Free {
            self.earlier_payloads += 1;
        }
    }

    /// How many earlier payloads a packet is to carry, at most [`crate::red::EARLIER_MAX`].
    pub(super) fn earlier_payloads(&self) -> u8 {
        self.earlier_payloads
    }
}

/// There is a threshold for each.
const _: () =
    assert!(RISES_AT.len() == crate::red::EARLIER_MAX && FALLS_BELOW.len() == crate::red::EARLIER_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    struct Path {
        redundancy: Redundancy,
        now: Instant,
        room: Room,
        witness: Witness,
        packets: u64,
    }

    impl Path {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "any instant will do")]
            let now = Instant::now();
            let (redundancy, room, witness) = (Redundancy::default(), Room::Free, Witness::Feedback);
            Self { redundancy, now, room, witness, packets: 0 }
        }

        /// Fifty packets a second, of which every so-manieth is lost. Returns what is sent along, each second.
        fn run(&mut self, seconds: usize, lost_one_in: Option<u64>) -> Vec<u8> {
            let second = |_| {
                for _ in 0..10 {
                    self.now += Duration::from_millis(100);
                    let lost = (self.packets..self.packets + 5)
                        .filter(|packet| lost_one_in.is_some_and(|one_in| packet % one_in == 0))
                        .count();
                    self.packets += 5;
                    self.redundancy.on_packets(self.now, self.witness, (5, lost as u64), self.room);
                }
                self.redundancy.earlier_payloads()
            };
            (0..seconds).map(second).collect()
        }
    }

    #[test]
    fn more_is_sent_along_the_more_is_lost() {
        for (lost_one_in, expected) in [(None, 0), (Some(100), 0), (Some(25), 1), (Some(14), 1), (Some(5), 2)]
        {
            let sent = Path::new().run(20, lost_one_in);
            assert_eq!(sent.last(), Some(&expected), "one in {lost_one_in:?}: {sent:?}");
            assert!(sent.is_sorted(), "it does not waver: {sent:?}");
        }
        let sent = Path::new().run(5, Some(5));
        assert_eq!(sent[2], 2, "a fifth is much: {sent:?}");
    }

    #[test]
    fn what_was_begun_goes_on_until_there_is_clearly_less_loss() {
        let mut path = Path::new();
        path.run(20, Some(25));
        // Between the two thresholds.
        assert_eq!(path.run(20, Some(66)), [1; 20]);
        let sent = path.run(20, None);
        assert_eq!((sent[0], sent[19]), (1, 0), "{sent:?}");
        assert_eq!(path.run(20, Some(66)), [0; 20]);
        path.run(20, Some(5));
        assert_eq!(path.run(20, Some(15))[19], 2);
        assert_eq!(path.run(20, Some(25))[19], 1);
    }

    #[test]
    fn a_single_lost_packet_is_no_reason() {
        let mut path = Path::new();
        path.run(3, None);
        path.redundancy.on_packets(path.now, Witness::Feedback, (1, 1), Room::Free);
        assert_eq!(path.run(5, None), [0; 5]);
    }

    #[test]
    fn nothing_is_added_to_a_queue() {
        let mut path = Path::new();
        path.room = Room::Queued;
        assert_eq!(path.run(10, Some(5)), [0; 10]);
        path.room = Room::Free;
        assert_eq!(path.run(10, None), [0; 10]);
        path.redundancy.on_packets(path.now, Witness::Reports, (250, 50), Room::Free);
        assert_eq!(path.run(1, None), [0], "it tells of when there was a queue");
        assert_eq!(path.run(4, Some(5))[3], 2);
        path.room = Room::Queued;
        assert_eq!(path.run(10, Some(5)), [2; 10], "what is there stays");
        path.room = Room::Full { percent: 50 };
        assert_eq!(path.run(10, Some(5)), [2; 10], "audio is the least of it");
        path.room = Room::Full { percent: 51 };
        assert_eq!(path.run(2, Some(5))[1], 0);
        path.room = Room::Free;
        path.run(5, Some(5));
        path.room = Room::Queued;
        assert_eq!(path.run(20, None)[19], 0, "less loss is less loss");
    }
    #[test]
    fn reports_tell_what_feedback_does_not() {
        let mut path = Path::new();
        let mut levels = Vec::new();
        for second in 1..=60 {
            path.run(1, None);
            // Of audio alone there is a report each five seconds.
            if second % 5 == 0 {
                let lost = if second <= 20 { 50 } else { 0 };
                path.redundancy.on_packets(path.now, Witness::Reports, (250, lost), Room::Free);
                levels.push(path.redundancy.earlier_payloads());
            }
        }
        assert_eq!(levels[..4], [0, 1, 2, 2], "the first begins the window: {levels:?}");
        assert_eq!(levels[11], 0, "{levels:?}");
        path.witness = Witness::Reports;
        assert_eq!(path.run(5, Some(5))[4], 2, "there may be no feedback at all");
        path.witness = Witness::Feedback;
        let sent = path.run(20, None);
        assert_eq!((sent[10], sent[19]), (2, 0), "nothing is heard of losses any more: {sent:?}");
    }
}
