//! All instruments of this crate. Workers publish snapshots into atomics; a scrape adds them up.

mod histograms;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use zynk_net::SendStats;
use zynk_sfu_core::ShardStats;

pub(crate) use histograms::MediaHistograms;

use crate::{
    notices::NoticeStats,
    placement::WorkerLoad,
    relay::RelayStats,
    tcp::{AcceptorStats, ConnectionsStats},
};

/// A worker that has not finished a turn of its loop for so long counts as stuck. A turn waits for 1 s at
/// most and then takes milliseconds.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// One worker's figures: written by its thread, read by everyone.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    started: Instant,
    alive: AtomicBool,
    /// Milliseconds from `started` to the end of the last turn.
    last_turn_ms: AtomicU64,
    busy_permille: AtomicU64,
    values: [AtomicU64; Value::COUNT],
    /// Time from the end of the wait to the end of the flush.
    pub(crate) turn_seconds: Histogram,
    pub(crate) histograms: MediaHistograms,
}

/// Figures that workers publish. Each has a line in [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Rooms,
    Connections,
    Tracks,
    Subscriptions,
    RtpPacketsReceived,
    RtpPacketsSent,
    RtpBytesReceived,
    RtpBytesSent,
    RtpPacketsProtected,
    RtpPacketsWithheld,
    RtpBytesRedundant,
    KeyframeRequestsReceived,
    KeyframeRequestsSent,
    KeyframesCached,
    LayerSwitchesUp,
    LayerSwitchesDown,
    DataMessagesReceived,
    DataMessagesSent,
    DataMessagesDropped,
    SessionsPanicked,
    DatagramsReceived,
    DatagramsSent,
    SendCalls,
    SegmentationRefused,
    DroppedRefused,
    DroppedOverBudget,
    DroppedFull,
    DroppedStale,
    DroppedTooBig,
    DroppedUnreachable,
    DroppedFailed,
    DroppedTcp,
    TcpConnections,
    TcpClosedByClient,
    TcpClosedIdle,
    TcpClosedInvalid,
    RelayPacketsSent,
    RelayPacketsReceived,
    RelayPacketsDropped,
    ReportsDropped,
    MessagesDropped,
}

impl Value {
    const COUNT: usize = Self::MessagesDropped as usize + 1;
}

/// One line of a family: the label's value and where the figure is.
type Sample = (&'static str, Value);

/// A metric family.
struct Family {
    name: &'static str,
    help: &'static str,
    metric_type: MetricType,
    /// The label's name; empty for none.
    label: &'static str,
    samples: &'static [Sample],
}

const fn gauge(name: &'static str, help: &'static str, samples: &'static [Sample]) -> Family {
    Family { name, help, metric_type: MetricType::Gauge, label: "", samples }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    samples: &'static [Sample],
) -> Family {
    Family { name, help, metric_type: MetricType::Counter, label, samples }
}

const FAMILIES: &[Family] = &[
    gauge("zynk_sfu_rooms", "Rooms, once for each worker that has a share of them", &[("", Value::Rooms)]),
    gauge("zynk_sfu_connections", "Peer connections on this node", &[("", Value::Connections)]),
    gauge("zynk_sfu_tracks", "Published tracks", &[("", Value::Tracks)]),
    gauge("zynk_sfu_subscriptions", "Subscriptions to tracks", &[("", Value::Subscriptions)]),
    counter(
        "zynk_sfu_rtp_packets",
        "RTP packets taken from publishers and sent to subscribers",
        "direction",
        &[("upstream", Value::RtpPacketsReceived), ("downstream", Value::RtpPacketsSent)],
    ),
    counter(
        "zynk_sfu_rtp_bytes",
        "Payload bytes of RTP packets taken from publishers and sent to subscribers",
        "direction",
        &[("upstream", Value::RtpBytesReceived), ("downstream", Value::RtpBytesSent)],
    ),
    counter(
        "zynk_sfu_audio_packets_protected",
        "Packets of audio sent to subscribers with payloads of earlier packets added",
        "",
        &[("", Value::RtpPacketsProtected)],
    ),
    counter(
        "zynk_sfu_audio_packets_withheld",
        "Packets of audio that subscribers were not sent, as their publishers are not among the loudest of the room",
        "",
        &[("", Value::RtpPacketsWithheld)],
    ),
    counter(
        "zynk_sfu_audio_redundant_bytes",
        "Payload bytes of earlier packets that were added to packets of audio",
        "",
        &[("", Value::RtpBytesRedundant)],
    ),
    counter(
        "zynk_sfu_keyframe_requests",
        "Keyframe requests taken from subscribers and sent to publishers",
        "direction",
        &[("upstream", Value::KeyframeRequestsReceived), ("downstream", Value::KeyframeRequestsSent)],
    ),
    counter(
        "zynk_sfu_keyframes_cached",
        "Subscriptions that began with a keyframe that came lately, without another being asked for",
        "",
        &[("", Value::KeyframesCached)],
    ),
    counter(
        "zynk_sfu_layer_switches",
        "Larger and smaller pictures that subscriptions were given; a pause for lack of room is a smaller one",
        "direction",
        &[("up", Value::LayerSwitchesUp), ("down", Value::LayerSwitchesDown)],
    ),
    counter(
        "zynk_sfu_data_messages",
        "Data channel messages",
        "direction",
        &[("upstream", Value::DataMessagesReceived), ("downstream", Value::DataMessagesSent)],
    ),
    counter(
        "zynk_sfu_data_messages_dropped",
        "Data channel messages that the core dropped",
        "",
        &[("", Value::DataMessagesDropped)],
    ),
    counter(
        "zynk_sfu_sessions_panicked",
        "Connections that ended because their own state machine failed",
        "",
        &[("", Value::SessionsPanicked)],
    ),
    counter(
        "zynk_sfu_datagrams",
        "UDP datagrams",
        "direction",
        &[("upstream", Value::DatagramsReceived), ("downstream", Value::DatagramsSent)],
    ),
    counter("zynk_sfu_send_calls", "System calls that sent UDP datagrams", "", &[("", Value::SendCalls)]),
    counter(
        "zynk_sfu_segmentation_refused",
        "Segmented sends that the kernel refused",
        "",
        &[("", Value::SegmentationRefused)],
    ),
    counter(
        "zynk_sfu_datagrams_dropped",
        "Datagrams and frames that were dropped",
        "reason",
        &[
            ("refused", Value::DroppedRefused),
            ("over_budget", Value::DroppedOverBudget),
            ("send_full", Value::DroppedFull),
            ("send_stale", Value::DroppedStale),
            ("send_too_big", Value::DroppedTooBig),
            ("send_unreachable", Value::DroppedUnreachable),
            ("send_failed", Value::DroppedFailed),
            ("tcp_full", Value::DroppedTcp),
        ],
    ),
    gauge("zynk_sfu_tcp_connections", "ICE-TCP connections", &[("", Value::TcpConnections)]),
    counter(
        "zynk_sfu_tcp_connections_closed",
        "ICE-TCP connections that ended",
        "reason",
        &[
            ("client", Value::TcpClosedByClient),
            ("idle", Value::TcpClosedIdle),
            ("invalid", Value::TcpClosedInvalid),
        ],
    ),
    counter(
        "zynk_sfu_relay_packets",
        "RTP packets of rooms that are spread, handed from worker to worker",
        "result",
        &[
            ("sent", Value::RelayPacketsSent),
            ("received", Value::RelayPacketsReceived),
            ("dropped", Value::RelayPacketsDropped),
        ],
    ),
    counter(
        "zynk_sfu_notices_dropped",
        "Notices to signaling that were dropped because the bus did not keep up",
        "kind",
        &[("report", Value::ReportsDropped), ("data", Value::MessagesDropped)],
    ),
];

impl WorkerMetrics {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            alive: AtomicBool::new(true),
            last_turn_ms: AtomicU64::new(0),
            busy_permille: AtomicU64::new(0),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            turn_seconds: Histogram::new(exponential_buckets(20e-6, 2.0, 14)),
            histograms: MediaHistograms::new(),
        }
    }

    pub(crate) fn rooms(&self) -> u64 {
        self.value(Value::Rooms)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.value(Value::Connections)
    }

    pub(crate) fn load(&self) -> WorkerLoad {
        WorkerLoad {
            busy: self.busy_permille.load(Relaxed) as f32 / 1000.0,
            connections: self.connections(),
            alive: self.alive.load(Relaxed),
        }
    }

    /// Whether the worker runs and its loop turns.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        let turned = self.started + Duration::from_millis(self.last_turn_ms.load(Relaxed));
        self.alive.load(Relaxed) && now.saturating_duration_since(turned) < STUCK_AFTER
    }

    /// A turn of the loop ended.
    pub(crate) fn turned(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.started).as_millis();
        self.last_turn_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Relaxed);
    }

    /// The thread ended.
    pub(crate) fn ended(&self) {
        self.alive.store(false, Relaxed);
    }

    /// The share of the last interval in which the worker did not wait.
    pub(crate) fn publish_busy(&self, busy: Duration, interval: Duration) {
        let permille = 1000.0 * busy.as_secs_f64() / interval.as_secs_f64().max(1e-9);
        self.busy_permille.store(permille.min(1000.0) as u64, Relaxed);
    }

    pub(crate) fn publish_shard(&self, stats: &ShardStats) {
        self.set(Value::Rooms, stats.rooms);
        self.set(Value::Connections, stats.connections);
        self.set(Value::Tracks, stats.tracks);
        self.set(Value::Subscriptions, stats.subscriptions);
        self.set(Value::RtpPacketsReceived, stats.rtp_packets_received);
        self.set(Value::RtpPacketsSent, stats.rtp_packets_sent);
        self.set(Value::RtpBytesReceived, stats.rtp_bytes_received);
        self.set(Value::RtpBytesSent, stats.rtp_bytes_sent);
        self.set(Value::RtpPacketsProtected, stats.rtp_packets_protected);
        self.set(Value::RtpPacketsWithheld, stats.rtp_packets_withheld);
        self.set(Value::RtpBytesRedundant, stats.rtp_bytes_redundant);
        self.set(Value::RelayPacketsSent, stats.relay_packets_sent);
        self.set(Value::RelayPacketsReceived, stats.relay_packets_received);
        self.set(Value::KeyframeRequestsReceived, stats.keyframe_requests_received);
        self.set(Value::KeyframeRequestsSent, stats.keyframe_requests_sent);
        self.set(Value::KeyframesCached, stats.keyframes_cached);
        self.set(Value::LayerSwitchesUp, stats.layer_switches_up);
        self.set(Value::LayerSwitchesDown, stats.layer_switches_down);
        self.set(Value::DataMessagesReceived, stats.data_messages_received);
        self.set(Value::DataMessagesSent, stats.data_messages_sent);
        self.set(Value::DataMessagesDropped, stats.data_messages_dropped);
        self.set(Value::SessionsPanicked, stats.sessions_panicked);
        self.set(Value::DroppedRefused, stats.datagrams_dropped);
        self.set(Value::DroppedOverBudget, stats.rtp_packets_over_budget);
    }

    pub(crate) fn publish_udp(&self, received: u64, stats: &SendStats) {
        self.set(Value::DatagramsReceived, received);
        self.set(Value::DatagramsSent, stats.datagrams_sent);
        self.set(Value::SendCalls, stats.sends);
        self.set(Value::SegmentationRefused, stats.segmentation_refused);
        self.set(Value::DroppedFull, stats.dropped_full);
        self.set(Value::DroppedStale, stats.dropped_stale);
        self.set(Value::DroppedTooBig, stats.dropped_too_big);
        self.set(Value::DroppedUnreachable, stats.dropped_unreachable);
        self.set(Value::DroppedFailed, stats.dropped_failed);
    }

    pub(crate) fn publish_tcp(&self, stats: &ConnectionsStats) {
        self.set(Value::TcpConnections, stats.connections);
        self.set(Value::DroppedTcp, stats.frames_dropped);
        self.set(Value::TcpClosedByClient, stats.closed_by_client);
        self.set(Value::TcpClosedIdle, stats.closed_idle);
        self.set(Value::TcpClosedInvalid, stats.closed_invalid);
    }

    pub(crate) fn publish_relay(&self, stats: &RelayStats) {
        self.set(Value::RelayPacketsDropped, stats.packets_dropped);
    }

    pub(crate) fn publish_notices(&self, stats: &NoticeStats) {
        self.set(Value::ReportsDropped, stats.reports_dropped);
        self.set(Value::MessagesDropped, stats.messages_dropped);
    }

    fn set(&self, value: Value, number: u64) {
        if let Some(cell) = self.values.get(value as usize) {
            cell.store(number, Relaxed);
        }
    }

    fn value(&self, value: Value) -> u64 {
        self.values.get(value as usize).map_or(0, |cell| cell.load(Relaxed))
    }
}

/// Registers everything that this crate measures.
pub(crate) fn register(
    registry: &mut Registry,
    workers: Vec<Arc<WorkerMetrics>>,
    acceptor: Option<Arc<AcceptorStats>>,
) {
    registry.register_collector(Box::new(SfuCollector { workers, acceptor }));
}

#[derive(Debug)]
struct SfuCollector {
    workers: Vec<Arc<WorkerMetrics>>,
    acceptor: Option<Arc<AcceptorStats>>,
}

impl Collector for SfuCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in FAMILIES {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.metric_type)?;
            for (label_value, value) in family.samples {
                let sum: u64 = self.workers.iter().map(|worker| worker.value(*value)).sum();
                if family.label.is_empty() {
                    encode_sum(family.metric_type, sum, metric)?;
                    break;
                }
                let labels = [(family.label, *label_value)];
                encode_sum(family.metric_type, sum, metric.encode_family(&labels.as_slice())?)?;
            }
        }
        self.encode_workers(&mut encoder)?;
        self.encode_acceptor(&mut encoder)
    }
}

fn encode_sum(metric_type: MetricType, sum: u64, metric: MetricEncoder<'_>) -> fmt::Result {
    match metric_type {
        MetricType::Counter => ConstCounter::new(sum).encode(metric),
        _ => ConstGauge::new(sum).encode(metric),
    }
}

impl SfuCollector {
    fn encode_workers(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "zynk_sfu_worker_busy_ratio",
            "Share of the last second in which a worker did not wait",
            None,
            MetricType::Gauge,
        )?;
        for (number, worker) in self.workers.iter().enumerate() {
            let labels = [("worker", number.to_string())];
            ConstGauge::new(f64::from(worker.load().busy))
                .encode(metric.encode_family(&labels.as_slice())?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "zynk_sfu_worker_up",
            "Whether a worker runs and its loop turns",
            None,
            MetricType::Gauge,
        )?;
        let now = Instant::now();
        for (number, worker) in self.workers.iter().enumerate() {
            let labels = [("worker", number.to_string())];
            let up = u64::from(worker.is_ready(now));
            ConstGauge::new(up).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "zynk_sfu_loop_seconds",
            "Duration of one turn of a worker's loop, without its wait",
            None,
            MetricType::Histogram,
        )?;
        for (number, worker) in self.workers.iter().enumerate() {
            let labels = [("worker", number.to_string())];
            worker.turn_seconds.encode(metric.encode_family(&labels.as_slice())?)?;
        }
        histograms::encode(encoder, self.workers.iter().map(|worker| &worker.histograms))
    }

    fn encode_acceptor(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(stats) = &self.acceptor else { return Ok(()) };
        let mut metric = encoder.encode_descriptor(
            "zynk_sfu_tcp_accepted",
            "ICE-TCP sockets by what became of them",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [
            ("handed_over", &stats.handed_over),
            ("silent", &stats.closed_silent),
            ("invalid", &stats.closed_invalid),
            ("limit", &stats.closed_limit),
            ("busy", &stats.closed_busy),
        ] {
            let labels = [("result", result)];
            ConstCounter::new(count.load(Relaxed)).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use zynk_protocol::{Bitrate, MediaKind};
    use zynk_sfu_core::Measurement;

    use super::*;

    #[test]
    fn a_scrape_adds_the_workers_up() {
        let now = Instant::now();
        let workers = vec![Arc::new(WorkerMetrics::new(now)), Arc::new(WorkerMetrics::new(now))];
        let acceptor = Arc::new(AcceptorStats::default());
        let mut registry = Registry::default();
        register(&mut registry, workers.clone(), Some(acceptor.clone()));

        let mut stats = ShardStats::default();
        stats.rooms = 2;
        stats.rtp_packets_sent = 40;
        workers[0].publish_shard(&stats);
        stats.rooms = 1;
        workers[1].publish_shard(&stats);
        workers[1].publish_busy(Duration::from_millis(250), Duration::from_secs(1));
        workers[1].turn_seconds.observe(30e-6);
        stats.layer_switches_up = 5;
        workers[1].publish_shard(&stats);
        let histograms = &workers[1].histograms;
        histograms.forward_seconds.observe(60e-6);
        let waited = Duration::from_millis(30);
        histograms.observe(Measurement::FirstMedia { kind: MediaKind::Video, waited });
        histograms.observe(Measurement::DownlinkEstimate(Bitrate::from_kbps(160)));
        workers[0].ended();
        acceptor.closed_silent.fetch_add(3, Relaxed);

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE zynk_sfu_rooms gauge",
            "zynk_sfu_rooms 3",
            "zynk_sfu_rtp_packets_total{direction=\"downstream\"} 80",
            "zynk_sfu_rtp_packets_total{direction=\"upstream\"} 0",
            "zynk_sfu_worker_busy_ratio{worker=\"1\"} 0.25",
            "zynk_sfu_worker_up{worker=\"0\"} 0",
            "zynk_sfu_worker_up{worker=\"1\"} 1",
            "zynk_sfu_loop_seconds_count{worker=\"1\"} 1",
            "zynk_sfu_layer_switches_total{direction=\"up\"} 5",
            "zynk_sfu_layer_switches_total{direction=\"down\"} 0",
            "# TYPE zynk_sfu_forward_seconds histogram",
            "zynk_sfu_forward_seconds_bucket{le=\"0.00005\",worker=\"1\"} 0",
            "zynk_sfu_forward_seconds_bucket{le=\"0.0001\",worker=\"1\"} 1",
            "zynk_sfu_forward_seconds_count{worker=\"0\"} 0",
            "# TYPE zynk_sfu_first_media_seconds histogram",
            "zynk_sfu_first_media_seconds_bucket{le=\"0.02\",kind=\"video\",worker=\"1\"} 0",
            "zynk_sfu_first_media_seconds_sum{kind=\"video\",worker=\"1\"} 0.03",
            "zynk_sfu_first_media_seconds_count{kind=\"audio\",worker=\"1\"} 0",
            "# TYPE zynk_sfu_downlink_estimate_bytes_per_second histogram",
            "zynk_sfu_downlink_estimate_bytes_per_second_sum{worker=\"1\"} 20000.0",
            "zynk_sfu_tcp_accepted_total{result=\"silent\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_stuck_or_ended_worker_is_not_ready() {
        let now = Instant::now();
        let worker = WorkerMetrics::new(now);
        worker.turned(now + Duration::from_secs(5));
        assert!(worker.is_ready(now + Duration::from_secs(14)));
        assert!(!worker.is_ready(now + Duration::from_secs(15)));
        worker.turned(now + Duration::from_secs(15));
        assert!(worker.is_ready(now + Duration::from_secs(15)));
        worker.ended();
        assert!(!worker.is_ready(now + Duration::from_secs(15)));
    }
}
