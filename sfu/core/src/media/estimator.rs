//! How much may be sent to one receiver: bandwidth estimation.
//!
//! The algorithm is Google Congestion Control as in libwebrtc (revision da2a3d6c4d), by the crate `goog_cc`:
//! delay trend, loss and probes make a target rate. What comes from the network reaches it only through
//! `estimator/congestion.rs`, which keeps figures in the range the algorithm was made for.
//!
//! ```text
//!   packet sent ─────────────► Estimator::on_sent ─────┐
//!   TWCC feedback ─► SendHistory ─► on_feedback ───────┼─► GoogCC ─► Rates: target, pacing, padding
//!   REMB, RR (no TWCC) ─► on_remb, on_loss, on_rtt ────┘         └─► Probe: packets for the pacer to send
//! ```
//! An estimator that has not sent anything holds no state of the algorithm.

mod congestion;
mod probe_meter;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    bitrate::Bitrate,
    pacer::ProbeCluster,
    twcc::{PacketReport, ProbeClusterId},
};
use congestion::{Congestion, Update};

/// The lowest target, GoogCC's `kCongestionControllerMinBitrate`.
pub const TARGET_MIN: Bitrate = Bitrate::kbps(5);
/// The highest target: beyond it a figure is a lie or a mistake.
pub const TARGET_MAX: Bitrate = Bitrate::kbps(1_000_000);
/// What the first probes take all streams together to want: they go up to twice that, as libwebrtc's do where the need is not
/// known (`kDefaultMaxProbingBitrate`). Later ones are its owner's business, see [`Estimator::probe`].
pub const DESIRED_START: Bitrate = Bitrate::kbps(2_500);
/// How often the algorithm looks at the time while packets are sent: where feedback comes, it does so with each, and
/// after this without.
const PROCESS_INTERVAL_TWCC: Duration = Duration::from_millis(100);
/// The same where nothing but time moves the estimate.
const PROCESS_INTERVAL: Duration = Duration::from_millis(50);
/// After the last packet it goes on for so long, then rests until the next.
const REST_AFTER: Duration = Duration::from_secs(2);
/// Probes that may wait to be taken. The oldest gives way.
const PROBES_MAX: usize = 4;

/// What a receiver's path is taken for in the beginning, and the range it is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EstimatorConfig {
    /// The target never falls below; at least [`TARGET_MIN`].
    pub target_min: Bitrate,
    /// The target before anything is known.
    pub target_start: Bitrate,
    /// The target never rises above; at most [`TARGET_MAX`].
    pub target_max: Bitrate,
    /// Whether the receiver sends transport-wide feedback. Else reports and REMB have to do.
    pub twcc: bool,
}

impl Default for EstimatorConfig {
    fn default() -> Self {
        Self {
            target_min: Bitrate::kbps(30),
            target_start: Bitrate::kbps(300),
            target_max: Bitrate::kbps(100_000),
            twcc: true,
        }
    }
}

/// Rates to send at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// What all streams together should take.
    pub target: Bitrate,
    /// What the pacer may send at: bursts above the target are let through.
    pub pacing: Bitrate,
    /// Up to which the pacer should fill up with padding; mostly zero.
    pub padding: Bitrate,
}

/// What an estimator wants its owner to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EstimatorOutput {
    /// The rates have changed.
    Rates(Rates),
    /// A probe is to be sent.
    Probe(ProbeCluster),
}

/// The bandwidth estimation of one receiver.
///
/// 208 bytes until the first packet is sent, then 10 KB more: the algorithm's state.
#[derive(Debug)]
pub struct Estimator {
    config: EstimatorConfig,
    congestion: Option<Box<Congestion>>,
    remb: Option<Bitrate>,
    /// As the algorithm has it, before REMB.
    estimated: Rates,
    /// As told last.
    told: Option<Rates>,
    probes: VecDeque<ProbeCluster>,
    sent_at: Option<Instant>,
    /// What has been sent since the algorithm was last told: at its own times and before each feedback. It only looks
    /// at rates over hundreds of milliseconds.
    untold_bytes: u32,
    process_at: Option<Instant>,
    faults: u32,
}

impl Estimator {
    /// An estimator of a path nothing has been sent on.
    #[must_use]
    pub fn new(config: EstimatorConfig) -> Self {
        let target_min = config.target_min.clamp(TARGET_MIN, TARGET_MAX);
        let target_max = config.target_max.clamp(target_min, TARGET_MAX);
        let target_start = config.target_start.clamp(target_min, target_max);
        Self {
            config: EstimatorConfig { target_min, target_start, target_max, twcc: config.twcc },
            congestion: None,
            remb: None,
            estimated: rates_of(target_start),
            told: None,
            probes: VecDeque::new(),
            sent_at: None,
            untold_bytes: 0,
            process_at: None,
            faults: 0,
        }
    }

    /// Notes a packet that has been sent, with its size as it was registered in the send history. A few
    /// nanoseconds: the algorithm is told sums. True if [`next_timeout`](Self::next_timeout) changed: the first packet,
    /// or the first after a rest.
    pub fn on_sent(&mut self, now: Instant, size: u16) -> bool {
        self.sent_at = Some(now);
        self.untold_bytes = self.untold_bytes.saturating_add(size.into());
        if self.congestion.is_some() && self.process_at.is_some() {
            return false;
        }
        self.process_at.get_or_insert(now);
        self.tell_sent();
        true
    }

    /// Tells the algorithm what has been sent since the last time.
    fn tell_sent(&mut self) {
        let (Some(sent_at), bytes @ 1..) = (self.sent_at, std::mem::take(&mut self.untold_bytes)) else {
            return;
        };
        self.with_congestion(sent_at, |congestion| congestion.on_sent(sent_at, bytes));
    }

    /// Takes the reports of one feedback, and how many bytes are still under way.
    pub fn on_feedback(&mut self, now: Instant, reports: &[PacketReport], in_flight_bytes: u64) {
        if self.config.twcc && self.congestion.is_some() && !reports.is_empty() {
            self.tell_sent();
            self.with_congestion(now, |congestion| congestion.on_feedback(now, reports, in_flight_bytes));
            // Its memory is in the caches now: no need to come back for it soon.
            self.process(now);
        }
    }

    /// Takes a round-trip time measured by receiver reports; ignored with TWCC, which tells it better.
    pub fn on_rtt(&mut self, now: Instant, rtt: Duration) {
        if !self.config.twcc && self.congestion.is_some() {
            self.with_congestion(now, |congestion| congestion.on_rtt(now, rtt));
        }
    }

    /// Takes the loss since the previous receiver report, summed over all streams: packets lost and packets
    /// received. Ignored with TWCC.
    pub fn on_loss(&mut self, now: Instant, lost: u32, received: u32) {
        if !self.config.twcc && self.congestion.is_some() && lost.saturating_add(received) > 0 {
            self.with_congestion(now, |congestion| congestion.on_loss(now, lost, received));
        }
    }

    /// Takes a receiver-estimated maximum bitrate (draft-alvestrand-rmcat-remb). The target stays below it
    /// from here on, but not below [`EstimatorConfig::target_min`].
    pub fn on_remb(&mut self, now: Instant, bitrate: Bitrate) {
        let bitrate = bitrate.clamp(self.config.target_min, self.config.target_max);
        self.remb = Some(bitrate);
        if !self.config.twcc && self.congestion.is_some() {
            self.with_congestion(now, |congestion| congestion.on_remb(now, bitrate));
        }
    }

    /// Has it tried whether the path carries `rate`. The algorithm itself probes at the beginning alone. Only with transport-wide feedback,
    /// and once something has been sent.
    pub fn probe(&mut self, now: Instant, rate: Bitrate) {
        let rate = rate.min(self.config.target_max);
        if self.config.twcc && self.congestion.is_some() {
            self.with_congestion(now, |congestion| congestion.probe(rate));
        }
    }

    /// Lets the algorithm look at the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.process_at.is_some_and(|at| at <= now) {
            self.tell_sent();
            self.process(now);
        }
    }

    /// Lets the algorithm look at the time, and says when it does so again.
    fn process(&mut self, now: Instant) {
        let rests = self.sent_at.is_none_or(|at| now.saturating_duration_since(at) >= REST_AFTER);
        let interval = if self.config.twcc { PROCESS_INTERVAL_TWCC } else { PROCESS_INTERVAL };
        self.process_at = if rests { None } else { Some(now + interval) };
        self.with_congestion(now, |congestion| congestion.process(now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; never while nothing is sent.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.process_at
    }

    /// The next thing to do. Call until `None` after any input.
    pub fn poll_output(&mut self) -> Option<EstimatorOutput> {
        let rates = self.rates();
        if self.told != Some(rates) {
            self.told = Some(rates);
            return Some(EstimatorOutput::Rates(rates));
        }
        self.probes.pop_front().map(EstimatorOutput::Probe)
    }

    /// The present rates.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let Some(remb) = self.remb else { return self.estimated };
        if self.estimated.target <= remb {
            return self.estimated;
        }
        Rates { padding: self.estimated.padding.min(remb), ..rates_of(remb) }
    }

    /// How often the algorithm failed on its input and was begun anew. Anything but 0 is a defect.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// Runs the algorithm, beginning it if it does not run, and takes what it wants.
    fn with_congestion(&mut self, now: Instant, run: impl FnOnce(&mut Congestion) -> Update) {
        let (config, start) = (self.config, self.estimated.target);
        // The crate is a port with assertions. They are not reachable with what `Congestion` lets through;
        // should one be, it is this receiver's estimate that begins anew, not the shard that ends.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut first = Update::default();
            let congestion = self.congestion.get_or_insert_with(|| {
                let (congestion, update) = Congestion::begin(now, config, start);
                first = update;
                Box::new(congestion)
            });
            let update = run(congestion);
            (first, update)
        }));
        match outcome {
            Ok((first, update)) => {
                self.take(first);
                self.take(update);
            }
            Err(_) => {
                self.congestion = None;
                self.faults = self.faults.saturating_add(1);
            }
        }
    }

    fn take(&mut self, update: Update) {
        if let Some(target) = update.target {
            self.estimated.target = target.clamp(self.config.target_min, self.config.target_max);
        }
        if let Some((pacing, padding)) = update.pacing {
            self.estimated.pacing = pacing;
            self.estimated.padding = padding;
        }
        self.estimated.pacing = self.estimated.pacing.max(self.estimated.target);
        for probe in update.probes {
            if self.probes.len() == PROBES_MAX {
                self.probes.pop_front();
            }
            self.probes.push_back(probe);
        }
    }

    /// Octets of memory that the algorithm takes.
    #[cfg(test)]
    fn congestion_bytes() -> usize {
        size_of::<Congestion>()
    }
}

/// Pacing at 2.5 × the target, GoogCC's `kDefaultPaceMultiplier`.
fn rates_of(target: Bitrate) -> Rates {
    Rates { target, pacing: Bitrate::bps(target.as_bps() * 5 / 2), padding: Bitrate::ZERO }
}

/// A probe's number in the algorithm is 32 bits and counts up; 16 of them go with the packets.
fn probe_id(id: i32) -> ProbeClusterId {
    ProbeClusterId(id as u16)
}
