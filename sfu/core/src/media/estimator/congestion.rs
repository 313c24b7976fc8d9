//! The algorithm's gate: our units into `goog_cc`'s and back, nothing out of range in either direction.
//!
//! What has to be kept away from the crate (version 0.1.4, read line by line for it):
//! - a feedback without any received packet ends in `unwrap` on an empty iterator: such reports wait for the
//!   next feedback that has one;
//! - rates and times multiply in `i64` without checks: rates are at most 1 Gbit/s, times lie within ten
//!   seconds of now, so products stay below 2^60;
//! - times are asserted not to be negative, sizes of probe packets to be above 0, a round trip not to be 0;
//! - the robust throughput estimator walks its whole window (up to 500 packets) for every packet: the
//!   Bayesian one is used, as libwebrtc did until 2023;
//! - the detector of application-limited regions reads the clock for the time a region began at: periodic probing,
//!   which depends on it, is off.

use std::time::{Duration, Instant};

use goog_cc::{
    GoogCcConfig, GoogCcNetworkController,
    experiments::{CongestionWindowConfig, FieldTrials},
    network_control::{NetworkControllerConfig, NetworkControllerInterface},
    transport::{
        NetworkAvailability, NetworkControlUpdate, PacedPacketInfo, PacketResult, ProcessInterval,
        RemoteBitrateReport, RoundTripTimeUpdate, SentPacket, StreamsConfig, TargetRateConstraints,
        TransportLossReport, TransportPacketsFeedback,
    },
    units::{DataRate, DataSize, TimeDelta, Timestamp},
};

use super::{DESIRED_START, EstimatorConfig, probe_id, probe_meter::ProbeMeter};
use crate::media::{
    bitrate::Bitrate,
    pacer::ProbeCluster,
    twcc::{PacketReport, ProbeClusterId},
};

/// A peer's arrival times may be so far from ours before its clock is taken to have been set anew.
const CLOCK_STEP_MAX_US: i64 = 10_000_000;
/// Losses kept until a feedback with an arrival comes. Further ones are left out.
const LOSSES_MAX: usize = 256;
/// Probes whose sizes are remembered to interpret feedback. Packets of older ones count as media.
const PROBES_KNOWN_MAX: usize = 8;
/// Probes that the algorithm did not ask for are numbered from here on. It counts its own from 1, a few a minute.
const OWN_PROBES: u16 = 0x8000;
/// A probe's length: libwebrtc's `min_probe_duration`.
const PROBE_DURATION: Duration = Duration::from_millis(15);
/// The least packets that tell a rate: libwebrtc's `min_probe_packets_sent`.
const PROBE_PACKETS: u16 = 5;
/// What a probe told is an upper bound for so long.
const TOLD_HOLDS: Duration = Duration::from_millis(500);
/// Of the target, GoogCC's `kDefaultPaceMultiplier`.
const PACING_PERCENT: u64 = 250;
const RTT_MIN: Duration = Duration::from_millis(1);
const RTT_MAX: Duration = Duration::from_secs(10);

/// What the algorithm wants.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) target: Option<Bitrate>,
    /// Pacing and padding rate.
    pub(super) pacing: Option<(Bitrate, Bitrate)>,
    pub(super) probes: Vec<ProbeCluster>,
}

pub(super) struct Congestion {
    controller: GoogCcNetworkController,
    epoch: Instant,
    twcc: bool,
    /// Ours minus the peer's time.
    clock_offset_us: Option<i64>,
    losses: Vec<PacketReport>,
    probes: [Option<ProbeCluster>; PROBES_KNOWN_MAX],
    /// The last probe that the algorithm did not ask for: it does not know of it.
    own_probe: Option<ProbeMeter>,
    own_probe_number: u16,
    /// What one told last, and when.
    told: Option<(Instant, Bitrate)>,
    /// How long the newest packet that came was under way, on two clocks.
    transit_us: i64,
    config: EstimatorConfig,
}

impl std::fmt::Debug for Congestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Congestion").finish_non_exhaustive()
    }
}

impl Congestion {
    /// Begins the algorithm at `start`; rates have been brought into range.
    pub(super) fn begin(now: Instant, config: EstimatorConfig, start: Bitrate) -> (Self, Update) {
        let mut trials = FieldTrials {
            // No congestion window: what is forwarded is not ours to hold back.
            congestion_window: CongestionWindowConfig { queue_size_ms: 0, ..Default::default() },
            ..Default::default()
        };
        trials.robust_throughput_estimator_settings.enabled = false;
        let controller = GoogCcNetworkController::new(
            NetworkControllerConfig {
                field_trials: trials,
                constraints: TargetRateConstraints {
                    at_time: Timestamp::zero(),
                    min_data_rate: Some(data_rate(config.target_min)),
                    max_data_rate: Some(data_rate(config.target_max)),
                    starting_rate: Some(data_rate(start.clamp(config.target_min, config.target_max))),
                },
                stream_based_config: StreamsConfig {
                    at_time: Timestamp::zero(),
                    // Periodic probes go up to twice the estimate, whether anybody needs that or not.
                    requests_alr_probing: Some(false),
                    max_total_allocated_bitrate: Some(data_rate(DESIRED_START)),
                    ..Default::default()
                },
            },
            GoogCcConfig { feedback_only: config.twcc },
        );
        let mut this = Self {
            controller,
            epoch: now,
            twcc: config.twcc,
            clock_offset_us: None,
            losses: Vec::new(),
            probes: [None; PROBES_KNOWN_MAX],
            own_probe: None,
            own_probe_number: OWN_PROBES,
            told: None,
            transit_us: 0,
            config,
        };
        let at_time = Timestamp::zero();
        let mut update = this.convert(NetworkControlUpdate::default());
        let available = NetworkAvailability { at_time, network_available: true };
        for network_update in [
            this.controller.on_network_availability(available),
            this.controller.on_process_interval(ProcessInterval { at_time, pacer_queue: None }),
        ] {
            let next = this.convert(network_update);
            update.target = next.target.or(update.target);
            update.pacing = next.pacing.or(update.pacing);
            // Probes need a receiver that reports on them.
            update.probes.extend(next.probes.into_iter().filter(|_| config.twcc));
        }
        (this, update)
    }

    /// Bytes sent up to now since the last time.
    pub(super) fn on_sent(&mut self, now: Instant, bytes: u32) -> Update {
        if !self.twcc {
            // Packets nobody reports on would make the algorithm back off from a path gone silent.
            return Update::default();
        }
        let packet = SentPacket {
            send_time: self.timestamp(now),
            size: DataSize::from_bytes(bytes.into()),
            ..Default::default()
        };
        let update = self.controller.on_sent_packet(packet);
        self.convert(update)
    }

    pub(super) fn on_feedback(
        &mut self,
        now: Instant,
        reports: &[PacketReport],
        in_flight_bytes: u64,
    ) -> Update {
        let feedback_time = self.timestamp(now);
        if reports.iter().all(|report| report.received_us.is_none()) {
            let room = LOSSES_MAX - self.losses.len().min(LOSSES_MAX);
            self.losses.extend(reports.iter().take(room));
            return Update::default();
        }
        let losses = std::mem::take(&mut self.losses);
        if let Some(probe) = &mut self.own_probe {
            reports.iter().for_each(|report| probe.on_report(report));
        }
        let packet_feedbacks =
            losses.iter().chain(reports).map(|report| self.packet_result(feedback_time, report)).collect();
        let update = self.controller.on_transport_packets_feedback(TransportPacketsFeedback {
            feedback_time,
            data_in_flight: DataSize::from_bytes(in_flight_bytes.min(1 << 32) as i64),
            packet_feedbacks,
            sendless_arrival_times: Vec::new(),
        });
        let update = self.convert(update);
        self.take_probe(now, update)
    }

    /// What our own probe told counts where it is more than the algorithm thinks.
    fn take_probe(&mut self, now: Instant, mut update: Update) -> Update {
        if let Some(probe) = &mut self.own_probe {
            let result = probe.take_result();
            if probe.is_over(now) {
                self.own_probe = None;
            }
            let at_time = self.timestamp(now);
            let target = self.controller.get_network_state(at_time).target_rate;
            let target = target.map_or(Bitrate::ZERO, |target| bitrate(target.target_rate));
            if let Some(rate) = result.filter(|rate| *rate > target) {
                let rate = rate.min(self.config.target_max);
                let constraints = TargetRateConstraints {
                    at_time,
                    min_data_rate: Some(data_rate(self.config.target_min)),
                    max_data_rate: Some(data_rate(self.config.target_max)),
                    starting_rate: Some(data_rate(rate)),
                };
                let raised = self.controller.on_target_rate_constraints(constraints);
                let raised = self.convert(raised);
                update.probes.extend(raised.probes);
                update = Update { probes: update.probes, ..raised };
                self.told = Some((now, rate));
            }
        }
        // The algorithm forgets its delay-based limit with that, and for a moment its loss-based part knows no bounds.
        if let Some((_, told)) = self.told.filter(|(at, _)| now.saturating_duration_since(*at) < TOLD_HOLDS) {
            update.target = update.target.map(|target| target.min(told));
            let pacing = told.percent(PACING_PERCENT);
            update.pacing = update.pacing.map(|(rate, padding)| (rate.min(pacing), padding));
        }
        update
    }

    fn packet_result(&mut self, feedback_time: Timestamp, report: &PacketReport) -> PacketResult {
        let receive_time = report.received_us.map_or(Timestamp::plus_infinity(), |us| {
            let feedback_us = feedback_time.us();
            let offset = self.clock_offset_us.unwrap_or(i64::MAX);
            let mut ours = us.saturating_add(offset);
            if ours.abs_diff(feedback_us) > CLOCK_STEP_MAX_US as u64 {
                self.clock_offset_us = Some(feedback_us.saturating_sub(us));
                ours = feedback_us;
            }
            let sent_us = self.timestamp(report.sent_at).us();
            let transit_us = ours.saturating_sub(sent_us);
            self.transit_us = transit_us;
            let told = self.own_probe.as_ref().map(|probe| probe.hide_queue(report.sent_at, transit_us));
            let received = sent_us.saturating_add(told.unwrap_or(transit_us));
            Timestamp::from_micros(received.max(0))
        });
        let probe = report.probe.filter(|probe| probe.0 < OWN_PROBES);
        PacketResult {
            sent_packet: SentPacket {
                send_time: self.timestamp(report.sent_at),
                size: DataSize::from_bytes(i64::from(report.size.max(1))),
                pacing_info: probe.map_or_else(PacedPacketInfo::default, |id| self.probe_info(id)),
                sequence_number: report.seq.min(i64::MAX as u64) as i64,
                ..Default::default()
            },
            receive_time,
            ..Default::default()
        }
    }

    fn probe_info(&self, id: ProbeClusterId) -> PacedPacketInfo {
        let known = self.probes.iter().flatten().find(|probe| probe.id == id);
        known.map_or_else(PacedPacketInfo::default, |probe| PacedPacketInfo {
            send_bitrate: data_rate(probe.rate),
            ..PacedPacketInfo::new(id.0.into(), i64::from(probe.packets_min), i64::from(probe.bytes_min))
        })
    }

    pub(super) fn on_rtt(&mut self, now: Instant, rtt: Duration) -> Update {
        let rtt = rtt.clamp(RTT_MIN, RTT_MAX);
        let update = self.controller.on_round_trip_time_update(RoundTripTimeUpdate {
            receive_time: self.timestamp(now),
            round_trip_time: TimeDelta::from_micros(rtt.as_micros() as i64),
            smoothed: false,
        });
        self.convert(update)
    }

    pub(super) fn on_loss(&mut self, now: Instant, lost: u32, received: u32) -> Update {
        let at = self.timestamp(now);
        let update = self.controller.on_transport_loss_report(TransportLossReport {
            receive_time: at,
            start_time: at,
            end_time: at,
            packets_lost_delta: lost.min(1 << 20).into(),
            packets_received_delta: received.min(1 << 20).into(),
        });
        self.convert(update)
    }

    pub(super) fn on_remb(&mut self, now: Instant, bitrate: Bitrate) -> Update {
        let update = self.controller.on_remote_bitrate_report(RemoteBitrateReport {
            receive_time: self.timestamp(now),
            bandwidth: data_rate(bitrate),
        });
        self.convert(update)
    }

    pub(super) fn process(&mut self, now: Instant) -> Update {
        let interval = ProcessInterval { at_time: self.timestamp(now), pacer_queue: None };
        let mut network_update = self.controller.on_process_interval(interval);
        // Without feedback the rates change with time alone, and nothing else tells them.
        let state = self.controller.get_network_state(self.timestamp(now));
        network_update.target_rate = network_update.target_rate.or(state.target_rate);
        network_update.pacer_config = network_update.pacer_config.or(state.pacer_config);
        let update = self.convert(network_update);
        self.take_probe(now, update)
    }

    fn convert(&mut self, update: NetworkControlUpdate) -> Update {
        let probes: Vec<_> = update
            .probe_cluster_configs
            .iter()
            .map(|config| {
                let rate = bitrate(config.target_data_rate);
                let duration = config.target_duration.us().clamp(0, 1_000_000) as u64;
                let bytes = rate.bytes_in(Duration::from_micros(duration));
                ProbeCluster {
                    id: probe_id(config.id),
                    rate,
                    bytes_min: bytes.clamp(1, u64::from(u32::MAX)) as u32,
                    packets_min: config.target_probe_count.clamp(1, 100) as u16,
                }
            })
            .collect();
        probes.iter().for_each(|probe| self.remember(*probe));
        Update {
            target: update.target_rate.map(|target| bitrate(target.target_rate)),
            pacing: update.pacer_config.map(|pacer| (bitrate(pacer.data_rate()), bitrate(pacer.pad_rate()))),
            probes,
        }
    }

    /// A probe that the algorithm did not ask for.
    pub(super) fn probe(&mut self, rate: Bitrate) -> Update {
        self.own_probe_number = OWN_PROBES | self.own_probe_number.wrapping_add(1);
        let bytes = rate.bytes_in(PROBE_DURATION);
        let probe = ProbeCluster {
            id: ProbeClusterId(self.own_probe_number),
            rate,
            bytes_min: bytes.clamp(1, u64::from(u32::MAX)) as u32,
            packets_min: PROBE_PACKETS,
        };
        self.own_probe = Some(ProbeMeter::new(probe, self.transit_us));
        Update { probes: vec![probe], ..Update::default() }
    }

    fn remember(&mut self, probe: ProbeCluster) {
        self.probes.rotate_right(1);
        if let Some(first) = self.probes.first_mut() {
            *first = Some(probe);
        }
    }

    fn timestamp(&self, at: Instant) -> Timestamp {
        let us = at.saturating_duration_since(self.epoch).as_micros();
        Timestamp::from_micros(us.min(1 << 50) as i64)
    }
}

fn data_rate(bitrate: Bitrate) -> DataRate {
    DataRate::from_bits_per_sec(bitrate.min(super::TARGET_MAX).as_bps() as i64)
}

fn bitrate(rate: DataRate) -> Bitrate {
    Bitrate::bps(if rate.is_finite() { rate.bps().max(0) as u64 } else { 0 })
}
