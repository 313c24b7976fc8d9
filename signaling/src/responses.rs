//! The queue of what one client is to be sent, bounded in messages and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use tokio::sync::mpsc;
use zynk_protocol::livekit::SignalResponse;

/// Responses that wait for one client. When it is full, the session ends: the client may resume.
pub(crate) const RESPONSES_MAX: usize = 1_024;

/// Bytes that wait for one client, encoded. When they are reached, the session ends: the client may resume.
/// One message may pass the bound, and so may the answer to a join or resume, which lists the whole room.
pub(crate) const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A response that does not fit, or nobody takes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseRefused {
    Full,
    Closed,
}

/// The room's end of the queue.
#[derive(Debug)]
pub(crate) struct ResponseSender {
    messages: mpsc::Sender<(usize, Box<SignalResponse>)>,
    waiting: Arc<AtomicUsize>,
}

/// The client's end of the queue.
#[derive(Debug)]
pub struct ResponseReceiver {
    messages: mpsc::Receiver<(usize, Box<SignalResponse>)>,
    waiting: Arc<AtomicUsize>,
}

/// A queue of at most `max` messages.
pub(crate) fn channel(max: usize) -> (ResponseSender, ResponseReceiver) {
    let (sender, receiver) = mpsc::channel(max);
    let waiting = Arc::<AtomicUsize>::default();
    let sender = ResponseSender { messages: sender, waiting: Arc::clone(&waiting) };
    (sender, ResponseReceiver { messages: receiver, waiting })
}

impl ResponseSender {
    /// Puts a response in the queue. `counted` tells whether its bytes count.
    pub(crate) fn try_send(
        &self,
        response: Box<SignalResponse>,
        counted: bool,
    ) -> Result<(), ResponseRefused> {
        let bytes = if counted { response.encoded_len() } else { 0 };
        // Only this end adds.
        if counted && self.waiting.load(Ordering::Relaxed) >= RESPONSE_BYTES_MAX {
            return Err(ResponseRefused::Full);
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.messages.try_send((bytes, response)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ResponseRefused::Full,
            mpsc::error::TrySendError::Closed(_) => ResponseRefused::Closed,
        })
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    #[cfg(test)]
    pub(crate) async fn closed(&self) {
        self.messages.closed().await;
    }
}

impl ResponseReceiver {
    /// The next response; none when the session has ended.
    pub async fn recv(&mut self) -> Option<Box<SignalResponse>> {
        let (bytes, response) = self.messages.recv().await?;
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        Some(response)
    }

    /// The next response, if there is one already.
    pub fn try_recv(&mut self) -> Option<Box<SignalResponse>> {
        let (bytes, response) = self.messages.try_recv().ok()?;
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        Some(response)
    }
}
