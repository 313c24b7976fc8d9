//! One webhook to one URL: signed as LiveKit signs, repeated while it is worth it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::http::{StatusCode, header};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use zynk_auth::KeyRing;
use zynk_protocol::livekit;

use crate::webhook::WebhookConfig;

/// Delivers to one URL.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Its place in the configuration, for logs: URLs may hold secrets.
    index: usize,
    url: reqwest::Url,
    client: reqwest::Client,
    keys: Arc<KeyRing>,
    retries_max: u32,
    delay_min: Duration,
    delay_max: Duration,
}

/// How one request ended.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Accepted,
    /// Not accepted, and a repetition would not change that.
    Refused(StatusCode),
    /// Not accepted for now. The receiver may have said how long to wait.
    Retry(Option<Duration>),
}

impl Delivery {
    pub(crate) fn new(
        config: &WebhookConfig,
        index: usize,
        url: reqwest::Url,
        client: reqwest::Client,
        keys: Arc<KeyRing>,
    ) -> Self {
        Self {
            index,
            url,
            client,
            keys,
            retries_max: config.retries_max,
            delay_min: Duration::from_millis(config.retry_delay_ms_min),
            delay_max: Duration::from_millis(config.retry_delay_ms_max),
        }
    }

    /// Sends `event` until it is accepted or given up. `dropped` events before it never were sent. After
    /// `stop` there are no pauses, and one attempt is the last.
    pub(crate) async fn deliver(
        &self,
        event: &livekit::WebhookEvent,
        dropped: i32,
        stop: &CancellationToken,
    ) {
        let mut event = event.clone();
        add_dropped(&mut event, dropped);
        let body = match serde_json::to_vec(&event) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                warn!(url = self.index, event = event.event, %error, "webhook cannot be encoded");
                return;
            }
        };
        for attempt in 0..=self.retries_max {
            let last = attempt == self.retries_max || stop.is_cancelled();
            match self.send(body.clone()).await {
                Attempt::Accepted => return,
                Attempt::Refused(status) => {
                    warn!(url = self.index, event = event.event, %status, "webhook refused");
                    return;
                }
                Attempt::Retry(_) if last => {
                    warn!(url = self.index, event = event.event, "webhook given up after {attempt} retries");
                    return;
                }
                Attempt::Retry(asked) => {
                    let pause = asked.unwrap_or(self.delay(attempt)).min(self.delay_max);
                    let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    async fn send(&self, body: Bytes) -> Attempt {
        // Signed anew each time: the token may be older than its life when the last repetition goes out.
        let token = match self.keys.sign_webhook(&body, SystemTime::now()) {
            Ok(token) => token,
            Err(error) => {
                warn!(%error, "webhook cannot be signed");
                return Attempt::Retry(None);
            }
        };
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/webhook+json")
            // Without the word Bearer: LiveKit's receivers take the whole value for the token.
            .header(header::AUTHORIZATION, token)
            .body(body);
        match request.send().await {
            Ok(response) => judge(response.status(), retry_after(response.headers())),
            Err(error) => {
                debug!(url = self.index, error = %error.without_url(), "webhook not delivered");
                Attempt::Retry(None)
            }
        }
    }

    /// Doubles with each attempt.
    fn delay(&self, attempt: u32) -> Duration {
        self.delay_min.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.delay_max)
    }
}

#[allow(deprecated)] // The field is deprecated, but the only one that tells.
fn add_dropped(event: &mut livekit::WebhookEvent, dropped: i32) {
    event.num_dropped = event.num_dropped.saturating_add(dropped);
}

fn judge(status: StatusCode, asked: Option<Duration>) -> Attempt {
    if status.is_success() {
        Attempt::Accepted
    } else if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        Attempt::Retry(asked)
    } else if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        Attempt::Retry(None)
    } else {
        Attempt::Refused(status)
    }
}

/// `Retry-After` in seconds; the form with a date is not worth a calendar here.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_repeated() {
        let asked = Some(Duration::from_secs(3));
        assert_eq!(judge(StatusCode::NO_CONTENT, None), Attempt::Accepted);
        for status in [302, 400, 401, 404, 501] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge(status, asked), Attempt::Refused(status));
        }
        assert_eq!(judge(StatusCode::TOO_MANY_REQUESTS, asked), Attempt::Retry(asked));
        assert_eq!(judge(StatusCode::SERVICE_UNAVAILABLE, asked), Attempt::Retry(asked));
        assert_eq!(judge(StatusCode::BAD_GATEWAY, asked), Attempt::Retry(None));
    }

    #[test]
    fn pauses_double_up_to_their_limit() {
        let config = WebhookConfig::default();
        let url = "http://example.org/".parse().unwrap();
        let delivery = Delivery::new(&config, 0, url, reqwest::Client::new(), Arc::new(KeyRing::default()));
        let seconds: Vec<u64> = (0..7).map(|attempt| delivery.delay(attempt).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }
}
