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

/// What the owner wants to know again when a packet is reported on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketTag {
    /// The owner's number of the stream it belongs to.
    pub stream: u32,
    /// The probe it is part of.
    pub probe: Option<ProbeClusterId>,
}

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
    /// As given to [`SendHistory::register`].
    pub tag: PacketTag,
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

#[derive(Clone, Copy, Debug)]
struct Record {
    sent_at: Instant,
    tag: PacketTag,
    size: u16,
    /// Reported as received, or no packet at all.
    done: bool,
    /// Reported as lost.
    lost: bool,
    /// Counted in `in_flight`.
    in_flight: bool,
}

/// The packets of one transport that are under way. 32 bytes for each, in a ring that grows as needed from 64 to
/// [`HISTORY_MAX`]; no allocation before the first packet.
#[derive(Debug, Default)]
pub struct SendHistory {
    /// Packet `n` is at `n % len`; `len` is a power of two.
    ring: Vec<Record>,
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
    pub fn register(&mut self, now: Instant, size: u16, tag: PacketTag) -> u16 {
        let seq = self.next;
        if (seq - self.oldest) as usize == self.ring.len() {
            self.make_room(now);
        }
        self.next += 1;
        self.in_flight_bytes += u64::from(size);
        let record = Record { sent_at: now, tag, size, done: false, lost: false, in_flight: true };
        if let Some(place) = slot(&mut self.ring, seq) {
            *place = record;
        }
        seq as u16
    }

    fn make_room(&mut self, now: Instant) {
        let stale = |record: &Record| {
            record.done || record.lost || now.saturating_duration_since(record.sent_at) > AGE_MAX
        };
        let free =
            self.ring.is_empty() || slot(&mut self.ring, self.oldest).is_some_and(|record| stale(record));
        if self.ring.is_empty() || !free && self.ring.len() < HISTORY_MAX {
            let len = (self.ring.len() * 2).clamp(HISTORY_MIN, HISTORY_MAX);
            let nothing = Record {
                sent_at: now,
                tag: PacketTag::default(),
                size: 0,
                done: true,
                lost: false,
                in_flight: false,
            };
            let mut ring = vec![nothing; len];
            for seq in self.oldest..self.next {
                if let (Some(to), Some(from)) = (slot(&mut ring, seq), slot(&mut self.ring, seq)) {
                    *to = *from;
                }
            }
            self.ring = ring;
            return;
        }
        self.land(self.oldest);
        if let Some(record) = slot(&mut self.ring, self.oldest)
            && !record.done
            && !record.lost
        {
            self.forgotten += 1;
        }
        self.oldest += 1;
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
        let record = slot(&mut self.ring, seq)
            .filter(|record| !record.done && (received_us.is_some() || !record.lost))?;
        match received_us {
            Some(_) => record.done = true,
            None => record.lost = true,
        }
        Some(PacketReport { seq, sent_at: record.sent_at, size: record.size, tag: record.tag, received_us })
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
