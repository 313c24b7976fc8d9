//! All instruments of this crate. Workers publish snapshots into atomics; a scrape adds them up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use zynk_net::{SendStats, TunnelStats};
use zynk_turn_core::{RefusalReason, ServerStats};

use crate::streams::StreamStats;

/// A worker that has not published for so long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Figures that workers publish. Each has a line in [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Allocations,
    Users,
    AllocationsMade,
    PacketsToPeers,
    PacketsToClients,
    BytesToPeers,
    BytesToClients,
    BindingRequests,
    Challenges,
    Throttled,
    Malformed,
    WithoutAllocation,
    WithoutPermission,
    OverQuota,
    DatagramsSent,
    DatagramsShortCut,
    ShortCutDropped,
    SendCalls,
    SendsDropped,
    Streams,
    StreamsAccepted,
    StreamsRefused,
    StreamsClosedIdle,
    StreamsClosedInvalid,
    StreamsDropped,
    DtlsClients,
}

const VALUES: usize = Value::DtlsClients as usize + 1;

/// One worker's figures: written by its thread, read by everyone.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    started: Instant,
    alive: AtomicBool,
    published_ms: AtomicU64,
    values: [AtomicU64; VALUES],
    refusals: [AtomicU64; RefusalReason::ALL.len()],
}

impl WorkerMetrics {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            alive: AtomicBool::new(true),
            published_ms: AtomicU64::new(0),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            refusals: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Whether the worker runs and its loop turns.
    pub(crate) fn is_ready(&self) -> bool {
        let published = self.started + Duration::from_millis(self.published_ms.load(Relaxed));
        self.alive.load(Relaxed) && published.elapsed() < STUCK_AFTER
    }

    /// The thread ended.
    pub(crate) fn ended(&self) {
        self.alive.store(false, Relaxed);
        if let Some(allocations) = self.values.get(Value::Allocations as usize) {
            allocations.store(0, Relaxed);
        }
    }

    /// Allocations now.
    pub(crate) fn allocations(&self) -> u64 {
        self.value(Value::Allocations)
    }

    pub(crate) fn refused(&self, reason: RefusalReason) {
        if let Some(count) = self.refusals.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// `short_cuts` are datagrams that services of this process were given, and those that they did not take.
    pub(crate) fn publish(
        &self,
        server: &ServerStats,
        sent: &SendStats,
        short_cuts: TunnelStats,
        streams: &StreamStats,
        dtls: usize,
    ) {
        let figures = [
            (Value::Allocations, server.allocations),
            (Value::Users, server.users),
            (Value::AllocationsMade, server.allocations_made),
            (Value::PacketsToPeers, server.to_peers_packets),
            (Value::PacketsToClients, server.to_clients_packets),
            (Value::BytesToPeers, server.to_peers_bytes),
            (Value::BytesToClients, server.to_clients_bytes),
            (Value::BindingRequests, server.binding_requests),
            (Value::Challenges, server.challenges),
            (Value::Throttled, server.throttled),
            (Value::Malformed, server.malformed),
            (Value::WithoutAllocation, server.without_allocation),
            (Value::WithoutPermission, server.without_permission),
            (Value::OverQuota, server.over_quota),
            (Value::DatagramsSent, sent.datagrams_sent),
            (Value::DatagramsShortCut, short_cuts.datagrams_sent),
            (Value::ShortCutDropped, short_cuts.dropped),
            (Value::SendCalls, sent.sends),
            (Value::SendsDropped, sent.dropped()),
            (Value::Streams, streams.streams),
            (Value::StreamsAccepted, streams.accepted),
            (Value::StreamsRefused, streams.refused),
            (Value::StreamsClosedIdle, streams.closed_idle),
            (Value::StreamsClosedInvalid, streams.closed_invalid),
            (Value::StreamsDropped, streams.dropped),
            (Value::DtlsClients, dtls as u64),
        ];
        for (value, figure) in figures {
            if let Some(at) = self.values.get(value as usize) {
                at.store(figure, Relaxed);
            }
        }
        let ms = self.started.elapsed().as_millis();
        self.published_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Relaxed);
    }

    fn value(&self, value: Value) -> u64 {
        self.values.get(value as usize).map_or(0, |at| at.load(Relaxed))
    }
}

/// A metric family: its label's name, empty for none, and for each value of the label where the figure is.
struct Family {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    label: &'static str,
    samples: &'static [(&'static str, Value)],
}

const fn gauge(name: &'static str, help: &'static str, samples: &'static [(&'static str, Value)]) -> Family {
    Family { name, help, is_gauge: true, label: "transport", samples }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    samples: &'static [(&'static str, Value)],
) -> Family {
    Family { name, help, is_gauge: false, label, samples }
}

const FAMILIES: &[Family] = &[
    gauge("zynk_turn_allocations", "Allocations", &[("", Value::Allocations)]),
    gauge("zynk_turn_users", "Users with allocations", &[("", Value::Users)]),
    gauge(
        "zynk_turn_connections",
        "Connections of clients over TCP, TLS and DTLS",
        &[("stream", Value::Streams), ("dtls", Value::DtlsClients)],
    ),
    counter("zynk_turn_allocations_made", "Allocations that were made", "", &[("", Value::AllocationsMade)]),
    counter(
        "zynk_turn_relayed_packets",
        "Packets of data that were relayed",
        "direction",
        &[("to_peers", Value::PacketsToPeers), ("to_clients", Value::PacketsToClients)],
    ),
    counter(
        "zynk_turn_relayed_bytes",
        "Bytes of data that were relayed",
        "direction",
        &[("to_peers", Value::BytesToPeers), ("to_clients", Value::BytesToClients)],
    ),
    counter("zynk_turn_binding_requests", "STUN Binding requests", "", &[("", Value::BindingRequests)]),
    counter(
        "zynk_turn_challenges",
        "Requests without valid credentials or nonce that were answered with a challenge",
        "",
        &[("", Value::Challenges)],
    ),
    counter(
        "zynk_turn_dropped",
        "Messages, data and answers that were dropped",
        "reason",
        &[
            ("throttled", Value::Throttled),
            ("malformed", Value::Malformed),
            ("no_allocation", Value::WithoutAllocation),
            ("no_permission", Value::WithoutPermission),
            ("over_quota", Value::OverQuota),
            ("send", Value::SendsDropped),
            ("short_cut", Value::ShortCutDropped),
            ("slow_stream", Value::StreamsDropped),
        ],
    ),
    counter("zynk_turn_datagrams_sent", "UDP datagrams that were sent", "", &[("", Value::DatagramsSent)]),
    counter(
        "zynk_turn_short_cut_datagrams",
        "Datagrams that went to the media of this process without a socket",
        "",
        &[("", Value::DatagramsShortCut)],
    ),
    counter("zynk_turn_send_calls", "System calls that sent UDP datagrams", "", &[("", Value::SendCalls)]),
    counter(
        "zynk_turn_connections_ended",
        "Connections over TCP and TLS, by what became of them; accepted are all",
        "result",
        &[
            ("accepted", Value::StreamsAccepted),
            ("refused", Value::StreamsRefused),
            ("idle", Value::StreamsClosedIdle),
            ("invalid", Value::StreamsClosedInvalid),
        ],
    ),
];

/// Lets `/metrics` show the workers' figures.
pub(crate) fn register(registry: &mut Registry, workers: Vec<Arc<WorkerMetrics>>) {
    registry.register_collector(Box::new(TurnCollector { workers }));
}

#[derive(Debug)]
struct TurnCollector {
    workers: Vec<Arc<WorkerMetrics>>,
}

impl Collector for TurnCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            let kind = if family.is_gauge { MetricType::Gauge } else { MetricType::Counter };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (label_value, value) in family.samples {
                let sum: u64 = self.workers.iter().map(|worker| worker.value(*value)).sum();
                if label_value.is_empty() {
                    encode_sum(kind, sum, metric)?;
                    break;
                }
                let labels = [(family.label, *label_value)];
                encode_sum(kind, sum, metric.encode_family(&labels.as_slice())?)?;
            }
        }
        let (name, help) = ("zynk_turn_refusals", "Requests that were refused");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for reason in RefusalReason::ALL {
            let count = |worker: &Arc<WorkerMetrics>| {
                worker.refusals.get(reason as usize).map_or(0, |count| count.load(Relaxed))
            };
            let sum: u64 = self.workers.iter().map(count).sum();
            let labels = [("reason", reason.as_str())];
            encode_sum(MetricType::Counter, sum, metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }
}

fn encode_sum(kind: MetricType, sum: u64, metric: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(sum).encode(metric),
        _ => ConstGauge::new(sum).encode(metric),
    }
}
