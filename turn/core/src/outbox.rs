//! What one turn has to send, in a reused arena. What goes one way is one run, as far as it is of one size, however it was
//! mixed with what goes other ways: a run can leave as one send with segmentation.
//!
//! ```text
//!  push:  A:1200 B:172 A:1200 B:172 A:700 A:1200      runs:  A: 1200 1200 700 │ B: 172 172 │ A: 1200
//! ```
//! What goes one way leaves in the order in which it was pushed. Answers, and what goes to streams, stay in order with all
//! else.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::io::{FiveTuple, RelayKey, Transport};

/// Segments of a run at most: what Linux takes in one send.
const SEGMENTS_MAX: usize = 64;

/// Bytes of a run at most: the largest payload of a datagram, which segmentation shares.
const RUN_BYTES_MAX: usize = 65_487;

/// Bytes that are kept for the next turn.
const ARENA_BYTES_KEPT: usize = 2 * 1024 * 1024;

/// No further datagram in the run.
const NONE: u32 = u32::MAX;

/// Where a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    Client {
        five_tuple: FiveTuple,
        is_control: bool,
    },
    /// `relayed` is the address that peers know the relay by.
    Peer {
        relay: RelayKey,
        relayed: SocketAddr,
        peer: SocketAddr,
        dont_fragment: bool,
    },
}

impl Route {
    /// Whether what goes this way may overtake what goes others, as datagrams may on their way.
    fn may_overtake(&self) -> bool {
        match self {
            Self::Client { five_tuple, is_control } => five_tuple.transport == Transport::Udp && !is_control,
            Self::Peer { .. } => true,
        }
    }
}

/// Datagrams that go one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) route: Route,
    pub(crate) segment_bytes: usize,
    first: u32,
    last: u32,
    segments: usize,
    bytes: usize,
    /// Whether its datagrams lie side by side.
    is_together: bool,
    /// Its last datagram was shorter, so that none may follow.
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    end: usize,
    /// The next of the same run, or [`NONE`].
    next: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    runs: Vec<Run>,
    /// The last run of each way that may go on though it is not the last of all.
    open: FxHashMap<Route, u32>,
    /// The datagrams of one run, when they do not lie side by side.
    scratch: Vec<u8>,
    /// The first run that has not been taken.
    next: usize,
}

impl Outbox {
    /// Adds a datagram, of parts that are written one after the other.
    pub(crate) fn push(&mut self, route: Route, parts: &[&[u8]]) {
        let start = self.arena.len();
        parts.iter().for_each(|part| self.arena.extend_from_slice(part));
        self.close(route, start);
    }

    /// Adds a datagram that `write` appends to the arena.
    pub(crate) fn push_with(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        self.close(route, start);
    }

    /// Makes what was appended since `start` part of a run of the same way, or a run of its own.
    fn close(&mut self, route: Route, start: usize) {
        let end = self.arena.len();
        let at = u32::try_from(self.entries.len()).unwrap_or(NONE);
        self.entries.push(Entry { start, end, next: NONE });
        if !route.may_overtake() {
            self.open.clear();
        }
        let open = match self.runs.last() {
            // Bursts that go one way are common enough to spare the hash.
            Some(last) if last.route == route && !self.is_empty() => Some(self.runs.len() - 1),
            _ => self.open.get(&route).map(|run| *run as usize),
        };
        if let Some(run) = open.and_then(|open| self.runs.get_mut(open))
            && run.takes(end - start)
        {
            if let Some(last) = self.entries.get_mut(run.last as usize) {
                last.next = at;
                run.is_together &= last.end == start;
            }
            run.last = at;
            run.segments += 1;
            run.bytes += end - start;
            run.is_closed = end - start < run.segment_bytes;
            return;
        }
        if route.may_overtake() {
            self.open.insert(route, u32::try_from(self.runs.len()).unwrap_or(NONE));
        }
        self.runs.push(Run {
            route,
            segment_bytes: end - start,
            first: at,
            last: at,
            segments: 1,
            bytes: end - start,
            is_together: true,
            is_closed: end == start,
        });
    }

    /// The next run and its bytes; when there is none, the arena is empty again.
    pub(crate) fn pop(&mut self) -> Option<(Run, &[u8])> {
        let Some(run) = self.runs.get(self.next).copied() else {
            self.runs.clear();
            self.entries.clear();
            self.arena.clear();
            self.arena.shrink_to(ARENA_BYTES_KEPT);
            self.open.clear();
            self.next = 0;
            return None;
        };
        self.next += 1;
        // What is taken does not go on.
        if run.route.may_overtake() {
            self.open.remove(&run.route);
        }
        if run.is_together {
            let start = self.entries.get(run.first as usize).map_or(0, |entry| entry.start);
            return Some((run, self.arena.get(start..start + run.bytes).unwrap_or_default()));
        }
        self.scratch.clear();
        let mut at = run.first;
        while let Some(entry) = self.entries.get(at as usize) {
            self.scratch.extend_from_slice(self.arena.get(entry.start..entry.end).unwrap_or_default());
            at = entry.next;
        }
        Some((run, &self.scratch))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next >= self.runs.len()
    }

    /// Bytes and runs that there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.arena.capacity() + self.runs.capacity() + self.entries.capacity() + self.scratch.capacity()
    }
}

impl Run {
    /// Whether a datagram may follow.
    fn takes(&self, bytes: usize) -> bool {
        !self.is_closed
            // Segmentation has no way to say that an empty datagram follows.
            && (1..=self.segment_bytes).contains(&bytes)
            && self.segments < SEGMENTS_MAX
            && self.bytes + bytes <= RUN_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Route {
        Route::Peer {
            relay: RelayKey(1),
            relayed: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            peer: SocketAddr::from(([127, 0, 0, 1], port)),
            dont_fragment: false,
        }
    }

    fn client(transport: Transport, is_control: bool) -> Route {
        let address = SocketAddr::from(([127, 0, 0, 1], 3478));
        Route::Client { five_tuple: FiveTuple { transport, server: address, client: address }, is_control }
    }

    fn runs(outbox: &mut Outbox) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| outbox.pop().map(|(run, bytes)| (bytes.len(), run.segment_bytes))).collect()
    }

    #[test]
    fn what_goes_the_same_way_in_one_size_is_one_run() {
        let mut outbox = Outbox::default();
        for bytes in [100, 100, 40, 40, 100] {
            outbox.push(peer(1), &[&vec![0; bytes]]);
        }
        outbox.push(peer(2), &[&[0; 60], &[0; 40]]);
        assert_eq!(runs(&mut outbox), [(240, 100), (40, 40), (100, 100), (100, 100)]);
        assert!(outbox.is_empty() && outbox.arena.is_empty());
    }

    #[test]
    fn runs_go_on_whatever_comes_in_between() {
        let mut outbox = Outbox::default();
        for (port, byte, bytes) in
            [(1, 1, 5), (2, 2, 3), (1, 3, 5), (2, 4, 3), (1, 5, 4), (1, 6, 5), (2, 7, 3)]
        {
            outbox.push(peer(port), &[&vec![byte; bytes]]);
        }
        let mut sent = Vec::new();
        while let Some((run, bytes)) = outbox.pop() {
            sent.push((run.route, bytes.to_vec()));
        }
        let expected = [
            (peer(1), b"\x01\x01\x01\x01\x01\x03\x03\x03\x03\x03\x05\x05\x05\x05".to_vec()),
            (peer(2), b"\x02\x02\x02\x04\x04\x04\x07\x07\x07".to_vec()),
            (peer(1), b"\x06\x06\x06\x06\x06".to_vec()),
        ];
        assert_eq!(sent, expected);
        outbox.push(peer(1), &[&[8]]);
        assert_eq!(runs(&mut outbox), [(1, 1)], "nothing is left of what was taken");
    }

    #[test]
    fn what_was_taken_does_not_go_on() {
        let mut outbox = Outbox::default();
        outbox.push(peer(1), &[&[1]]);
        outbox.push(peer(2), &[&[2]]);
        assert!(outbox.pop().is_some());
        outbox.push(peer(1), &[&[3]]);
        assert_eq!(runs(&mut outbox), [(1, 1), (1, 1)]);
        outbox.push(peer(1), &[&[4]]);
        assert!(outbox.pop().is_some());
        outbox.push(peer(1), &[&[5]]);
        assert_eq!(runs(&mut outbox), [(1, 1)]);
    }

    #[test]
    fn answers_and_streams_keep_their_place() {
        for route in [client(Transport::Udp, true), client(Transport::Tcp, false)] {
            let mut outbox = Outbox::default();
            for next in
                [peer(1), client(Transport::Udp, false), route, client(Transport::Udp, false), peer(1)]
            {
                outbox.push(next, &[&[1]]);
            }
            assert_eq!(runs(&mut outbox).len(), 5);
        }
    }

    #[test]
    fn empty_datagrams_are_sent_alone() {
        let mut outbox = Outbox::default();
        for bytes in [0, 0, 100, 0, 100] {
            outbox.push(peer(1), &[&vec![0; bytes]]);
        }
        assert_eq!(runs(&mut outbox), [(0, 0), (0, 0), (100, 100), (0, 0), (100, 100)]);
    }

    #[test]
    fn runs_are_no_longer_than_the_kernel_takes() {
        let mut outbox = Outbox::default();
        (0..65).for_each(|_| outbox.push(peer(1), &[&[0; 10]]));
        (0..65).for_each(|_| outbox.push(peer(1), &[&[0; 1200]]));
        assert_eq!(runs(&mut outbox), [(640, 10), (10, 10), (54 * 1200, 1200), (11 * 1200, 1200)]);
    }
}
