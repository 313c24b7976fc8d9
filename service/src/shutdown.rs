//! When to stop, and by when.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// The process's wish to stop. Clones share it.
///
/// Once it is triggered, every role ends what it does in good order: no new work, a farewell to its clients,
/// then an end. What is not over at the deadline is cut off.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stop: CancellationToken,
    drain: Duration,
    /// Set once, when the shutdown is triggered.
    deadline: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// Not triggered yet; once it is, roles have `drain` to end.
    pub fn new(drain: Duration) -> Self {
        Self { stop: CancellationToken::new(), drain, deadline: Arc::default() }
    }

    /// Triggers on SIGTERM and SIGINT from now on. A second signal ends the process at once, with 130 as
    /// shells have it. Must be called within a tokio runtime.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if shutdown.is_triggered() {
                    std::process::exit(130);
                }
                tracing::info!("shutting down");
                shutdown.trigger();
            }
        });
        Ok(())
    }

    /// Asks everybody to stop. The drain time begins with the first call.
    pub fn trigger(&self) {
        self.deadline();
        self.stop.cancel();
    }

    /// Whether somebody has asked.
    pub fn is_triggered(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until somebody asks.
    pub fn triggered(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// The same wish as a token, for code that knows tokens alone.
    pub fn token(&self) -> &CancellationToken {
        &self.stop
    }

    /// When roles must have ended. Before the shutdown is triggered nobody has cause to ask: asking begins
    /// the drain time.
    pub fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| Instant::now() + self.drain)
    }

    /// Waits for `work` until the drain time, which begins when the shutdown is triggered, is over. Returns
    /// none if it was cut off.
    pub async fn drained<F: Future>(&self, work: F) -> Option<F::Output> {
        self.drained_within(Duration::MAX, work).await
    }

    /// The same, and `work` has no longer than `limit` from the trigger on, or from now on if that was before.
    pub async fn drained_within<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::pin!(work);
        tokio::select! {
            output = &mut work => return Some(output),
            () = self.triggered() => {}
        }
        let deadline = self.deadline();
        let limit = Instant::now().checked_add(limit).map_or(deadline, |limit| limit.min(deadline));
        tokio::time::timeout_at(limit, work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_cut_off_after_the_drain_time_and_not_before_the_trigger() {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let work = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert!(shutdown.drained(work(60)).await.is_some());
        shutdown.trigger();
        shutdown.triggered().await;
        assert!(shutdown.drained(work(4)).await.is_some());
        let begin = Instant::now();
        assert!(shutdown.drained(work(60)).await.is_none());
        assert_eq!(begin.elapsed(), Duration::from_secs(1), "4 of 5 s were over");
        assert!(shutdown.drained(work(1)).await.is_none(), "there is one deadline, not one for each call");
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn work_may_have_less_than_the_drain_time() {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        shutdown.trigger();
        let begin = Instant::now();
        let work = || tokio::time::sleep(Duration::from_secs(60));
        assert!(shutdown.drained_within(Duration::from_secs(2), work()).await.is_none());
        assert_eq!(begin.elapsed(), Duration::from_secs(2));
        assert!(shutdown.drained_within(Duration::from_secs(9), work()).await.is_none());
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
    }
}
