//! What one turn has to send, in a reused arena: what goes the same way one after the other lies side by side, in
//! runs of one size, so that a run can leave as one send with segmentation.

use std::net::SocketAddr;

use crate::io::{FiveTuple, RelayKey};

/// Segments of a run at most: what Linux takes in one send.
const SEGMENTS_MAX: usize = 64;

/// Bytes of a run at most: the largest payload of a datagram, which segmentation shares.
const RUN_BYTES_MAX: usize = 65_487;

/// Where a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Client { five_tuple: FiveTuple, is_control: bool },
    Peer { relay: RelayKey, peer: SocketAddr, dont_fragment: bool },
}

/// Bytes of the arena that go one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) route: Route,
    start: usize,
    end: usize,
    pub(crate) segment_bytes: usize,
    segments: usize,
    /// Its last datagram was shorter, so that none may follow.
    is_closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    arena: Vec<u8>,
    runs: Vec<Run>,
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

    /// Makes what was appended since `start` part of the last run, or a run of its own.
    fn close(&mut self, route: Route, start: usize) {
        let end = self.arena.len();
        let bytes = end - start;
        if let Some(run) = self.runs.last_mut()
            && run.route == route
            && run.end == start
            && !run.is_closed
            // Segmentation has no way to say that an empty datagram follows.
            && (1..=run.segment_bytes).contains(&bytes)
            && run.segments < SEGMENTS_MAX
            && end - run.start <= RUN_BYTES_MAX
        {
            run.end = end;
            run.segments += 1;
            run.is_closed = bytes < run.segment_bytes;
            return;
        }
        self.runs.push(Run { route, start, end, segment_bytes: bytes, segments: 1, is_closed: bytes == 0 });
    }

    /// The next run and its bytes; when there is none, the arena is empty again.
    pub(crate) fn pop(&mut self) -> Option<(Run, &[u8])> {
        let Some(run) = self.runs.get(self.next).copied() else {
            self.runs.clear();
            self.arena.clear();
            self.next = 0;
            return None;
        };
        self.next += 1;
        Some((run, self.arena.get(run.start..run.end).unwrap_or_default()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next >= self.runs.len()
    }

    /// Bytes and runs that there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.arena.capacity() + self.runs.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Route {
        Route::Peer {
            relay: RelayKey(1),
            peer: SocketAddr::from(([127, 0, 0, 1], port)),
            dont_fragment: false,
        }
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
