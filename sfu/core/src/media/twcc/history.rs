//! The sending side: every packet gets its number here, and every feedback is matched here.

use std::time::{Duration, Instant};

use super::{DELTA_US, Feedback, REFERENCE_US, StatusRun};

/// How many packets are remembered. When more are under way the oldest are forgotten and never reported: at
/// 4,096 packets of 1,200 bytes within a round trip and a feedback interval of 300 ms, above 130 Mbit/s.
pub const HISTORY_MAX: usize = 4096;
const HISTORY_MIN: usize = 64;
/// Packets older than this need not be kept for feedback to come, so that the history does not grow for
/// their sake.
const AGE_MAX: Duration = Duration::from_secs(10);
/// One 24-bit cycle of the reference time.
const REFERENCE_CYCLE: i64 = 1 << 24;

/// A group of packets sent to measure a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeClusterId(pub u16);

/// What became of one packet. What was reported lost may have been under way only: it is reported once more if it
/// is received after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketReport {
    /// Extended transport number.
    pub seq: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// Its size in bytes as given to [`SendHistory::register`].
    pub size: u16,
    /// The probe it is part of, as given to [`SendHistory::register`].
    pub probe: Option<ProbeClusterId>,
    /// When it arrived, on the peer's clock: µs since that clock's origin, only good for differences.
    /// `None` if it was lost.
    pub received_us: Option<i64>,
}

/// What one feedback said in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedbackSummary {
    /// Packets reported as received by it.
    pub received: u32,
    /// Packets reported as lost by it.
    pub lost: u32,
    /// Packets of which it says nothing new, that are forgotten, or that were never sent.
    pub ignored: u32,
}

/// 16 bytes, of which a receiver of one camera has a hundred or two.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Nanoseconds since the history's origin.
    sent_ns: u64,
    probe: Option<ProbeClusterId>,
    size: u16,
    fate: Fate,
    /// Counted in `in_flight_bytes`.
    in_flight: bool,
}

/// What feedback has said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    /// Reported as lost.
    Lost,
    /// Reported as received, or no packet at all.
    Done,
}

impl Record {
    const NOTHING: Self = Self { sent_ns: 0, probe: None, size: 0, fate: Fate::Done, in_flight: false };
}

/// The packets of one transport that are under way. 16 bytes for each, in a ring that grows as needed from 64 to
/// [`HISTORY_MAX`], and shrinks by halves when it has been four times too large for as many packets as it holds; no
/// allocation before the first packet.
#[derive(Debug, Default)]
pub struct SendHistory {
    /// Packet `n` is at `n % len`; `len` is a power of two.
    ring: Vec<Record>,
    /// When the first packet was sent.
    origin: Option<Instant>,
    /// How many packets feedback had not passed at most, while the ring was filled once.
    unpassed_max: u64,
    /// The next number to be given.
    next: u64,
    /// The oldest number that is remembered.
    oldest: u64,
    in_flight_bytes: u64,
    /// Packets below are not in flight.
    passed: u64,
    /// The latest reference time and what it extends to, in 64 ms units.
    reference: Option<(u32, i64)>,
    forgotten: u64,
}

impl SendHistory {
    /// A history without packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number that the next packet will be given.
    #[must_use]
    pub fn next_number(&self) -> u16 {
        self.next as u16
    }

    /// Notes a packet that is being sent and returns the number to write into its header extension. `size` is
    /// what counts for the estimate: RTP header and payload, plus IP and UDP headers if wanted.
    pub fn register(&mut self, now: Instant, size: u16, probe: Option<ProbeClusterId>) -> u16 {
        let seq = self.next;
        let origin = *self.origin.get_or_insert(now);
        // Centuries.
        let sent_ns = u64::try_from(now.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX);
        if (seq - self.oldest) as usize == self.ring.len() {
            self.make_room(sent_ns);
        }
        self.next += 1;
        self.in_flight_bytes += u64::from(size);
        let record = Record { sent_ns, probe, size, fate: Fate::Unknown, in_flight: true };
        if let Some(place) = slot(&mut self.ring, seq) {
            *place = record;
        }
        seq as u16
    }

    fn make_room(&mut self, now_ns: u64) {
        let age_max_ns = AGE_MAX.as_nanos() as u64;
        let stale = |record: &Record| {
            record.fate != Fate::Unknown || now_ns.saturating_sub(record.sent_ns) > age_max_ns
        };
        let free =
            self.ring.is_empty() || slot(&mut self.ring, self.oldest).is_some_and(|record| stale(record));
        if self.ring.is_empty() || !free && self.ring.len() < HISTORY_MAX {
            self.resize((self.ring.len() * 2).clamp(HISTORY_MIN, HISTORY_MAX));
            return;
        }
        if self.next & (self.ring.len() as u64 - 1) == 0 && self.shrink() {
            return;
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        self.land(self.oldest);
        if let Some(record) = slot(&mut self.ring, self.oldest)
            && record.fate == Fate::Unknown
        {
            self.forgotten += 1;
        }
        self.oldest += 1;
    }

    /// The ring was filled once more: halves it if a quarter would have done. True if there is room now.
    fn shrink(&mut self) -> bool {
        self.note_unpassed();
        let unpassed = std::mem::take(&mut self.unpassed_max);
        let half = self.ring.len() / 2;
        if half < HISTORY_MIN || unpassed > half as u64 / 2 {
            return false;
        }
        while self.next - self.oldest >= half as u64 {
            self.forget_oldest();
        }
        self.resize(half);
        true
    }

    fn resize(&mut self, len: usize) {
        let mut ring = vec![Record::NOTHING; len];
        for seq in self.oldest..self.next {
            if let (Some(to), Some(from)) = (slot(&mut ring, seq), slot(&mut self.ring, seq)) {
                *to = *from;
            }
        }
        self.ring = ring;
    }

    fn note_unpassed(&mut self) {
        self.unpassed_max = self.unpassed_max.max(self.next - self.passed.max(self.oldest));
    }

    /// Takes a packet out of those in flight.
    fn land(&mut self, seq: u64) {
        if let Some(record) = slot(&mut self.ring, seq)
            && std::mem::take(&mut record.in_flight)
        {
            self.in_flight_bytes -= u64::from(record.size);
        }
    }

    /// Matches a feedback and appends one report for each packet it says something new of, in order of their numbers.
    /// Whatever feedback comes how often in whatever order, a packet is reported lost once at most, and received once
    /// at most, and never lost after that: a feedback that is built while packets overtake each other takes those
    /// under way for lost (libwebrtc's `TransportFeedbackAdapter` keeps them for the next). Packets no feedback
    /// speaks of are not reported at all. At most [`HISTORY_MAX`] reports, in time bounded by
    /// that and the feedback's length.
    pub fn on_feedback(
        &mut self,
        feedback: &Feedback<'_>,
        reports: &mut Vec<PacketReport>,
    ) -> FeedbackSummary {
        let mut summary = FeedbackSummary::default();
        // The number sent last is the newest there can be.
        let Some(newest) = self.next.checked_sub(1) else {
            summary.ignored = feedback.status_count.into();
            return summary;
        };
        self.note_unpassed();
        let back = u64::from((newest as u16).wrapping_sub(feedback.base_seq));
        // Signed: a base before the first packet, or after the last one, is reported on in vain.
        let mut seq = newest as i64 - back as i64;
        let mut ticks = self.extend_reference(feedback.reference) * (REFERENCE_US / DELTA_US) as i64;
        for run in feedback.runs() {
            match run {
                StatusRun::Received { delta } => {
                    ticks += i64::from(delta);
                    match u64::try_from(seq)
                        .ok()
                        .and_then(|seq| self.take(seq, Some(ticks * DELTA_US as i64)))
                    {
                        Some(report) => {
                            summary.received += 1;
                            reports.push(report);
                            self.pass(report.seq);
                        }
                        None => summary.ignored += 1,
                    }
                    seq += 1;
                }
                StatusRun::Lost(run) => {
                    let end = seq + i64::from(run);
                    let known = (seq.max(self.oldest as i64) as u64)..(end.clamp(0, self.next as i64) as u64);
                    summary.ignored += u32::from(run);
                    for seq in known {
                        if let Some(report) = self.take(seq, None) {
                            summary.lost += 1;
                            summary.ignored -= 1;
                            reports.push(report);
                        }
                    }
                    seq = end;
                }
            }
        }
        summary
    }

    fn take(&mut self, seq: u64, received_us: Option<i64>) -> Option<PacketReport> {
        if seq < self.oldest || seq >= self.next {
            return None;
        }
        self.land(seq);
        let record = slot(&mut self.ring, seq).filter(|record| match record.fate {
            Fate::Unknown => true,
            Fate::Lost => received_us.is_some(),
            Fate::Done => false,
        })?;
        record.fate = if received_us.is_some() { Fate::Done } else { Fate::Lost };
        let sent_at = self.origin? + Duration::from_nanos(record.sent_ns);
        Some(PacketReport { seq, sent_at, size: record.size, probe: record.probe, received_us })
    }

    /// What was sent before a packet that has arrived is no longer under way: it arrived or is lost.
    fn pass(&mut self, seq: u64) {
        for passed in self.passed.max(self.oldest)..seq {
            self.land(passed);
        }
        self.passed = self.passed.max(seq);
    }

    fn extend_reference(&mut self, reference: u32) -> i64 {
        let extended = match self.reference {
            None => i64::from(reference) + REFERENCE_CYCLE,
            Some((previous, extended)) => {
                // The nearest of the possible ones: 24 bits, sign-extended.
                let step = (reference.wrapping_sub(previous) << 8).cast_signed() >> 8;
                extended.saturating_add(i64::from(step))
            }
        };
        self.reference = Some((reference, extended));
        extended
    }

    /// Bytes sent that no feedback has spoken of, nor of anything later.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Packets that fell out of the history without a report.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Memory of the ring in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Record>()
    }
}

fn slot(ring: &mut [Record], seq: u64) -> Option<&mut Record> {
    let mask = (ring.len() as u64).wrapping_sub(1);
    ring.get_mut((seq & mask) as usize)
}
