//! What operators can measure.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::join::JoinError;

/// The instruments of the signaling role. Clones are the same instruments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) rooms: Gauge,
    pub(crate) participants: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) joins: Family<JoinLabels, Counter>,
    pub(crate) join_seconds: JoinSeconds,
    pub(crate) requests: Counter,
    pub(crate) responses: Counter,
    pub(crate) slow_sessions: Counter,
    pub(crate) session_faults: Counter,
    pub(crate) webhooks_dropped: Counter,
}

/// Upper bounds in seconds: a few round trips to the server on a good day, more where paths have to be tried.
const JOIN_SECONDS: [f64; 13] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0];

/// How long joins take.
#[derive(Clone, Debug)]
pub(crate) struct JoinSeconds(Histogram);

impl Default for JoinSeconds {
    fn default() -> Self {
        Self(Histogram::new(JOIN_SECONDS))
    }
}

impl JoinSeconds {
    pub(crate) fn observe(&self, waited: Duration) {
        self.0.observe(waited.as_secs_f64());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct JoinLabels {
    pub(crate) result: JoinResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum JoinResult {
    Accepted,
    Unauthorized,
    Forbidden,
    BadRequest,
    NoSuchRoom,
    Unavailable,
}

impl Metrics {
    /// Counts a join by how it ended.
    pub(crate) fn count_join<T>(&self, result: &Result<T, JoinError>) {
        let result = match result {
            Ok(_) => JoinResult::Accepted,
            Err(JoinError::Unauthorized { .. }) => JoinResult::Unauthorized,
            Err(JoinError::Forbidden { .. }) => JoinResult::Forbidden,
            Err(JoinError::BadRequest { .. }) => JoinResult::BadRequest,
            Err(JoinError::NoSuchRoom) => JoinResult::NoSuchRoom,
            Err(JoinError::Unavailable(_)) => JoinResult::Unavailable,
        };
        self.joins.get_or_create(&JoinLabels { result }).inc();
    }

    /// Makes the instruments known under `zynk_signaling_`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("zynk_signaling");
        registry.register("rooms", "Rooms that are open", self.rooms.clone());
        registry.register("participants", "Participants in all rooms", self.participants.clone());
        registry.register("sessions", "Signal connections, WHIP and WHEP sessions", self.sessions.clone());
        registry.register("joins", "Joins and resumes, by how they ended", self.joins.clone());
        registry.register(
            "join_seconds",
            "From a participant's join until its transport is connected",
            self.join_seconds.0.clone(),
        );
        registry.register("requests", "Messages from clients", self.requests.clone());
        registry.register("responses", "Messages to clients", self.responses.clone());
        registry.register(
            "slow_sessions",
            "Sessions ended because the client did not take its messages",
            self.slow_sessions.clone(),
        );
        registry.register(
            "session_faults",
            "Sessions ended because their handling failed",
            self.session_faults.clone(),
        );
        registry.register(
            "webhooks_dropped",
            "Webhook events dropped because the queue was full",
            self.webhooks_dropped.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn joins_are_counted_and_timed() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        metrics.count_join(&Ok(()));
        metrics.join_seconds.observe(Duration::from_millis(250));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "zynk_signaling_joins_total{result=\"Accepted\"} 1",
            "# TYPE zynk_signaling_join_seconds histogram",
            "zynk_signaling_join_seconds_bucket{le=\"0.2\"} 0",
            "zynk_signaling_join_seconds_bucket{le=\"0.3\"} 1",
            "zynk_signaling_join_seconds_sum 0.25",
            "zynk_signaling_join_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
