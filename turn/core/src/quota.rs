//! How much each user, all users together, and each unknown address may have.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::{Quotas, Rate};

/// Tokens that come at a steady rate; at most a second's worth is kept.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    tokens: f64,
    per_second: f64,
    filled_at: Instant,
}

impl TokenBucket {
    fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self { tokens: per_second, per_second, filled_at: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second);
        self.filled_at = now;
    }
}

/// Bytes and packets that may be relayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    bytes: Option<TokenBucket>,
    packets: Option<TokenBucket>,
}

impl Budget {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let bucket = |per_second: Option<u64>| per_second.map(|rate| TokenBucket::new(rate, now));
        Self { bytes: bucket(rate.bytes), packets: bucket(rate.packets) }
    }

    /// Whether a packet may go by both a user's budget and that of all; if so, it is counted in both.
    pub(crate) fn take_both(user: Option<&mut Self>, all: &mut Self, bytes: usize, now: Instant) -> bool {
        let Some(user) = user else { return all.take(bytes, now) };
        let may = user.has(bytes, now) && all.take(bytes, now);
        if may {
            user.spend(bytes);
        }
        may
    }

    /// Whether a packet may go; if so, it is counted.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let may = self.has(bytes, now);
        if may {
            self.spend(bytes);
        }
        may
    }

    fn has(&mut self, bytes: usize, now: Instant) -> bool {
        let has = |bucket: &mut Option<TokenBucket>, cost: f64| {
            bucket.as_mut().is_none_or(|bucket| {
                bucket.fill(now);
                bucket.tokens >= cost
            })
        };
        has(&mut self.bytes, bytes as f64) && has(&mut self.packets, 1.0)
    }

    fn spend(&mut self, bytes: usize) {
        for (bucket, cost) in [(&mut self.bytes, bytes as f64), (&mut self.packets, 1.0)] {
            if let Some(bucket) = bucket {
                bucket.tokens -= cost;
            }
        }
    }
}

/// Sets of the throttle's table; a power of two.
const SETS: usize = 1 << 14;
/// Addresses in a set. When a set is full, the one that was quiet the longest is forgotten, and may have its answers
/// again.
const WAYS: usize = 4;
/// How many seconds' worth of answers an address may have at once: behind one address there may be a whole company that
/// joins a call.
const BURST_S: u32 = 10;

/// Answers to addresses that have not proven who they are. An answer is longer than the request, and the request's
/// source may be forged: without a limit, the relay would be a weapon against whoever is named. Its memory is the same
/// whatever comes: at most 1 MiB.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Answers in a second for one address.
    per_second: Option<u32>,
    /// Answers for all addresses together.
    all: Option<TokenBucket>,
    /// `SETS` × `WAYS` entries; made when the first is needed.
    entries: Vec<Entry>,
    hash_key: u64,
    begin: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The rest of the address's hash; 0 is nobody.
    tag: u32,
    /// When the bucket was filled last, in milliseconds since the throttle was made.
    filled_ms: u32,
    /// Thousandths of answers.
    tokens: u32,
}

impl Throttle {
    pub(crate) fn new(limits: &Quotas, hash_key: u64, now: Instant) -> Self {
        Self {
            per_second: limits.unauthenticated_answers.map(|rate| rate.clamp(1, 100_000)),
            all: limits.all_unauthenticated_answers.map(|rate| TokenBucket::new(rate.into(), now)),
            entries: Vec::new(),
            hash_key,
            begin: now,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: &Quotas, now: Instant) {
        self.per_second = limits.unauthenticated_answers.map(|rate| rate.clamp(1, 100_000));
        self.all = limits.all_unauthenticated_answers.map(|rate| TokenBucket::new(rate.into(), now));
    }

    /// Whether an address may have an answer; if so, it is counted.
    pub(crate) fn take(&mut self, client: SocketAddr, now: Instant) -> bool {
        if let Some(all) = &mut self.all {
            all.fill(now);
            // Under a flood this is all that a request costs.
            if all.tokens < 1.0 {
                return false;
            }
        }
        let may = self.take_of_address(client, now);
        if may && let Some(all) = &mut self.all {
            all.tokens -= 1.0;
        }
        may
    }

    fn take_of_address(&mut self, client: SocketAddr, now: Instant) -> bool {
        let Some(per_second) = self.per_second else { return true };
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); SETS * WAYS];
        }
        let since = now.saturating_duration_since(self.begin);
        // Wraps after 49 days; an address that is quiet for that long may be taken for one that was not.
        let now_ms = since.as_millis() as u32;
        let hash = self.hash(client.ip());
        let set = hash as usize % SETS * WAYS;
        let tag = (hash >> 32) as u32 | 1;
        let full = per_second * BURST_S * 1000;
        let Some(entries) = self.entries.get_mut(set..set + WAYS) else { return false };
        let found = entries.iter().position(|entry| entry.tag == tag);
        let at = found.or_else(|| {
            let quiet_ms = |entry: &Entry| match entry.tag {
                0 => u32::MAX,
                _ => now_ms.wrapping_sub(entry.filled_ms),
            };
            (0..WAYS).max_by_key(|at| entries.get(*at).map(quiet_ms))
        });
        let Some(entry) = at.and_then(|at| entries.get_mut(at)) else { return false };
        if found.is_none() {
            *entry = Entry { tag, filled_ms: now_ms, tokens: full };
        }
        let elapsed_ms = now_ms.wrapping_sub(entry.filled_ms);
        entry.tokens = entry.tokens.saturating_add(elapsed_ms.saturating_mul(per_second)).min(full);
        entry.filled_ms = now_ms;
        let may = entry.tokens >= 1000;
        if may {
            entry.tokens -= 1000;
        }
        may
    }

    /// Addresses that are known or could be.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.entries.capacity()
    }

    /// A network of IPv6 is one customer's: its first 64 bits count.
    fn hash(&self, ip: IpAddr) -> u64 {
        let prefix = match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        };
        // SplitMix64's finish over a key that nobody outside knows.
        let mut hash = (prefix ^ self.hash_key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    }
}

/// Nothing is due: the longest that a server waits for its next time out.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        Instant::now()
    }

    #[test]
    fn budgets_refill_and_a_packet_over_one_limit_costs_nothing() {
        let now = start();
        let mut budget = Budget::new(Rate { bytes: Some(1000), packets: Some(5) }, now);
        assert!(budget.take(900, now));
        assert!(!budget.take(200, now), "100 are left");
        assert!((0..4).all(|_| budget.take(10, now)));
        assert!(!budget.take(1, now), "5 packets");
        let later = now + Duration::from_millis(500);
        assert!(budget.take(500, later));
        assert!(Budget::new(Rate::default(), now).take(usize::MAX, now));
    }

    fn throttle(each: u32, all: Option<u32>, now: Instant) -> Throttle {
        let limits = Quotas {
            unauthenticated_answers: Some(each),
            all_unauthenticated_answers: all,
            ..Quotas::default()
        };
        Throttle::new(&limits, 7, now)
    }

    #[test]
    fn all_addresses_together_have_a_rate() {
        let mut now = start();
        let mut throttle = throttle(10, Some(1000), now);
        let client = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(n), 1));
        assert_eq!((0..200).filter(|_| throttle.take(client(1), now)).count(), 100);
        assert_eq!(
            (2..5000).filter(|n| throttle.take(client(*n), now)).count(),
            900,
            "refusals cost nothing"
        );
        now += Duration::from_millis(500);
        assert_eq!((2..5000).filter(|n| throttle.take(client(*n), now)).count(), 500);
    }

    #[test]
    fn an_address_has_its_rate_and_the_table_does_not_grow() {
        let mut now = start();
        let mut throttle = throttle(10, None, now);
        let client = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(n), 1));
        assert_eq!((0..200).filter(|_| throttle.take(client(1), now)).count(), 100, "the burst");
        now += Duration::from_secs(1);
        assert_eq!((0..200).filter(|_| throttle.take(client(1), now)).count(), 10);
        // A flood from very many sources; each of them has few answers.
        let answered = (2..300_000).filter(|n| throttle.take(client(*n), now)).count();
        assert_eq!(answered, 299_998);
        assert_eq!(throttle.entries.len(), SETS * WAYS);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let now = start();
        let mut throttle = throttle(1, None, now);
        let client = |n: u16| SocketAddr::from(([0x2606, 1, 2, 3, n, n, n, n], 1));
        assert_eq!((0..50).filter(|n| throttle.take(client(*n), now)).count(), 10);
    }
}
