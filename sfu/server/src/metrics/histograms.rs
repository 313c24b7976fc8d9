//! How long media takes, and how much reaches clients.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        histogram::{Histogram, exponential_buckets},
    },
};
use zynk_protocol::MediaKind;
use zynk_sfu_core::Measurement;

/// Upper bounds in seconds: audio begins with what is there, video with a keyframe that is asked for.
const FIRST_MEDIA_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0];

/// One worker's. Its thread observes, everybody reads.
#[derive(Debug)]
pub(crate) struct MediaHistograms {
    /// From the arrival of a turn's first datagram to the end of the turn, of turns that sent media on: 50 µs to 0.2 s.
    pub(crate) forward_seconds: Histogram,
    first_audio_seconds: Histogram,
    first_video_seconds: Histogram,
    /// 50 kbit/s to 100 Mbit/s.
    estimate_bytes_per_second: Histogram,
}

impl MediaHistograms {
    pub(super) fn new() -> Self {
        Self {
            forward_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 13)),
            first_audio_seconds: Histogram::new(FIRST_MEDIA_SECONDS),
            first_video_seconds: Histogram::new(FIRST_MEDIA_SECONDS),
            estimate_bytes_per_second: Histogram::new(exponential_buckets(6_250.0, 2.0, 12)),
        }
    }

    /// Takes what a shard measured.
    pub(crate) fn observe(&self, measurement: Measurement) {
        match measurement {
            Measurement::FirstMedia { kind: MediaKind::Audio, waited } => {
                self.first_audio_seconds.observe(waited.as_secs_f64());
            }
            Measurement::FirstMedia { kind: MediaKind::Video, waited } => {
                self.first_video_seconds.observe(waited.as_secs_f64());
            }
            Measurement::DownlinkEstimate(rate) => {
                self.estimate_bytes_per_second.observe(rate.as_bps() as f64 / 8.0);
            }
            _ => {}
        }
    }
}

/// Writes those of all workers.
pub(super) fn encode<'a>(
    encoder: &mut DescriptorEncoder,
    workers: impl Iterator<Item = &'a MediaHistograms> + Clone,
) -> fmt::Result {
    let numbered = || workers.clone().enumerate().map(|(number, worker)| (number.to_string(), worker));
    let mut metric = encoder.encode_descriptor(
        "zynk_sfu_forward_seconds",
        "From the arrival of a turn's first datagram until what it caused was sent, of turns that sent media",
        None,
        MetricType::Histogram,
    )?;
    for (number, worker) in numbered() {
        let labels = [("worker", number)];
        worker.forward_seconds.encode(metric.encode_family(&labels.as_slice())?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "zynk_sfu_first_media_seconds",
        "From when a subscription could be served (negotiated, connected, not muted) until its first packet",
        None,
        MetricType::Histogram,
    )?;
    for (number, worker) in numbered() {
        for (kind, histogram) in
            [("audio", &worker.first_audio_seconds), ("video", &worker.first_video_seconds)]
        {
            let labels = [("kind", kind), ("worker", number.as_str())];
            histogram.encode(metric.encode_family(&labels.as_slice())?)?;
        }
    }
    let mut metric = encoder.encode_descriptor(
        "zynk_sfu_downlink_estimate_bytes_per_second",
        "How much is thought to reach each client that receives media, every five seconds",
        None,
        MetricType::Histogram,
    )?;
    for (number, worker) in numbered() {
        let labels = [("worker", number)];
        worker.estimate_bytes_per_second.encode(metric.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}
