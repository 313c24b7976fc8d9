//! What happened on a link.

use serde::Serialize;

use super::histogram::DelayHistogram;

/// Counts since the link began. `sent + duplicates` is always the sum of `delivered`, the `lost_*` and `held`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Bytes of those, with their headers.
    pub sent_bytes: u64,
    /// Copies that the link made.
    pub duplicates: u64,
    /// Datagrams that arrived, copies included.
    pub delivered: u64,
    /// Bytes of those, with their headers.
    pub delivered_bytes: u64,
    /// Datagrams that were lost at random.
    pub lost_random: u64,
    /// Datagrams for which there was no room in the queue, copies included.
    pub lost_queue: u64,
    /// Datagrams that were sent during an outage.
    pub lost_outage: u64,
    /// Datagrams that wait or are under way.
    pub held: u64,
    /// Datagrams that arrived after one that was sent later (RFC 4737, section 3).
    pub reordered: u64,
    /// Bytes that passed the bottleneck while its rate was limited, with their headers.
    pub served_bytes: u64,
    /// Bytes that could have passed it then, from the first datagram to the last call.
    pub capacity_bytes: u64,
    /// How long datagrams waited in the queue until their first bit was sent.
    pub queueing: DelayHistogram,
}

impl LinkStats {
    /// Everything that was lost.
    pub fn lost(&self) -> u64 {
        self.lost_random + self.lost_queue + self.lost_outage
    }

    /// The share of what could have passed the bottleneck that did, 0 to 1; none without a limit.
    pub fn utilisation(&self) -> Option<f64> {
        (self.capacity_bytes > 0).then(|| self.served_bytes as f64 / self.capacity_bytes as f64)
    }

    /// Adds what happened on another link.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            sent,
            sent_bytes,
            duplicates,
            delivered,
            delivered_bytes,
            lost_random,
            lost_queue,
            lost_outage,
            held,
            reordered,
            served_bytes,
            capacity_bytes,
            queueing,
        } = other;
        self.sent += sent;
        self.sent_bytes += sent_bytes;
        self.duplicates += duplicates;
        self.delivered += delivered;
        self.delivered_bytes += delivered_bytes;
        self.lost_random += lost_random;
        self.lost_queue += lost_queue;
        self.lost_outage += lost_outage;
        self.held += held;
        self.reordered += reordered;
        self.served_bytes += served_bytes;
        self.capacity_bytes += capacity_bytes;
        self.queueing.merge(queueing);
    }

    /// The usual percentiles of the queueing delay.
    pub fn queueing_percentiles(&self) -> DelayPercentiles {
        let ms = |share| self.queueing.quantile(share).as_secs_f64() * 1e3;
        DelayPercentiles { p50: ms(0.5), p95: ms(0.95), p99: ms(0.99), max: ms(1.0) }
    }
}

/// Delays in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DelayPercentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}
