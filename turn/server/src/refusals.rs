//! What the log says of refused requests: at most so much of each user, and at most so much of all.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use zynk_turn_core::{FiveTuple, RefusalReason};

/// Of one user, one reason is logged so often at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lines in one interval. Further refusals are counted and told with the next line.
const LINES_PER_INTERVAL: usize = 16;

/// Decides which refusals are logged.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    hasher: RandomState,
    /// Who was told of in this interval, and why. Bounded by the lines of an interval.
    told: FxHashMap<(u64, RefusalReason), ()>,
    interval_began_at: Option<Instant>,
    suppressed: u64,
}

/// A line to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Stands for the user, in this process alone.
    user: u32,
    /// Refusals that were not logged since the last line.
    suppressed: u64,
}

impl RefusalLog {
    /// Logs a refusal, unless too much was logged of late.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        user: Option<&str>,
        five_tuple: FiveTuple,
        reason: RefusalReason,
    ) {
        // Somebody should look: nobody gets in, or the configuration is too small.
        let is_alarming = matches!(reason, RefusalReason::TotalQuota | RefusalReason::NoPort);
        let is_quota = matches!(reason, RefusalReason::UserQuota | RefusalReason::PeerQuota);
        // Lines that nobody sees take none from the others.
        if !is_alarming && !is_quota && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(Line { user: digest, suppressed }) = self.line(now, user, five_tuple, reason) else {
            return;
        };
        let reason_text = reason.as_str();
        if is_alarming {
            tracing::warn!(user = %format_args!("~{digest:08x}"), reason = reason_text, suppressed, "request refused");
        } else if is_quota {
            tracing::info!(user = %format_args!("~{digest:08x}"), reason = reason_text, suppressed, "request refused");
        }
        // Who asked is personal, and may be an attacker's text: it is a value, and only of use to who debugs.
        let name = user.unwrap_or("-");
        tracing::debug!(user = name, client = %five_tuple.client, reason = reason_text, suppressed, "request refused");
    }

    fn line(
        &mut self,
        now: Instant,
        user: Option<&str>,
        five_tuple: FiveTuple,
        reason: RefusalReason,
    ) -> Option<Line> {
        if self.interval_began_at.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL) {
            self.interval_began_at = Some(now);
            self.told.clear();
        }
        // Who has not proven a name is told apart by the address.
        let digest = match user {
            Some(user) => self.hasher.hash_one(user),
            None => self.hasher.hash_one(five_tuple.client.ip()),
        };
        if self.told.len() >= LINES_PER_INTERVAL || self.told.insert((digest, reason), ()).is_some() {
            self.suppressed += 1;
            return None;
        }
        let user = u32::try_from(digest >> 32).unwrap_or_default();
        Some(Line { user, suppressed: std::mem::take(&mut self.suppressed) })
    }
}

#[cfg(test)]
mod tests {
    use zynk_turn_core::Transport;

    use super::*;

    fn from(port: u16) -> FiveTuple {
        let server = ([127, 0, 0, 1], 3478).into();
        FiveTuple { transport: Transport::Udp, server, client: ([192, 0, 2, 7], port).into() }
    }

    #[test]
    fn a_user_is_told_of_once_a_second_for_each_reason() {
        let (mut log, now) = (RefusalLog::default(), Instant::now());
        let quota = RefusalReason::UserQuota;
        let suppressed = |line: Option<Line>| line.map(|line| line.suppressed);
        assert_eq!(suppressed(log.line(now, Some("alice"), from(1), quota)), Some(0));
        assert_eq!(log.line(now, Some("alice"), from(2), quota), None);
        assert_eq!(log.line(now, Some("alice"), from(3), quota), None);
        assert_eq!(suppressed(log.line(now, Some("bob"), from(4), quota)), Some(2));
        assert_eq!(suppressed(log.line(now, Some("alice"), from(1), RefusalReason::PeerDenied)), Some(0));
        let alice = |line: Option<Line>| line.map(|line| line.user);
        let later = now + INTERVAL;
        let first = alice(log.line(later, Some("alice"), from(9), quota));
        assert_eq!(first, alice(log.line(later + INTERVAL, Some("alice"), from(1), quota)));
        assert_eq!(log.line(later + INTERVAL, Some("alice"), from(1), quota), None);
    }

    #[test]
    fn a_flood_from_everywhere_is_no_flood_of_lines() {
        let (mut log, now) = (RefusalLog::default(), Instant::now());
        let line = |log: &mut RefusalLog, now, index: u32| {
            let client = (std::net::Ipv4Addr::from(index), 1).into();
            log.line(now, None, FiveTuple { client, ..from(1) }, RefusalReason::WrongPassword)
        };
        let lines = (0..100_000).filter(|index| line(&mut log, now, *index).is_some()).count();
        assert_eq!((lines, log.told.len()), (LINES_PER_INTERVAL, LINES_PER_INTERVAL));
        let next = line(&mut log, now + INTERVAL, 7).unwrap();
        assert_eq!(next.suppressed, 100_000 - LINES_PER_INTERVAL as u64);
    }
}
