//! Where datagrams wait for each other: a drop-tail queue before a limited rate.

use std::{collections::VecDeque, time::Duration};

use crate::units::Bitrate;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimit {
    /// Bytes that may wait behind the datagram that is being sent.
    pub(super) bytes: Option<u64>,
    /// How long a datagram may wait.
    pub(super) time: Option<Duration>,
}

/// Times are counted from the link's start.
#[derive(Debug)]
pub(super) struct Bottleneck<T> {
    rate: Bitrate,
    /// The last rate above zero: by it the queue's time is measured while nothing moves.
    rate_last: Bitrate,
    /// Up to when datagrams have been sent.
    clock: Duration,
    /// The first is being sent.
    queue: VecDeque<Waiting<T>>,
    /// Bytes of all but the first.
    waiting_bytes: u64,
    /// What the first still needs, in bits times nanoseconds per second: at a rate r, r of it are done in a
    /// nanosecond.
    work: u128,
    /// When the first began to be sent.
    begun: Duration,
    /// Bytes that left while the rate was limited.
    sent_bytes: u64,
    /// What could have left then since the first datagram came, in the unit of `work`.
    capacity: u128,
    /// Whether one came.
    is_used: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    bytes: u64,
    since: Duration,
    item: T,
}

/// There is no room for the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// A datagram that was sent.
#[derive(Debug)]
pub(super) struct Departure<T> {
    pub(super) at: Duration,
    /// How long it waited until its first bit was sent.
    pub(super) waited: Duration,
    pub(super) item: T,
}

impl<T> Bottleneck<T> {
    pub(super) fn new(rate: Bitrate) -> Self {
        Self {
            rate,
            rate_last: rate,
            clock: Duration::ZERO,
            queue: VecDeque::new(),
            waiting_bytes: 0,
            work: 0,
            begun: Duration::ZERO,
            sent_bytes: 0,
            capacity: 0,
            is_used: false,
        }
    }

    /// Changes the rate, as of the time up to which datagrams have been sent.
    pub(super) fn set_rate(&mut self, rate: Bitrate) {
        self.rate = rate;
        if rate > Bitrate::ZERO {
            self.rate_last = rate;
        }
    }

    /// Takes a datagram at the time up to which others have been sent.
    pub(super) fn push(&mut self, bytes: u64, limit: QueueLimit, item: T) -> Result<(), QueueFull> {
        let work = u128::from(bytes) * 8 * NANOS_PER_SECOND;
        let since = self.clock;
        self.is_used = true;
        if self.queue.is_empty() {
            self.work = work;
            self.begun = since;
        } else {
            if limit.bytes.is_some_and(|max| self.waiting_bytes.saturating_add(bytes) > max)
                || limit.time.is_some_and(|max| self.wait() > max)
            {
                return Err(QueueFull);
            }
            self.waiting_bytes += bytes;
        }
        self.queue.push_back(Waiting { bytes, since, item });
        Ok(())
    }

    /// How long a datagram would wait that came now.
    pub(super) fn wait(&self) -> Duration {
        if self.queue.is_empty() || !self.rate.is_limited() {
            return Duration::ZERO;
        }
        let work = self.work + u128::from(self.waiting_bytes) * 8 * NANOS_PER_SECOND;
        time_of(work, self.rate_last)
    }

    /// Bytes that wait behind the datagram that is being sent.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// When the datagram that is being sent will be, if the rate stays.
    pub(super) fn next_departure(&self) -> Option<Duration> {
        if self.queue.is_empty() || self.rate == Bitrate::ZERO {
            return None;
        }
        Some(self.clock.saturating_add(time_of(self.work, self.rate)))
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Up to when datagrams have been sent.
    pub(super) fn clock(&self) -> Duration {
        self.clock
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A datagram that has been sent by `until`. When there is none, the time is `until`.
    pub(super) fn pop(&mut self, until: Duration) -> Option<Departure<T>> {
        match self.next_departure() {
            Some(at) if at <= until => {
                let done = self.pass(at);
                // What the nanosecond in which it ended had left goes to the next one, so that over time the rate is
                // exact.
                let rest = done.saturating_sub(self.work);
                let Waiting { bytes, since, item } = self.queue.pop_front()?;
                let waited = self.begun.saturating_sub(since);
                self.begun = at;
                if let Some(next) = self.queue.front() {
                    self.waiting_bytes -= next.bytes;
                    self.work = (u128::from(next.bytes) * 8 * NANOS_PER_SECOND).saturating_sub(rest);
                }
                if self.rate.is_limited() {
                    self.sent_bytes += bytes;
                }
                Some(Departure { at, waited, item })
            }
            _ => {
                let done = self.pass(until);
                self.work = self.work.saturating_sub(done);
                None
            }
        }
    }

    /// Bytes that left while the rate was limited.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Bytes that could have left then, since the first came.
    pub(super) fn capacity_bytes(&self) -> u64 {
        u64::try_from(self.capacity / NANOS_PER_SECOND / 8).unwrap_or(u64::MAX)
    }

    /// Moves the clock on; returns what can be sent meanwhile.
    fn pass(&mut self, until: Duration) -> u128 {
        let time = until.saturating_sub(self.clock).as_nanos();
        self.clock = self.clock.max(until);
        let possible = time.saturating_mul(self.rate.as_bps().into());
        if self.rate.is_limited() && self.is_used {
            self.capacity = self.capacity.saturating_add(possible);
        }
        possible
    }
}

/// How long something takes, rounded up to nanoseconds.
fn time_of(work: u128, rate: Bitrate) -> Duration {
    if !rate.is_limited() {
        return Duration::ZERO;
    }
    let nanos = work.div_ceil(u128::from(rate.as_bps()).max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
