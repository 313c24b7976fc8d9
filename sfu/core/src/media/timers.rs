//! One timer per dense slot, on a hashed wheel.
//!
//! A shard holds one deadline per session. Deadlines move at nearly every packet, so a heap or a tree pays
//! for work that is thrown away; here scheduling, moving and cancelling relink one node of a list.
//!
//! ```text
//!   near:  1024 lists of 1 ms    [ · · x · · x ··· ]   due within 1,024 ms: exact to the millisecond
//!   far:     64 lists of 1024 ms [ · x ··· ]           relinked into `near` when their time comes; deadlines
//!                                                      beyond 65 s wait in the last list and are relinked
//! ```
//! Timers never fire early and at most 1 ms late. Order is deterministic: by millisecond, within one
//! millisecond by the order in which they were linked.

use std::time::{Duration, Instant};

const NEAR_BITS: u32 = 10;
const NEAR_LISTS: u64 = 1 << NEAR_BITS;
const FAR_LISTS: u64 = 64;
const LISTS: usize = (NEAR_LISTS + FAR_LISTS) as usize;
/// End of a list, and "in no list".
const NONE: u32 = u32::MAX;

/// A list's first and last node.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NONE, tail: NONE };

#[derive(Clone, Copy, Debug)]
struct Node {
    /// In milliseconds since the wheel's start.
    due_ms: u64,
    prev: u32,
    next: u32,
    /// The list it is linked in, or [`NONE`].
    list: u32,
}

const IDLE: Node = Node { due_ms: 0, prev: NONE, next: NONE, list: NONE };

/// Timers of slots 0, 1, 2, … with a resolution of 1 ms.
///
/// Memory: 8.5 KiB and 24 B for each slot up to the highest used; it grows when a new highest slot is
/// scheduled and at no other time.
#[derive(Debug)]
pub struct TimerWheel {
    start: Instant,
    /// All timers due before this millisecond have fired.
    current_ms: u64,
    nodes: Vec<Node>,
    lists: Box<[List]>,
    /// Which near lists hold something.
    near: [u64; (NEAR_LISTS / 64) as usize],
    /// Which far lists hold something.
    far: u64,
    len: usize,
}

impl TimerWheel {
    /// An empty wheel whose time begins at `start`; earlier instants count as `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            current_ms: 0,
            nodes: Vec::new(),
            lists: vec![EMPTY; LISTS].into_boxed_slice(),
            near: [0; (NEAR_LISTS / 64) as usize],
            far: 0,
            len: 0,
        }
    }

    /// How many timers are running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the timer of `slot`, in place of the one it may have. A deadline that has passed fires at the
    /// next [`expire`](Self::expire).
    ///
    /// Slots are dense local indexes (a slab's keys), not taken from the network: the wheel allocates for
    /// every slot up to the highest.
    pub fn schedule(&mut self, slot: u32, at: Instant) {
        let due_ms = self.ms_ceil(at).max(self.current_ms);
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, IDLE);
        }
        let Some(node) = self.nodes.get(index) else { return };
        if node.list == NONE {
            self.len += 1;
        } else if node.due_ms == due_ms {
            return;
        } else {
            self.unlink(slot);
        }
        self.link(slot, due_ms);
    }

    /// Stops the timer of `slot`, if it runs.
    pub fn cancel(&mut self, slot: u32) {
        if self.nodes.get(slot as usize).is_some_and(|node| node.list != NONE) {
            self.unlink(slot);
            self.len -= 1;
        }
    }

    /// When the timer of `slot` is due (rounded up to a millisecond), if it runs.
    #[must_use]
    pub fn deadline(&self, slot: u32) -> Option<Instant> {
        let node = self.nodes.get(slot as usize).filter(|node| node.list != NONE)?;
        Some(self.start + Duration::from_millis(node.due_ms))
    }

    /// When [`expire`](Self::expire) should be called next. Exact for timers due within a second; for later
    /// ones up to 1,024 ms early (the call then only relinks).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next_stop().map(|ms| self.start + Duration::from_millis(ms))
    }

    /// Takes the next slot whose timer is due at `now`; its timer has stopped. Call until `None`, or less
    /// often under a work budget: what was left comes first at the next call.
    pub fn expire(&mut self, now: Instant) -> Option<u32> {
        let now_ms = self.ms_floor(now);
        loop {
            let Some(stop) = self.next_stop().filter(|stop| *stop <= now_ms) else {
                // Nothing in between: the time may jump, however long the pause was.
                self.current_ms = self.current_ms.max(now_ms);
                return None;
            };
            let enters_block = stop >> NEAR_BITS != self.current_ms >> NEAR_BITS;
            self.current_ms = stop;
            if enters_block {
                self.relink(stop);
                continue;
            }
            let slot = self.lists.get((stop % NEAR_LISTS) as usize)?.head;
            debug_assert_ne!(slot, NONE, "a list's bit says whether it holds something");
            self.unlink(slot);
            self.len -= 1;
            return Some(slot);
        }
    }

    /// The millisecond of the next due timer, or of the next far list to be relinked.
    fn next_stop(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let near = self.next_near();
        if self.far == 0 {
            return near;
        }
        // The far list of the current block is empty: its timers are in `near`. The next set bit after it:
        let block = self.current_ms >> NEAR_BITS;
        let ahead = self.far.rotate_right(((block + 1) % FAR_LISTS) as u32).trailing_zeros();
        let far = (block + 1 + u64::from(ahead)) << NEAR_BITS;
        Some(near.map_or(far, |near| near.min(far)))
    }

    fn next_near(&self) -> Option<u64> {
        let from = self.current_ms % NEAR_LISTS;
        let words = self.near.len() as u64;
        for step in 0..=words {
            let word = (from / 64 + step) % words;
            let mut bits = self.near.get(word as usize).copied().unwrap_or(0);
            if step == 0 {
                bits &= u64::MAX << (from % 64);
            } else if step == words {
                bits &= !(u64::MAX << (from % 64));
            }
            if bits != 0 {
                let list = word * 64 + u64::from(bits.trailing_zeros());
                return Some(self.current_ms + (list + NEAR_LISTS - from) % NEAR_LISTS);
            }
        }
        None
    }

    /// Distributes the far list whose block begins at `stop`.
    fn relink(&mut self, stop: u64) {
        let list = (NEAR_LISTS + (stop >> NEAR_BITS) % FAR_LISTS) as usize;
        let Some(list) = self.lists.get_mut(list) else { return };
        let mut slot = std::mem::replace(list, EMPTY).head;
        self.far &= !(1 << ((stop >> NEAR_BITS) % FAR_LISTS));
        while let Some(node) = self.nodes.get_mut(slot as usize) {
            let (due_ms, next) = (node.due_ms, node.next);
            node.list = NONE;
            self.link(slot, due_ms);
            slot = next;
        }
    }

    fn link(&mut self, slot: u32, due_ms: u64) {
        let blocks_ahead = (due_ms >> NEAR_BITS).saturating_sub(self.current_ms >> NEAR_BITS);
        let list = if due_ms - self.current_ms < NEAR_LISTS {
            let list = due_ms % NEAR_LISTS;
            if let Some(word) = self.near.get_mut((list / 64) as usize) {
                *word |= 1 << (list % 64);
            }
            list
        } else {
            let block = (self.current_ms >> NEAR_BITS) + blocks_ahead.clamp(1, FAR_LISTS - 1);
            self.far |= 1 << (block % FAR_LISTS);
            NEAR_LISTS + block % FAR_LISTS
        } as u32;
        let Some(entry) = self.lists.get_mut(list as usize) else { return };
        let tail = entry.tail;
        entry.tail = slot;
        if tail == NONE {
            entry.head = slot;
        }
        if let Some(previous) = self.nodes.get_mut(tail as usize) {
            previous.next = slot;
        }
        if let Some(node) = self.nodes.get_mut(slot as usize) {
            *node = Node { due_ms, prev: tail, next: NONE, list };
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        let Node { prev, next, list, .. } = *node;
        node.list = NONE;
        if let Some(previous) = self.nodes.get_mut(prev as usize) {
            previous.next = next;
        }
        if let Some(following) = self.nodes.get_mut(next as usize) {
            following.prev = prev;
        }
        let Some(entry) = self.lists.get_mut(list as usize) else { return };
        if prev == NONE {
            entry.head = next;
        }
        if next == NONE {
            entry.tail = prev;
        }
        if entry.head == NONE {
            let list = u64::from(list);
            if list >= NEAR_LISTS {
                self.far &= !(1 << (list - NEAR_LISTS));
            } else if let Some(word) = self.near.get_mut((list / 64) as usize) {
                *word &= !(1 << (list % 64));
            }
        }
    }

    fn ms_floor(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }

    fn ms_ceil(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos().div_ceil(1_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn wheel() -> (TimerWheel, Instant) {
        let start = Instant::now();
        (TimerWheel::new(start), start)
    }

    fn drain(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| wheel.expire(now)).collect()
    }

    #[test]
    fn fires_in_order_and_never_early() {
        let (mut wheel, start) = wheel();
        let at = |us| start + Duration::from_micros(us);
        wheel.schedule(3, at(5_200));
        wheel.schedule(1, at(2_000));
        wheel.schedule(2, at(2_000));
        assert_eq!(wheel.next_timeout(), Some(at(2_000)));
        assert!(drain(&mut wheel, at(1_999)).is_empty());
        assert_eq!(drain(&mut wheel, at(2_000)), [1, 2]);
        assert_eq!(wheel.next_timeout(), Some(at(6_000)), "rounded up");
        assert!(drain(&mut wheel, at(5_999)).is_empty());
        assert_eq!(drain(&mut wheel, at(6_000)), [3]);
        assert_eq!(wheel.next_timeout(), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn moving_and_cancelling() {
        let (mut wheel, start) = wheel();
        let at = |ms| start + Duration::from_millis(ms);
        wheel.schedule(0, at(10));
        wheel.schedule(0, at(2_000_000));
        wheel.schedule(1, at(20));
        wheel.cancel(1);
        wheel.cancel(7);
        assert_eq!(wheel.len(), 1);
        assert_eq!(wheel.deadline(0), Some(at(2_000_000)));
        assert!(drain(&mut wheel, at(1_999_999)).is_empty());
        assert_eq!(drain(&mut wheel, at(2_000_000)), [0]);
        wheel.schedule(0, at(5));
        assert_eq!(drain(&mut wheel, at(2_000_000)), [0], "a deadline in the past is due at once");
    }

    #[test]
    fn a_long_pause_costs_no_walk_through_it() {
        let (mut wheel, start) = wheel();
        let year = Duration::from_secs(365 * 86_400);
        wheel.schedule(0, start + Duration::from_secs(30));
        assert_eq!(drain(&mut wheel, start + year), [0]);
        wheel.schedule(0, start + year + Duration::from_millis(1));
        assert_eq!(wheel.next_timeout(), Some(start + year + Duration::from_millis(1)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let delay = prop_oneof![0..3_000_u64, 0..2_000_000_u64, 0..300_000_000_u64];
        prop_oneof![
            4 => (0..40_u32, delay.clone()).prop_map(|(slot, us)| Step::Schedule(slot, us)),
            1 => (0..40_u32).prop_map(Step::Cancel),
            3 => (delay, prop_oneof![Just(usize::MAX), 0..4_usize]).prop_map(|(us, budget)| Step::Advance(us, budget)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(steps in prop::collection::vec(step(), 1..200)) {
            let (mut wheel, start) = wheel();
            let mut model = BTreeMap::<u32, u64>::new();
            let mut now_us = 0;
            for step in steps {
                match step {
                    Step::Schedule(slot, us) => {
                        wheel.schedule(slot, start + Duration::from_micros(now_us + us));
                        model.insert(slot, (now_us + us).div_ceil(1000));
                    }
                    Step::Cancel(slot) => {
                        wheel.cancel(slot);
                        model.remove(&slot);
                    }
                    Step::Advance(us, budget) => {
                        now_us += us;
                        let now = start + Duration::from_micros(now_us);
                        for _ in 0..budget {
                            let Some(slot) = wheel.expire(now) else {
                                prop_assert!(model.values().all(|due| *due > now_us / 1000));
                                break;
                            };
                            let due = model.remove(&slot);
                            prop_assert!(due.is_some_and(|due| due <= now_us / 1000));
                            let least = model.values().min().copied().unwrap_or(u64::MAX);
                            prop_assert!(due.unwrap_or(0) <= least, "out of order");
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let earliest = model.values().min().map(|ms| start + Duration::from_millis(*ms));
                match (wheel.next_timeout(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(earliest)) => {
                        prop_assert!(next <= earliest, "too late");
                    }
                    (next, earliest) => prop_assert!(false, "{next:?} for {earliest:?}"),
                }
            }
        }
    }
}
