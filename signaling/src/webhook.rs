//! Webhooks: what happens in rooms, told to the operator's HTTP servers.
//!
//! ```text
//!   rooms ── WebhookSender ──► WebhookDispatcher ──► queue of each URL ──► POST, with retries
//! ```
//!
//! Events of one room reach a URL in the order in which they happened: the next is sent when the one before
//! was accepted or given up. Rooms do not wait for each other, nor URLs.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use zynk_auth::KeyRing;
use zynk_protocol::livekit;

use crate::{directory::WebhookSender, webhook_delivery::Delivery};

/// Events that wait for one URL. When full, further events for that URL are dropped; the next that fits
/// counts them in `num_dropped`.
pub(crate) const QUEUE_EVENTS_MAX: usize = 100;

/// Requests that are under way to one URL at once; further events wait in its queue.
pub(crate) const REQUESTS_MAX: usize = 10;

/// Events on their way from the rooms to the dispatcher. When full, the room drops its event; the next that
/// fits counts it in `num_dropped`.
const CHANNEL_EVENTS_MAX: usize = 256;

/// How long deliveries may take once the dispatcher is told to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(3);

/// Where webhooks go, and how patiently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// Each gets every event. Requests are signed with the first API key.
    pub urls: Vec<String>,
    /// How long one request may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// How often a request is repeated after a transport error, status 429 or 5xx.
    pub retries_max: u32,
    /// Pause before the first repetition, in milliseconds; doubles with each.
    pub retry_delay_ms_min: u64,
    /// Longest pause between repetitions, in milliseconds.
    pub retry_delay_ms_max: u64,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            request_timeout_ms: 10_000,
            retries_max: 4,
            retry_delay_ms_min: 1_000,
            retry_delay_ms_max: 30_000,
        }
    }
}

/// Webhooks cannot be set up. The operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Not an absolute `http:` or `https:` URL.
    #[error("webhooks.urls[{index}] is not an http or https URL: {reason}")]
    Url {
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no API key to sign with.
    #[error("webhooks need an API key to sign with")]
    NoKey,
    /// The HTTP client cannot be made.
    #[error("no HTTP client for webhooks: {0}")]
    Client(String),
}

/// Delivers events until every [`WebhookSender`] is gone and the queues are empty.
#[derive(Debug)]
pub struct WebhookDispatcher {
    events: mpsc::Receiver<livekit::WebhookEvent>,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    delivery: Arc<Delivery>,
    queue: UrlQueue,
}

impl WebhookDispatcher {
    /// Makes a dispatcher, which does nothing before [`WebhookDispatcher::run`], and the sender that feeds it.
    pub fn new(config: &WebhookConfig, keys: Arc<KeyRing>) -> Result<(WebhookSender, Self), WebhookError> {
        if keys.is_empty() && !config.urls.is_empty() {
            return Err(WebhookError::NoKey);
        }
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(config.request_timeout_ms))
            // A redirect would carry the signature to a host that the operator did not name.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| WebhookError::Client(error.to_string()))?;
        let mut targets = Vec::with_capacity(config.urls.len());
        for (index, text) in config.urls.iter().enumerate() {
            let url: reqwest::Url = text
                .parse()
                .map_err(|error: <reqwest::Url as std::str::FromStr>::Err| error.to_string())
                .map_err(|reason| WebhookError::Url { index, reason })?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(WebhookError::Url { index, reason: format!("scheme {:?}", url.scheme()) });
            }
            let delivery = Arc::new(Delivery::new(config, index, url, client.clone(), Arc::clone(&keys)));
            targets.push(Target { delivery, queue: UrlQueue::default() });
        }
        let (sender, events) = mpsc::channel(CHANNEL_EVENTS_MAX);
        Ok((sender, Self { events, targets }))
    }

    /// Delivers until every sender is gone and all is delivered or given up.
    pub async fn run(self) {
        self.run_until(CancellationToken::new()).await;
    }

    /// Delivers until `stop`, whoever still has a sender: then takes no more events, tries what waits once
    /// without pauses, and ends after three seconds at the latest.
    pub async fn run_until(mut self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_TIME_MAX).await;
        };
        tokio::select! {
            () = self.deliver_all(&stop) => {}
            () = late => tracing::warn!("webhooks were cut off: a receiver does not answer in time"),
        }
    }

    async fn deliver_all(&mut self, stop: &CancellationToken) {
        let mut requests: JoinSet<(usize, String)> = JoinSet::new();
        let mut open = true;
        while open || !requests.is_empty() {
            tokio::select! {
                () = stop.cancelled(), if !self.events.is_closed() => self.events.close(),
                event = self.events.recv(), if open => match event {
                    Some(event) => {
                        let event = Arc::new(event);
                        for target in &mut self.targets {
                            target.queue.push(Arc::clone(&event));
                        }
                    }
                    None => open = false,
                },
                // A delivery that panicked has lost its key: nothing of that room would follow. It cannot
                // happen short of a defect, and then the others still go on.
                Some(done) = requests.join_next() => if let Ok((index, key)) = done
                    && let Some(target) = self.targets.get_mut(index)
                {
                    target.queue.finish(&key);
                },
            }
            for (index, target) in self.targets.iter_mut().enumerate() {
                while let Some(QueuedEvent { key, event, dropped }) = target.queue.start() {
                    let (delivery, stop) = (Arc::clone(&target.delivery), stop.clone());
                    requests.spawn(async move {
                        delivery.deliver(&event, dropped, &stop).await;
                        (index, key)
                    });
                }
            }
        }
    }
}

/// What waits for one URL, and what is under way to it.
#[derive(Debug, Default)]
struct UrlQueue {
    /// At most [`QUEUE_EVENTS_MAX`].
    waiting: VecDeque<QueuedEvent>,
    /// Keys of the requests under way, at most [`REQUESTS_MAX`].
    under_way: Vec<String>,
    dropped: i32,
}

#[derive(Clone, Debug, PartialEq)]
struct QueuedEvent {
    /// Events with the same key keep their order.
    key: String,
    event: Arc<livekit::WebhookEvent>,
    /// Events that were dropped just before this one.
    dropped: i32,
}

impl UrlQueue {
    fn push(&mut self, event: Arc<livekit::WebhookEvent>) {
        if self.waiting.len() >= QUEUE_EVENTS_MAX {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        self.waiting.push_back(QueuedEvent { key: ordering_key(&event), event, dropped });
    }

    /// The oldest event whose room has nothing under way. Its key counts as under way until
    /// [`UrlQueue::finish`].
    fn start(&mut self) -> Option<QueuedEvent> {
        if self.under_way.len() >= REQUESTS_MAX {
            return None;
        }
        let index = self.waiting.iter().position(|queued| !self.under_way.contains(&queued.key))?;
        let queued = self.waiting.remove(index)?;
        self.under_way.push(queued.key.clone());
        Some(queued)
    }

    fn finish(&mut self, key: &str) {
        if let Some(index) = self.under_way.iter().position(|under_way| under_way == key) {
            self.under_way.swap_remove(index);
        }
    }
}

/// Rooms by name: a room that is closed and opened again keeps its order too.
fn ordering_key(event: &livekit::WebhookEvent) -> String {
    if let Some(room) = &event.room {
        return room.name.clone();
    }
    if let Some(egress) = &event.egress_info {
        return egress.egress_id.clone();
    }
    event.ingress_info.as_ref().map(|ingress| ingress.ingress_id.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(room: &str, id: usize) -> Arc<livekit::WebhookEvent> {
        Arc::new(livekit::WebhookEvent {
            id: format!("EV_{id}"),
            room: Some(livekit::Room { name: room.into(), ..Default::default() }),
            ..Default::default()
        })
    }

    #[test]
    fn one_request_a_room_in_order() {
        let mut queue = UrlQueue::default();
        for (room, id) in [("a", 1), ("a", 2), ("b", 3)] {
            queue.push(event(room, id));
        }
        assert_eq!(queue.start().unwrap().event.id, "EV_1");
        assert_eq!(queue.start().unwrap().event.id, "EV_3");
        assert_eq!(queue.start(), None);
        queue.finish("a");
        assert_eq!(queue.start().unwrap().event.id, "EV_2");
    }

    #[test]
    fn no_more_requests_than_allowed() {
        let mut queue = UrlQueue::default();
        for id in 0..REQUESTS_MAX + 1 {
            queue.push(event(&format!("room {id}"), id));
        }
        for _ in 0..REQUESTS_MAX {
            assert!(queue.start().is_some());
        }
        assert_eq!(queue.start(), None);
        queue.finish("room 3");
        assert!(queue.start().is_some());
    }

    #[test]
    fn a_full_queue_drops_and_the_next_event_tells() {
        let mut queue = UrlQueue::default();
        for id in 0..QUEUE_EVENTS_MAX + 3 {
            queue.push(event("a", id));
        }
        assert_eq!(queue.waiting.len(), QUEUE_EVENTS_MAX);
        assert_eq!(queue.start().unwrap().dropped, 0);
        queue.push(event("a", 1000));
        assert_eq!(queue.waiting.back().unwrap().dropped, 3);
        queue.finish("a");
        queue.start().unwrap();
        queue.push(event("a", 1001));
        assert_eq!(queue.waiting.back().unwrap().dropped, 0);
    }

    #[test]
    fn bad_urls_are_named() {
        let keys = Arc::new(KeyRing::single("k", "s"));
        for (url, reason) in
            [("ftp://example.org/", "scheme \"ftp\""), ("/hook", "relative URL without a base")]
        {
            let config =
                WebhookConfig { urls: vec!["http://example.org/".into(), url.into()], ..Default::default() };
            let error = WebhookDispatcher::new(&config, Arc::clone(&keys)).unwrap_err();
            assert_eq!(error, WebhookError::Url { index: 1, reason: reason.into() });
        }
        let config = WebhookConfig { urls: vec!["http://example.org/".into()], ..Default::default() };
        let error = WebhookDispatcher::new(&config, Arc::new(KeyRing::default())).unwrap_err();
        assert_eq!(error, WebhookError::NoKey);
    }
}
