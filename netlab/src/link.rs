//! One direction of a link, in the caller's time.

mod bottleneck;
mod config;
mod histogram;
mod loss;
mod schedule;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use bottleneck::{Bottleneck, QueueLimit};
use loss::LossProcess;
use schedule::Schedule;

pub use config::{
    JitterDistribution, LinkConfig, LinkConfigError, QUEUE_TIME_DEFAULT, REORDER_DELAY_DEFAULT, REPEAT_MIN,
    Step,
};
pub use histogram::DelayHistogram;
pub use loss::{GilbertElliott, Loss};
pub use stats::{DelayPercentiles, LinkStats};

/// Bytes that a link holds, waiting or under way, each datagram with [`DATAGRAM_COST_BYTES`] more. What comes when
/// it is full is lost as by a full queue.
pub const HELD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a datagram takes of [`HELD_BYTES_MAX`] beyond its size: the memory for its place in the link.
pub const DATAGRAM_COST_BYTES: u64 = 128;

/// Later than anything: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One direction of a link. `T` is what travels: the octets, or whatever stands for them.
///
/// ```text
///   send ─► outage? ─► doomed? ─► copy? ─► queue, drop-tail ─► rate ─► lost? ─► delay ± jitter ─► held back? ─► poll
/// ```
///
/// Time comes with each call and need not come often: what [`Link::poll`] returns, and the time it says, does not
/// depend on when it is called. Everything random is drawn when a datagram is sent, with a generator of its own for
/// each purpose: the n-th datagram is lost or not by the seed alone, whatever the rate, the delay or the load.
/// A datagram that is lost at random takes its share of the rate before, as on the radio.
#[derive(Debug)]
pub struct Link<T> {
    config: LinkConfig,
    schedule: Schedule,
    start: Instant,
    bottleneck: Bottleneck<Datagram<T>>,
    under_way: BinaryHeap<Reverse<UnderWay<T>>>,
    /// When the last of those arrives that keep their order.
    arrival_last: Duration,
    outage_until: Duration,
    random: Generators,
    /// Of the next datagram.
    number: u64,
    /// Datagrams that left the bottleneck for their destination.
    departures: u64,
    /// The least that is more than those of all that arrived.
    number_next: u64,
    held_bytes: u64,
    stats: LinkStats,
}

/// A datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<T> {
    /// When it did.
    pub at: Instant,
    /// What was sent.
    pub payload: T,
}

/// A datagram in the link, with what will happen to it.
#[derive(Debug)]
struct Datagram<T> {
    /// In order of sending. A copy has that of its original.
    number: u64,
    is_copy: bool,
    bytes: u64,
    /// In multiples of the jitter.
    deviation: f64,
    /// Whether it is held back.
    is_late: bool,
    /// None: it is lost after the bottleneck.
    payload: Option<T>,
}

/// A datagram with its time of arrival, by which it is ordered.
#[derive(Debug)]
struct UnderWay<T> {
    arrival: Duration,
    /// In order of leaving the bottleneck.
    departure: u64,
    number: u64,
    is_copy: bool,
    bytes: u64,
    payload: T,
}

/// A generator for each purpose.
#[derive(Debug)]
struct Generators {
    loss: LossProcess,
    jitter: Pcg64Mcg,
    reorder: Pcg64Mcg,
    duplicate: Pcg64Mcg,
    copies: Pcg64Mcg,
}

impl<T> Link<T> {
    /// A link whose schedule counts from `start`. The seed decides everything that is random.
    pub fn new(config: LinkConfig, seed: u64, start: Instant) -> Self {
        let mut root = Pcg64Mcg::seed_from_u64(seed);
        let mut generator = || Pcg64Mcg::from_rng(&mut root);
        let random = Generators {
            loss: LossProcess::new(generator()),
            jitter: generator(),
            reorder: generator(),
            duplicate: generator(),
            copies: generator(),
        };
        Self {
            schedule: Schedule::new(&config, Duration::ZERO),
            start,
            bottleneck: Bottleneck::new(config.rate),
            under_way: BinaryHeap::new(),
            arrival_last: Duration::ZERO,
            outage_until: Duration::ZERO,
            random,
            number: 0,
            departures: 0,
            number_next: 0,
            held_bytes: 0,
            stats: LinkStats::default(),
            config,
        }
    }

    /// When the next datagram arrives, or earlier. None: there is none, or it waits for a rate that never comes.
    pub fn next_at(&self) -> Option<Instant> {
        let arrival = self.under_way.peek().map(|Reverse(datagram)| datagram.arrival);
        let departure = self.bottleneck.next_departure().map(|at| at.saturating_add(self.delay_min()));
        // The rate or the delay may change before.
        let step = if self.bottleneck.is_empty() { None } else { self.schedule.next_at() };
        let next = [arrival, departure, step].into_iter().flatten().min()?;
        Some(self.instant(next))
    }

    /// The next datagram that has arrived by `now`, in order of arrival.
    pub fn poll(&mut self, now: Instant) -> Option<Delivery<T>> {
        let now = self.advance(now);
        if self.under_way.peek().is_none_or(|Reverse(datagram)| datagram.arrival > now) {
            return None;
        }
        let Reverse(UnderWay { arrival, number, is_copy, bytes, payload, .. }) = self.under_way.pop()?;
        self.held_bytes = self.held_bytes.saturating_sub(bytes + DATAGRAM_COST_BYTES);
        self.stats.delivered += 1;
        self.stats.delivered_bytes += bytes;
        // RFC 4737, section 3; of a copy nobody can tell.
        if !is_copy {
            self.stats.reordered += u64::from(number < self.number_next);
            self.number_next = self.number_next.max(number + 1);
        }
        Some(Delivery { at: self.instant(arrival), payload })
    }

    /// Changes what the link does from now on; its steps count from now. What is under way arrives as planned.
    pub fn set_config(&mut self, now: Instant, config: LinkConfig) {
        let now = self.advance(now);
        self.schedule = Schedule::new(&config, now);
        self.outage_until = now;
        self.bottleneck.set_rate(config.rate);
        self.config = config;
    }

    /// What happened so far.
    pub fn stats(&self) -> LinkStats {
        LinkStats {
            held: (self.bottleneck.len() + self.under_way.len()) as u64,
            served_bytes: self.bottleneck.sent_bytes(),
            capacity_bytes: self.bottleneck.capacity_bytes(),
            ..self.stats.clone()
        }
    }

    /// How long a datagram sent now would wait in the queue.
    pub fn queueing_delay(&mut self, now: Instant) -> Duration {
        self.advance(now);
        self.bottleneck.wait()
    }

    /// Bytes that wait behind the datagram that is being sent.
    pub fn waiting_bytes(&self) -> u64 {
        self.bottleneck.waiting_bytes()
    }

    /// Bytes that wait or are under way, as [`HELD_BYTES_MAX`] counts them.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.bottleneck.is_empty() && self.under_way.is_empty()
    }

    /// Time since the start. Time never goes back: an earlier one is taken for the latest there was.
    fn advance(&mut self, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.start).max(self.bottleneck.clock());
        loop {
            let step = self.schedule.next_at().filter(|at| *at <= now);
            self.serve(step.unwrap_or(now));
            if step.is_none() {
                return now;
            }
            if let Some(step) = self.schedule.next() {
                self.config.apply(&step);
                self.bottleneck.set_rate(self.config.rate);
                let end = step.outage.map(|outage| step.at.saturating_add(outage));
                self.outage_until = self.outage_until.max(end.unwrap_or_default());
            }
        }
    }

    /// Lets everything leave the bottleneck that does so by then.
    fn serve(&mut self, until: Duration) {
        while let Some(departure) = self.bottleneck.pop(until) {
            self.stats.queueing.record(departure.waited);
            let Datagram { number, is_copy, bytes, deviation, is_late, payload } = departure.item;
            let Some(payload) = payload else {
                self.held_bytes = self.held_bytes.saturating_sub(bytes + DATAGRAM_COST_BYTES);
                self.stats.lost_random += 1;
                continue;
            };
            let mut arrival = departure.at.saturating_add(self.delay(deviation));
            if is_late {
                arrival = arrival.saturating_add(self.config.reorder_delay);
            } else if !self.config.jitter_reorders {
                arrival = arrival.max(self.arrival_last);
                self.arrival_last = arrival;
            }
            let departure = self.departures;
            self.departures += 1;
            self.under_way.push(Reverse(UnderWay { arrival, departure, number, is_copy, bytes, payload }));
        }
    }

    fn delay(&self, deviation: f64) -> Duration {
        let off = self.config.jitter.as_secs_f64() * deviation.abs();
        let off = Duration::try_from_secs_f64(off).unwrap_or(Duration::MAX);
        if deviation < 0.0 {
            self.config.delay.saturating_sub(off)
        } else {
            self.config.delay.saturating_add(off)
        }
    }

    fn delay_min(&self) -> Duration {
        self.delay(-self.config.jitter_distribution.deviation_max())
    }

    fn instant(&self, since_start: Duration) -> Instant {
        self.start.checked_add(since_start.min(NEVER)).unwrap_or(self.start)
    }
}

impl<T: Clone> Link<T> {
    /// Sends a datagram of so many bytes, 4 GiB at most. `payload` is what [`Link::poll`] returns.
    pub fn send(&mut self, now: Instant, bytes: usize, payload: T) {
        let now = self.advance(now);
        let bytes = u64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) + u64::from(self.config.header_bytes);
        self.stats.sent += 1;
        self.stats.sent_bytes += bytes;
        let number = self.number;
        self.number += 1;
        // Drawn for each datagram, whatever comes of it: see [`Link`].
        let is_lost = self.random.loss.next(self.config.loss);
        let deviation = self.config.jitter_distribution.deviation(self.random.jitter.random());
        let is_late = self.config.reorder.hits(self.random.reorder.random());
        let is_doubled = self.config.duplicate.hits(self.random.duplicate.random());
        if now < self.outage_until {
            self.stats.lost_outage += 1;
            return;
        }
        let copy = (is_doubled && !is_lost).then(|| payload.clone());
        let payload = (!is_lost).then_some(payload);
        self.enqueue(Datagram { number, is_copy: false, bytes, deviation, is_late, payload });
        if copy.is_some() {
            self.stats.duplicates += 1;
            let deviation = self.config.jitter_distribution.deviation(self.random.copies.random());
            let copy = Datagram { number, is_copy: true, bytes, deviation, is_late: false, payload: copy };
            self.enqueue(copy);
        }
    }

    fn enqueue(&mut self, datagram: Datagram<T>) {
        let cost = datagram.bytes + DATAGRAM_COST_BYTES;
        let limit = QueueLimit { bytes: self.config.queue_bytes, time: self.config.queue_time_max() };
        let has_room = self.held_bytes + cost <= HELD_BYTES_MAX;
        if has_room && self.bottleneck.push(datagram.bytes, limit, datagram).is_ok() {
            self.held_bytes += cost;
            // Without a limit it leaves at once.
            self.serve(self.bottleneck.clock());
        } else {
            self.stats.lost_queue += 1;
        }
    }
}

impl<T> Ord for UnderWay<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.arrival, self.departure).cmp(&(other.arrival, other.departure))
    }
}

impl<T> PartialOrd for UnderWay<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for UnderWay<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for UnderWay<T> {}
