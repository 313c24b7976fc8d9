//! Connections that have not shown yet what they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a connection may take for its TLS handshake and the first bytes after it, if those have to tell what it is.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at a time. When there are as many, the oldest makes room for the newest.
const HANDSHAKES_MAX: usize = 2048;

/// How old a handshake must be to be pushed out: when all clients come back at once, the newest wait instead, in the
/// kernel's queue.
const PUSHED_OUT_AFTER: Duration = Duration::from_secs(1);

/// All handshakes of one listener.
#[derive(Debug)]
pub(crate) struct Handshakes {
    open: Mutex<Open>,
    /// One has ended.
    ended: Notify,
    max: usize,
}

#[derive(Debug, Default)]
struct Open {
    /// In the order of coming.
    entries: BTreeMap<u64, (Instant, CancellationToken)>,
    next: u64,
}

/// A place among the handshakes, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    pushed_out: CancellationToken,
}

impl Handshakes {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_max(HANDSHAKES_MAX)
    }

    fn with_max(max: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), ended: Notify::new(), max })
    }

    /// Waits for a place. If all are taken, the oldest handshake is pushed out as soon as it has had its time.
    pub(crate) async fn begin(self: &Arc<Self>) -> Handshake {
        loop {
            let ended = self.ended.notified();
            let oldest_may_stay_until = match self.try_begin() {
                Ok(handshake) => return handshake,
                Err(until) => until,
            };
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep_until(oldest_may_stay_until) => {}
            }
        }
    }

    fn try_begin(self: &Arc<Self>) -> Result<Handshake, Instant> {
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.entries.len() >= self.max
            && let Some(oldest) = open.entries.first_entry()
        {
            let until = oldest.get().0 + PUSHED_OUT_AFTER;
            if until > now {
                return Err(until);
            }
            oldest.remove().1.cancel();
        }
        let (number, pushed_out) = (open.next, CancellationToken::new());
        open.next += 1;
        open.entries.insert(number, (now, pushed_out.clone()));
        Ok(Handshake { all: Arc::clone(self), number, pushed_out })
    }
}

impl Handshake {
    /// Runs until `work` is done, it has taken too long, or the place is needed for somebody else; none then.
    pub(crate) async fn bound<F: Future>(self, work: F) -> Option<F::Output> {
        tokio::select! {
            output = tokio::time::timeout(HANDSHAKE_TIMEOUT, work) => output.ok(),
            () = self.pushed_out.cancelled() => None,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.entries.remove(&self.number);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_once_it_has_had_its_time() {
        let all = Handshakes::with_max(2);
        let begun = Instant::now();
        let (first, second) = (all.begin().await, all.begin().await);
        let (third, first) = tokio::join!(all.begin(), first.bound(std::future::pending::<()>()));
        assert_eq!((first, begun.elapsed()), (None, PUSHED_OUT_AFTER));
        // Who ends makes room at once.
        drop(third);
        let _fourth = all.begin().await;
        assert_eq!(begun.elapsed(), PUSHED_OUT_AFTER);
        assert_eq!(second.bound(std::future::ready(7)).await, Some(7));
        assert_eq!(all.open.lock().unwrap().entries.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_ends_in_time() {
        let begun = Instant::now();
        assert_eq!(Handshakes::new().begin().await.bound(std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), HANDSHAKE_TIMEOUT);
    }
}
