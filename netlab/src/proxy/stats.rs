//! What a proxy did, as a table and as JSON.

use std::{
    fmt::{self, Display, Write as _},
    time::Duration,
};

use serde::Serialize;

use crate::link::{DelayPercentiles, LinkStats};

/// Counts since the proxy began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// Clients now.
    pub clients: usize,
    /// Clients that there were, those of now included. One that was forgotten and comes back counts again.
    pub clients_total: u64,
    /// Datagrams that were dropped since there were too many clients, or no socket for another.
    pub refused: u64,
    /// Datagrams that were dropped since all links together held too much.
    pub overflow: u64,
    /// Datagrams that passed a link and that the kernel did not take.
    pub unsent: u64,
    /// Times that the target's machine said that nobody listens there.
    pub unreachable: u64,
    /// Links from clients to the target, those of clients that are gone included.
    pub upstream: LinkStats,
    /// Links from the target to clients.
    pub downstream: LinkStats,
    /// For how long it has run.
    pub elapsed: Duration,
}

/// What [`ProxyStats::to_json`] makes of a link.
#[derive(Debug, Serialize)]
struct LinkReport {
    sent: u64,
    sent_bytes: u64,
    duplicates: u64,
    delivered: u64,
    delivered_bytes: u64,
    lost_random: u64,
    lost_queue: u64,
    lost_outage: u64,
    held: u64,
    reordered: u64,
    /// Share of what the rate let through.
    utilisation: Option<f64>,
    queueing_ms: DelayPercentiles,
}

impl LinkReport {
    fn new(stats: &LinkStats) -> Self {
        Self {
            sent: stats.sent,
            sent_bytes: stats.sent_bytes,
            duplicates: stats.duplicates,
            delivered: stats.delivered,
            delivered_bytes: stats.delivered_bytes,
            lost_random: stats.lost_random,
            lost_queue: stats.lost_queue,
            lost_outage: stats.lost_outage,
            held: stats.held,
            reordered: stats.reordered,
            utilisation: stats.utilisation(),
            queueing_ms: stats.queueing_percentiles(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    elapsed_s: f64,
    clients: usize,
    clients_total: u64,
    refused: u64,
    overflow: u64,
    unsent: u64,
    unreachable: u64,
    upstream: LinkReport,
    downstream: LinkReport,
}

impl ProxyStats {
    /// One object of JSON; `seed` is that of the run.
    pub fn to_json(&self, seed: u64) -> serde_json::Result<String> {
        serde_json::to_string(&Report {
            seed,
            elapsed_s: self.elapsed.as_secs_f64(),
            clients: self.clients,
            clients_total: self.clients_total,
            refused: self.refused,
            overflow: self.overflow,
            unsent: self.unsent,
            unreachable: self.unreachable,
            upstream: LinkReport::new(&self.upstream),
            downstream: LinkReport::new(&self.downstream),
        })
    }
}

/// A table for people.
impl Display for ProxyStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = [&self.upstream, &self.downstream];
        let seconds = self.elapsed.as_secs_f64();
        let count = |of: fn(&LinkStats) -> u64| links.map(|link| of(link).to_string());
        let kbps = |bytes: u64| format!("{:.0}", bytes as f64 * 8e-3 / seconds.max(1e-9));
        let share = |of: fn(&LinkStats) -> u64| {
            links.map(|link| match of(link) {
                0 => "0".to_owned(),
                count => format!("{count} ({:.2} %)", count as f64 * 100.0 / link.sent.max(1) as f64),
            })
        };
        let delay = |part: fn(DelayPercentiles) -> f64| {
            links.map(|link| format!("{:.1}", part(link.queueing_percentiles())))
        };
        let utilisation = links.map(|link| {
            link.utilisation().map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
        });
        let rows = [
            ("sent", count(|link| link.sent)),
            ("delivered", count(|link| link.delivered)),
            ("lost at random", share(|link| link.lost_random)),
            ("lost, queue full", share(|link| link.lost_queue)),
            ("lost, outage", share(|link| link.lost_outage)),
            ("under way", count(|link| link.held)),
            ("duplicates", share(|link| link.duplicates)),
            ("reordered", share(|link| link.reordered)),
            ("sent, kbit/s", links.map(|link| kbps(link.sent_bytes))),
            ("delivered, kbit/s", links.map(|link| kbps(link.delivered_bytes))),
            ("utilisation", utilisation),
            ("queueing ms, p50", delay(|delays| delays.p50)),
            ("queueing ms, p95", delay(|delays| delays.p95)),
            ("queueing ms, p99", delay(|delays| delays.p99)),
            ("queueing ms, max", delay(|delays| delays.max)),
        ];
        writeln!(f, "{:<20}{:>20}{:>20}", "", "upstream", "downstream")?;
        for (name, [upstream, downstream]) in rows {
            writeln!(f, "{name:<20}{upstream:>20}{downstream:>20}")?;
        }
        let mut last = format!("{seconds:.1} s, {} clients", self.clients_total);
        for (count, what) in [
            (self.refused, "refused: too many clients"),
            (self.overflow, "dropped: too much under way"),
            (self.unsent, "not taken by the kernel"),
            (self.unreachable, "times nobody listened at the target"),
        ] {
            if count > 0 {
                write!(last, "; {count} {what}")?;
            }
        }
        writeln!(f, "{last}")
    }
}
