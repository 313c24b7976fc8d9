//! From one worker's shard to another's: batches in order, with bounds, never blocking a loop.
//!
//! ```text
//!   shard ─► batch ─► the other worker's inbox (BATCHES_MAX) ─► its shard
//!              └─ full: media is dropped, words are kept for the next batch
//! ```

use std::{collections::BTreeMap, sync::Arc};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;
use zynk_sfu_core::{RelayBatch, ShardIndex};

/// Batches that wait for one worker, of all others together; a shard closes a batch at 64 KiB, so that this is at most
/// 16 MiB. When it is full, packets are dropped, and words are kept until there is room.
const BATCHES_MAX: usize = 256;

/// A batch and whose it is.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) from: ShardIndex,
    pub(crate) batch: RelayBatch,
}

/// A worker's door for batches.
#[derive(Clone, Debug)]
pub(crate) struct RelayDoor {
    batches: Sender<Relayed>,
    waker: Arc<Waker>,
}

impl RelayDoor {
    /// The door of the worker that `waker` wakes, and its inbox.
    pub(crate) fn new(waker: Arc<Waker>) -> (Self, Receiver<Relayed>) {
        let (batches, inbox) = bounded(BATCHES_MAX);
        (Self { batches, waker }, inbox)
    }
}

/// What was dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RelayStats {
    pub(crate) packets_dropped: u64,
}

/// One worker's links to the others.
#[derive(Debug)]
pub(crate) struct RelayLinks {
    own: ShardIndex,
    /// Of all workers, by index.
    doors: Vec<RelayDoor>,
    /// Words for which there was no room. See [`RelayBatch::drop_media`] for how many there may be.
    kept: BTreeMap<ShardIndex, RelayBatch>,
    /// Workers that have got something and were not woken yet.
    asleep: Vec<ShardIndex>,
    stats: RelayStats,
}

impl RelayLinks {
    /// Of the worker `own`.
    pub(crate) fn new(own: ShardIndex, doors: Vec<RelayDoor>) -> Self {
        Self { own, doors, kept: BTreeMap::new(), asleep: Vec::new(), stats: RelayStats::default() }
    }

    /// Hands a batch over. A worker that has ended gets nothing any more.
    pub(crate) fn send(&mut self, to: ShardIndex, batch: RelayBatch) {
        match self.kept.remove(&to) {
            Some(mut kept) => {
                kept.append(batch);
                self.try_send(to, kept);
            }
            None => self.try_send(to, batch),
        }
    }

    /// Tries again with what was kept, and wakes those who got something.
    pub(crate) fn flush(&mut self) {
        for (to, kept) in std::mem::take(&mut self.kept) {
            self.try_send(to, kept);
        }
        for index in self.asleep.drain(..) {
            if let Some(door) = self.doors.get(usize::from(index.0))
                && let Err(error) = door.waker.wake()
            {
                tracing::error!(%error, worker = index.0, "cannot wake a worker");
            }
        }
    }

    /// Whether something is kept: flush again soon.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.kept.is_empty()
    }

    pub(crate) fn stats(&self) -> RelayStats {
        self.stats
    }

    fn try_send(&mut self, to: ShardIndex, batch: RelayBatch) {
        let Some(door) = self.doors.get(usize::from(to.0)) else { return };
        match door.batches.try_send(Relayed { from: self.own, batch }) {
            Ok(()) if self.asleep.contains(&to) => {}
            Ok(()) => self.asleep.push(to),
            Err(TrySendError::Full(Relayed { mut batch, .. })) => {
                self.stats.packets_dropped += batch.drop_media() as u64;
                if !batch.is_empty() {
                    self.kept.insert(to, batch);
                }
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll, Token};
    use std::time::{Duration, Instant};
    use zynk_protocol::RoomSid;
    use zynk_sfu_core::{Certificate, Input, Output, Shard, ShardConfig};

    use super::*;

    /// A batch of one word: the shard joined a room.
    fn word() -> RelayBatch {
        let config = ShardConfig {
            index: ShardIndex(0),
            udp: vec![([127, 0, 0, 1], 7882).into()],
            tcp: Vec::new(),
            certificate: Certificate::generate().unwrap(),
            unix_time: Duration::ZERO,
            protect_audio: false,
            seed: 1,
        };
        let now = Instant::now();
        let mut shard = Shard::new(config, now).unwrap();
        let room = RoomSid::from_random(1);
        shard.handle_input(now, Input::Siblings { room, shards: vec![ShardIndex(0), ShardIndex(1)] });
        let Output::Relay { to, batch } = shard.poll_output() else { panic!("it says that it joined") };
        assert_eq!(to, ShardIndex(1));
        batch
    }

    struct Rig {
        links: RelayLinks,
        inbox: Receiver<Relayed>,
        poll: Poll,
    }

    impl Rig {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let (door, inbox) = RelayDoor::new(waker);
            Self { links: RelayLinks::new(ShardIndex(0), vec![door.clone(), door]), inbox, poll }
        }
    }

    #[test]
    fn a_batch_wakes_the_other_worker() {
        let mut rig = Rig::new();
        rig.links.send(ShardIndex(1), word());
        rig.links.flush();
        let mut events = Events::with_capacity(4);
        rig.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(0)]);
        assert_eq!(rig.inbox.try_recv().unwrap().from, ShardIndex(0));
    }

    #[test]
    fn a_full_inbox_keeps_words_in_order_until_there_is_room() {
        let mut rig = Rig::new();
        let one = word();
        for _ in 0..BATCHES_MAX + 10 {
            rig.links.send(ShardIndex(1), one.clone());
            rig.links.flush();
        }
        assert!(rig.links.is_waiting());
        assert_eq!(rig.inbox.len(), BATCHES_MAX);
        rig.inbox.try_recv().unwrap();
        rig.links.flush();
        assert!(!rig.links.is_waiting());
        let last = rig.inbox.try_iter().last().unwrap();
        assert_eq!(last.batch.bytes(), 10 * one.bytes(), "they go together, in one batch");
        assert_eq!(rig.links.stats(), RelayStats::default(), "no packet was among them");
    }

    #[test]
    fn nothing_is_kept_for_a_worker_that_ended() {
        let mut rig = Rig::new();
        let one = word();
        for _ in 0..=BATCHES_MAX {
            rig.links.send(ShardIndex(1), one.clone());
        }
        assert!(rig.links.is_waiting());
        drop(rig.inbox);
        rig.links.flush();
        rig.links.send(ShardIndex(1), one.clone());
        rig.links.send(ShardIndex(200), one);
        assert!(!rig.links.is_waiting());
    }
}
